"""Vectors of image–report pairs as a file for others, NumPy's .npz or Parquet; and anyone's, read back checked.

    image_features  text_features   (N, D) floats: row n is pair n, with its image and its report
    texts  labels  patients         (N,) text: the report, its labels ('a|b', '' = unknown), whose it is
    pair_id  study_id  split        (N,) text: in what we write; not needed in what we read

Parquet has the same names as columns, the vectors as lists. In .npz every text takes the room of the longest: for more
than some 10,000 pairs take Parquet. Both hold the reports: keep them where patients' text may be.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .commands import UsageError
from .errors import DataError
from .own_files import atomic, read_parquet

ENDS = (".npz", ".parquet")
SIDES = ("image_features", "text_features")
FROM_MANIFEST = {"texts": "report", "labels": "labels", "patients": "patient_id"}
IDS = ("pair_id", "study_id", "split")
ADVICE = "see python -m mcr_lib evaluate --help"


def check_name(path: Path) -> None:
    """Raises UsageError unless the name says how to write or read it."""
    if path.suffix.lower() not in ENDS:
        raise UsageError(f"{path}: vectors stand in a file named {' or '.join(ENDS)}")


def write_vectors(
    path: Path, table: pd.DataFrame, image_features: np.ndarray, text_features: np.ndarray
) -> None:
    """Write the vectors (N, D) of a manifest's rows (N)."""
    check_name(path)
    names = {name: name for name in IDS} | FROM_MANIFEST
    columns = {name: table[column].to_numpy(dtype=object) for name, column in names.items()}
    features = dict(zip(SIDES, (image_features, text_features), strict=True))
    with atomic(path) as temporary:
        if path.suffix.lower() == ".npz":
            texts = {name: column.astype(str) for name, column in columns.items()}
            with temporary.open("wb") as file:
                np.savez_compressed(file, **features, **texts)
            return
        lists = {}
        for name, vectors in features.items():
            values = pa.array(np.asarray(vectors, dtype=np.float32).ravel())
            lists[name] = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
        pq.write_table(pa.table(columns | lists), temporary)


def read_vectors(path: Path) -> tuple[list[np.ndarray], dict[str, list[str]]]:
    """Anyone's vectors: image and text features (N, D) and, by the names of retrieval.evaluate, texts, labels and
    clusters (N). Raises UsageError for another kind of file, DataError for what does not fit."""
    path = Path(path)
    check_name(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; {ADVICE}")
    found = _read_npz(path) if path.suffix.lower() == ".npz" else _read_parquet(path)
    needed = [name for name in (*SIDES, "texts", "patients") if name not in found]
    if needed:
        there = ", ".join(found) or "nothing"
        raise DataError(f"{path} lacks {', '.join(needed)}; it has {there}; {ADVICE}")
    images, texts = features = [_matrix(path, name, found[name]) for name in SIDES]
    if images.shape != texts.shape:
        sizes = f"image_features {images.shape} and text_features {texts.shape}"
        raise DataError(f"{path}: {sizes} differ: one row per pair, of one width")
    found.setdefault("labels", np.full(len(images), ""))
    columns = {name: _column(path, name, found[name], len(images)) for name in FROM_MANIFEST}
    nobody = sum(patient.strip() in ("", "nan", "None") for patient in columns["patients"])
    if nobody:
        raise DataError(f"{path}: {nobody} pairs have no patient; intervals are over patients")
    columns["clusters"] = columns.pop("patients")
    return features, columns


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in (*SIDES, *FROM_MANIFEST) if name in file.files]
            return {name: file[name] for name in names}
    except Exception as error:  # zip and NumPy have many kinds
        if "allow_pickle" in str(error):
            what = f"{path} holds Python objects, which are not read"
            raise DataError(f"{what}: save text as np.array(…, dtype=str)") from None
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is not readable as .npz ({why})") from None


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    table = read_parquet(path, ADVICE, trusted=False)
    names = [name for name in (*SIDES, *FROM_MANIFEST) if name in table]
    return {name: table[name].to_numpy() for name in names}


def _matrix(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """(N, D) floats; Parquet's are N arrays (D,)."""
    try:
        matrix = np.stack(list(values)) if values.dtype == object else values
    except (ValueError, TypeError):
        raise DataError(f"{path}: the rows of {name} have no common width") from None
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.kind != "f":
        what = f"{matrix.dtype} {matrix.shape}"
        raise DataError(f"{path}: {name} is {what}: expected floats of shape (N, D)")
    return matrix


def _column(path: Path, name: str, values: np.ndarray, count: int) -> list[str]:
    """(N,) text."""
    if values.shape != (count,):
        raise DataError(f"{path}: {name} has the shape {values.shape}, expected ({count},)")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    return ["" if name == "labels" and value is None else str(value) for value in values.tolist()]
