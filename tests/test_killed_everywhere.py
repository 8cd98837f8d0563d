"""SIGKILL at every rename of train, evaluate, search and a study, and a disk that is full at every one of their stages:
the same command goes on, ends where an undisturbed one ends, and leaves nothing behind."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from test_recovery import arguments, call, said, small_disk  # noqa: F401 (a fixture)
from test_study import with_costs
from test_trainer import assert_same_weights

from benchmarks.study import __main__ as study_command
from benchmarks.study.runs import run_study
from data_prep.commands import run_app
from data_prep.run_files import PICTURES
from mcr_lib.config import resolve
from mcr_lib.evaluate import evaluate_run
from mcr_lib.index import Index
from mcr_lib.run import train_run
from mcr_lib.search import build_index

CPU = torch.device("cpu")
STRIDE = (
    1 if os.environ.get("MCR_THOROUGH") else 4
)  # of the renames each fourth, or with it every one: minutes
SHORT = {"steps": 4, "batch_size": 16, "log_every": 1, "checkpoint_every": 2, "augment": False}
OF_THE_MOMENT = {
    "commit",
    "time",
    "training_seconds",
    "peak_memory_bytes",
    "seconds",
    "command",
    "cost",
}
OF_THE_MOMENT |= {"waiting_for_data", "pairs_per_second", "training", "seal", "trained_on"}


def train(place: Path, data: Path) -> None:
    run = place / "run"
    resume = (run / "config.yaml").exists()
    train_run(data, run, resolve("smoke", SHORT), device=CPU, resume=resume)


def evaluate(place: Path, data: Path) -> None:
    evaluate_run(place / "run", data, device=CPU, split="validate")


def search(place: Path, data: Path) -> None:
    build_index(place / "run", data, split="validate", device=CPU)


def study(place: Path, data: Path) -> None:
    settings = SHORT | {"steps": 2}
    how = {"arms": "null-mba", "seeds": "1", "profile": "smoke", "scored": 2, "device": CPU}
    run_study(data, place / "study", settings=settings, **how)


def die_at(number: int, command, place: Path, data: Path) -> None:
    """Run the command in this process, which is killed in place of its rename number `number`."""
    torch.set_num_threads(1)
    renames = itertools.count(1)

    def dying(original):
        def call(*arguments, **named):
            if next(renames) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    os.replace, os.rename, Path.rename = map(dying, (os.replace, os.rename, Path.rename))
    command(place, data)


def killed(number: int, command, place: Path, data: Path) -> bool:
    """Whether the command came to that rename, and so to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mcr_lib.run", "mcr_lib.search"])
    process = context.Process(target=die_at, args=(number, command, place, data))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def content(place: Path) -> dict:
    """Every file by name: JSON without what is of the moment, arrays, the rest by its bytes; weights not."""

    def stable(value):
        if isinstance(value, dict):
            return {key: stable(x) for key, x in value.items() if key not in OF_THE_MOMENT}
        return [stable(x) for x in value] if isinstance(value, list) else value

    found = {}
    for path in sorted(place.rglob("*")):
        name, text = (
            str(path.relative_to(place)),
            path.is_file() and path.suffix in (".json", ".jsonl"),
        )
        if text:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [stable(json.loads(line)) for line in lines]
        elif path.suffix == ".npy":
            found[name] = np.load(path).tolist()
        elif path.suffix not in (".safetensors", ".parquet"):
            found[name] = path.is_file() and path.read_bytes()
    return found


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the processes that are killed: with other threads, sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(one_thread, phantom, tmp_path_factory):
    """A place with the run of SHORT, undisturbed."""
    place = tmp_path_factory.mktemp("trained")
    train(place, phantom)
    return place


COMMANDS = {"train": train, "evaluate": evaluate, "search": search, "study": study}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_every_rename(name, trained, phantom, tmp_path):
    if name == "study" and STRIDE > 1:
        pytest.skip("takes minutes: MCR_THOROUGH=1 runs it")
    command = COMMANDS[name]
    alone = tmp_path / "alone"
    begun = trained if name in ("evaluate", "search") else tmp_path / "begun"
    begun.mkdir(exist_ok=True)
    if name == "study":  # its training is that of `train`
        study(begun, phantom)
        shutil.rmtree(begun / "study" / "results")
    shutil.copytree(begun, alone)
    command(alone, phantom)
    expected = content(alone)
    for number in itertools.count(1, STRIDE):
        place = tmp_path / str(number)
        shutil.copytree(begun, place)
        if not killed(number, command, place, phantom):
            assert number > {"train": 9, "study": 2}.get(name, 1)  # it was killed at all
            break
        command(place, phantom)
        assert content(place) == expected, number
        if name == "train":
            assert_same_weights(place / "run", alone / "run")
        shutil.rmtree(place)


@pytest.mark.parametrize("name", ["train", "evaluate", "search", "export"])
def test_a_disk_that_is_full_at_any_stage(name, trained, phantom, small_disk, capsys):  # noqa: F811
    """With ever more room, until there is enough: each time one line, no half file, and the last one is whole."""
    disk, remount = small_disk
    if name != "train":
        shutil.copytree(trained / "run", disk / "run")
    fill = os.statvfs(disk)
    used = (fill.f_blocks - fill.f_bfree) * fill.f_bsize
    before = content(disk)
    whole = sum(path.stat().st_blocks * 512 for path in trained.rglob("*"))
    need = {"train": whole, "export": whole / 3}.get(name, 2**17)
    line = {
        "train": lambda: arguments(phantom, disk / "run", SHORT, *resume(disk / "run")),
        "evaluate": lambda: [
            "evaluate",
            "--run",
            disk / "run",
            "--data",
            phantom,
            "--split",
            "validate",
        ],
        "search": lambda: [
            "search",
            "--run",
            disk / "run",
            "--data",
            phantom,
            "--text",
            "effusion",
        ],
        "export": lambda: ["export", "--run", disk / "run", "--out", disk / "export"],
    }[name]
    failures = 0
    for share in (0, 0.02, 0.1, 0.3, 0.5, 0.8, 0.95, 1.5, 2.0, 4.0):
        remount(f"size={max(4096, used + int(share * need))}")
        status, _, said = call(capsys, *line())
        if status == 0:
            break
        failures += 1
        assert status in (1, 2) and len(said) == 1, said
        assert "No space left" in said[0] or "space" in said[0], said
        left = {
            path.name for path in disk.rglob("*") if path.name.endswith((".tmp", ".new", ".old"))
        }
        assert not left
        if name != "train":
            assert content(disk).keys() - {"run/index", "run/index/.lock"} == before.keys()
    assert status == 0 and failures > 0
    if name == "train":
        assert_same_weights(disk / "run", trained / "run")
        assert content(disk) == content(trained)
    elif name == "search":
        (index,) = (path for path in (disk / "run" / "index").iterdir() if path.is_dir())
        assert len(Index.load(index))


def test_a_study_on_a_disk_that_is_full_at_any_stage(
    phantom,
    small_disk,  # noqa: F811
    tmp_path,
    capsys,
):
    """The same command, with ever more room: one line each time, nothing half, and in the end the undisturbed study."""
    disk, remount = small_disk

    def call_study(out: Path) -> tuple[int, list[str]]:
        settings = [
            x
            for pair in (SHORT | {"steps": 2}).items()
            for x in ("--set", "=".join(map(str, pair)))
        ]
        line = [
            "--data",
            phantom,
            "--out",
            out,
            "--arms",
            "null-mba",
            "--seeds",
            1,
            "--profile",
            "smoke",
            *settings,
        ]
        status = run_app(
            study_command.app, "benchmarks.study", [*map(str, line), "--device", "cpu"]
        )
        return status, said(capsys.readouterr().err, "benchmarks.study")

    alone = with_costs(tmp_path / "alone")
    assert call_study(alone) == (0, [])
    full = with_costs(disk / "study")
    shutil.copy2(alone / "baselines.json", full)  # of another machine, as the costs
    need, failures = sum(path.stat().st_blocks * 512 for path in alone.rglob("*")), set()
    for share in (0, 0.01, 0.05, 0.3, 0.6, 0.95, 0.99, 1.01, 1.05, 1.5):
        remount(f"size={max(32768, int(share * need))}")
        status, lines = call_study(full)
        left = [path for path in disk.rglob("*") if path.name.endswith((".tmp", ".new", ".old"))]
        assert not left
        if status == 0:
            break
        assert len(lines) == 1 and "space" in lines[0], lines
        failures.add(lines[0].split(": ")[1])
    assert status == 0 and len(failures) > 1, failures
    assert content(full) == content(alone)


def resume(run: Path) -> list[str]:
    return ["--resume"] if (run / "config.yaml").exists() else []


def test_what_a_run_leaves_is_known(trained):
    """So that a left-over of a new kind is noticed here."""
    names = {path.name for path in (trained / "run").iterdir()}
    known = ["config.yaml", "data.json", "manifest.json", "metrics.jsonl", PICTURES]
    assert names == {*known, ".lock", "checkpoints", "tokenizer"}
