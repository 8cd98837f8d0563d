"""What a call costs: floating-point operations, bytes kept for the backward pass, seconds. The three measures of the
notebooks. Not here: what is measured (any function), peak memory of a whole process (mcr_lib/engine/provenance.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

ATEN = torch.ops.aten


def attention_flops(query, key, value, *_, **__) -> int:
    """Of the products in a fused attention, given the shapes."""
    return sdpa_flop_count(query, key, value)


def attention_backward_flops(grad, query, key, value, *_, **__) -> int:
    """Of the products in its backward pass, given the shapes."""
    return sdpa_backward_flop_count(grad, query, key, value)


FUSED_ON_CPU = {  # what the counter does not know: the products are those on CUDA
    ATEN._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}


def flops(function: Callable, *inputs) -> int:
    """Floating-point operations of the matrix products in one call (a multiply-add counts as two).

    Tensors on the device 'meta' have shapes but no numbers: then they are counted without being done.
    """
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
        function(*inputs)
    return counter.get_total_flops()


def kept_bytes(module: nn.Module, function: Callable, *inputs) -> int:
    """Bytes that autograd keeps from one call until its backward pass, each storage counted once.

    The weights of `module` are not among them. This, more than the weights, fills a GPU while training; it is the
    same on all machines that compute in the same precision.
    """
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    seen: dict[int, StorageWeakRef] = {}  # by address, not held: what is freed may come again
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in weights and (address not in seen or seen[address].expired()):
            seen[address] = StorageWeakRef(storage)
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(*inputs)
    return total


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
