"""What a training step costs, per framework and beside what people would use instead (peers.py): counted FLOPs and
bytes, the floor they set on this machine, measured seconds in interleaved rounds, peak memory, and the targets. A step
is the Trainer's own: forward, backward, clipping, optimizer. All rows of a run see the same pairs.

Not here: what is not a step (loading.py: waiting, reading, start-up, growth), what the numbers say (tables.py: ratios,
targets, tables), retrieval (search.py), the picture (figure.py).
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.cost import loading, tables
from benchmarks.cost.memory import measure_peak_on_cpu, measure_peak_on_gpu
from benchmarks.cost.subjects import LENGTHS, make_batch, make_trainers
from data_prep.machine import progress
from data_prep.provenance import provenance
from kit import cost
from mcr_lib.config import ConfigError, MCRConfig, RunConfig, resolve
from mcr_lib.engine.precision import precision_name
from mcr_lib.model import Batch
from mcr_lib.trainer import Trainer

PEAK_FLOPS = {  # dense bf16 by the data sheet, for the utilisation
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}
COUNTED = (
    8  # pairs of the step whose FLOPs and bytes are counted; they are proportional to the pairs
)
TAKE_SHORT = ("mcr", "two-stream")  # the peers pad to the maximum: short reports change nothing


# ------------------------------------------------------------------------------------------------------------- a run


def measure_costs(
    device: torch.device,
    *,
    profile: str = "base",
    settings: dict | None = None,
    batch_sizes: list[int] | None = None,
    rounds: int = 3,
    command: str | None = None,
) -> dict:
    """Measure everything on one device → the content of a result file.

    Batch sizes: 8 on a CPU; on CUDA 64, 128 … until memory is full. Raises ConfigError for settings that do not fit.
    """
    on_gpu = device.type == "cuda"
    if not on_gpu and sys.platform != "linux":
        raise ConfigError("benchmark on a CPU reads peak memory where only Linux shows it (/proc)")
    config = resolve(profile, {"compile": on_gpu, **(settings or {})})
    if batch_sizes is None:
        batch_sizes = [64 * 2**i for i in range(8)] if on_gpu else [8]
    torch.manual_seed(0)
    result = {
        "device": str(device),
        "profile": profile,
        "settings": settings or {},
        "rounds": rounds,
        "model": config.model.model_dump(mode="json"),
        "steps": _measure_batch_sizes(config, batch_sizes, rounds, device),
        "data": loading.measure_loading(device),
        **provenance(command),
    }
    result["ratios"] = tables.compute_ratios(result)
    result["targets"] = tables.check_targets(result)
    return result


def _measure_batch_sizes(
    config: RunConfig, batch_sizes: list[int], rounds: int, device: torch.device
) -> list[dict]:
    """The rows of every batch size that fits. Raises ConfigError if none does."""
    rows = []
    for pairs in batch_sizes:
        try:
            rows += measure_steps(config, pairs, rounds, device)
        except torch.cuda.OutOfMemoryError:
            print(f"batch size {pairs}: out of memory, the last one")
            break
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if not rows:
        raise ConfigError(
            f"batch_size: not even {batch_sizes[0]} pairs fit into the memory of {device}; give a "
            "smaller --batch-size"
        )
    return rows


# ------------------------------------------------------------------------------------------------- one batch size


@dataclass
class TimedStep:
    """A subject's step at one batch size and one kind of text lengths, and its row of the result file."""

    trainer: Trainer
    batch: Batch
    row: dict

    def take(self) -> None:
        self.trainer.train_step([self.batch])


def measure_steps(
    config: RunConfig, pairs: int, rounds: int, device: torch.device, *, peaks: bool = True
) -> list[dict]:
    """One row per subject and kind of text lengths, at one batch size; on a CPU peaks take a process per subject."""
    torch._dynamo.config.recompile_limit = 64  # the blocks of all subjects are of a few classes
    steps = _count_steps(config, pairs, device)
    if device.type == "cuda":
        for step in steps:
            step.take()  # compiles
            step.row["peak_bytes"] = measure_peak_on_gpu(step.trainer, step.batch)
    _time_steps(steps, rounds, device)
    rows = [step.row for step in steps]
    del steps  # their memory, before the processes that need their own
    gc.collect()
    if device.type == "cpu" and peaks:
        whole = [row for row in rows if row["lengths"] == "full"]
        for row in progress(whole, desc="memory", leave=False):
            row["peak_bytes"] = measure_peak_on_cpu(row["name"], config, pairs)
    return rows


def _count_steps(config: RunConfig, pairs: int, device: torch.device) -> list[TimedStep]:
    """All that is measured, with what can be counted of it; counting needs models that are not compiled."""
    model = config.model
    eager = make_trainers(model, config.train.model_copy(update={"compile": False}), device)
    timed = make_trainers(model, config.train, device) if config.train.compile else eager
    steps = []
    for name, trainer in progress(eager.items(), desc="count", leave=False):
        for kind in ("full", "openi") if name in TAKE_SHORT else ("full",):
            batch = make_batch(model, pairs, device, LENGTHS[kind])
            row = {
                "name": name,
                "batch_size": pairs,
                "lengths": kind,
                "tokens": batch.input_ids.shape[1],
                **count_step(trainer, model, pairs, device, LENGTHS[kind]),
            }
            steps.append(TimedStep(timed[name], batch, row))
    return steps


def count_step(
    trainer: Trainer,
    model: MCRConfig,
    pairs: int,
    device: torch.device,
    quantiles: tuple[int, ...] | None,
) -> dict[str, int]:
    """FLOPs of a step and bytes it keeps for the backward pass, for `pairs` pairs: counted in a step of COUNTED pairs
    at most, and scaled."""
    counted = min(pairs, COUNTED)
    batch = make_batch(model, counted, device, quantiles)
    kept = []

    def take_step() -> None:
        kept.append(cost.kept_bytes(trainer.model, trainer.train_step, [batch]))

    flops = cost.flops(take_step)
    return {"flops": flops * pairs // counted, "kept_bytes": kept[0] * pairs // counted}


# ------------------------------------------------------------------------------------------------------------ seconds


def _time_steps(steps: list[TimedStep], rounds: int, device: torch.device) -> None:
    """Put into each step's row its seconds, and how far they are above the floor that this machine sets."""
    dtype = steps[0].trainer.autocast_dtype or torch.float32
    product, product_flops = make_large_product(dtype, device)
    seconds = time_in_turns([product, *(step.take for step in steps)], rounds, device)
    rate = product_flops / statistics.median(seconds[0])
    for step, of_step in zip(steps, seconds[1:], strict=True):
        row, median = step.row, statistics.median(of_step)
        row |= {
            "seconds": of_step,
            "median": median,
            "precision": precision_name(dtype),
            "pairs_per_second": row["batch_size"] / median,
            "matmul_flops_per_second": rate,
            "floor_seconds": row["flops"] / rate,
            "over_floor": median * rate / row["flops"],
        }
        if device.type == "cuda":
            peak = _find_peak_flops(torch.cuda.get_device_name(device))
            row["utilisation"] = peak and row["flops"] / median / peak


def time_in_turns(calls: list[Callable], rounds: int, device: torch.device) -> list[list[float]]:
    """Seconds of every call in every round: A B C, A B C …, so that what else the machine does hits all alike."""
    seconds = [[] for _ in calls]
    for _ in progress(range(rounds), desc="rounds", unit="round", leave=False):
        for call, times in zip(calls, seconds, strict=True):
            loading.wait_for(device)
            start = time.perf_counter()
            call()
            loading.wait_for(device)
            times.append(time.perf_counter() - start)
    return seconds


def make_large_product(dtype: torch.dtype, device: torch.device) -> tuple[Callable, int]:
    """What gives the floor its rate: one large matrix product as a call, and its FLOPs."""
    n = 8192 if device.type == "cuda" else 2048
    a, b, c = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    return partial(torch.mm, a, b, out=c), 2 * n**3


def _find_peak_flops(gpu: str) -> float | None:
    for name, flops in PEAK_FLOPS.items():
        if name in gpu:
            return flops
    return None
