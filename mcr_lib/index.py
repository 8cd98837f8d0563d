"""The search index: unit vectors of N pairs and the manifest rows they come from, in memory or on disk, growing.

On disk an index is a folder. `images-*.rows` and `texts-*.rows` hold the vectors row after row, mapped and never
read as a whole; `table-*.arrow` hold the manifest rows, one file for each addition; `index.json` says how many
rows of which files count. It is replaced in one step, last: whatever is interrupted before leaves the old index
whole, and rows beyond its count are overwritten by the next addition. Exact search only, by ranking.top_k;
approximate.py is the other kind. Not here: encoding (run_folder.py).
"""

import json
import mmap
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from data_prep.folder import locked

from .ranking import check_features, normal_text, top_k

HIT_COLUMNS = ("pair_id", "patient_id", "image_path", "report", "labels", "split")
SIDES = ("images", "texts")
KEY = "report_key"       # column of the arrow files: 64 bits that equal reports share
BLOCK = 8192             # gallery rows compared at a time


@dataclass(frozen=True)
class Hit:
    """One search result: rank from 1, score = cosine (−1 … 1), row in the index, manifest entries."""
    rank: int
    score: float
    row: int
    pair_id: str
    patient_id: str
    image_path: str
    report: str
    labels: str
    split: str


class Index:
    """Exact search over the unit vectors of N pairs, with the manifest rows they come from.

    image_features, text_features (N, D) unit vectors of any float type; table: N rows with at least the manifest's
    columns in HIT_COLUMNS; model_hash names the model that made the features. ValueError where these do not fit.
    `features["images"]`, `features["texts"]`: (N, D), of a loaded index mapped from its files.
    """

    def __init__(self, image_features: Tensor, text_features: Tensor, table: pd.DataFrame, model_hash: str):
        self.features, self._frame = _checked(image_features, text_features, table)
        self.model_hash, self.path, self._maps, self._arrow, self._first = model_hash, None, {}, None, None

    def __len__(self) -> int:
        return len(self.features["texts"])

    @property
    def table(self) -> pd.DataFrame:
        """All manifest rows; a loaded index reads them when they are first asked for."""
        if self._frame is None:
            self._frame = self._arrow.drop_columns([KEY]).to_pandas()
        return self._frame

    def column(self, name: str) -> pd.Series:
        """One column of the manifest rows, (N,), without reading the others. ValueError if there is none."""
        try:
            return self._frame[name] if self._arrow is None else self._arrow[name].to_pandas()
        except KeyError:
            raise ValueError(f"this index has no column {name!r}") from None

    def check(self, model_hash: str) -> None:
        """Raise a ValueError if the features were made by another model than the one that asks."""
        if model_hash != self.model_hash:
            raise ValueError(f"this index was built by model {self.model_hash}, the query comes from model "
                             f"{model_hash}: build the index again")

    def topk(self, queries: Tensor, k: int = 5, among: str = "texts", distinct: bool = False,
             chunk: int = BLOCK) -> tuple[Tensor, Tensor]:
        """The k best for queries (Q, D): cosines (Q, k) float64 and index rows (Q, k) int64, on the CPU.

        Best first, equal scores (to nine decimals) by the lower row. among: `texts` or `images`.
        distinct=True keeps one row, the first, of every distinct report. k is capped at the gallery size.
        Memory is O(Q·(D + k) + chunk·(D + min(Q, chunk))), beside features that are in memory already, and `chunk`
        never changes the result.
        """
        queries = self.check_queries(queries, k, among)
        size = len(self.distinct_rows()) if distinct else len(self)
        scores, rows = top_k(queries, self.blocks(among, distinct, chunk), min(k, size), len(self), min(chunk, 1024))
        return scores.cpu(), rows.cpu()

    def check_queries(self, queries: Tensor, k: int, among: str) -> Tensor:
        """Queries (Q, D) on the index's device, or a ValueError that says what does not fit."""
        if among not in self.features:
            raise ValueError(f"among: expected 'texts' or 'images', got {among!r}")
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        gallery = self.features[among]
        queries = check_features("queries", queries, unit=False).to(gallery.device)
        if queries.shape[1] != gallery.shape[1]:
            raise ValueError(f"queries have width {queries.shape[1]}, the index {gallery.shape[1]}")
        return queries

    def blocks(self, among: str, distinct: bool = False, chunk: int = BLOCK) -> Iterator[tuple[Tensor, Tensor]]:
        """The gallery, block by block: row numbers (g,), features (g, D). Mapped memory is handed back after each."""
        gallery = self.features[among]
        chosen = self.distinct_rows() if distinct else None
        for start in range(0, len(gallery), chunk):
            stop = min(start + chunk, len(gallery))
            if chosen is None:
                yield torch.arange(start, stop, device=gallery.device), gallery[start:stop]
            elif len(rows := chosen[slice(*torch.searchsorted(chosen, torch.tensor([start, stop])))]):
                rows = rows.to(gallery.device)
                yield rows, gallery[rows]
            if among in self._maps:
                row = gallery.shape[1] * gallery.element_size()
                first = start * row // mmap.PAGESIZE * mmap.PAGESIZE
                self._maps[among].madvise(mmap.MADV_DONTNEED, first, stop * row - first)

    def distinct_rows(self) -> Tensor:
        """(M,) int64 ascending: the first row of every distinct report (spaces and case aside), found once.

        Reports are told apart by 64 bits of BLAKE2: among ten million, two share them by chance once in 400,000.
        """
        if self._first is None:
            keys = _keys(self._frame["report"]) if self._arrow is None else self._arrow[KEY].to_pandas()
            self._first = torch.tensor(keys.drop_duplicates().index)
        return self._first

    def search(self, query_feature: Tensor, k: int = 5, among: str = "texts",
               distinct: bool = False) -> list[Hit] | list[list[Hit]]:
        """`topk` as hits: a list for one query (D,), a list of lists for queries (Q, D)."""
        queries = query_feature if query_feature.ndim == 2 else query_feature[None]
        hits = self.hits(*self.topk(queries, k, among, distinct))
        return hits if query_feature.ndim == 2 else hits[0]

    def hits(self, scores: Tensor, rows: Tensor) -> list[list[Hit]]:
        """Scores (Q, k) and rows (Q, k; −1: nothing there) with their manifest entries; only these rows are read."""
        return [[Hit(rank, score, row, **self._entries(row))
                 for rank, (score, row) in enumerate(zip(*pair, strict=True), start=1) if row >= 0]
                for pair in zip(scores.tolist(), rows.tolist(), strict=True)]

    def _entries(self, row: int) -> dict[str, str]:
        if self._frame is not None:
            return {column: str(self._frame.at[row, column]) for column in HIT_COLUMNS}
        return {column: str(self._arrow[column][row].as_py()) for column in HIT_COLUMNS}

    def save(self, path: str | Path) -> None:
        """Write the folder `path`; an index that is there already stays whole until it is replaced in one step."""
        path, generation = Path(path), uuid.uuid4().hex[:8]
        path.mkdir(parents=True, exist_ok=True)
        features = self.features["texts"]
        about = {"model_hash": self.model_hash, "pairs": 0, "width": features.shape[1],
                 "dtype": str(features.dtype).removeprefix("torch."), "tables": [],
                 **{side: f"{side}-{generation}.rows" for side in SIDES}}
        with locked(path / ".lock"):
            _append(path, about, self.features, _arrow(self.table))
            kept = {"index.json", *(about[side] for side in SIDES), *about["tables"]}
            for old in {*path.glob("*.rows"), *path.glob("*.arrow"), *path.glob("*.ivf")}:
                if old.name not in kept:
                    old.unlink()

    def add(self, image_features: Tensor, text_features: Tensor, table: pd.DataFrame, model_hash: str) -> None:
        """Append n pairs to the files of a loaded index, which then holds them too; arguments as for a new one.

        The vectors are stored in the index's type. All or nothing: interrupted, the old index is whole. ValueError
        for another model, other columns or another width; several processes may add, one at a time.
        """
        if self.path is None:
            raise ValueError("this index is in memory only: save it, load it, then add to it")
        self.check(model_hash)
        features, table = _checked(image_features, text_features, table)
        with locked(self.path / ".lock"):
            about = _read(self.path)
            if features["texts"].shape[1] != about["width"]:
                raise ValueError(f"{self.path}: the index has width {about['width']}, what is added "
                                 f"{features['texts'].shape[1]}")
            there, new = _tables(self.path, about["tables"]).schema, _arrow(table)
            try:
                if set(there.names) != set(new.column_names):
                    raise pa.ArrowInvalid(f"{', '.join(there.names)} and {', '.join(new.column_names)}")
                pa.unify_schemas([there, new.schema], promote_options="permissive")
            except pa.ArrowException as error:
                raise ValueError(f"{self.path}: the columns of what is added are not the index's: {error}") from None
            dtype = getattr(torch, about["dtype"])
            _append(self.path, about, {side: x.to(dtype) for side, x in features.items()}, new)
        self._open(str(self.features["texts"].device))

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "Index":
        """Open what `save` wrote, in milliseconds on the CPU: vectors are mapped, the table is read when asked for.

        ValueError if a file is missing or cut, or if the parts do not belong together.
        """
        index = cls.__new__(cls)
        index.path = Path(path)
        index._open(device)
        return index

    def _open(self, device: str) -> None:
        about = _read(self.path)
        self.model_hash, self._frame, self._first = about["model_hash"], None, None
        self.features, self._maps, dtype = {}, {}, getattr(torch, about["dtype"])
        count = about["pairs"] * about["width"]
        for side in SIDES:
            with (self.path / about[side]).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), count * dtype.itemsize, access=mmap.ACCESS_COPY)
            self.features[side] = torch.frombuffer(mapped, dtype=dtype).view(about["pairs"], about["width"]).to(device)
            if device == "cpu" and hasattr(mapped, "madvise"):
                self._maps[side] = mapped
        self._arrow = _tables(self.path, about["tables"])
        if len(self._arrow) != about["pairs"]:
            raise ValueError(f"{self.path}: index.json and the table files are not of one index")


def _checked(image_features: Tensor, text_features: Tensor, table: pd.DataFrame) -> tuple[dict, pd.DataFrame]:
    features = {"images": check_features("image_features", image_features),
                "texts": check_features("text_features", text_features)}
    if image_features.shape != text_features.shape or len(table) != len(image_features):
        raise ValueError(f"index: images {[*image_features.shape]}, texts {[*text_features.shape]} and "
                         f"{len(table)} table rows do not fit")
    if missing := [column for column in HIT_COLUMNS if column not in table.columns]:
        raise ValueError(f"index: the table lacks the columns {', '.join(missing)}")
    return features, table.reset_index(drop=True)


def _keys(reports: pd.Series) -> pd.Series:
    """64 bits for each report, the same for reports that differ in spaces and case only."""
    return pd.Series([int.from_bytes(blake2b(normal_text(text).encode(), digest_size=8).digest(), signed=True)
                      for text in reports], dtype="int64")


def _arrow(table: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(table, preserve_index=False).append_column(KEY, pa.array(_keys(table["report"])))


def _append(path: Path, about: dict, features: dict[str, Tensor], arrow: pa.Table) -> None:
    """Write rows behind those that count, sync, and only then let index.json count them."""
    about["tables"] = [*about["tables"], f"table-{uuid.uuid4().hex[:8]}.arrow"]
    for side in SIDES:
        rows = features[side].detach().cpu().contiguous()
        with (path / about[side]).open("ab") as file:
            file.truncate(about["pairs"] * rows.shape[1] * rows.element_size())   # what an interrupted one left
            file.write(rows.view(torch.uint8).numpy())
            _sync(file)
    with (path / about["tables"][-1]).open("wb") as file:
        with pa.ipc.new_file(file, arrow.schema) as writer:
            writer.write_table(arrow)
        _sync(file)
    about["pairs"] += len(arrow)
    with (path / ".index.json.tmp").open("w") as file:
        file.write(json.dumps(about, indent=1) + "\n")
        _sync(file)
    os.replace(path / ".index.json.tmp", path / "index.json")
    folder = os.open(path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read(path: Path) -> dict:
    """index.json, its files checked for being there and long enough; ValueError in one line otherwise."""
    if not (path / "index.json").is_file():
        raise ValueError(f"{path}: no index here, index.json missing")
    try:
        about = json.loads((path / "index.json").read_text())
        row = about["width"] * getattr(torch, about["dtype"]).itemsize
        sizes = {about[side]: about["pairs"] * row for side in SIDES} | dict.fromkeys(about["tables"], 1)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ValueError(f"{path}: index.json is damaged, or of another version: build the index again") from None
    for name, size in sizes.items():
        if not (path / name).is_file() or (path / name).stat().st_size < size:
            raise ValueError(f"{path}: {name} is missing or cut: build the index again")
    return about


def _tables(path: Path, names: list[str]) -> pa.Table:
    """The manifest rows, mapped: nothing is read until it is asked for."""
    try:
        return pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(path / name))).read_all() for name in names],
                                promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"{path}: a table file is damaged ({str(error).splitlines()[0]}): build it again") from None
