"""F and the aggregation: from local features to one vector per image or report in the common space.

MbA (the paper) maps every local feature and then aggregates; AbM aggregates and then maps. Both hold the same
parameters. With a linear map and the mean they are the same function: mean(F(x)) = F(mean(x)). Not here: bringing the
vector to length 1 (model.py), contrasting it (losses.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import MCRConfig


class Aggregation(nn.Module):
    """Local features (N, L, D) → one (N, D): masked mean, maximum, or attention with one query."""

    def __init__(self, dim: int, pooling: str):
        super().__init__()
        self.pooling = pooling
        if pooling == "attention":
            self.query = nn.Parameter(torch.zeros(dim))  # zero: starts as the mean

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """x (N, L, D); present (N, L), 1 where a local feature counts, None: all do."""
        present = x.new_ones(x.shape[:2]).bool() if present is None else present.bool()
        if self.pooling == "max":
            return x.masked_fill(~present[:, :, None], torch.finfo(x.dtype).min).amax(1)
        if self.pooling == "mean":
            weight = present.to(x.dtype) / present.sum(1, keepdim=True)  # N, L
        else:
            score = x @ self.query / x.shape[2] ** 0.5
            weight = score.masked_fill(~present, -torch.inf).softmax(dim=1)  # N, L
        return (weight[:, None, :] @ x).squeeze(1)  # N, 1, L @ N, L, D → N, D

    def contributions(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """What each local feature gives to the aggregate: (N, L, D), of which it is the mean over
        the present ones. For maps of patches and words; `forward` does not need it."""
        present = x.new_ones(x.shape[:2]).bool() if present is None else present.bool()
        count = present.sum(1)[:, None, None]
        if self.pooling == "mean":
            return x
        if self.pooling == "max":  # every channel of the aggregate comes from one local feature
            seen = x.masked_fill(~present[:, :, None], -torch.inf)
            winner = seen.argmax(1, keepdim=True)  # N, 1, D
            return count * torch.zeros_like(x).scatter(1, winner, x.gather(1, winner))
        score = x @ self.query / x.shape[2] ** 0.5
        weight = score.masked_fill(~present, -torch.inf).softmax(1)  # N, L
        return count * weight[:, :, None] * x


class AlignmentHead(nn.Module):
    """F_{v→s} or F_{r→s} with its aggregation, in the order that `alignment` says."""

    def __init__(self, dim: int, config: MCRConfig):
        super().__init__()
        self.alignment = config.alignment
        if config.encoders == "linear":  # whose local features are in the common space
            self.map = nn.Identity()
        elif config.projection == "linear":
            self.map = nn.Linear(dim, config.common_dim)
        else:
            hidden, out = nn.Linear(dim, dim), nn.Linear(dim, config.common_dim)
            self.map = nn.Sequential(hidden, nn.GELU(), out)
        aggregated_dim = config.common_dim if self.alignment == "mba" else dim
        self.aggregate = Aggregation(aggregated_dim, config.pooling)

    def forward(self, local_features: Tensor, present: Tensor | None = None) -> Tensor:
        """f (N, L, D), present (N, L) or None → S (N, common_dim), not normalised."""
        if self.alignment == "mba":
            return self.aggregate(self.map(local_features), present)
        return self.map(self.aggregate(local_features, present))
