"""The packed store: all images of a data set folder as one memory-mapped (N, size, size) uint8 array.

Not a copy to keep: it is derived from images/ and can be deleted and packed again. Row i is row i of the
manifest, letterboxed (longer side = size, black around it). `store/{size}.json` says from which data set it
was made, so a store that no longer fits is refused; when the data set has grown, `store/{size}.rows` says which image
each row came from, and only new images are read.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from . import folder
from .folder import DataError
from .images import ImageError, each, letterbox, read_gray

CHUNK = 64  # images per job


def pack(directory, size: int, processes: int | None = None) -> Path:
    """Write `store/{size}.npy`, resuming an earlier attempt, or do nothing if it is there; → its path.

    Rows of an older store whose image files are unchanged (path, bytes, time of change) are copied
    from it. Several processes may call it at once: one packs, the others wait for it.
    """
    directory = Path(directory)
    table, about = folder.read(directory), describe(directory, size)
    path = directory / "store" / f"{size}.npy"
    if not _fits(path, about):
        path.parent.mkdir(exist_ok=True)
        with folder.locked(path.parent / ".lock"):
            if not _fits(path, about):
                _write(path, table.image_path.tolist(), about, processes)
    return path


def _write(path: Path, images: list[str], about: dict, processes: int | None) -> None:
    """Pack into a file beside, which takes the place of the older store when it is whole."""
    part, done_file, rows_file = (path.with_suffix(f".{end}") for end in ("part", "done", "rows"))
    directory = path.parent.parent
    files = [_file(directory, image) for image in images]
    known = _read_older(path)
    old_rows = [known.get(file, -1) for file in files]
    paths = [str(directory / image) for image in images]
    done = _begin(part, done_file, about)
    jobs = []
    for first in range(0, len(paths), CHUNK):
        if first not in done:
            chunk = slice(first, first + CHUNK)
            jobs.append((str(part), first, paths[chunk], about["size"], str(path), old_rows[chunk]))
    with done_file.open("a") as log:
        for first in each(_pack_chunk, jobs, processes, f"pack {about['size']}", batch=1):
            log.write(f"{first}\n")
            log.flush()
    # from here there is no store, never a wrong one
    path.with_suffix(".json").unlink(missing_ok=True)
    os.replace(part, path)
    rows_file.write_text("\n".join(files) + "\n")
    folder.write_json(path.with_suffix(".json"), about)
    done_file.unlink()


def _read_older(path: Path) -> dict[str, int]:
    """Which image is in which row of a whole store that is there: what `_file` says → row."""
    rows_file = path.with_suffix(".rows")
    if not all(file.exists() for file in (path, path.with_suffix(".json"), rows_file)):
        return {}
    return {file: row for row, file in enumerate(rows_file.read_text().splitlines())}


def _file(directory: Path, image: str) -> str:
    """What tells an image file from another, or from an older one of its name, in one line."""
    try:
        about = (directory / image).stat()
    except OSError:
        return json.dumps([image])  # reading it says what is wrong
    return json.dumps([image, about.st_size, about.st_mtime_ns])


def open_store(directory, size: int) -> np.memmap:
    """The packed images, read-only; a missing or stale store is refused."""
    path = Path(directory) / "store" / f"{size}.npy"
    if not _fits(path, describe(Path(directory), size)):
        stale = "was packed from other data than the manifest beside it"
        fault = stale if path.exists() else "is missing"
        raise DataError(f"{path} {fault}: run python -m data_prep pack {directory} --size {size}")
    return np.load(path, mmap_mode="r")


def describe(directory: Path, size: int) -> dict:
    """What a store of this data set has to say of itself."""
    pair_ids = pd.read_parquet(directory / "manifest.parquet", columns=["pair_id"]).pair_id
    return {
        "rows": len(pair_ids),
        "size": size,
        "dataset_sha256": folder.read_about(directory).sha256,
        "order_sha256": hashlib.sha256("\n".join(pair_ids).encode()).hexdigest(),
    }


def _fits(path: Path, about: dict) -> bool:
    """Whether the store is there, whole, and of this data set."""
    stored = path.with_suffix(".json")
    return path.exists() and stored.exists() and folder.read_json(stored) == about


def _begin(part: Path, done_file: Path, about: dict) -> set[int]:
    """Reserve the space, or find what an interrupted run has done → first rows of the finished chunks."""
    header = f"{about['rows']} {about['size']} {about['dataset_sha256']}"
    if part.exists() and done_file.exists():
        lines = done_file.read_text().splitlines()
        if lines[:1] == [header]:
            return {int(line) for line in lines[1:]}
    part.unlink(missing_ok=True)
    need, free = about["rows"] * about["size"] ** 2, shutil.disk_usage(part.parent).free
    if need > free:
        raise DataError(
            f"the packed store needs {need / 1e9:,.1f} GB and {part.parent} has {free / 1e9:,.1f} GB "
            "free: make room, or use a smaller size (--size of pack, --store-size of mimic-cxr)"
        )
    shape = (about["rows"], about["size"], about["size"])
    np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # a full disk must be an error here, not a bus error in a worker
        with part.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
    done_file.write_text(header + "\n")
    return set()


def _pack_chunk(
    part: str, first: int, paths: list[str], size: int, older: str, old_rows: list[int]
) -> int:
    """Fill rows first … of the array, from the older store where it has them (−1: it has not); → first."""
    rows = np.load(part, mmap_mode="r+")
    old = np.load(older, mmap_mode="r") if max(old_rows) >= 0 else None
    for row, (path, old_row) in enumerate(zip(paths, old_rows, strict=True), first):
        try:
            rows[row] = old[old_row] if old_row >= 0 else letterbox(read_gray(path, size), size)
        except ImageError as error:
            raise DataError(f"{path}: {error}; run the same data_prep command again") from error
    rows.flush()
    return first
