"""The search index: unit vectors of N pairs and the manifest rows they come from, in memory or on disk.

On disk it is a folder: `images.npy` and `texts.npy` hold the vectors, mapped and read in blocks, so that they need not
fit into memory; `table.parquet` holds the manifest rows, `index.json` what made them, and the SHA-256 of the others. It
is written beside and renamed: whatever is interrupted leaves the old index whole. Search is exact (ranking.py). Not
here: building it (search.py)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel
from torch import Tensor

from data_prep import own_files
from data_prep.commands import UsageError
from data_prep.conditions import rows_where
from data_prep.hits import HIT_COLUMNS, Hit

from .ranking import check_features, normal_text, top_k

SIDES = ("images", "texts")
FILES = ("images.npy", "texts.npy", "table.parquet")


class _About(BaseModel):
    """What index.json says: `files` is the SHA-256 of each of FILES."""

    model_hash: str
    made_for: dict
    files: dict[str, str]


class Index:
    """Exact search over the unit vectors of N pairs, with the manifest rows they come from.
    `features["images"]`, `features["texts"]`: (N, D), of a loaded index mapped from its files;
    `table`: N rows with at least HIT_COLUMNS; `model_hash`: the model that made the features;
    `made_for`: what for, as its builder says it."""

    def __init__(self, image_features, text_features, table, model_hash: str, made_for=None):
        """image_features, text_features (N, D): unit vectors. Raises ValueError if sizes do not fit."""
        images = check_features("image_features", image_features)
        texts = check_features("text_features", text_features)
        if images.shape != texts.shape or len(table) != len(images):
            sizes = f"images {[*images.shape]}, texts {[*texts.shape]} and {len(table)} table rows"
            raise ValueError(f"index: {sizes} do not fit")
        missing = [column for column in HIT_COLUMNS if column not in table.columns]
        if missing:
            raise ValueError(f"index: the table lacks the columns {', '.join(missing)}")
        self.features = dict(zip(SIDES, (images, texts), strict=True))
        self.table = table.reset_index(drop=True)
        self.model_hash, self.made_for = model_hash, made_for or {}

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def report_codes(self) -> np.ndarray:
        """(N,) int64: pairs with the same number have the same report, spaces and case aside."""
        return pd.factorize(self.table["report"].map(normal_text))[0]

    def distinct_rows(self, rows: Tensor | None = None) -> Tensor:
        """Of rows (g,), None: all: the first of every distinct report, (M,) int64 ascending."""
        rows = torch.arange(len(self)) if rows is None else rows
        return rows[~pd.Series(self.report_codes[rows]).duplicated().to_numpy()]

    def topk(
        self, queries: Tensor, k: int = 5, among: str = "texts", rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k best for queries (Q, D): cosines (Q, k) float64 and rows (Q, k) int64, on the CPU.
        Best first, equal scores (to nine decimals) by the lower row. among: `texts` or `images`.
        rows (g,): only these. k is capped at what there is."""
        if among not in self.features:
            raise ValueError(f"among: expected 'texts' or 'images', got {among!r}")
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        gallery = self.features[among]
        queries = check_features("queries", queries, unit=False).to(gallery.device)
        if queries.shape[1] != gallery.shape[1]:
            raise ValueError(f"queries have width {queries.shape[1]}, the index {gallery.shape[1]}")
        rows = None if rows is None else rows.to(gallery.device)
        size = len(gallery) if rows is None else len(rows)
        scores, found = top_k(queries, gallery, min(k, size), rows)
        return scores.cpu(), found.cpu()

    def search(
        self,
        query_feature: Tensor,
        k: int = 5,
        among: str = "texts",
        *,
        per: str | None = None,
        where: Sequence[str] = (),
    ) -> list[Hit] | list[list[Hit]]:
        """`topk` as hits: a list for one query (D,), a list of lists for queries (Q, D). per: a
        column of the table, such as `patient_id`; of hits that are alike in it only the best stays.
        Of identical reports (`report`) that is the first. where: conditions on the table's columns,
        see data_prep.conditions. Raises UsageError as they do, and for a column that is not there."""
        if query_feature.ndim == 1:
            return self.search(query_feature[None], k, among, per=per, where=where)[0]
        if per is not None and per not in self.table.columns:
            raise UsageError(f"no column {per!r} to have one hit of; see {[*self.table.columns]}")
        rows = torch.from_numpy(rows_where(self.table, where)) if where else None
        if per == "report":  # the features of identical reports are the same
            rows = self.distinct_rows(rows)
            return self._hits(*self.topk(query_feature, k, among, rows), k)
        depth, size = k, len(self) if rows is None else len(rows)
        while True:
            scores, found = self.topk(query_feature, depth, among, rows)
            hits = self._hits(scores, found, k, per)
            if depth >= size or min(map(len, hits), default=k) == k:
                return hits
            depth *= 4

    def _hits(
        self, scores: Tensor, rows: Tensor, k: int, per: str | None = None
    ) -> list[list[Hit]]:
        """The first k hits of every query, of alike ones in column `per` the first; both (Q, depth)."""
        found = []
        for one_scores, one_rows in zip(scores.tolist(), rows.tolist(), strict=True):
            seen, hits = set(), []
            for score, row in zip(one_scores, one_rows, strict=True):
                group = row if per is None else self.table.at[row, per]
                if group not in seen and len(hits) < k:
                    seen.add(group)
                    hits.append(self._hit(len(hits) + 1, score, row))
            found.append(hits)
        return found

    def _hit(self, rank: int, score: float, row: int) -> Hit:
        entries = self.table.loc[row].astype(str).to_dict()
        named = {column: entries.pop(column) for column in HIT_COLUMNS}
        return Hit(rank, score, row, **named, other=entries)

    def save(self, path: str | Path) -> None:
        """Write the folder `path`; one that is there already stays whole until it is replaced."""
        with own_files.atomic_folder(Path(path)) as beside:
            for side, features in self.features.items():
                if features.dtype == torch.bfloat16:  # which NumPy does not have
                    features = features.float()
                np.save(beside / f"{side}.npy", features.cpu().numpy())
            self.table.to_parquet(beside / "table.parquet")
            about = {"model_hash": self.model_hash, "pairs": len(self), "made_for": self.made_for}
            about["files"] = own_files.fingerprints(beside)
            own_files.write_json(beside / "index.json", own_files.sealed(about))

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Index:
        """Open what `save` wrote; on the CPU the vectors are mapped, not read. Raises ValueError if
        a file is missing or cut, or if the files are not of one index."""
        path = Path(path)
        if not (path / "index.json").is_file():
            raise ValueError(f"{path}: no index here, index.json missing")
        try:
            about = own_files.read_model(path / "index.json", _About, "unusable")
            if about.files.keys() != set(FILES):
                raise own_files.DamagedFile("index.json does not name its files")
            # before any reader, which a damaged file could crash
            own_files.check_fingerprints(path, about.files, "unusable")
        except own_files.DamagedFile as error:
            reason = f"damaged, of another version, or its files are not of one index ({error})"
            raise ValueError(f"{path}: {reason}: build the index again") from None
        index = cls.__new__(cls)  # what was checked before it was saved is not checked again
        index.model_hash, index.made_for = about.model_hash, about.made_for
        index.features = {side: _map(path / f"{side}.npy", device) for side in SIDES}
        index.table = pd.read_parquet(path / "table.parquet")
        return index


def _map(path: Path, device: str) -> Tensor:
    """The array as a tensor (N, D) whose rows are read from the file when they are used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.load(path, mmap_mode="r")).to(device)
