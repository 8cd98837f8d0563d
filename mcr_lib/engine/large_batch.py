"""One step cut into parts: over processes, and within a process where memory is short. Same gradient as the whole.

Contrastive learning needs all pairs of a step at once; plain accumulation would contrast each part alone. So a gradient
cache (Gao et al. 2021): the features of all parts come first, without a graph; the contrastive loss of all pairs gives
the gradient at each feature; a second forward pass per part, with the same dropout, carries it on. A process that has
one part only keeps its graph and needs no second pass. Not here: the undivided step (trainer.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor, nn

from . import distributed


def named_losses(output) -> dict[str, Tensor]:
    """The `*_loss` fields of an output that are not None; their sum is minimised (open_clip)."""
    names = [field.name for field in fields(output) if field.name.endswith("_loss")]
    return {name: getattr(output, name) for name in names if getattr(output, name) is not None}


def backward(
    model: nn.Module, forward: Callable, parts: list, scale: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Leave the step's gradient in the model's parameters, summed over all processes. forward(part,
    number) → an output; called twice for a part it draws the same dropout. Losses are means: they
    are weighted by the output's `*_count` fields, or alike where there is none. A model whose pairs
    contrast offers `contrast(image_features, text_features, rows)`. scale: the loss scaler's. →
    this process's share of each loss: over the processes they add up to the losses."""
    single = len(parts) == 1
    with torch.set_grad_enabled(single):
        outputs = [forward(part, number) for number, part in enumerate(parts)]
    contrasts = hasattr(model, "contrast")
    shares = _shares_of_mean(outputs, contrasts)
    logged, gradients = {}, [[] for _ in parts]
    if contrasts:
        logged["contrastive_loss"], gradients = _contrast(model, outputs, scale)
    for number, part in enumerate(parts):
        output = outputs[number] if single else forward(part, number)
        losses = {name: share[number] * getattr(output, name) for name, share in shares.items()}
        _carry_back(output, [scale(sum(losses.values()))] if losses else [], gradients[number])
        for name, value in losses.items():
            logged[name] = logged.get(name, 0) + value.detach()
    own = [p.grad for p in model.parameters() if p.grad is not None]
    distributed.all_reduce_sum(*own)
    return logged


def _carry_back(output, total: list[Tensor], gradients: list[Tensor]) -> None:
    """The backward pass of one part: from its own losses, and from the gradient at its features."""
    features = [output.image_features, output.text_features] if gradients else []
    torch.autograd.backward(total + features, [None] * len(total) + gradients)


def _shares_of_mean(outputs: list, contrasts: bool) -> dict[str, Tensor]:
    """For each loss the weight (parts,) of each part in the mean over the step, of all processes.
    Without the contrastive one, if the model contrasts over all parts itself."""
    counts = {}
    for name, loss in named_losses(outputs[0]).items():
        if name == "contrastive_loss" and contrasts:
            continue
        values = [getattr(output, name.replace("_loss", "_count"), 1) for output in outputs]
        values = [v if isinstance(v, Tensor) else loss.new_full((), v) for v in values]
        counts[name] = torch.stack(values).to(loss.dtype)
    totals = {name: count.sum() for name, count in counts.items()}
    distributed.all_reduce_sum(*totals.values())
    return {name: count / totals[name].clamp(min=1) for name, count in counts.items()}


def _contrast(
    model: nn.Module, outputs: list, scale: Callable
) -> tuple[Tensor, list[list[Tensor]]]:
    """Contrast all pairs of the step, this process's rows against all. → its share of the loss, and
    for each part the gradient of the whole loss at its image and text features."""
    pairs = [torch.stack([o.image_features, o.text_features], dim=1).detach() for o in outputs]
    features, first = distributed.all_gather_rows(torch.cat(pairs))  # n, 2, D → N, 2, D
    features.requires_grad_()
    rows, share = [], 0
    for output in outputs:
        rows.append(slice(first, first + len(output.image_features)))
        first = rows[-1].stop
        loss = model.contrast(features[:, 0], features[:, 1], rows[-1])
        scale(loss).backward()
        share = share + loss.detach()
    distributed.all_reduce_sum(features.grad)
    return share, [[features.grad[r, 0], features.grad[r, 1]] for r in rows]
