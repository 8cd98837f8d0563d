"""The parts of benchmarks/gpu.sh that are not commands of their own: checks, steps, kernels, the largest batch.

python -m benchmarks.gpu checks --device cuda --out runs/gpu/checks.json
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.cost.loading import wait_for
from benchmarks.cost.memory import measure_peak_on_gpu, recompute_blocks
from benchmarks.cost.steps import measure_steps
from benchmarks.cost.subjects import LENGTHS, list_subjects, make_batch, make_trainers
from benchmarks.gpu.checks import Batches, Checks
from data_prep.commands import QUIET, command_line, option, run_app
from data_prep.folder import write_json
from data_prep.provenance import provenance
from mcr_lib.__main__ import Device, Profile, Set
from mcr_lib.config import RunConfig, parse_settings, resolve
from mcr_lib.engine import compiling
from mcr_lib.engine.distributed import pick_device

MODULE = "benchmarks.gpu"
app = typer.Typer(help="What needs a GPU: see benchmarks/gpu.sh.", **QUIET)

Out = option(Path, "result file (JSON)")
Pairs = Annotated[int, typer.Option(min=2, help="pairs per step")]
Backend = Annotated[str, typer.Option(help="what compiles; aot_eager: traces, writes no code")]


@app.command()
def checks(
    out: Out, profile: Profile = "demo", device: Device = "auto", backend: Backend = "inductor"
):
    """Does every way of computing a step give what the plain one gives? Exit status 1 if not."""
    compiling.BACKEND = backend
    results = Checks(profile, pick_device(device)).run()
    save(out, {"checks": results})
    raise typer.Exit(any(said.startswith("FAILED") for said in results.values()))


@app.command()
def steps(
    out: Out,
    profile: Profile = "base",
    settings: Set = [],  # noqa: B006 (typer copies it)
    batch_size: Pairs = 256,
    rounds: int = 8,
    device: Device = "auto",
):
    """Seconds, memory and utilisation of a step of every framework and peer, in turns."""
    where, config = pick_device(device), resolve(profile, parse_settings(settings))
    names = {subject.name for subject in list_subjects(config.model)}
    if "open_clip" not in names:
        print("open_clip is not installed: no row of it")
    rows = measure_steps(config, batch_size, rounds, where, peaks=where.type == "cuda")
    save(out, {"compile": config.train.compile, "steps": rows})
    for row in rows:
        share = f", {row['utilisation']:.3f} of peak" if row.get("utilisation") else ""
        print(f"{row['name']}, {row['lengths']}: {1000 * row['median']:.1f} ms{share}")


@app.command()
def kernels(
    out: Out,
    profile: Profile = "base",
    settings: Set = [],  # noqa: B006
    batch_size: Pairs = 256,
    device: Device = "auto",
):
    """What a step of MCR on Open-i's lengths is made of: launches, and time by kernel."""
    where, config = pick_device(device), resolve(profile, parse_settings(settings))
    trainer, batch = open_trainer(config, batch_size, where)
    for _ in range(3):
        trainer.train_step([batch])
    activities = [torch.profiler.ProfilerActivity.CPU]
    if where.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as seen:
        trainer.train_step([batch])
        wait_for(where)
    events = seen.key_averages()
    own = "self_device_time_total" if where.type == "cuda" else "self_cpu_time_total"
    by_time = sorted(events, key=lambda event: -getattr(event, own))[:25]
    launches = sum(event.count for event in events if "LaunchKernel" in event.key)
    lines = [
        {"name": event.key[:120], "calls": event.count, "ms": getattr(event, own) / 1000}
        for event in by_time
    ]
    save(out, {"compile": config.train.compile, "launches": launches, "kernels": lines})
    print(f"{launches} kernels launched in a step")
    for line in lines[:10]:
        print(f"{line['ms']:8.2f} ms {line['calls']:5d} × {line['name'][:80]}")


@app.command()
def batch(
    out: Out,
    profile: Profile = "base",
    settings: Set = [],  # noqa: B006
    smallest: Pairs = 256,
    largest: Pairs = 4096,
    device: Device = "auto",
):
    """Double the batch until memory is full; then a large one by a gradient cache of 8 parts, and recomputed."""
    where, config = pick_device(device), resolve(profile, parse_settings(settings))
    rows, pairs = [], smallest
    while pairs <= largest:
        try:
            rows.append(measure_batch(config, pairs, 1, where))
        except torch.cuda.OutOfMemoryError:
            print(f"{pairs} pairs: out of memory")
            break
        pairs *= 2
    gc.collect()
    if where.type == "cuda":
        torch.cuda.empty_cache()
    large = min(largest, 8 * smallest)
    rows.append(measure_batch(config, large, 8, where))
    rows.append(measure_batch(config, large, 1, where, recomputed=True))
    save(out, {"compile": config.train.compile, "batches": rows})


def measure_batch(
    config: RunConfig, pairs: int, parts: int, device: torch.device, *, recomputed: bool = False
) -> dict:
    """Seconds and peak memory of one step of so many pairs, after one to warm up."""
    trainer, whole = open_trainer(config, pairs, device)
    if recomputed:
        recompute_blocks(trainer.model)
    cut = Batches(whole, parts).parts
    trainer.train_step(cut)
    wait_for(device)
    start = time.perf_counter()
    trainer.train_step(cut)
    wait_for(device)
    row = {"pairs": pairs, "parts": parts, "recomputed": recomputed}
    row["seconds"] = time.perf_counter() - start
    if device.type == "cuda":
        row["peak_bytes"] = measure_peak_on_gpu(trainer, *cut)
    print(row, flush=True)
    return row


def open_trainer(config: RunConfig, pairs: int, device: torch.device):
    """MCR's, and a batch of reports as long as Open-i's."""
    torch.manual_seed(0)
    trainer = make_trainers(config.model, config.train, device, names=["mcr"])["mcr"]
    return trainer, make_batch(config.model, pairs, device, LENGTHS["openi"])


def save(out: Path, content: dict) -> None:
    """The numbers, and where they come from."""
    write_json(out, content | provenance(command_line(MODULE)))


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
