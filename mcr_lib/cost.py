"""What a call costs: floating-point operations, bytes kept for the backward pass, seconds. The three measures of the
notebooks. Not here: what is measured (any function), peak memory of a whole process (run_folder.peak_memory).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def flops(function: Callable, *inputs) -> int:
    """Floating-point operations of the matrix products in one call (a multiply-add counts as two).

    Tensors on the device 'meta' have shapes but no numbers: then they are counted without being done.
    """
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()


def kept_bytes(module: nn.Module, function: Callable, *inputs) -> int:
    """Bytes that autograd keeps from one call until its backward pass, each storage counted once.

    The weights of `module` are not among them. This, more than the weights, fills a GPU while training; it is the
    same on all machines that compute in the same precision.
    """
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}  # address → storage; holding it keeps the address from being used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(*inputs)
    return sum(storage.nbytes() for storage in kept.values())


def seconds(function: Callable, *inputs, repeats: int = 5) -> float:
    """The shortest of some calls, after one to warm up: the time least disturbed by what else the machine does."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function(*inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
