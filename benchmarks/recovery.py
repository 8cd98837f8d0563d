"""What one process, several, and many killed ones make of the same run; and a batch larger than memory.

    python benchmarks/recovery.py --out benchmarks/results/recovery_2cpu.json

1. Fifty steps by one, two and four processes: the largest difference of any loss and any weight.
2. A run killed by SIGKILL twenty times at random moments, each time resumed by another number of processes, against
   one that was left alone; and how often each pair was seen in each epoch.
3. One step of 4,096 pairs, in one piece and by gradient cache: the memory of each, and each within a limit.

Every start is a process of its own, by torchrun where there are several. On synthetic data, with the smoke profile.
"""

import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"batch_size": 18, "log_every": 1, "precision": "fp32", "learning_rate": 1e-3}
LARGE, PARTS, LIMIT = 4096, 64, 3 * 10**9  # pairs, parts of the gradient cache, bytes


@app.command()
def worker(data: Path, run: Path, seen: Path, settings: str) -> None:
    """One process of a run: trains, resuming where there is something to resume, and notes which pairs each step saw in
    `seen/ATTEMPT-RANK.jsonl`."""
    import torch

    from mcr_lib import distributed, run_folder
    from mcr_lib.config import resolve
    from mcr_lib.trainer import Trainer

    step = Trainer.train_step
    attempt = os.environ["ATTEMPT"]

    def noting(trainer, parts):
        result = step(trainer, parts)
        pairs = torch.cat([part.pairs for part in parts]).tolist()
        line = {"step": trainer.step, "pairs": pairs, "pid": os.getpid()}
        with (seen / f"{attempt}-{distributed.rank()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return result

    Trainer.train_step = noting
    with distributed.process_group():
        run_folder.train(data, run, resolve("smoke", json.loads(settings)), device=torch.device("cpu"),
                         resume=(run / "config.yaml").exists(), command="benchmarks/recovery.py")


def start(world: int, data: Path, run: Path, seen: Path, settings: dict, attempt: int = 0) -> subprocess.Popen:
    """Start `world` processes of `worker`, as a process group of their own."""
    seen.mkdir(parents=True, exist_ok=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
    return subprocess.Popen(
        [sys.executable, *launch, __file__, "worker", str(data), str(run), str(seen), json.dumps(settings)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ATTEMPT": f"{attempt:03d}"}, start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_after(process: subprocess.Popen, seen: Path, attempt: int, steps: int, wait: float, everything: bool,
               rng: random.Random) -> dict | None:
    """SIGKILL one process (or everything, torchrun too) `wait` seconds after step number `steps` of this attempt → when
    it was, and how many seconds later all had ended; None if the run ended by itself before."""
    while process.poll() is None:
        files = sorted(seen.glob(f"{attempt:03d}-*.jsonl"))
        if files and all(f.read_text().count("\n") >= steps for f in files):
            break
        time.sleep(0.01)
    else:
        return None
    time.sleep(wait)
    lines = [json.loads(f.read_text().splitlines()[-1]) for f in files]
    killed = rng.choice(lines)
    at = time.monotonic()
    if everything:
        os.killpg(process.pid, signal.SIGKILL)
        for line in lines:  # torchrun's children have groups of their own
            signal_process(line["pid"])
    else:
        signal_process(killed["pid"])
    _, errors = process.communicate(timeout=120)
    return {"after_step": killed["step"] + 1, "everything": everything, "seconds_to_end": time.monotonic() - at,
            "errors": errors}


def signal_process(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def times_seen(seen: Path, pairs: int, batch_size: int, steps: int) -> dict[str, list[int]]:
    """For each epoch that is over, how many pairs were seen 0, 1, 2 … times by the steps that count: those a later
    attempt did not do again."""
    last: dict[int, dict[str, list[int]]] = {}
    for file in sorted(seen.glob("*.jsonl")):
        attempt = file.name.split("-")[0]
        for line in map(json.loads, file.read_text().splitlines()):
            if attempt not in last.get(line["step"], {}):
                last[line["step"]] = {attempt: []}
            last[line["step"]][attempt] += line["pairs"]
    counts, table, position = [0] * pairs, {}, 0
    for step in range(steps):
        for pair in (pair for share in last[step].values() for pair in share):
            counts[pair] += 1
            position += 1
        for epoch in range(len(table), position // pairs):
            # the step in which an epoch ends may begin the next: so many pairs are one ahead, and none may be two
            ahead = position - (epoch + 1) * pairs
            twice = max(0, sum(n - epoch - 1 for n in counts if n > epoch + 1) - ahead)
            lost = sum(n < epoch + 1 for n in counts)
            table[str(epoch)] = [lost, pairs - lost - twice] + [twice] * (twice > 0)
    assert position == steps * batch_size, f"{position} pairs in {steps} steps of {batch_size}"
    return table


def difference(a: Path, b: Path) -> dict[str, float]:
    """The largest difference of two runs: of any loss at any step, of any weight, of the biases of attention keys
    (which attention does not depend on: their gradient is rounding noise, scaled up by Adam)."""
    from safetensors.torch import load_file

    from mcr_lib import checkpoint

    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (a, b)]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    losses = max(abs(x[k] - y[k]) for x, y in zip(*logs, strict=True) for k in x if k.endswith("loss"))
    weights = [load_file(checkpoint.newest(run / "checkpoints")[0] / "model.safetensors") for run in (a, b)]
    largest = {"loss": losses, "weight": 0.0, "key_bias": 0.0}
    for name, value in weights[0].items():
        gap = (value - weights[1][name]).abs()
        if name.endswith("attn.qkv.bias"):
            q, k, v = gap.chunk(3)
            largest["key_bias"] = max(largest["key_bias"], k.max().item())
            gap = q.maximum(v)
        where = "key_bias" if name.endswith("key.bias") else "weight"
        largest[where] = max(largest[where], gap.max().item())
    return largest


@app.command()
def step(parts: int, limit: int = 0) -> None:
    """One training step of LARGE random pairs, in `parts` parts, within `limit` bytes of memory (0: none); prints JSON.
    The model is the demo profile's."""
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import torch

    from mcr_lib.config import resolve
    from mcr_lib.model import MCR, Batch
    from mcr_lib.trainer import Trainer

    torch.set_num_threads(2)
    config = resolve("demo", {"accumulation": parts, "precision": "fp32", "batch_size": LARGE})
    model = config.model
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.vocab_size, (LARGE, model.max_text_length), generator=g)
    whole = [torch.randn(LARGE, 1, model.img_size, model.img_size, generator=g), ids, torch.ones_like(ids),
             torch.rand(LARGE, model.num_patches, generator=g), torch.rand(ids.shape, generator=g)]

    class Once:
        total_steps = 10

    torch.manual_seed(0)
    trainer = Trainer(MCR(model), Once(), config.train, run=Path("unused"), device=torch.device("cpu"))
    losses, norm = trainer.train_step([Batch(*part) for part in zip(*[t.chunk(parts) for t in whole], strict=True)])
    print(json.dumps({"parts": parts, "grad_norm": norm.item(),
                      **{k: v.item() for k, v in losses.items()},
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def take_step(parts: int, limit: int = 0) -> dict:
    """`step` in a process of its own → what it prints, or the last line of what it says when it fails."""
    done = subprocess.run([sys.executable, __file__, "step", str(parts), "--limit", str(limit)], capture_output=True,
                          text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr.strip().splitlines()[-1][:200]}


@app.command()
def measure(out: Annotated[Path, typer.Option()], kills: int = 20, seed: int = 0) -> None:
    """All three, and write the result file."""
    from data_prep.phantom import write
    from mcr_lib import run_folder

    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        data = place / "data"
        write(data, studies=160, seed=0, processes=2)

        def through(world: int, label: str, settings: dict) -> Path:
            process = start(world, data, place / label, place / f"seen-{label}", settings)
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            return place / label

        fifty = SETTINGS | {"steps": 50, "checkpoint_every": 25}
        runs = {world: through(world, f"fifty-{world}", fifty) for world in (1, 2, 4)}
        same = {f"{world} processes": difference(runs[1], runs[world]) for world in (2, 4)}
        print(json.dumps(same))

        steps = 8 * kills
        settings = SETTINGS | {"steps": steps, "checkpoint_every": 3}
        alone = through(1, "alone", settings)
        killed, seen, log = place / "killed", place / "seen-killed", []
        world = 1
        for attempt in range(kills):
            world = rng.choice([w for w in (1, 2, 4) if w != world])
            process = start(world, data, killed, seen, settings, attempt)
            event = kill_after(process, seen, attempt, rng.randint(1, 7), rng.uniform(0, 0.1), rng.random() < 0.5, rng)
            assert event is not None, process.communicate()
            event.pop("errors")
            log.append({"processes": world} | event)
            print(json.dumps(log[-1]), flush=True)
        process = start(2, data, killed, seen, settings, kills)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        pairs = json.loads((killed / "manifest.json").read_text())["training_pairs"]
        recovery = {"kills": log, "steps": steps, "difference": difference(alone, killed), "training_pairs": pairs,
                    "times_seen": times_seen(seen, pairs, SETTINGS["batch_size"], steps)}
        print(json.dumps(recovery["difference"]), json.dumps(recovery["times_seen"]), flush=True)

    large = {"pairs": LARGE, "limit_bytes": LIMIT, "in one piece": take_step(1),
             "in one piece, within the limit": take_step(1, LIMIT),
             "gradient cache": take_step(PARTS), "gradient cache, within the limit": take_step(PARTS, LIMIT)}
    run_folder.write_json(out, run_folder.provenance(shlex.join(["python", *sys.argv])) | {
        "settings": fifty, "same_run": same, "recovery": recovery, "large_batch": large})
    print(json.dumps(large, indent=1))


if __name__ == "__main__":
    app() if sys.argv[1:2] in (["worker"], ["step"]) else typer.run(measure)
