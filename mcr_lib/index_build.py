"""The search index of a data set by a run's model: built a part at a time, gone on with when it was interrupted, and
grown when the data set has: a vector depends on the weights, the pixels and the report only, so what an older index of
the same weights holds of them is taken from there. Not here: what an index is (index.py), asking it (__main__.py).
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data_prep import folder as data_folder

from .config import read_config
from .data import PairData, table_of, usable_rows
from .index import SIDES, Index
from .run_folder import RunError, describe_data, encode, load, weights_sha256, write_json

CHUNK = 16_384  # pairs encoded before they are written
MADE_OF = "made_of"  # column of the index's table: 64 bits of a pair's packed pixels and report


def build_index(run: Path, data: Path, *, split: str | None = None, device: torch.device) -> Index:
    """The search index of a data set folder (one split, or None for all), kept in the run folder and reused while both
    the weights and the data are the same, else replaced. Several processes may call it at once: one builds, the others
    wait for it. Raises RunError, DataError."""
    run, data = Path(run), Path(data)
    made_for = {"folder": str(data.resolve()), "split": split, "data": describe_data(data)["sha256"],
                "weights": weights_sha256(run)}
    where = run / "index" / hashlib.sha256(f"{split} {made_for['folder']}".encode()).hexdigest()[:16]
    if not _fits(where, made_for):
        where.parent.mkdir(exist_ok=True)
        with data_folder.locked(where.parent / ".lock"):
            if not _fits(where, made_for):
                _replace(where, run, data, made_for, device)
    try:
        index = Index.load(where)
        index.check(made_for["weights"])
    except ValueError as error:
        raise RunError(f"{error} (remove {where}: the next search makes it anew)") from None
    return index


def _fits(where: Path, made_for: dict) -> bool:
    path = where / "made_for.json"
    return path.exists() and data_folder.read_json(path) == made_for


def _replace(where: Path, run: Path, data: Path, made_for: dict, device: torch.device) -> None:
    """Build the index beside the one that no longer fits, then take its place. What an interrupted attempt has encoded
    is an older index like any other."""
    partial = where.with_name(f".{where.name}.partial")
    if partial.exists():
        partial.rename(where.with_name(f".{where.name}.{uuid.uuid4().hex[:8]}"))
    _write(partial, run, data, made_for, device)
    write_json(partial / "made_for.json", made_for)
    if where.exists():
        where.rename(where.with_name(f".{where.name}.{uuid.uuid4().hex[:8]}"))
    partial.rename(where)
    for replaced in where.parent.glob(f".{where.name}.*"):
        shutil.rmtree(replaced)


def _write(path: Path, run: Path, data: Path, made_for: dict, device: torch.device) -> None:
    model, tokenizer = load(run, device)
    views, split = read_config(run / "config.yaml").train.views, made_for["split"]
    older, index = _older(path.parent, made_for["weights"]), None
    there = data_folder.read(data)
    names = [split] if split else [name for name in sorted(data_folder.SPLITS) if len(usable_rows(there, name, views))]
    for name in names:
        part = PairData(data, name, tokenizer, model.config, views, least=1)
        table = table_of(part)
        for rows in np.array_split(np.arange(len(part)), range(CHUNK, len(part), CHUNK)):
            made_of = _made_of(part, rows)
            features = {side: torch.empty(len(rows), model.config.common_dim) for side in SIDES}
            new = np.ones(len(rows), bool)
            for found, known in older:
                at = known.reindex(made_of, fill_value=-1).to_numpy()
                old = np.flatnonzero(new & (at >= 0))
                new[old] = False
                for side in SIDES:
                    features[side][old] = found.features[side][at[old]]
            if new.any():
                for side, encoded in zip(SIDES, encode(model, part, device, rows=rows[new]), strict=True):
                    features[side][new] = encoded
            entries = table.iloc[rows].assign(**{MADE_OF: made_of})
            if index is None:
                Index(*features.values(), entries, made_for["weights"]).save(path)
                index = Index.load(path)
            else:
                index.add(*features.values(), entries, made_for["weights"])


def _older(folder: Path, weights: str) -> list[tuple[Index, pd.Series]]:
    """The indexes in the folder that these weights made, whole or interrupted, each with made-of → row."""
    found = []
    for about in folder.glob("*/index.json"):
        try:
            index = Index.load(about.parent)
            index.check(weights)
            rows = pd.Series(np.arange(len(index)), index=index.column(MADE_OF))
        except ValueError:  # of other weights, or damaged: nothing to take from it
            continue
        found.append((index, rows[~rows.index.duplicated()]))
    return found


def _made_of(part: PairData, rows: np.ndarray) -> np.ndarray:
    """What the vectors of these pairs follow from, with the weights: (N,) int64."""
    return np.array([int.from_bytes(
        hashlib.blake2b(part.pixels[part.rows[row]].tobytes() + part.table.at[row, "report"].encode(),
                        digest_size=8).digest(), signed=True) for row in rows])
