"""Averaged weights, for trainings at a constant rate. But for the warm-up, such a training is the beginning of every
longer one. So one training gives recall for every budget. A falling rate gives other values: on the hard phantom, after
a short training, half as much (RESULTS.md).

A run of it is read with `load_run(run, kind=averaged(MCR))`; `evaluate` and `search` of mcr_lib know only MCR and
refuse it.

Not here: the constant rate (`--set schedule=constant`, mcr_lib/trainer.py).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from mcr_lib.model import MCR

GAMMA = 6.94  # the average reaches back over about a tenth of the steps so far (Karras et al. 2024, Sec. 3.1)


class _Averaging(MCR):
    """A model that trains its weights, and is evaluated with their average over the training so far.

    After t steps the average has moved a share 1 − (1 − 1/t)^(γ+1) of the way to the newest weights: early ones are
    forgotten at the same pace whatever the length (Karras et al. 2024, Sec. 3.1). It lies in buffers, so checkpoints
    hold it. In training mode the parameters are the newest weights, in evaluation mode the average.
    """

    def __init__(self, config):
        super().__init__(config)
        self.average = nn.Module()
        for name, weight in self.named_parameters():
            self.average.register_buffer(name.replace(".", "/"), weight.detach().clone())
        self.register_buffer("averaged_steps", torch.zeros((), dtype=torch.double))

    def forward(self, batch):
        if self.training:  # of the step before; the first moves all the way
            self._move_average()
        return super().forward(batch)

    def train(self, mode: bool = True):
        if mode != self.training:
            self._swap()
        return super().train(mode)

    @torch.no_grad()
    def _move_average(self) -> None:
        self.averaged_steps += 1
        share = 1 - (1 - 1 / self.averaged_steps) ** (GAMMA + 1)
        for weight, average in zip(self.parameters(), self.average.buffers(), strict=True):
            average.lerp_(weight, share.to(weight.dtype))

    @torch.no_grad()
    def _swap(self) -> None:
        if not self.averaged_steps:  # what was loaded to start from is not in it yet
            return
        for weight, average in zip(self.parameters(), self.average.buffers(), strict=True):
            before = weight.clone()
            weight.copy_(average)
            average.copy_(before)


def kind_at(schedule: str, kind: type[MCR] = MCR) -> type[MCR]:
    """What a study trains as a `kind` with this schedule of the learning rate."""
    return averaged(kind) if schedule == "constant" else kind


@cache
def averaged(kind: type[MCR]) -> type[MCR]:
    """`kind`, evaluated with averaged weights. One class for each kind."""
    return type(f"Averaged{kind.__name__}", (_Averaging, kind), {})
