"""Seconds from the start of training to the first step, with nothing compiled before, compiled and not.

    python -m benchmarks.cost.cold_start --profile base --batch-size 8 --device cpu --out runs/cold_start.json

Each variant has a process and empty caches of its own. What importing takes comes on top, alike for both. The loss
after three steps stands beside the seconds: the two variants must agree on it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import torch
import typer

from benchmarks.cost.loading import wait_for
from benchmarks.cost.processes import run_in_own_process
from benchmarks.cost.subjects import LENGTHS, make_batch, make_trainers
from data_prep.commands import QUIET, command_line, option, run_app
from data_prep.folder import write_json
from data_prep.provenance import provenance
from mcr_lib.__main__ import Device, Profile, Set
from mcr_lib.config import RunConfig, parse_settings, resolve
from mcr_lib.engine import compiling
from mcr_lib.engine.distributed import pick_device
from mcr_lib.engine.precision import precision_name

MODULE = "benchmarks.cost.cold_start"
STEPS = 3
app = typer.Typer(help="Seconds to the first step, compiled and not.", **QUIET)

Pairs = Annotated[int, typer.Option(min=2, help="pairs per step")]
Backend = Annotated[str, typer.Option(help="what compiles; aot_eager: traces, writes no code")]
Out = option(Path | None, "result file (JSON)")


@app.command()
def main(
    out: Out = None,
    profile: Profile = "base",
    settings: Set = [],  # noqa: B006 (typer copies it)
    batch_size: Pairs = 8,
    backend: Backend = compiling.BACKEND,
    device: Device = "auto",
):
    """Take the first steps of MCR in a process of its own, not compiled and then compiled."""
    where, result = pick_device(device), {}
    for name in ("eager", "compiled"):
        own = parse_settings(settings) | {"compile": name == "compiled"}
        config = resolve(profile, own).model_dump()
        result[name] = found = measure_first_steps(config, batch_size, where, backend)
        first, second = found["seconds"][:2]
        print(f"{profile}, {name}: first step {first:.1f} s, second {second:.3f} s", flush=True)
    losses = [result[name]["loss"] for name in ("eager", "compiled")]
    result["loss_difference"] = abs(losses[0] - losses[1])
    about = {"profile": profile, "batch_size": batch_size, "backend": backend, "device": str(where)}
    if out:
        write_json(out, about | result | provenance(command_line(MODULE)))


def measure_first_steps(config: dict, pairs: int, device: torch.device, backend: str) -> dict:
    """Of one variant, with empty caches."""
    with tempfile.TemporaryDirectory() as caches:
        cold = {
            "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
            "TRITON_CACHE_DIR": f"{caches}/triton",
            "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        }
        with patch.dict(os.environ, cold):
            context = multiprocessing.get_context("spawn")
            return run_in_own_process(
                context, take_first_steps, "first steps", config, pairs, str(device), backend
            )


def take_first_steps(_name: str, config: dict, pairs: int, device: str, backend: str) -> dict:
    """Seconds of the first STEPS steps, the first with the building of the model; where compiling spent them."""
    from torch._dynamo.utils import calculate_time_spent, counters

    compiling.BACKEND = backend
    config, where, seconds = RunConfig.model_validate(config), torch.device(device), []
    torch.manual_seed(0)
    start = time.perf_counter()
    trainer = make_trainers(config.model, config.train, where, names=["mcr"])["mcr"]
    trainer.step = trainer.batches.total_steps // 20  # past the warm-up of the rate
    batch = make_batch(config.model, pairs, where, LENGTHS["openi"])
    for _ in range(STEPS):
        losses, _ = trainer.train_step([batch])
        wait_for(where)
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return {
        "seconds": seconds,
        "loss": float(losses["loss"]),
        "precision": precision_name(trainer.autocast_dtype),
        "graphs": counters["stats"]["unique_graphs"],
        "compile_seconds": calculate_time_spent() if config.train.compile else {},
    }


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
