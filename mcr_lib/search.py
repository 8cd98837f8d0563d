"""Search in a data set by a run's model: the index of it, kept in the run folder.

A vector follows from the weights, the pixels and the report only: of data that have grown, only what is new is encoded,
the rest is copied from the older index of the same weights. Not here: what an index is (index.py), what is asked of it
(question.py)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data_prep import folder as data_folder
from data_prep.folder import describe_data
from data_prep.machine import without_home

from .config import read_config
from .data import PairData, usable_rows
from .engine.checkpoint import weights_sha256
from .features import encode_pairs
from .index import SIDES, Index
from .model import MCR
from .run import RunError, load_run

MADE_OF = "made_of"  # column of the index's table: 64 bits of a pair's pixels and report


def build_index(run: Path, data: Path, *, split: str | None = None, device: torch.device) -> Index:
    """The index of a data set folder (one split, or None for all), kept in the run folder. It is
    reused while the weights and the data are the same, else built anew. Of several processes that
    call this at once, one builds. Raises RunError, CheckpointError, DataError."""
    run, data = Path(run), Path(data)
    place = without_home(str(data.resolve()))
    made_for = {
        "folder": place,
        "split": split,
        "data": describe_data(data)["sha256"],
        "weights": weights_sha256(run),
    }
    path = run / "index" / hashlib.sha256(f"{split} {place}".encode()).hexdigest()[:16]
    index = _open(path)
    if index is None or index.made_for != made_for:
        path.parent.mkdir(exist_ok=True)
        with data_folder.locked(path.parent / ".lock"):
            older = _open(path)
            if older is None or older.made_for != made_for:
                _encode(run, data, made_for, older, device).save(path)
        index = Index.load(path)
    index.table["image_path"] = [str(data / image) for image in index.table["image_path"]]
    return index


def _open(path: Path) -> Index | None:
    """The index there, None if there is none, or a damaged one, or one of another version."""
    try:
        return Index.load(path)
    except ValueError:
        return None


def _encode(
    run: Path, data: Path, made_for: dict, older: Index | None, device: torch.device
) -> Index:
    """The index in memory; rows that an older one of the same weights has are copied from it."""
    model, tokenizer = load_run(run, device)
    views, table = read_config(run / "config.yaml").train.views, data_folder.read(data)
    if older is not None and older.model_hash != made_for["weights"]:
        older = None
    parts = []
    for split in [made_for["split"]] if made_for["split"] else sorted(data_folder.SPLITS):
        if made_for["split"] or len(usable_rows(table, split, views)):
            pairs = PairData(data, split, tokenizer, model.config, views, least=1)
            parts.append(_encode_split(model, pairs, older, device))
    if not parts:
        raise RunError(f"{data}: no pair has a view that {run} was trained to see ({views})")
    images, texts, tables = zip(*parts, strict=True)
    features = torch.cat(images), torch.cat(texts)
    return Index(*features, pd.concat(tables), made_for["weights"], made_for)


def _encode_split(
    model: MCR, pairs: PairData, older: Index | None, device: torch.device
) -> tuple[Tensor, Tensor, pd.DataFrame]:
    """Both features (N, common_dim) of the pairs of a split, and their rows of the index's table."""
    made_of = [_made_of(pairs, row) for row in range(len(pairs))]
    known = {} if older is None else {key: row for row, key in enumerate(older.table[MADE_OF])}
    old_rows = np.array([known.get(key, -1) for key in made_of])
    is_new = old_rows < 0
    encoded = encode_pairs(model, pairs, device, rows=np.flatnonzero(is_new))
    features = []
    for side, new in zip(SIDES, encoded, strict=True):
        vectors = new.new_empty(len(pairs), new.shape[1])
        vectors[is_new] = new
        if older is not None:
            vectors[~is_new] = older.features[side][old_rows[~is_new]]
        features.append(vectors)
    return *features, pairs.table.assign(**{MADE_OF: made_of})


def _made_of(pairs: PairData, row: int) -> int:
    """What the vectors of a pair follow from, with the weights: a hash of its pixels and report."""
    content = pairs.pixels[pairs.rows[row]].tobytes() + pairs.table.at[row, "report"].encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)
