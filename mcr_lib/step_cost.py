"""What a training step costs, of each framework at the same encoders or of other configurations: FLOPs, seconds, peak
memory. Each is measured in a fresh process of its own, so that none profits from what another left behind. Not here:
where the FLOPs go, part by part (notebook 03), and training itself.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from . import cost, run_folder
from .arms import FRAMEWORKS
from .benchmark import Endless, make_batch
from .config import RunConfig
from .model import MCR
from .progress import progress
from .trainer import Trainer, named_losses

WARM_UP, STEPS, REPEATS = 2, 8, 5  # steps, steps, processes per framework


def step_flops(config: RunConfig, pairs: int = 2) -> float:
    """Floating-point operations of forward and backward of one pair (a multiply-add counts as two)."""
    model, batch = MCR(config.model), make_batch(config.model, pairs, torch.device("cpu"))

    def step() -> None:
        total: Tensor = sum(named_losses(model(batch)).values())
        total.backward()

    return cost.flops(step) / pairs


def _measure(config: RunConfig, device: torch.device) -> dict[str, float]:
    """Seconds of a step (median) and peak bytes above what the process held before there was a model."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = run_folder.peak_memory(device)
    torch.manual_seed(0)
    parts = [make_batch(config.model, config.train.batch_size // config.train.accumulation, device)
             for _ in range(config.train.accumulation)]
    trainer = Trainer(MCR(config.model), Endless(), config.train, run=Path(), device=device)
    trainer.model.train()
    seconds = []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        trainer.train_step(parts)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[WARM_UP:]), "peak_bytes": run_folder.peak_memory(device) - before}


def _child(config: dict, device: str, sender) -> None:
    sender.send(_measure(RunConfig.model_validate(config), torch.device(device)))
    sender.close()


def frameworks(config: RunConfig) -> dict[str, RunConfig]:
    """`config` with each framework in turn, all else the same."""
    return {f: config.model_copy(update={"model": config.model.model_copy(update={"framework": f})})
            for f in FRAMEWORKS}


def measured(configs: dict[str, RunConfig], device: torch.device, repeats: int = REPEATS) -> dict[str, dict]:
    """name → {seconds, peak_bytes: a list, one per repeat; flops: per pair} of a step of each configuration.

    They take turns, so that what slows the machine down for a while slows all of them. RunError if a measuring process
    dies (out of memory).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mcr_lib.step_cost"])  # torch is imported once; each child starts clean from there
    found = {name: {"seconds": [], "peak_bytes": [], "flops": step_flops(c)} for name, c in configs.items()}
    for name in progress(list(configs) * repeats, desc="cost of a step", unit="process", leave=False):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(configs[name].model_dump(mode="json"), str(device), sender))
        child.start()
        sender.close()
        try:
            values = receiver.recv()
        except EOFError:
            raise run_folder.RunError(f"the process that measured a step of {name} died, most likely out of "
                                      "memory; try --set batch_size=…") from None
        child.join()
        for key, value in values.items():
            found[name][key].append(value)
    return found
