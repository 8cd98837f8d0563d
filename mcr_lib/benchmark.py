"""What a training step costs, per framework and beside what people would use instead (benchmarks/peers.py): counted
FLOPs and bytes, the floor they set on this machine, measured seconds in interleaved rounds, peak memory, and the
targets. A step is the Trainer's own: forward, backward, clipping, optimizer. All rows of a run see the same pairs.

Not here: what is not a step (benchmark_data.py: waiting, reading, start-up, growth), what the numbers say
(benchmark_table.py: ratios, targets, tables), retrieval (benchmarks/search.py), the picture (plotting.benchmark).
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import multiprocessing
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import torch
from torch import nn

from . import benchmark_data, benchmark_table, cost, run_folder
from .config import ConfigError, MCRConfig, RunConfig, TrainConfig, resolve
from .data import TEXT_GROUPS
from .masking import IMAGE_STREAM, TEXT_STREAM, counter_noise
from .model import MCR, Batch
from .progress import progress
from .tokenizer import padded_length
from .trainer import Trainer

FRAMEWORKS = get_args(MCRConfig.model_fields["framework"].annotation)
PEERS = Path(__file__).parent.parent / "benchmarks" / "peers.py"
# report lengths in tokens at 0, 10 … 100 %; openi: findings + impression by the kit's tokenizer, cut at 128, mean 47
LENGTHS = {"full": None, "openi": (6, 25, 30, 34, 38, 42, 47, 52, 62, 76, 128)}
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 by the data sheet, for the utilisation
# of the processes whose peak memory is read: what is freed goes back at once, so the peak is what the step holds, not
# what the allocator keeps in store or rounds up to huge pages
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "THP_MEM_ALLOC_ENABLE": "0"}
COUNTED = 8  # pairs of the step whose FLOPs and bytes are counted; they are proportional to the pairs


# --- who is measured, and on what

def subjects(model: MCRConfig) -> dict[str, Callable[[], nn.Module]]:
    """Name → how to build it, with the encoders and decoders of `model`. open_clip only where it is installed."""
    found = {f: partial(MCR, model.model_copy(update={"framework": f})) for f in FRAMEWORKS}
    spec = importlib.util.spec_from_file_location("mcr_benchmark_peers", PEERS)
    peers = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    has_open_clip = importlib.util.find_spec("open_clip") is not None
    return found | {name: partial(build, model) for name, build in peers.PEERS.items()
                    if has_open_clip or not name.startswith("open_clip")}


class Endless:
    """As much as the Trainer needs to know of its batches when single steps are taken."""

    total_steps = 10**9

    def epoch(self, step: int) -> float:
        return 0.0


def trainers(model: MCRConfig, train: TrainConfig, device: torch.device, names=None) -> dict[str, Trainer]:
    """One Trainer per subject. Those of one class share weights and optimizer states, so that all fit in memory at
    once; what a step does and keeps is not changed by that."""
    made, firsts = {}, {}
    for name, build in subjects(model).items():
        if names is not None and name not in names:
            continue
        family = name.split(",")[0].split()[0].removesuffix("-masked") if name not in FRAMEWORKS else "kit"
        first = firsts.get(family)
        if first is None:
            net = build()
        else:
            with torch.device("meta"):
                net = build()
            for path, module in net.named_modules():
                for kind in ("_parameters", "_buffers"):
                    for key in getattr(module, kind):
                        getattr(module, kind)[key] = getattr(first.model.get_submodule(path), kind)[key]
        trainer = made[name] = Trainer(net, Endless(), train, run=Path(), device=device)
        trainer.model.train()
        firsts.setdefault(family, trainer)
        trainer.optimizer.state = firsts[family].optimizer.state
    return made


def make_batch(model: MCRConfig, pairs: int, device: torch.device, lengths=None) -> Batch:
    """Noise of a batch's shape: images (N, C, H, W), reports (N, T) all of the longest length, or as long as
    `lengths` (tokens at equally spaced quantiles) has them, padded to the longest of the batch."""
    generator = torch.Generator().manual_seed(0)
    n = torch.full((pairs,), model.max_text_length)
    if lengths is not None:
        at = (torch.arange(pairs) + 0.5) / pairs * (len(lengths) - 1)
        below, table = at.long(), torch.tensor(lengths, dtype=torch.float)
        n = (table[below] + (at - below) * (table[below + 1] - table[below])).round().long()
        n = n.clamp(max=model.max_text_length)  # sorted, as TrainBatches does
    T = padded_length(n.tolist())
    present = torch.arange(T) < n[:, None]  # N, T
    ids = torch.randint(max(model.special_token_ids) + 1, model.vocab_size, (pairs, T), generator=generator)
    rows, epochs = torch.arange(pairs), torch.zeros(pairs, dtype=torch.int64)
    batch = (torch.randn(pairs, model.in_chans, model.img_size, model.img_size, generator=generator),
             ids.masked_fill(~present, model.special_token_ids[0]), present.long(),
             counter_noise(0, epochs, rows, model.num_patches, IMAGE_STREAM),
             counter_noise(0, epochs, rows, T, TEXT_STREAM), rows)
    groups = tuple(padded_length(group.tolist()) for group in n.tensor_split(min(TEXT_GROUPS, pairs)))
    return Batch(*(tensor.to(device) for tensor in batch), text_lengths=groups)


# --- counting and measuring

def count(trainer: Trainer, model: MCRConfig, pairs: int, device: torch.device, lengths) -> dict[str, int]:
    """FLOPs of a step and bytes it keeps for the backward pass, for `pairs` pairs: counted in a step of COUNTED pairs
    at most, and scaled."""
    kept, batch = [], make_batch(model, min(pairs, COUNTED), device, lengths)
    flops = cost.flops(lambda: kept.append(cost.kept_bytes(trainer.model, trainer.train_step, [batch])))
    flops, kept = (n * pairs // min(pairs, COUNTED) for n in (flops, kept[0]))
    return {"flops": flops, "kept_bytes": kept}


def interleaved(calls: dict[str, Callable], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every call in every round: A B C, A B C …, so that what else the machine does hits all alike."""
    seconds = {name: [] for name in calls}
    for _ in progress(range(rounds), desc="rounds", unit="round", leave=False):
        for name, call in calls.items():
            _wait_for(device)
            start = time.perf_counter()
            call()
            _wait_for(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def large_product(dtype: torch.dtype, device: torch.device) -> tuple[Callable, int]:
    """What gives the floor its rate: one large matrix product as a call, and its FLOPs."""
    n = 8192 if device.type == "cuda" else 2048
    a, b, c = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    return lambda: torch.mm(a, b, out=c), 2 * n**3


def peak_above(trainer: Trainer, batch: Batch, device: torch.device) -> int:
    """Bytes that one step needs above weights and optimizer states; on a CPU only right in a process of its own."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        trainer.train_step([batch])
        return torch.cuda.max_memory_allocated(device) - before
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()  # now its states are there
    trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here (Linux)
    before = _resident("VmRSS")
    trainer.train_step([batch])
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    return 1024 * int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def in_own_process(context, function: Callable, name: str, *args):
    """function(name, *args) in a fresh process; RunError, with the name of what it measures, if that dies."""
    with ProcessPoolExecutor(1, mp_context=context) as own:
        try:
            return own.submit(function, name, *args).result()
        except BrokenProcessPool:
            raise run_folder.RunError(f"the process that measured a step of {name} died, most likely out of memory; "
                                      "try a smaller batch size") from None


def _peak_of_own_process(name: str, config: dict, pairs: int) -> int:
    config, device = RunConfig.model_validate(config), torch.device("cpu")
    trainer = trainers(config.model, config.train, device, names=[name])[name]
    return peak_above(trainer, make_batch(config.model, pairs, device), device)


# --- a run

def benchmark(device: torch.device, *, profile: str = "base", settings: dict | None = None,
              batch_sizes: list[int] | None = None, rounds: int = 3, command: str | None = None) -> dict:
    """Measure everything on one device → the content of a result file. Batch sizes: 8 on a CPU; on CUDA 64, 128 …
    until memory is full. Raises ConfigError for settings that do not fit."""
    cuda = device.type == "cuda"
    if not cuda and sys.platform != "linux":
        raise ConfigError("benchmark on a CPU reads peak memory where only Linux shows it (/proc)")
    config = resolve(profile, {"compile": cuda, **(settings or {})})
    if batch_sizes is None:
        batch_sizes = [64 * 2**i for i in range(8)] if cuda else [8]
    torch.manual_seed(0)
    steps = []
    for pairs in batch_sizes:
        try:
            steps += measure_steps(config, pairs, rounds, device)
        except torch.cuda.OutOfMemoryError:
            print(f"batch size {pairs}: out of memory, the last one")
            break
        finally:
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()
    if not steps:
        raise ConfigError(f"batch_size: not even {batch_sizes[0]} pairs fit into the memory of {device}; give a "
                          "smaller --batch-size")
    result = {"device": str(device), "profile": profile, "settings": settings or {}, "rounds": rounds,
              "model": config.model.model_dump(mode="json"), "steps": steps,
              "data": benchmark_data.measure(device)} | run_folder.provenance(command)
    return result | {"ratios": benchmark_table.ratios(result), "targets": benchmark_table.targets(result)}


def measure_steps(config: RunConfig, pairs: int, rounds: int, device: torch.device) -> list[dict]:
    """One row per subject and kind of text lengths, at one batch size."""
    cuda, model = device.type == "cuda", config.model
    torch._dynamo.reset()  # shapes of another batch size must not make this one dynamic
    torch._dynamo.config.recompile_limit = 64  # all arms are one `forward`
    eager = trainers(model, config.train.model_copy(update={"compile": False}), device)
    timed = trainers(model, config.train, device) if config.train.compile else eager
    rows, calls = {}, {}
    for name, trainer in progress(eager.items(), desc="count", leave=False):
        # the peers pad to the maximum, so short reports change nothing for them
        for kind in ("full", "openi") if name in ("mcr", "two-stream") else ("full",):
            batch = make_batch(model, pairs, device, LENGTHS[kind])
            rows[name, kind] = {"name": name, "batch_size": pairs, "lengths": kind, "tokens": batch.input_ids.shape[1],
                                **count(trainer, model, pairs, device, LENGTHS[kind])}
            calls[name, kind] = partial(timed[name].train_step, [batch])
    dtype = eager["mcr"].autocast_dtype or torch.float32
    product, product_flops = large_product(dtype, device)
    if cuda:
        for key, call in calls.items():
            call()  # compiles
            rows[key]["peak_bytes"] = peak_above(timed[key[0]], call.args[0][0], device)
    seconds = interleaved({"product": product} | calls, rounds, device)
    rate = product_flops / statistics.median(seconds["product"])
    for key, row in rows.items():
        median = statistics.median(seconds[key])
        row |= {"seconds": seconds[key], "median": median, "precision": str(dtype).removeprefix("torch."),
                "pairs_per_second": pairs / median, "matmul_flops_per_second": rate,
                "floor_seconds": row["flops"] / rate, "over_floor": median * rate / row["flops"]}
        if cuda:
            gpu = torch.cuda.get_device_name(device)
            peak = next((flops for name, flops in PEAK_FLOPS.items() if name in gpu), None)
            row["utilisation"] = peak and row["flops"] / median / peak
    del eager, timed, calls, product
    gc.collect()
    if not cuda:
        with patch.dict(os.environ, ALLOCATOR):  # read by the processes started here
            for name in progress(list(subjects(model)), desc="memory", leave=False):
                rows[name, "full"]["peak_bytes"] = in_own_process(
                    multiprocessing.get_context("spawn"), _peak_of_own_process, name, config.model_dump(), pairs)
    return list(rows.values())

