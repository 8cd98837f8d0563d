"""What one process, several, and many killed ones make of the same run; and a batch larger than memory.

    python -m benchmarks.cost.recovery --out benchmarks/results/recovery_2cpu.json

1. Fifty steps by one, two and four processes: the largest difference of any loss and any weight.
2. A run killed by SIGKILL twenty times at random moments, each time resumed by another number of processes, against
   one that was left alone; and how often each pair was seen in each epoch.
3. One step of 4,096 pairs, in one piece and by gradient cache: the memory of each, and each within a limit.

Every start is a process of its own (recovery_process.py), by torchrun where there are several. On synthetic data, with
the smoke profile.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import ROOT
from benchmarks.cost import recovery_process
from data_prep.commands import QUIET, command_line, run_app
from data_prep.folder import write_json
from data_prep.phantom import write
from data_prep.provenance import provenance
from mcr_lib.engine import checkpoint

MODULE = "benchmarks.cost.recovery"
SETTINGS = {"batch_size": 18, "log_every": 1, "precision": "fp32", "learning_rate": 1e-3}
PARTS, LIMIT = 64, 3 * 10**9  # parts of the gradient cache, bytes
WORLDS = (1, 2, 4)  # numbers of processes

app = typer.Typer(help="What is left of a run that is killed many times.", **QUIET)


@app.command()
def main(out: Annotated[Path, typer.Option()], kills: int = 20, seed: int = 0) -> None:
    """All three, and write the result file."""
    fifty = SETTINGS | {"steps": 50, "checkpoint_every": 25}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write(place / "data", studies=160, seed=0, processes=2)
        same_run = compare_worlds(place, fifty)
        recovery = kill_and_resume(place, kills, random.Random(seed))
    large_batch = {
        "pairs": recovery_process.LARGE,
        "limit_bytes": LIMIT,
        "in one piece": take_step(1),
        "in one piece, within the limit": take_step(1, LIMIT),
        "gradient cache": take_step(PARTS),
        "gradient cache, within the limit": take_step(PARTS, LIMIT),
    }
    content = {
        **provenance(command_line(MODULE)),
        "settings": fifty,
        "same_run": same_run,
        "recovery": recovery,
        "large_batch": large_batch,
    }
    write_json(out, content)
    print(json.dumps(large_batch, indent=1))


def compare_worlds(place: Path, settings: dict) -> dict:
    """1. The same run by several numbers of processes: how far each is from that of one."""
    runs = {world: _run_through(place, world, f"fifty-{world}", settings) for world in WORLDS}
    same = {f"{world} processes": difference(runs[1], runs[world]) for world in WORLDS[1:]}
    print(json.dumps(same))
    return same


def kill_and_resume(place: Path, kills: int, rng: random.Random) -> dict:
    """2. A run that is killed again and again, beside one that was left alone."""
    steps = 8 * kills
    settings = SETTINGS | {"steps": steps, "checkpoint_every": 3}
    alone = _run_through(place, 1, "alone", settings)
    data, killed, seen = place / "data", place / "killed", place / "seen-killed"
    events, world = [], 1
    for attempt in range(kills):
        world = rng.choice([other for other in WORLDS if other != world])
        process = start(world, data, killed, seen, settings, attempt)
        event = kill_after(
            process,
            seen,
            attempt,
            steps=rng.randint(1, 7),
            wait=rng.uniform(0, 0.1),
            everything=rng.random() < 0.5,
            rng=rng,
        )
        assert event is not None, process.communicate()
        events.append({"processes": world, **event.describe()})
        print(json.dumps(events[-1]), flush=True)
    _finish(start(2, data, killed, seen, settings, kills))
    pairs = json.loads((killed / "manifest.json").read_text())["training_pairs"]
    recovery = {
        "kills": events,
        "steps": steps,
        "difference": difference(alone, killed),
        "training_pairs": pairs,
        "times_seen": times_seen(seen, pairs, SETTINGS["batch_size"], steps),
    }
    print(json.dumps(recovery["difference"]), json.dumps(recovery["times_seen"]), flush=True)
    return recovery


def take_step(parts: int, limit: int = 0) -> dict:
    """3. One large step in a process of its own → what it prints, or the last line of what it says when it fails."""
    module = [sys.executable, "-m", recovery_process.MODULE]
    command = [*module, "step", str(parts), "--limit", str(limit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout)


# ------------------------------------------------------------------------------------------- processes and their end


def start(
    world: int, data: Path, run: Path, seen: Path, settings: dict, attempt: int = 0
) -> subprocess.Popen:
    """Start `world` processes of one run, as a process group of their own."""
    seen.mkdir(parents=True, exist_ok=True)
    launch = [sys.executable, "-m"]
    if world > 1:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "-m"]
        launch += [*torchrun, "--"]
    arguments = [str(data), str(run), str(seen), json.dumps(settings)]
    return subprocess.Popen(
        [*launch, recovery_process.MODULE, "train", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ATTEMPT": f"{attempt:03d}"},
        start_new_session=True,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _run_through(place: Path, world: int, label: str, settings: dict) -> Path:
    """A run from beginning to end → its folder."""
    _finish(start(world, place / "data", place / label, place / f"seen-{label}", settings))
    return place / label


def _finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@dataclass
class Kill:
    """After which step it was, whether everything was killed, seconds until all had ended, and what they said."""

    after_step: int
    everything: bool
    seconds_to_end: float
    errors: str

    def describe(self) -> dict:
        """For the result file."""
        return {
            "after_step": self.after_step,
            "everything": self.everything,
            "seconds_to_end": self.seconds_to_end,
        }


def kill_after(
    process: subprocess.Popen,
    seen: Path,
    attempt: int,
    *,
    steps: int,
    wait: float,
    everything: bool,
    rng: random.Random,
) -> Kill | None:
    """SIGKILL one process (or everything, torchrun too) `wait` seconds after step number `steps` of this attempt; None
    if the run ended by itself before."""
    files = _wait_for_steps(process, seen, attempt, steps)
    if files is None:
        return None
    time.sleep(wait)
    last_lines = [json.loads(file.read_text().splitlines()[-1]) for file in files]
    killed = rng.choice(last_lines)
    at = time.monotonic()
    if everything:
        os.killpg(process.pid, signal.SIGKILL)
        for line in last_lines:  # torchrun's children have groups of their own
            _kill(line["pid"])
    else:
        _kill(killed["pid"])
    _, errors = process.communicate(timeout=120)
    return Kill(killed["step"] + 1, everything, time.monotonic() - at, errors)


def _wait_for_steps(
    process: subprocess.Popen, seen: Path, attempt: int, steps: int
) -> list[Path] | None:
    """The files of what each process saw, as soon as each has taken so many steps; None if the run ends before."""
    while process.poll() is None:
        files = sorted(seen.glob(f"{attempt:03d}-*.jsonl"))
        if files and all(file.read_text().count("\n") >= steps for file in files):
            return files
        time.sleep(0.01)
    return None


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------------------------------------- what became of it


def times_seen(seen: Path, pairs: int, batch_size: int, steps: int) -> dict[str, list[int]]:
    """For each epoch that is over, how many pairs were seen 0, 1, 2 … times by the steps that count: those a later
    attempt did not do again."""
    pairs_of_step = _read_last_attempts(seen)
    counts, table, position = [0] * pairs, {}, 0
    for step in range(steps):
        for pair in pairs_of_step[step]:
            counts[pair] += 1
        position += len(pairs_of_step[step])
        for epoch in range(len(table), position // pairs):
            # the step in which an epoch ends may begin the next: so many pairs are one ahead, and none may be two
            ahead = position - (epoch + 1) * pairs
            table[str(epoch)] = _count_times(counts, epoch + 1, ahead)
    assert position == steps * batch_size, f"{position} pairs in {steps} steps of {batch_size}"
    return table


def _count_times(counts: list[int], due: int, ahead: int) -> list[int]:
    """Of pairs that were to be seen `due` times, `ahead` of them once more: how many were lost, right, seen again."""
    lost = sum(count < due for count in counts)
    surplus = sum(count - due for count in counts if count > due)
    again = max(0, surplus - ahead)
    times = [lost, len(counts) - lost - again]
    return [*times, again] if again else times


def _read_last_attempts(seen: Path) -> dict[int, list[int]]:
    """step → the pairs that all processes of the last attempt at it saw."""
    attempt_at, pairs_of_step = {}, {}
    for file in sorted(seen.glob("*.jsonl")):
        attempt = file.name.split("-")[0]
        for text in file.read_text().splitlines():
            line = json.loads(text)
            step = line["step"]
            if attempt_at.get(step) != attempt:
                attempt_at[step], pairs_of_step[step] = attempt, []
            pairs_of_step[step] += line["pairs"]
    return pairs_of_step


def difference(a: Path, b: Path) -> dict[str, float]:
    """The largest difference of two runs: of any loss at any step, of any weight, of the biases of attention keys
    (which attention does not depend on: their gradient is rounding noise, scaled up by Adam)."""
    largest = {"loss": _largest_loss_difference(a, b), "weight": 0.0, "key_bias": 0.0}
    theirs = _load_weights(b)
    for name, value in _load_weights(a).items():
        gap = (value - theirs[name]).abs()
        kind = "key_bias" if name.endswith("key.bias") else "weight"
        if name.endswith("attn.qkv.bias"):
            q, k, v = gap.chunk(3)
            largest["key_bias"] = max(largest["key_bias"], k.max().item())
            gap = q.maximum(v)
        largest[kind] = max(largest[kind], gap.max().item())
    return largest


def _largest_loss_difference(a: Path, b: Path) -> float:
    ours, theirs = _read_log(a), _read_log(b)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    differences = []
    for one, other in zip(ours, theirs, strict=True):
        differences += [abs(one[key] - other[key]) for key in one if key.endswith("loss")]
    return max(differences)


def _read_log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _load_weights(run: Path) -> dict[str, Tensor]:
    folder, *_ = checkpoint.find_newest(run / "checkpoints")
    return load_file(folder / "model.safetensors")


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
