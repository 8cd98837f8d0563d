"""Features of many pairs, and of one question: what evaluation, the gap and search start from.

Not here: how one batch is encoded (model.py), what is measured on the features (retrieval.py, modality_gap.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import KitError
from data_prep.given import as_list, as_texts
from data_prep.images import letterbox, read_any
from data_prep.machine import progress

from .data import PairData, prepare_images, store_size
from .engine import distributed
from .masking import random_masking
from .model import MCR
from .tokenizer import pad, tokenize


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


def check_query(tokenizer, text: str, max_length: int, name: str = "the query") -> list[str]:
    """What to tell with the answer to a sentence: words that the model does not know, an end that
    it does not read. Raises QueryError if the sentence is empty or less than half of it is known."""
    if not text.strip():
        raise QueryError(f"{name} is empty: write a few words of a report")
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, places = encoded["input_ids"][1:-1], encoded["offset_mapping"][1:-1]
    unknown = [text[slice(*places[i])] for i, id in enumerate(ids) if id == tokenizer.unk_token_id]
    if len(unknown) > len(ids) / 2:
        counts = f"{len(unknown)} of {len(ids)} words of {name} are unknown to this model"
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


@torch.no_grad()  # not inference_mode: a classifier may be trained on the vectors
def encode_pictures(model: MCR, pictures: Iterable, batch_size: int = 64) -> Tensor:
    """Pictures → unit vectors (N, common_dim) on the CPU, in their order. A picture is a path (PNG,
    JPEG, TIFF, DICOM), a PIL image, or an array: uint8 (H, W), (H, W, 1) or RGB (H, W, 3), 0 =
    black. Raises DataError for no list or an empty one, ImageError for what is no picture."""
    config, device = model.config, next(model.parameters()).device
    size, features = store_size(config.img_size), []
    for part in _parts(as_list(pictures, "images"), batch_size):
        squares = [letterbox(read_any(picture, f"image {n}"), size) for n, picture in part]
        pixels = torch.from_numpy(np.stack(squares))[:, None].to(device)  # N, 1, S, S
        x = prepare_images(pixels, config.img_size, config.in_chans)
        features.append(model.encode_image(x).cpu())
    return torch.cat(features)


@torch.no_grad()
def encode_texts(model: MCR, tokenizer, texts: Iterable[str], batch_size: int = 64) -> Tensor:
    """Sentences or reports → as `encode_pictures`; what exceeds max_text_length tokens is not read.
    Raises DataError for no list of strings, QueryError as `check_query` does."""
    longest, device, features = model.config.max_text_length, next(model.parameters()).device, []
    for part in _parts(as_texts(texts), batch_size):
        for number, text in part:
            check_query(tokenizer, text, longest, f"text {number}")
        ids = tokenize(tokenizer, [text for _, text in part], longest, most_unknown=1)
        padded = pad(ids, tokenizer.pad_token_id)  # input_ids, attention_mask (N, T)
        input_ids, attention_mask = (torch.from_numpy(x).to(device) for x in padded)
        features.append(model.encode_text(input_ids, attention_mask).cpu())
    return torch.cat(features)


def _parts(things: list, batch_size: int) -> Iterator[list[tuple]]:
    """(number, thing) of a batch at a time, with a progress bar if there are several."""
    starts, quiet = range(0, len(things), batch_size), len(things) <= batch_size
    for start in progress(starts, desc="encode", unit="batch", leave=False, disable=quiet):
        yield list(enumerate(things[start : start + batch_size], start))
