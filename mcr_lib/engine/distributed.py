"""Several processes that train as one, started by torchrun: who I am, and the few things we do together.

Not here: what is trained, and how a step is cut. Started without torchrun there is one process, and nothing in this
file communicates. CPU tensors travel by gloo, CUDA tensors by nccl."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.commands import notice, say
from data_prep.errors import KitError

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = timedelta(minutes=10)  # for a process that hangs; a dead one is noticed at once


class ProcessLost(KitError):
    """Another process of this run is gone. Its own message says why."""

    exit_status = 1


class EndedElsewhere(KitError):
    """Another process has failed and said so; this one has nothing to add."""

    exit_status = 1
    told_elsewhere = True


@contextmanager
def process_group():
    """Join the processes torchrun started, and leave them at the end; without torchrun, nothing: a
    WORLD_SIZE without the rest of what it sets is somebody else's."""
    started = all(name in os.environ for name in TORCHRUN)
    if not started or os.environ["WORLD_SIZE"] == "1" or world_size() > 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it could wait for those that are gone


def pick_device(name: str = "auto") -> torch.device:
    """'auto' is CUDA where there is one, else the CPU; of several processes each takes its own GPU.
    Raises KitError for a device this machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and world_size() > 1:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        gpus = torch.cuda.device_count()
        if int(os.environ["LOCAL_RANK"]) >= gpus:
            processes = f"{os.environ['LOCAL_WORLD_SIZE']} processes on this machine"
            raise KitError(f"{processes}, {gpus} GPUs: use --nproc-per-node {gpus} or --device cpu")
    try:
        device = torch.empty(1, device=name).device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what is measured is measured there
        return device
    except (RuntimeError, AssertionError) as error:
        reason = f"{str(error).splitlines()[0]}; take --device cpu, or leave it out"
        raise KitError(f"device {name!r} is not to be had here: {reason}") from None


def world_size() -> int:
    """How many processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 is the main one, the only one that writes."""
    return dist.get_rank() if world_size() > 1 else 0


def print_once(text: str) -> None:
    """Print a result in the main process only."""
    if rank() == 0:
        say(text)


def notice_once(line: str) -> None:
    """Say something beside the result, on stderr, in the main process only."""
    if rank() == 0:
        notice(line)


def own_share(n: int) -> slice:
    """This process's contiguous share of n things; sizes differ by at most one."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


def run_everywhere(action: Callable):
    """Run `action` in every process; if it fails anywhere, all stop. Each message is raised once,
    by the first process that has it; the others raise EndedElsewhere."""
    if world_size() == 1:
        return action()
    result = error = None
    try:
        result = action()
    except Exception as caught:
        error = caught
    messages: list[str | None] = [None] * world_size()
    with _connected():
        dist.all_gather_object(messages, error and f"{type(error).__name__}: {error}")
    if error is not None and messages.index(messages[rank()]) == rank():
        raise error
    if any(messages):
        raise EndedElsewhere(next(filter(None, messages)))
    return result


def run_on_main(action: Callable):
    """Run `action` in the main process; all get its result. If it fails, all stop as above."""
    if world_size() == 1:
        return action()
    result = run_everywhere(action if rank() == 0 else lambda: None)
    carried = [result]
    with _connected():
        dist.broadcast_object_list(carried, device=torch.device("cpu"))
    return carried[0]


def all_reduce_max(value: int) -> int:
    """The largest of the processes' values: how a stop is agreed on. Touches no GPU."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value)
    with _connected():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def all_reduce_sum(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over the processes, all of them in one message."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _connected():
        dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def all_gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """x (n, …), n may differ by process → the rows of all (N, …) in order, and where ours begin. No
    gradient flows through it."""
    if world_size() == 1:
        return x, 0
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(world_size())]
    with _connected():
        dist.all_gather(sizes, torch.tensor([len(x)]))
        sizes = [int(size) for size in sizes]
        padded = x.new_zeros(max(sizes), *x.shape[1:])  # all must send equally much
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
    rows = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    return torch.cat(rows), sum(sizes[: rank()])


def broadcast_from_main(*tensors: Tensor) -> None:
    """Replace each tensor by the main process's."""
    if world_size() > 1:
        with _connected():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


@contextmanager
def _connected():
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessLost(
            f"process {rank()} of {world_size()}: another process of this run is gone, its own "
            f"message or torchrun's says why (here: {str(error).splitlines()[0]}). The last "
            "checkpoint is whole: go on with the same command and --resume"
        ) from error
