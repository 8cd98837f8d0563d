"""Who is measured, and on what: the four frameworks and what people would use instead (peers.py), each in a Trainer,
and batches of noise. Not here: any measurement (steps.py, memory.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from benchmarks.cost.peers import PEERS
from mcr_lib.config import MCRConfig, TrainConfig
from mcr_lib.masking import IMAGE_STREAM, TEXT_STREAM, counter_noise
from mcr_lib.model import MCR, Batch
from mcr_lib.tokenizer import padded_length
from mcr_lib.trainer import Trainer

FRAMEWORKS = get_args(MCRConfig.model_fields["framework"].annotation)
# report lengths in tokens at 0, 10 … 100 %; openi: findings + impression by the kit's tokenizer, cut at 128, mean 47
LENGTHS = {"full": None, "openi": (6, 25, 30, 34, 38, 42, 47, 52, 62, 76, 128)}


@dataclass(frozen=True)
class Subject:
    """What is measured: how to build its model. Those of one `family` have the same weights, or a part of them."""

    name: str
    family: str
    build: Callable[[], nn.Module]


def list_subjects(model: MCRConfig) -> list[Subject]:
    """All, with the encoders and decoders of `model`. open_clip only where it is installed."""
    subjects = []
    for framework in FRAMEWORKS:
        config = model.model_copy(update={"framework": framework})
        subjects.append(Subject(framework, "kit", partial(MCR, config)))
    has_open_clip = importlib.util.find_spec("open_clip") is not None
    for name, build in PEERS.items():
        family = "open_clip" if name.startswith("open_clip") else "plain"
        if family == "plain" or has_open_clip:
            subjects.append(Subject(name, family, partial(build, model)))
    return subjects


class Endless:
    """As much as the Trainer needs to know of its batches when single steps are taken."""

    total_steps = 10**9

    def epoch(self, step: int) -> float:
        return 0.0


def make_trainers(
    model: MCRConfig, train: TrainConfig, device: torch.device, names: Iterable[str] | None = None
) -> dict[str, Trainer]:
    """One Trainer per subject, or per name.

    Those of one family share weights and optimizer states: all must be in memory at once to be measured in turns, and
    eight of the `base` profile with states of their own need more than 20 GB. What a step does is not changed by that.
    """
    trainers, first_of_family = {}, {}
    for subject in list_subjects(model):
        if names is not None and subject.name not in names:
            continue
        net = subject.build()
        first = first_of_family.get(subject.family)
        if first is not None:
            share_weights(net, first.model)
        trainer = Trainer(net, Endless(), train, run=Path(), device=device)
        trainer.model.train()
        if first is not None:
            trainer.optimizer.state = first.optimizer.state
        first_of_family.setdefault(subject.family, trainer)
        trainers[subject.name] = trainer
    return trainers


def share_weights(model: nn.Module, first: nn.Module) -> None:
    """Let `model` have the very parameters of `first`, which has all that it needs and perhaps more."""
    theirs = first.state_dict(keep_vars=True)  # parameters, not copies
    model.load_state_dict({name: theirs[name] for name in model.state_dict()}, assign=True)


def make_batch(
    model: MCRConfig, pairs: int, device: torch.device, quantiles: tuple[int, ...] | None = None
) -> Batch:
    """Noise of a batch's shape: images (N, C, H, W), reports (N, T).

    All reports are of the longest length; or as long as `quantiles` (tokens at equally spaced quantiles) has them,
    padded to the longest of the batch.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.full((pairs,), model.max_text_length)  # N
    if quantiles is not None:
        lengths = _spread_lengths(quantiles, pairs).clamp(max=model.max_text_length)
    T = padded_length(lengths.tolist())
    present = torch.arange(T) < lengths[:, None]  # N, T
    first_word = max(model.special_token_ids) + 1
    ids = torch.randint(first_word, model.vocab_size, (pairs, T), generator=generator)
    rows, epochs = torch.arange(pairs), torch.zeros(pairs, dtype=torch.int64)
    size = model.img_size
    tensors = (
        torch.randn(pairs, model.in_chans, size, size, generator=generator),
        ids.masked_fill(~present, model.special_token_ids[0]),
        present.long(),
        counter_noise(0, epochs, rows, model.num_patches, IMAGE_STREAM),
        counter_noise(0, epochs, rows, T, TEXT_STREAM),
        rows,
        *([] if present.all() else [present.flatten().nonzero()[:, 0]]),  # places
    )
    return Batch(*(tensor.to(device) for tensor in tensors))


def _spread_lengths(quantiles: tuple[int, ...], pairs: int) -> Tensor:
    """Lengths (N,) of which these are the quantiles: interpolated."""
    at = (torch.arange(pairs) + 0.5) / pairs * (len(quantiles) - 1)
    below, table = at.long(), torch.tensor(quantiles, dtype=torch.float)
    return (table[below] + (at - below) * (table[below + 1] - table[below])).round().long()
