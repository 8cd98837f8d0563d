"""No run is ever lost: killed processes, full and read-only disks, damaged and foreign checkpoints, signals; what the
user reads, and that going on ends where an undisturbed run ends."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from test_distributed import CPU, SETTINGS, assert_same_run, free_port, log_of, run_processes, train
from test_trainer import FAST, Stop, assert_same_weights, stop_at

from benchmarks import ROOT
from benchmarks.cost import recovery, recovery_process
from mcr_lib import trainer as trainer_module
from mcr_lib.__main__ import main
from mcr_lib.config import resolve
from mcr_lib.data import PairData, epoch_order
from mcr_lib.engine import checkpoint
from mcr_lib.engine.distributed import ProcessLost
from mcr_lib.evaluate import evaluate_run
from mcr_lib.run import train_run
from mcr_lib.trainer import TrainingStopped


def said(stderr: str, name: str = "mcr_lib") -> list[str]:
    """The lines the command itself says, without progress bars and what torchrun adds."""
    lines = stderr.replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith(f"{name}: ")]


def call(capsys, *arguments) -> tuple[int, str, list[str]]:
    """mcr_lib with these arguments → exit status, all that is printed, the errors among it."""
    with mock.patch.object(sys, "argv", ["mcr_lib", *map(str, arguments)]):
        status = main()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out + err, said(err)


def arguments(data, run, settings: dict, *more) -> list:
    chosen = [x for key, value in settings.items() for x in ("--set", f"{key}={value}")]
    return [
        "train",
        "--data",
        data,
        "--run",
        run,
        "--profile",
        "smoke",
        "--device",
        "cpu",
        *chosen,
        *more,
    ]


def torchrun(
    world: int, *arguments, nodes: tuple[str, ...] = ("--standalone",)
) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *nodes,
            "--nproc-per-node",
            str(world),
            "-m",
            "--",
            "mcr_lib",
            *map(str, arguments),
        ],  # without --, Python 3.11 stops at --run
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def undisturbed(phantom, tmp_path_factory):
    """The run of FAST settings."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(phantom, run, FAST)
    return run


@pytest.mark.slow
def test_killed_in_mid_step_and_resumed_by_other_numbers_of_processes(phantom, tmp_path):
    """Two processes lose one, four lose everything with torchrun itself, one finishes. benchmarks/cost/recovery.py
    does it twenty times."""
    settings = SETTINGS | {"steps": 30, "checkpoint_every": 4}
    run, seen, rng = tmp_path / "run", tmp_path / "seen", random.Random(1)
    for attempt, (world, everything) in enumerate([(2, False), (4, True)]):
        process = recovery.start(world, phantom, run, seen, settings, attempt)
        event = recovery.kill_after(
            process, seen, attempt, steps=6, wait=0.01, everything=everything, rng=rng
        )
        assert event is not None and event.seconds_to_end < 60
        if not everything:  # torchrun names the dead, a survivor says how to go on
            assert "SIGKILL" in event.errors or "exitcode  : -9" in event.errors
            says = re.findall(rf"{recovery_process.MODULE}: .*--resume", event.errors)
            assert len(says) == 1, event.errors
    process = recovery.start(1, phantom, run, seen, settings, 2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    train(phantom, tmp_path / "alone", settings)
    assert_same_run(tmp_path / "alone", run)
    pairs = json.loads((run / "manifest.json").read_text())["training_pairs"]
    table = recovery.times_seen(seen, pairs, settings["batch_size"], settings["steps"])
    assert len(table) == 30 * 18 // pairs >= 4 and all(
        counts == [0, pairs] for counts in table.values()
    )


def test_the_count_of_pairs_tells_a_lost_one_and_one_seen_twice(tmp_path):
    """Five steps of four over six pairs, epochs ending inside steps; then the same with one pair in another's place."""
    order = [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0, 2, 0, 4, 1, 5, 3, 1, 2]

    def table(order):
        lines = [{"step": s, "pairs": sorted(order[4 * s : 4 * s + 4])} for s in range(5)]
        (tmp_path / "000-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return recovery.times_seen(tmp_path, 6, 4, 5)

    assert table(order) == {"0": [0, 6], "1": [0, 6], "2": [0, 6]}
    order[9] = 3
    assert table(order)["1"] == [1, 4, 1] and table(order)["0"] == [0, 6]


SRUN = """#!/bin/bash
[ "$SRUN_CPUS_PER_TASK" = 4 ] || exit 9
shift  # its own option
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait $first && wait $second
"""


@pytest.mark.slow
def test_the_slurm_file_on_two_machines_then_sharded_evaluation_then_a_mistake(
    phantom, tmp_path, alone_short
):
    """benchmarks/slurm.sh as it stands, with an srun that starts the torchrun of both machines on this one."""
    for name, text in (
        ("srun", SRUN),
        ("scontrol", "#!/bin/bash\necho 127.0.0.1\n"),
        (".venv/bin/activate", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "4",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    script = ROOT / "benchmarks" / "slurm.sh"
    job = subprocess.run(
        ["bash", script, *map(str, arguments(phantom, tmp_path / "run", SHORT)[1:])],
        env=os.environ | slurm,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert job.returncode == 0, job.stderr
    assert (
        recovery.difference(alone_short, tmp_path / "run")["loss"] < 1e-5
    )  # six steps: Adam still magnifies rounding
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["processes"] == 2 and manifest["command"].startswith(
        "torchrun --nnodes 2 --nproc-per-node 1 -m -- mcr_lib train"
    )

    process = torchrun(
        2, "evaluate", "--data", phantom, "--run", tmp_path / "run", "--split", "train"
    )
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and out.count("image_to_text_R@1 ") == 1, errors
    expected = evaluate_run(alone_short, phantom, split="train", device=CPU)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["rsum"] == pytest.approx(
        expected["rsum"]
    )

    process = torchrun(2, *arguments(phantom, tmp_path / "run", SHORT))
    _, errors = process.communicate(timeout=120)
    assert (
        process.returncode == 1 and len(said(errors)) == 1 and "holds a run" in said(errors)[0]
    ), errors


SHORT = SETTINGS | {"steps": 6, "checkpoint_every": 3}


@pytest.fixture(scope="module")
def alone_short(phantom, tmp_path_factory):
    run = tmp_path_factory.mktemp("short") / "run"
    train(phantom, run, SHORT)
    return run


@pytest.mark.slow
def test_a_signal_to_torchrun_is_agreed_saved_and_said_once(phantom, tmp_path):
    run = tmp_path / "run"
    process = torchrun(
        2, *arguments(phantom, run, SETTINGS | {"steps": 4000, "checkpoint_every": 4000})
    )
    deadline = time.time() + 120
    while (
        not (run / "metrics.jsonl").exists() and process.poll() is None and time.time() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    lines = said(errors)
    assert (
        len(lines) == 1 and "stopped by SIGTERM after step" in lines[0] and "--resume" in lines[0]
    ), errors
    step = int(re.search(r"after step (\d+)", lines[0])[1])
    assert checkpoint.find_newest(run / "checkpoints")[1]["step"] == step > 0
    assert log_of(run)[-1]["step"] == step


def train_with_a_bad_disk(data, run) -> None:
    """Process 1 cannot read its share of the fifth batch."""
    from mcr_lib.engine import distributed

    read, calls = PairData.read, []

    def reading(self, index, **seen):
        calls.append(index)
        if len(calls) == 5 and distributed.rank() == 1:
            raise OSError("the disk went away")
        return read(self, index, **seen)

    PairData.read = reading
    train(data, run, FAST)


def test_a_dead_reader_in_one_process_ends_all_of_them(phantom, tmp_path):
    start = time.monotonic()
    lost, dead = run_processes(2, train_with_a_bad_disk, phantom, tmp_path / "run", raises=False)
    assert time.monotonic() - start < 240  # without it they would wait for the collective's limit
    assert isinstance(dead, OSError) and "went away" in str(dead)
    assert isinstance(lost, ProcessLost) and "--resume" in str(lost)
    assert checkpoint.find_newest(tmp_path / "run" / "checkpoints")[1]["step"] == 4


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, a tmpfs: → its folder and a function that changes its mount options."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True, capture_output=True
        )

    try:
        mount("size=100m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    yield disk, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_line_and_making_room_goes_on(
    phantom, tmp_path, small_disk, undisturbed, capsys
):
    disk, remount = small_disk
    one = sum(
        f.stat().st_size for f in checkpoint.find_newest(undisturbed / "checkpoints")[0].iterdir()
    )
    remount(f"size={int(2.5 * one)}")
    status, _, lines = call(capsys, *arguments(phantom, disk / "run", FAST))
    assert status == 2 and len(lines) == 1, lines
    assert (
        "checkpoint of step 12" in lines[0]
        and "No space left on device" in lines[0]
        and "--resume" in lines[0]
    )
    assert sorted(p.name for p in (disk / "run" / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000008",
    ]
    assert checkpoint.find_newest(disk / "run" / "checkpoints")[1]["step"] == 8
    remount(f"size={10 * one}")
    status, out, _ = call(capsys, *arguments(phantom, disk / "run", FAST, "--resume"))
    assert status == 0 and "resumed at step 8" in out
    assert_same_weights(disk / "run", undisturbed)


def test_a_disk_full_from_the_start_leaves_no_run(phantom, small_disk, capsys):
    disk, remount = small_disk
    remount("size=4k")
    status, _, lines = call(capsys, *arguments(phantom, disk / "run", FAST))
    assert (
        status == 2 and len(lines) == 1 and "cannot be written" in lines[0] and "--run" in lines[0]
    )
    remount("size=50m")
    assert (
        call(capsys, *arguments(phantom, disk / "run", FAST | {"steps": 2}))[0] == 0
    )  # the same command, with room


def test_a_read_only_run_folder(phantom, small_disk, undisturbed, capsys, monkeypatch):
    """At the start, in the middle and on resuming: one line each, and nothing lost."""
    disk, remount = small_disk
    remount("ro")
    status, _, lines = call(capsys, *arguments(phantom, disk / "run", FAST))
    assert (
        status == 2
        and len(lines) == 1
        and "Read-only file system" in lines[0]
        and "another --run" in lines[0]
    )
    remount("rw")

    def turn_read_only(trainer, record):
        if record["step"] == 4:  # the disk itself cannot be turned while a file on it is locked
            monkeypatch.setattr(trainer_module, "append_line", refuse)

    def refuse(path, record):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with pytest.raises(
        TrainingStopped, match=r"metrics.jsonl could not be written: Read-only .* --resume"
    ):
        train_run(
            phantom, disk / "run", resolve("smoke", FAST), device=CPU, callbacks=[turn_read_only]
        )
    monkeypatch.undo()
    remount("ro")
    status, _, lines = call(capsys, *arguments(phantom, disk / "run", FAST, "--resume"))
    assert status == 2 and len(lines) == 1 and "read-only" in lines[0]
    remount("rw")
    assert call(capsys, *arguments(phantom, disk / "run", FAST, "--resume"))[0] == 0
    assert_same_weights(disk / "run", undisturbed)


@pytest.mark.parametrize(
    "name, what",
    [
        ("model.safetensors", "bytes"),
        ("optimizer.safetensors", "bytes"),
        ("state.json", "Expecting value"),
    ],
)
def test_a_truncated_newest_checkpoint_is_skipped_with_a_word(
    name, what, phantom, tmp_path, undisturbed, capsys
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    file = run / "checkpoints" / "step-00000012" / name
    file.write_bytes(file.read_bytes()[: 1000 if "safetensors" in name else 0])
    status, out, _ = call(capsys, *arguments(phantom, run, FAST, "--resume"))
    assert status == 0 and "resumed at step 8" in out
    assert re.search(rf"skipped step-00000012, which is damaged: .*{what}", out)
    assert_same_weights(run, undisturbed)
    assert log_of(run) != [] and [r["step"] for r in log_of(run)] == [
        r["step"] for r in log_of(undisturbed)
    ]


def test_only_damaged_checkpoints_are_an_error_not_a_fresh_start(
    phantom, tmp_path, undisturbed, capsys
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    for state in (run / "checkpoints").glob("*/state.json"):
        state.unlink()
    status, _, lines = call(capsys, *arguments(phantom, run, FAST, "--resume"))
    assert status == 2 and len(lines) == 1 and "no whole checkpoint" in lines[0]
    assert kept(run) == kept(undisturbed)


def kept(run) -> list[str]:
    """The names of its checkpoints: the newest two, and the best if it is another."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_checkpoint_of_another_configuration_is_refused_and_kept(
    phantom, tmp_path, undisturbed, capsys
):
    wider = tmp_path / "wider"
    train(phantom, wider, FAST | {"embed_dim": 96, "steps": 2})
    foreign = wider / "checkpoints" / "step-00000002"
    shutil.copytree(foreign, tmp_path / "run" / "checkpoints" / "step-00000020")
    for part in ("tokenizer", "checkpoints"):
        shutil.copytree(undisturbed / part, tmp_path / "run" / part, dirs_exist_ok=True)
    shutil.copy(undisturbed / "config.yaml", tmp_path / "run")
    status, _, lines = call(capsys, *arguments(phantom, tmp_path / "run", FAST, "--resume"))
    assert (
        status == 2
        and len(lines) == 1
        and "step-00000020 was written with another configuration" in lines[0]
    )
    assert "1, 1, 96" in lines[0] and "1, 1, 48" in lines[0]  # stored, expected
    assert kept(tmp_path / "run") == [*kept(undisturbed), "step-00000020"]


def test_killed_before_the_first_checkpoint_starts_again_at_the_start(
    phantom, tmp_path, undisturbed, capsys
):
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train_run(phantom, run, resolve("smoke", FAST), device=CPU, callbacks=[stop_at(2)])
    assert not (run / "checkpoints").exists() and len(log_of(run)) == 1
    status, out, _ = call(capsys, *arguments(phantom, run, FAST, "--resume"))
    assert status == 0 and "resumed at step 0" in out
    assert_same_weights(run, undisturbed)
    assert [r["step"] for r in log_of(run)] == [r["step"] for r in log_of(undisturbed)]


def test_a_kill_while_saving_or_logging_leaves_nothing_that_hinders(
    phantom, tmp_path, undisturbed, capsys
):
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train_run(phantom, run, resolve("smoke", FAST), device=CPU, callbacks=[stop_at(10)])
    partial = run / "checkpoints" / ".step-00000010.new"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 12, "lo')
    assert call(capsys, *arguments(phantom, run, FAST, "--resume"))[0] == 0
    assert_same_weights(run, undisturbed)
    assert kept(run) == kept(undisturbed)
    assert [r["step"] for r in log_of(run)] == [2, 4, 6, 8, 10, 12]


def test_a_run_may_be_resumed_in_more_parts(phantom, tmp_path, undisturbed):
    with pytest.raises(Stop):
        train_run(
            phantom, tmp_path / "run", resolve("smoke", FAST), device=CPU, callbacks=[stop_at(6)]
        )
    train(phantom, tmp_path / "run", FAST | {"accumulation": 3}, resume=True)
    assert_same_run(undisturbed, tmp_path / "run")


def test_files_are_synced_then_renamed_then_the_folder_is_synced(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: (
            events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name),
            fsync(handle),
        ),
    )
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1]
    )
    model = torch.nn.Linear(2, 2)
    checkpoint.save(tmp_path / "checkpoints", 7, model, torch.optim.AdamW(model.parameters()), {})
    where = events.index("rename")
    assert set(events[:where]) == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        ".step-00000007.new",
    } and events[where + 1 :] == ["checkpoints"]


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for step, score in enumerate([10, 40, 30, None, 35, 20], start=1):
        checkpoint.save(tmp_path, step, model, optimizer, {}, score)
    assert [p.name[-1] for p in checkpoint.list_folders(tmp_path)] == ["2", "5", "6"]
    assert checkpoint.find_best(tmp_path).name == "step-00000002"
    (tmp_path / "step-00000002" / "state.json").write_text("{")
    assert checkpoint.find_best(tmp_path).name == "step-00000005"
    checkpoint.save(
        tmp_path, 3, model, optimizer, {}
    )  # resumed earlier: what comes later may not push it out
    assert (tmp_path / "step-00000003").exists()


def test_the_best_checkpoint_is_that_of_the_best_validation(phantom, tmp_path, undisturbed):
    seen = {r["step"]: r["validation"] for r in log_of(undisturbed) if "validation" in r}
    assert list(seen) == [4, 8, 12] and all(0 <= value <= 600 for value in seen.values())
    best = checkpoint.find_best(undisturbed / "checkpoints")
    assert json.loads((best / "state.json").read_text())["score"] == max(seen.values())
    by_best = evaluate_run(undisturbed, phantom, split="validate", best=True, device=CPU)
    assert by_best["rsum"] == pytest.approx(max(seen.values())) and by_best["checkpoint"] == "best"


def overflowing(data, run, checkpoint_every: int) -> None:
    """A learning rate that breaks the weights in the sixth step."""
    from mcr_lib import trainer

    trainer.learning_rate = lambda step, *_: 1e20 if step == 5 else 1e-3
    train(data, run, FAST | {"checkpoint_every": checkpoint_every, "log_every": 12})


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("checkpoint_every, named, saved", [(1, 6, 5), (4, 7, 4)])
def test_what_is_not_finite_stops_all_names_its_step_and_poisons_no_checkpoint(
    checkpoint_every, named, saved, world, phantom, tmp_path
):
    """Noticed by validation before the checkpoint of the sixth step, or by the loss of the seventh, whichever comes
    first; although the log is written every twelve steps only."""
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped, match=rf"not finite at step {named}; .*not_finite\.json"):
        run_processes(world, overflowing, phantom, run, checkpoint_every)
    about = json.loads((run / "not_finite.json").read_text())
    table = pd.read_parquet(phantom / "manifest.parquet")
    names = table[(table["split"] == "train") & (table["view"] != "lateral")]["pair_id"].to_numpy()
    places = np.arange(16 * (named - 1), 16 * named)
    order = np.concatenate([epoch_order(0, epoch, len(names)) for epoch in range(2)])
    assert about["step"] == named and about["pair_ids"] == names[order[places]].tolist()
    path, state, _ = checkpoint.find_newest(run / "checkpoints")
    assert state["step"] == saved
    assert all(
        np.isfinite(v.numpy()).all()
        for v in checkpoint.load_file(path / "model.safetensors").values()
    )
