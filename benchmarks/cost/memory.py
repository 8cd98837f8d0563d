"""The peak memory of one training step. Not here: how long it takes (steps.py), memory over a whole run
(mcr_lib/engine/provenance.py).
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from benchmarks.cost.processes import read_memory, run_in_own_process
from benchmarks.cost.subjects import make_batch, make_trainers
from mcr_lib.config import RunConfig
from mcr_lib.engine.compiling import transformer_blocks
from mcr_lib.model import Batch
from mcr_lib.trainer import Trainer

# of the processes whose peak memory is read: what is freed goes back at once, so the peak is what the step holds, not
# what the allocator keeps in store or rounds up to huge pages
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "THP_MEM_ALLOC_ENABLE": "0"}
ATTENTION = {  # kernel → whether it is allowed now
    SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled,
    SDPBackend.MATH: cuda.math_sdp_enabled,
}


def measure_peak_on_cpu(name: str, config: RunConfig, pairs: int) -> int:
    """Bytes that a subject's step needs above weights and optimizer states, read in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, ALLOCATOR):  # read by the process started here
        return run_in_own_process(context, _measure_own_peak, name, config.model_dump(), pairs)


def measure_peak_on_gpu(trainer: Trainer, *parts: Batch) -> int:
    """Bytes that one step needs above what is allocated already."""
    before = torch.cuda.memory_allocated(trainer.device)
    torch.cuda.reset_peak_memory_stats(trainer.device)
    trainer.train_step([*parts])
    return torch.cuda.max_memory_allocated(trainer.device) - before


def recompute_blocks(model: nn.Module) -> None:
    """Keep of every transformer block nothing but its input, and compute the block again when its gradient is due.

    The activation checkpointing of Chen et al. 2016: memory of one block instead of all, a third more operations. Only
    to be measured: with a contrastive loss the gradient cache saves more (engine/large_batch.py).
    """
    for block in transformer_blocks(model):
        how = {"use_reentrant": False, "context_fn": _with_the_same_attention}
        block.forward = partial(checkpoint, block.forward, **how)


def _with_the_same_attention() -> tuple[AbstractContextManager, AbstractContextManager]:
    """What surrounds a block now, and when it is computed again: then the kernels are allowed that are now."""
    return nullcontext(), sdpa_kernel(
        [kernel for kernel, allowed in ATTENTION.items() if allowed()]
    )


def _measure_own_peak(name: str, config: dict, pairs: int) -> int:
    """The same of this process, in which nothing else may have happened (Linux)."""
    config, device = RunConfig.model_validate(config), torch.device("cpu")
    trainer = make_trainers(config.model, config.train, device, names=[name])[name]
    batch = make_batch(config.model, pairs, device)
    _make_optimizer_states(trainer)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = read_memory("VmRSS")
    trainer.train_step([batch])
    return read_memory("VmHWM") - before


def _make_optimizer_states(trainer: Trainer) -> None:
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
