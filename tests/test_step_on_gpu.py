"""What a training step would do on a GPU, on fake CUDA tensors: shapes and devices without numbers. It needs no GPU.

Nothing in the step may wait for the device: no value is read back from it, and nothing small is sent to it on the way
(a copy from ordinary memory waits until all that was asked for before is done).
"""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.cost.subjects import LENGTHS, Endless, make_batch, make_trainers
from benchmarks.study.arms import FRAMEWORKS
from mcr_lib.config import resolve
from mcr_lib.data import prepare_images
from mcr_lib.model import MCR, Batch
from mcr_lib.trainer import Trainer

CUDA = torch.device("cuda")


class Waits(TorchDispatchMode):
    """Notes the operations that copy between host and device; FakeTensorMode itself refuses to read a value."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if "copy" in str(func):
            devices = {
                t.device.type
                for t in tree_leaves((args, kwargs, out))
                if isinstance(t, torch.Tensor)
            }
            self.found += [str(func)] * (len(devices) > 1)
        return out


@pytest.fixture
def no_backward(monkeypatch):
    """Autograd's engine wants a real device: gradients are put there instead."""

    def leaves(tensors):
        for tensor in tensors:
            node = tensor.grad_fn
            seen, waiting = set(), [node] if node else []
            while waiting:
                node = waiting.pop()
                if hasattr(node, "variable"):
                    node.variable.grad = torch.zeros_like(node.variable)
                waiting += [
                    following
                    for following, _ in node.next_functions
                    if following and following not in seen
                ]
                seen |= {following for following, _ in node.next_functions}

    monkeypatch.setattr(torch.Tensor, "backward", lambda tensor, *rest: leaves([tensor]))
    monkeypatch.setattr(torch.autograd, "backward", lambda tensors, *rest: leaves(tensors))


def step_on_fake_cuda(parts=1, **settings):
    config = resolve("smoke", settings)
    model = MCR(config.model)
    N, T, L, size = 6, 24, config.model.num_patches, config.model.img_size
    with FakeTensorMode():
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(torch.empty(p.shape, device=CUDA)))
            for name, b in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(b.shape, dtype=b.dtype, device=CUDA))
        model.to = lambda device: model  # it is there
        batch = Batch(
            torch.randn(N, config.model.in_chans, size, size, device=CUDA),
            torch.zeros(N, T, dtype=torch.long, device=CUDA),
            torch.ones(N, T, dtype=torch.long, device=CUDA),
            torch.rand(N, L, device=CUDA),
            torch.rand(N, T, device=CUDA),
            places=torch.zeros(N * T - 20, dtype=torch.long, device=CUDA),
        )
        trainer = Trainer(model.train(), Endless(), config.train, run=Path(), device=CUDA)
        with Waits() as waits:
            losses, norm = trainer.train_step([batch] * parts)
    assert {t.device.type for t in [*losses.values(), norm]} == {"cuda"}
    return losses, waits.found


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_nothing_in_the_step_waits_for_the_device(no_backward, framework, parts):
    losses, waits = step_on_fake_cuda(parts, framework=framework)
    assert len(losses) == (2 if framework.startswith("contrastive") else 4) and waits == []


class Launches(TorchDispatchMode):
    """Counts the operations that compute: each is a kernel or more on a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_short_reports_take_about_as_many_launches_as_long_ones():
    """They had taken more than twice as many, in groups of like length."""
    config = resolve("smoke", {"text_depth": 4, "precision": "fp32"})
    cpu, count = torch.device("cpu"), {}
    (trainer,) = make_trainers(config.model, config.train, cpu, names=["mcr"]).values()
    trainer.optimizer.step = lambda: None  # as often, whatever the lengths
    for kind, lengths in LENGTHS.items():
        batch = make_batch(config.model, 8, cpu, lengths)
        with Launches() as launches:
            trainer.train_step([batch])
        count[kind] = launches.count
    assert count["full"] < count["openi"] < 1.3 * count["full"], count


def test_images_are_prepared_on_the_device():
    with FakeTensorMode(), Waits() as waits:
        pixels = torch.zeros(6, 1, 64, 64, dtype=torch.uint8, device=CUDA)
        for noise in (None, torch.rand(6, 6, device=CUDA)):
            assert prepare_images(pixels, 56, 3, noise).shape == (6, 3, 56, 56)
    assert waits.found == []
