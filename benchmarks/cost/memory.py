"""The peak memory of one training step. Not here: how long it takes (steps.py), memory over a whole run
(mcr_lib/engine/provenance.py).
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.cost.processes import read_memory, run_in_own_process
from benchmarks.cost.subjects import make_batch, make_trainers
from mcr_lib.config import RunConfig
from mcr_lib.model import Batch
from mcr_lib.trainer import Trainer

# of the processes whose peak memory is read: what is freed goes back at once, so the peak is what the step holds, not
# what the allocator keeps in store or rounds up to huge pages
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "THP_MEM_ALLOC_ENABLE": "0"}


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
