"""Several processes that train as one, started by torchrun: who I am, and the few things we do together.

Not here: what is trained, and how a step is cut. Started without torchrun there is one process, and nothing in this
file communicates. CPU tensors travel by gloo, CUDA tensors by nccl.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=10)  # for a process that hangs; a dead one breaks its connections and is noticed at once
BUCKET = 2**24  # elements summed at a time: 64 MB of float32, so that gradients are not held twice


class ProcessLost(RuntimeError):
    """Another process of this run is gone. Its own message says why."""

    exit_status = 1


class EndedElsewhere(RuntimeError):
    """Another process has failed and said so; this one has nothing to add."""

    exit_status = 1


@contextmanager
def process_group():
    """Join the processes torchrun started, and leave them at the end; without torchrun, nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or world() > 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it could wait for those that are gone


def world() -> int:
    """How many processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 is the main one, the only one that writes."""
    return dist.get_rank() if world() > 1 else 0


def share(n: int) -> slice:
    """This process's contiguous share of n things; sizes differ by at most one."""
    return slice(n * rank() // world(), n * (rank() + 1) // world())


def together(action: Callable):
    """Run `action` in every process. If it fails anywhere all stop: each message is raised once, by the first process
    that has it, and the others raise EndedElsewhere."""
    result = error = None
    try:
        result = action()
    except Exception as caught:
        error = caught
    _agree(error)
    return result


def main_does(action: Callable):
    """Run `action` in the main process while the others wait; all get its result. If it fails all stop, as above."""
    if world() == 1:
        return action()
    result = together(action if rank() == 0 else lambda: None)
    carried = [result]
    with _connected():
        dist.broadcast_object_list(carried, device=torch.device("cpu"))
    return carried[0]


def largest(value: int) -> int:
    """The largest of the processes' values: how a stop is agreed on. Touches no GPU."""
    if world() == 1:
        return value
    tensor = torch.tensor(value)
    with _connected():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def sum_(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over the processes, BUCKET elements at a time."""
    if world() == 1:
        return
    bucket, size = [], 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel()
        if size >= BUCKET:
            _sum_bucket(bucket)
            bucket, size = [], 0
    if bucket:
        _sum_bucket(bucket)


def gather(x: Tensor) -> tuple[Tensor, int]:
    """x (n, …), n may differ by process → the rows of all (N, …) in the order of the processes, and where ours begin.
    No gradient flows through it."""
    if world() == 1:
        return x, 0
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(world())]
    with _connected():
        dist.all_gather(sizes, torch.tensor([len(x)]))
        sizes = [int(size) for size in sizes]
        padded = x.new_zeros(max(sizes), *x.shape[1:])  # all must send equally much
        padded[:len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]), sum(sizes[:rank()])


def broadcast_(*tensors: Tensor) -> None:
    """Replace each tensor by the main process's."""
    if world() > 1:
        with _connected():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def _sum_bucket(bucket: list[Tensor]) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
    with _connected():
        dist.all_reduce(flat)
    for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _agree(error: Exception | None) -> None:
    if world() == 1:
        if error is not None:
            raise error
        return
    messages: list[str | None] = [None] * world()
    with _connected():
        dist.all_gather_object(messages, error and f"{type(error).__name__}: {error}")
    if error is not None and messages.index(messages[rank()]) == rank():
        raise error
    if any(messages):
        raise EndedElsewhere(next(filter(None, messages)))


@contextmanager
def _connected():
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessLost(f"process {rank()} of {world()}: another process of this run is gone, its own message or "
                          f"torchrun's says why (here: {str(error).partition(chr(10))[0]}). The last checkpoint is "
                          "whole: go on with the same command and --resume"
                          ) from error
