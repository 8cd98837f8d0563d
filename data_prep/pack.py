"""The packed store: all images of a data set folder as one memory-mapped (N, size, size) uint8 array.

Not a copy to keep: it is derived from images/ and can be deleted and packed again. Row i is row i of the
manifest, letterboxed (longer side = size, black around it).

    store/{size}.npy    the pixels
    store/{size}.rows   a line per row: its image file (path, bytes, time of change, SHA-256) and the row's checksum
    store/{size}.json   format, rows, size, and the bytes and time of the .npy file as it was written

So a row that is damaged, or whose image is another one now, is noticed and packed again, and only that: when the store
is opened where sizes or times have changed; where they have not a damaged row is refused when it is first read. When
the data set has grown only new images are read. A store without `.rows`, or of an earlier format, is packed anew.
"""

import json
import os
import shutil
import zlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import folder
from .folder import DataError
from .gray import ImageError
from .images import decode_gray, each, letterbox
from .own_files import atomic, file_sha256, locked, read_json, write_json

CHUNK = 64  # images per job
FORMAT = 2


class Row(NamedTuple):
    """What a row of the store was made of, and the checksum (CRC-32) of its pixels."""

    image: str
    bytes: int | None  # None: there is no such file (any more)
    mtime_ns: int | None
    sha256: str
    crc: int

    def line(self) -> str:
        """As a line of `.rows`, which begins with a checksum of its own."""
        text = json.dumps(self, ensure_ascii=False)
        return f"{zlib.crc32(text.encode()):08x} {text}\n"


class Store:
    """The packed images (N, S, S), read-only; a row is compared with its checksum when it is first read."""

    def __init__(self, path: Path, size: int, rows: list[Row]):
        self.path, self.shape, self.dtype = path, (len(rows), size, size), np.dtype(np.uint8)
        self._pixels = _map(path, size, len(rows))
        self._crc = np.array([row.crc for row in rows], dtype=np.uint32)
        self._is_checked = np.zeros(len(rows), dtype=bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        """Row or rows as numpy's first index has them. Raises DataError for damaged ones."""
        pixels = np.asarray(self._pixels[index])
        rows = np.atleast_1d(np.arange(len(self))[index])
        for row, image in zip(rows, pixels.reshape(len(rows), *self.shape[1:]), strict=True):
            if not self._is_checked[row]:
                if zlib.crc32(np.ascontiguousarray(image)) != self._crc[row]:
                    raise DataError(f"{self.path} is damaged in row {row}: {_advice(self.path)}")
                self._is_checked[row] = True
        return pixels

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self[:], dtype=dtype)


def pack(
    directory, size: int, processes: int | None = None, *, table=None, thorough: bool = False
) -> Path:
    """Make `store/{size}.npy` whole and current, doing only what is not done yet; → its path.

    table: the folder's rows, where they have been read already; thorough: compare every row with its checksum even
    where nothing seems to have changed. Several processes may call it at once: one packs, the others wait.
    """
    directory = Path(directory)
    table = folder.read(directory) if table is None else table
    images = table.image_path.tolist()
    path = directory / "store" / f"{size}.npy"
    if not thorough and _seems_current(path, images, size):
        return path
    path.parent.mkdir(exist_ok=True)
    if not os.access(path.parent, os.W_OK):  # a data set on a read-only disk
        if _verified(path, images, size) is None:
            raise DataError(f"{path} is not current, and {path.parent} cannot be written")
        return path
    with locked(path.parent / ".lock"):
        if thorough or not _seems_current(path, images, size):
            rows = _verified(path, images, size)
            if rows is None:
                _write(path, images, size, processes)
            else:  # the files were only copied, or touched
                write_index(path, size, rows)
    return path


def open_store(directory, size: int, *, table=None) -> Store:
    """The packed images, read-only; a missing or stale store is refused."""
    path = Path(directory) / "store" / f"{size}.npy"
    images = (folder.read(directory) if table is None else table).image_path
    rows = _read_rows(path.with_suffix(".rows"))
    if not path.exists() or not _is_whole(path, size, len(rows)):
        fault = "is damaged" if path.exists() else "is missing"
        raise DataError(f"{path} {fault}: {_advice(path)}")
    if [row and row.image for row in rows] != images.tolist():
        raise DataError(f"{path} was packed from other data than the manifest: {_advice(path)}")
    return Store(path, size, rows)


def write_index(path: Path, size: int, rows: list[Row]) -> None:
    """Say of the pixels that are at `path` what they were made of; the last step of packing."""
    path.with_suffix(".json").unlink(missing_ok=True)
    with atomic(path.with_suffix(".rows")) as temporary:
        temporary.write_text("".join(row.line() for row in rows), encoding="utf-8")
    write_json(path.with_suffix(".json"), _about(path, size, len(rows)))


def _about(path: Path, size: int, rows: int) -> dict:
    return {"format": FORMAT, "rows": rows, "size": size, "written": list(_stat(path))}


def _advice(path: Path) -> str:
    return f"run python -m data_prep pack {path.parent.parent} --size {path.stem}"


# ------------------------------------------------------------------------------------------- what is there


def _read_rows(path: Path) -> list[Row | None]:
    """The lines of `.rows` or `.done`, None for a damaged one; none at all where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    texts = []
    for line in lines:
        check, _, text = line.partition(" ")
        texts.append(text if check == f"{zlib.crc32(text.encode()):08x}" else "null")
    try:
        entries = json.loads(f"[{','.join(texts)}]")  # at once: there may be 377,110
        return [Row(*entry) if entry else None for entry in entries]
    except (ValueError, TypeError, RecursionError):  # not written by us
        return []


def _header(size: int, rows: int) -> bytes:
    """How the .npy file of a store begins."""
    file = BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (rows, size, size)}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def _map(path: Path, size: int, rows: int, mode: str = "r") -> np.memmap:
    """The pixels, or of a cut file as many rows as it has."""
    start = len(_header(size, rows))
    rows = min(rows, max(0, path.stat().st_size - start) // size**2)
    if rows == 0:
        return np.zeros((0, size, size), np.uint8)
    return np.memmap(path, np.uint8, mode, start, (rows, size, size))


def _is_whole(path: Path, size: int, rows: int) -> bool:
    """Whether the .npy file has the header and the size of that many rows."""
    header = _header(size, rows)
    with path.open("rb") as file:
        begins_well = file.read(len(header)) == header
    return begins_well and path.stat().st_size == len(header) + rows * size**2


def _seems_current(path: Path, images: list[str], size: int) -> bool:
    """Whether the store is whole and of these images by all that sizes and times can tell."""
    try:
        stored = read_json(path.with_suffix(".json"))
    except DataError:
        return False
    if stored != _about(path, size, len(images)):
        return False
    rows, directory = _read_rows(path.with_suffix(".rows")), path.parent.parent
    return len(rows) == len(images) and all(
        row is not None and row.image == image and _is_unchanged(directory, row)
        for row, image in zip(rows, images, strict=True)
    )


def _verified(path: Path, images: list[str], size: int) -> list[Row] | None:
    """The rows, if every one of them has its checksum and is of the image that is there now."""
    rows = _read_rows(path.with_suffix(".rows"))
    if not path.exists() or len(rows) != len(images) or not _is_whole(path, size, len(rows)):
        return None
    pixels, verified = _map(path, size, len(rows)), []
    for number, (row, image) in enumerate(zip(rows, images, strict=True)):
        row = _still_good(path.parent.parent, row, pixels[number]) if row else None
        if row is None or row.image != image:
            return None
        verified.append(row)
    return verified


def _still_good(directory: Path, row: Row, pixels: np.ndarray) -> Row | None:
    """The row as it is to be noted now; None if its pixels are damaged or its image is another."""
    if zlib.crc32(pixels) != row.crc:
        return None
    if _is_unchanged(directory, row):
        return row
    same = file_sha256(directory / row.image) == row.sha256
    return Row(row.image, *_stat(directory / row.image), row.sha256, row.crc) if same else None


def _is_unchanged(directory: Path, row: Row) -> bool:
    """By size and time. An image that is not there any more cannot have been renewed."""
    return _stat(os.path.join(directory, row.image)) in ((None, None), (row.bytes, row.mtime_ns))


def _stat(path) -> tuple[int | None, int | None]:
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return None, None
    return about.st_size, about.st_mtime_ns


# ------------------------------------------------------------------------------------------------- packing


def _write(path: Path, images: list[str], size: int, processes: int | None) -> None:
    """Pack into a file beside, which takes the place of the older store when it is whole."""
    part, done_file = path.with_suffix(".part"), path.with_suffix(".done")
    rows = _read_rows(path.with_suffix(".rows")) if path.exists() else []
    known = {row.image: (number, row) for number, row in enumerate(rows) if row}
    done = _begin(part, done_file, path.parent.parent, images, size)
    jobs = []
    for first in range(0, len(images), CHUNK):
        if first not in done:
            chunk = images[first : first + CHUNK]
            older = [known.get(image) for image in chunk]
            jobs.append((path, size, len(images), first, chunk, older))
    with done_file.open("a", encoding="utf-8") as log:
        for first, rows in each(_pack_chunk, jobs, processes, f"pack {size}", batch=1):
            done[first] = rows
            log.write("".join(row.line() for row in rows))
            log.flush()
    # from here there is no store, never a wrong one
    path.with_suffix(".json").unlink(missing_ok=True)
    os.replace(part, path)
    write_index(path, size, [row for first in sorted(done) for row in done[first]])
    done_file.unlink()


def _begin(
    part: Path, done_file: Path, directory: Path, images: list[str], size: int
) -> dict[int, list[Row]]:
    """Reserve the space, or find what an interrupted run has done → the rows of each finished chunk, by its first."""
    if part.exists() and done_file.exists() and _is_whole(part, size, len(images)):
        logged = {row.image: row for row in _read_rows(done_file) if row}
        pixels, done = _map(part, size, len(images)), {}
        for first in range(0, len(images), CHUNK):
            rows = []
            for number, image in enumerate(images[first : first + CHUNK], first):
                row = logged.get(image)
                rows.append(row and _still_good(directory, row, pixels[number]))
            if None not in rows:
                done[first] = rows
        return done
    done_file.unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    header = _header(size, len(images))
    need, free = len(header) + len(images) * size**2, shutil.disk_usage(part.parent).free
    if need > free:
        raise DataError(
            f"the packed store needs {need / 1e9:,.1f} GB and {part.parent} has {free / 1e9:,.1f} GB "
            "free: make room, or use a smaller size (--size of pack, --store-size of mimic-cxr)"
        )
    with part.open("wb") as file:
        file.write(header)
        file.truncate(need)
        if hasattr(os, "posix_fallocate"):
            # a full disk must be an error here, not a bus error in a worker
            os.posix_fallocate(file.fileno(), 0, need)
    return {}


def _pack_chunk(
    path: Path, size: int, count: int, first: int, images: list[str], older: list
) -> tuple[int, list[Row]]:
    """Fill rows first … of the `.part` beside `path`, from the store at `path` where that has them
    (older: its row number and Row, or None) → first, the rows."""
    directory, rows = path.parent.parent, []
    target = _map(path.with_suffix(".part"), size, count, "r+")
    source = _map(path, size, 1 + max(entry[0] for entry in older if entry)) if any(older) else []
    for number, (image, entry) in enumerate(zip(images, older, strict=True), first):
        old, row = entry or (len(source), None)
        row = _still_good(directory, row, source[old]) if old < len(source) else None
        if row:
            target[number] = source[old]
        else:
            target[number], row = _read_image(directory, image, size)
        rows.append(row)
    target.flush()
    return first, rows


def _read_image(directory: Path, image: str, size: int) -> tuple[np.ndarray, Row]:
    path = directory / image
    try:
        about = _stat(path)  # first: what changes while it is read is read again next time
        pixels = letterbox(decode_gray(path, size), size)
        return pixels, Row(image, *about, file_sha256(path), zlib.crc32(pixels))
    except ImageError as error:
        raise DataError(f"{path}: {error}; run the same data_prep command again") from error
