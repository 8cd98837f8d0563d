"""A whole split as a run's model sees it. Not here: what is measured or drawn of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcr_lib.config import read_config
from mcr_lib.data import PairData
from mcr_lib.features import encode_pairs
from mcr_lib.model import MCR
from mcr_lib.run import load_run


@dataclass
class SplitFeatures:
    """A split of a data set, encoded."""

    model: MCR
    pairs: PairData
    image_features: Tensor  # N, common_dim, unit vectors
    text_features: Tensor  # N, common_dim, unit vectors


def encode_split(
    run: Path,
    data: Path,
    split: str,
    device: torch.device,
    *,
    masked: bool = False,
    kind: type[MCR] = MCR,
) -> SplitFeatures:
    """Load a run, whose model is a `kind`, and encode a whole split with it; masked: see `encode_pairs`."""
    model, tokenizer = load_run(run, device, kind=kind)
    views = read_config(Path(run) / "config.yaml").train.views
    pairs = PairData(data, split, tokenizer, model.config, views)
    return SplitFeatures(model, pairs, *encode_pairs(model, pairs, device, masked=masked))
