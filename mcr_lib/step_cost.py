"""What a training step of each framework costs at the same encoders: FLOPs, seconds, peak memory. Each is measured in
a fresh process of its own, so that no framework profits from what another left behind. Not here: where the FLOPs
go, part by part (notebook 03), and training itself.
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
from .config import RunConfig
from .masking import counter_noise
from .model import MCR, Batch
from .progress import progress
from .trainer import Trainer, named_losses

WARM_UP, STEPS, REPEATS = 2, 8, 5  # steps, steps, processes per framework


def random_batch(config: RunConfig, pairs: int, device: torch.device) -> Batch:
    """Noise of a batch's shape: images (N, C, H, W), reports of the longest length (N, T)."""
    c = config.model
    generator = torch.Generator().manual_seed(0)
    rows, epochs = torch.arange(pairs), torch.zeros(pairs, dtype=torch.int64)
    ids = torch.randint(max(c.special_token_ids) + 1, c.vocab_size, (pairs, c.max_text_length), generator=generator)
    batch = (torch.randn(pairs, c.in_chans, c.img_size, c.img_size, generator=generator), ids, torch.ones_like(ids),
             counter_noise(0, epochs, rows, c.num_patches, 0), counter_noise(0, epochs, rows, c.max_text_length, 1))
    return Batch(*(tensor.to(device) for tensor in batch))


def step_flops(config: RunConfig, pairs: int = 2) -> float:
    """Floating-point operations of forward and backward of one pair (a multiply-add counts as two)."""
    model, batch = MCR(config.model), random_batch(config, pairs, torch.device("cpu"))

    def step() -> None:
        total: Tensor = sum(named_losses(model(batch)).values())
        total.backward()

    return cost.flops(step) / pairs


class _Endless:
    """As much as the trainer needs to know of its batches when only single steps are taken."""

    total_steps = 10**6


def _measure(config: RunConfig, device: torch.device) -> dict[str, float]:
    """Seconds of a step (median) and peak bytes above what the process held before there was a model."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = run_folder.peak_memory(device)
    torch.manual_seed(0)
    parts = [random_batch(config, config.train.batch_size // config.train.accumulation, device)
             for _ in range(config.train.accumulation)]
    trainer = Trainer(MCR(config.model), _Endless(), config.train, run=Path(), device=device)
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


def frameworks(config: RunConfig, device: torch.device, repeats: int = REPEATS) -> dict[str, dict]:
    """framework → {seconds, peak_bytes: a list, one per repeat; flops: per pair}, all else as in `config`.

    The frameworks take turns, so that what slows the machine down for a while slows all of them. RunError if a
    measuring process dies (out of memory).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mcr_lib.step_cost"])  # torch is imported once; each child starts clean from there
    configs = {f: config.model_copy(update={"model": config.model.model_copy(update={"framework": f})})
               for f in FRAMEWORKS}
    found = {f: {"seconds": [], "peak_bytes": [], "flops": step_flops(c)} for f, c in configs.items()}
    for framework in progress(FRAMEWORKS * repeats, desc="cost of a step", unit="process", leave=False):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(configs[framework].model_dump(mode="json"), str(device), sender))
        child.start()
        sender.close()
        try:
            measured = receiver.recv()
        except EOFError:
            raise run_folder.RunError(f"the process that measured a step of {framework} died, most likely out of "
                                      "memory; try --set batch_size=…") from None
        child.join()
        for key, value in measured.items():
            found[framework][key].append(value)
    return found
