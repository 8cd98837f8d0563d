"""What a training step of an arm costs in the study's own conditions: FLOPs, seconds, peak memory. Real batches, read
as training reads them, and each measurement in a fresh process of its own, so that none profits from what another
left behind. Not here: where the FLOPs go, part by part (notebook 03), and training itself.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from data_prep import folder

from . import cost, run_folder
from .benchmark import in_own_process, make_batch
from .config import RunConfig
from .data import PairData, TrainBatches
from .model import MCR
from .progress import progress
from .tokenizer import load_tokenizer
from .trainer import Trainer, named_losses

WARM_UP, STEPS, REPEATS = 2, 16, 5  # steps, steps, processes per arm


def step_flops(config: RunConfig, pairs: int = 2) -> float:
    """Floating-point operations of forward and backward of one pair with a report of the longest length (a multiply-add
    counts as two)."""
    model, batch = MCR(config.model), make_batch(config.model, pairs, torch.device("cpu"))

    def step() -> None:
        total: Tensor = sum(named_losses(model(batch)).values())
        total.backward()

    return cost.flops(step) / pairs


def _measure(_name: str, config: dict, data: Path, tokenizer: Path, device: torch.device) -> dict[str, float]:
    """Mean seconds of a step, waiting for its data included, and peak bytes above what the process held when it had
    read those data and had no model."""
    config = RunConfig.model_validate(config)
    pairs = PairData(data, "train", load_tokenizer(tokenizer), config.model, config.train.views)
    batches = TrainBatches(pairs, config.train, device)
    for _ in batches(0, WARM_UP + STEPS):
        pass
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = run_folder.peak_memory(device)
    torch.manual_seed(0)
    trainer = Trainer(MCR(config.model), batches, config.train, run=Path(), device=device)
    trainer.model.train()
    for _ in range(1 + config.train.compile):  # compiling, shape by shape, is no part of a step
        ends = []
        for parts in batches(0, WARM_UP + STEPS):
            trainer.train_step(parts)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            ends.append(time.perf_counter())
    return {"seconds": (ends[-1] - ends[WARM_UP - 1]) / STEPS, "peak_bytes": run_folder.peak_memory(device) - before}


def measured(configs: dict[str, RunConfig], data: Path, device: torch.device,
             repeats: int = REPEATS) -> dict[str, dict]:
    """name → {seconds, peak_bytes: a list, one per repeat; flops: per pair} of a step of each configuration on the
    pairs of `data`, all with the first one's vocabulary.

    They take turns, so that what slows the machine down for a while slows all of them. RunError if a measuring process
    dies (out of memory).
    """
    tokenizer = run_folder.make_tokenizer(next(iter(configs.values())), folder.read(data))
    configs = {name: run_folder.with_vocabulary(config, tokenizer) for name, config in configs.items()}
    found = {name: {"seconds": [], "peak_bytes": [], "flops": step_flops(c)} for name, c in configs.items()}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mcr_lib.step_cost"])  # torch is imported once; each child starts clean from there
    with tempfile.TemporaryDirectory() as kept:
        tokenizer.save_pretrained(kept)
        for name in progress(list(configs) * repeats, desc="cost of a step", unit="process", leave=False):
            values = in_own_process(context, _measure, name, configs[name].model_dump(mode="json"), data, Path(kept),
                                    device)
            for key, value in values.items():
                found[name][key].append(value)
    return found
