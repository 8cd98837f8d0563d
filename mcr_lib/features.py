"""Features of many pairs, and of one question: what evaluation, the gap and search start from.

Not here: how one batch is encoded (model.py), what is measured on the features (retrieval.py, modality_gap.py)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep import images
from data_prep.errors import KitError
from data_prep.machine import progress

from .data import PairData, prepare_images, store_size
from .engine import distributed
from .masking import random_masking
from .model import MCR


class QueryError(KitError):
    """A question that cannot be answered; the message says what to do."""


@torch.inference_mode()
def encode_pairs(
    model: MCR, pairs: PairData, device, *, masked=False, batch_size=128, rows=None
) -> tuple[Tensor, Tensor]:
    """Both features of every pair of a split, or of its `rows` (N,). → unit vectors (N, common_dim)
    each, in their order, on the CPU. Of several processes each encodes a share; all get the whole.
    masked: encode what training would have seen (the same mask rates, epoch 0) instead of whole
    images and reports."""
    model.eval()
    rows = np.arange(len(pairs)) if rows is None else rows
    rows = rows[distributed.own_share(len(rows))]
    none = torch.empty(0, model.config.common_dim)  # a share may be empty
    image_features, text_features = [none], [none]
    quiet = distributed.rank() > 0
    starts = range(0, len(rows), batch_size)
    for start in progress(starts, desc="encode", unit="batch", leave=False, disable=quiet):
        batch = pairs.batch(rows[start : start + batch_size], device)
        ids_keep, input_ids = None, batch.input_ids
        if masked:
            ids_keep, _ = random_masking(batch.image_noise, model.config.mask_ratio)
            input_ids, _, _ = model.mask_report(batch)
        image_features.append(model.encode_image(batch.images, ids_keep).cpu())
        text_features.append(model.encode_text(input_ids, batch.attention_mask).cpu())
    images, _ = distributed.all_gather_rows(torch.cat(image_features))
    texts, _ = distributed.all_gather_rows(torch.cat(text_features))
    return images, texts


def picture_hashes(pairs: PairData) -> np.ndarray:
    """(N,) int64, 64 bits of each pair's packed picture: the same picture has the same, whatever
    its name, its split and its report."""
    digests = [hashlib.blake2b(pairs.pixels[row], digest_size=8).digest() for row in pairs.rows]
    return np.frombuffer(b"".join(digests), dtype=np.int64)


def check_query(tokenizer, text: str, max_length: int) -> list[str]:
    """What to tell with the answer to a sentence: words that the model does not know, an end that
    it does not read. Raises QueryError if the sentence is empty or less than half of it is known."""
    if not text.strip():
        raise QueryError("the query is empty: write a few words of a report")
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, places = encoded["input_ids"][1:-1], encoded["offset_mapping"][1:-1]
    unknown = [text[slice(*places[i])] for i, id in enumerate(ids) if id == tokenizer.unk_token_id]
    if len(unknown) > len(ids) / 2:
        counts = f"{len(unknown)} of {len(ids)} words of the query are unknown to this model"
        raise QueryError(f"{counts}: ask in the words of its reports")
    notes = []
    if unknown:
        notes.append(f"unknown to this model, so without meaning: {', '.join(unknown[:5])}")
    if len(ids) > max_length - 2:
        last = text[slice(*places[max_length - 3])]
        notes.append(
            f"only the first {max_length - 2} of {len(ids)} tokens were read, up to {last!r}"
        )
    return notes


@torch.inference_mode()
def encode_sentence(model: MCR, tokenizer, text: str) -> Tensor:
    """A sentence → unit vector (common_dim,) on the CPU. Raises QueryError as `check_query` does."""
    check_query(tokenizer, text, model.config.max_text_length)
    device = next(model.parameters()).device
    ids = tokenizer(text, truncation=True, max_length=model.config.max_text_length)["input_ids"]
    input_ids = torch.tensor(ids, device=device)[None]  # 1, T
    return model.encode_text(input_ids, torch.ones_like(input_ids))[0].cpu()


@torch.inference_mode()
def encode_image_file(model: MCR, path: Path) -> Tensor:
    """A PNG, JPEG or DICOM file → unit vector (common_dim,) on the CPU. Raises ImageError."""
    config, device = model.config, next(model.parameters()).device
    square = images.letterbox(images.read_query(path), store_size(config.img_size))
    pixels = torch.tensor(square)[None, None].to(device)  # scaled there, as the index's images are
    x = prepare_images(pixels, config.img_size, config.in_chans)
    return model.encode_image(x)[0].cpu()
