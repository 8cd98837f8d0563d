"""Any radiograph file to 8-bit grayscale: JPEG, PNG (8 or 16 bit), TIFF, DICOM; and storing it in a data set folder.

Not augmentation and not normalisation: those belong to training. The aspect ratio is always kept.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from .dicom import is_dicom, read_dicom
from .folder import atomic
from .gray import MAX_BYTES, MAX_PIXELS, ImageError, check_not_blank, check_size, deep_to_8bit
from .machine import cores, progress
from .sources import Funnel

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")  # none runs a program
DEEP_DEPTH = {"I": 16, "I;16": 16, "I;16B": 16, "I;16L": 16, "F": 0}  # mode → bits; 0: fractions
MAX_SCANS = 100  # of a JPEG, each a pass over all pixels; a progressive one has about 10
ORIENTATION, PHOTOMETRIC = 274, 262  # tags of TIFF; the first is in EXIF too


def read_gray(path, short_side: int | None = None) -> Image.Image:
    """The image as mode L, upright, 0 = black. The one function by which preparation, search and widgets read.

    * JPEG, PNG, TIFF, BMP and the other FORMATS: turned as EXIF asks; palettes and colours become grey, transparency is
      ignored; of several pages the first. 8 bits stay as they are. 16 bits and fractions are stretched from the 0.5th
      to the 99.5th percentile of what is drawn, TIFF's WhiteIsZero is inverted, and NaN is black.
    * DICOM, by its content: see dicom.py.
    * Refused with the reason (ImageError): what is missing, damaged, no such file, over the limits of gray.py (checked
      before decoding), or blank: nearly all pixels alike, or mere noise of a few levels.

    With `short_side`, a JPEG may be decoded smaller, at no less than twice that.
    """
    image = decode_gray(path, short_side)
    check_not_blank(np.asarray(image))
    return image


def decode_gray(path, short_side: int | None = None) -> Image.Image:
    """`read_gray`, but what is blank in 8 bits is no fault: for images that were judged when they were stored."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn of what we check
            _check_file(path)
            if is_dicom(path):
                return Image.fromarray(read_dicom(path))
            # a file, not a path: Pillow would map it, which garbles a TIFF lying on its side
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                if image.format == "JPEG" and path.read_bytes().count(b"\xff\xda") > MAX_SCANS:
                    raise ImageError(f"image too large: a JPEG of more than {MAX_SCANS} scans")
                return _decode(image, short_side)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("image not readable: of none of the formats that are known") from None
    except Image.DecompressionBombError:
        raise ImageError(f"image too large: at most {MAX_PIXELS // 10**6} million pixels") from None
    except Exception as error:  # decoders raise whatever they like
        shown = "".join(letter if letter.isprintable() else " " for letter in str(error))
        why = " ".join(shown.replace(f"'{path}'", "").split())[:300] or type(error).__name__
        raise ImageError(f"image not readable: {why}") from error


def read_query(path, name: str = "") -> Image.Image:
    """`read_gray` for a file that somebody asks with; the reason names it."""
    name = name or str(path)
    try:
        return read_gray(path)
    except ImageError as error:
        raise ImageError(
            f"{name} cannot be used as an image: {error}; give a PNG, JPEG, TIFF or DICOM file"
        ) from error


def read_any(picture, name: str) -> Image.Image:
    """`read_query` for a path, a PIL image or an array: uint8 (H, W), (H, W, 1) or RGB (H, W, 3), 0 = black.

    `name`: what to call a picture that has no path. Raises ImageError for anything else, too.
    """
    if isinstance(picture, str | os.PathLike):
        return read_query(picture)
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture, name)
    if not isinstance(picture, Image.Image):
        what = f"{name} is of type {type(picture).__name__}"
        raise ImageError(f"{what}: give paths, PIL images or uint8 arrays")
    try:
        image = _decode(picture, None)
        check_not_blank(np.asarray(image))
    except Exception as error:  # decoders raise whatever they like, and they may run only now
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ImageError(f"{name} cannot be used as an image: {why}") from error
    return image


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    is_gray = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (is_gray or is_rgb) or pixels.size == 0:
        what = f"{name} is an array of {pixels.dtype} {pixels.shape}"
        raise ImageError(f"{what}: expected uint8 of shape (H, W), (H, W, 1) or (H, W, 3)")
    return Image.fromarray(pixels if is_rgb else pixels.reshape(pixels.shape[:2]))


def read_upload(name: str, content: bytes) -> Image.Image:
    """`read_query` for an uploaded file; nothing of it stays on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        return read_query(path, name)


def _check_file(path: Path) -> None:
    """Raises ImageError for what is no file, or too large a file, to be opened."""
    if not os.path.lexists(path):
        raise ImageError(f"image file missing: {path}")
    if not os.path.isfile(path):  # a pipe would be waited for
        raise ImageError("image not a file: a folder, a pipe or a broken link")
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise ImageError(
            f"image too large: a file of {size / 1e6:,.0f} MB, at most {MAX_BYTES // 10**6}"
        )


def _decode(image: Image.Image, short_side: int | None) -> Image.Image:
    """An opened image → mode L, its header checked first."""
    check_size(*image.size)
    if short_side and image.format == "JPEG":
        scale = 2 * short_side / min(image.size)
        image.draft("L", (round(image.width * scale), round(image.height * scale)))
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0
    depth = DEEP_DEPTH.get(image.mode)
    ImageOps.exif_transpose(image, in_place=True)
    if depth is None:
        return image.convert("L")  # Pillow inverts WhiteIsZero of 8 bits itself
    pixels = np.asarray(image)
    if white_is_zero:
        pixels = -pixels.astype(np.float32)
    return Image.fromarray(deep_to_8bit(pixels, depth))


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """At most `short_side` pixels on the shorter side; never enlarged."""
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.BICUBIC)


def letterbox(image: Image.Image, size: int) -> np.ndarray:
    """(size, size) uint8: the longer side becomes `size`, the rest is black, the image in the middle."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("L", (size, size))
    corner = (size - width) // 2, (size - height) // 2
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), corner)
    return np.asarray(square)


def store(source, target, short_side: int) -> tuple[str, str]:
    """Write `source` to `target` (without suffix) → (file name, ""), or ("", why it was not possible).

    An 8-bit grayscale JPEG or PNG within the size, and upright, is copied byte for byte, after decoding it to be sure
    that it is whole; all else becomes JPEG quality 95. What is already there is left as it is, unless the source is
    newer.
    """
    target = Path(target)
    for suffix in (".jpg", ".png"):
        there = target.with_name(target.name + suffix)
        if there.exists() and not _newer(Path(source), there):
            return there.name, ""
    try:
        image = read_gray(source, short_side)
        suffix = _copy_suffix(Path(source), short_side)
    except ImageError as error:
        return "", str(error)
    name = target.name + (suffix or ".jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target.with_name(name)) as temporary:
        if suffix:
            shutil.copyfile(source, temporary)
        else:
            shrink(image, short_side).save(temporary, "JPEG", quality=95)
    return name, ""


def _newer(source: Path, target: Path) -> bool:
    return source.exists() and source.stat().st_mtime > target.stat().st_mtime


def store_all(
    table: pd.DataFrame, out: Path, size: int, processes: int | None, funnel: Funnel
) -> pd.DataFrame:
    """`store` each row's `file` under images/ as its `target`; → the rows with image_path that succeeded."""
    targets = [Path(out) / "images" / target for target in table.target]
    jobs = zip(table.file, targets, [size] * len(table), strict=True)
    results = list(each(store, jobs, processes, "images"))
    reason = pd.Series([reason for _, reason in results], index=table.index, dtype=object)
    paths = []
    for target, (name, _) in zip(table.target, results, strict=True):
        paths.append(f"images/{Path(target).parent / name}")
    table = table.assign(image_path=paths)
    return funnel.keep(table, reason == "", "with a readable image: pairs", reason)


def _copy_suffix(source: Path, short_side: int) -> str:
    """ ".jpg" or ".png" if the file, which `read_gray` has read, may be copied as it is, else ""."""
    try:
        with Image.open(source, formats=("JPEG", "PNG")) as image:
            is_upright = image.getexif().get(ORIENTATION, 1) == 1
            if image.mode != "L" or min(image.size) > short_side or not is_upright:
                return ""
            return ".png" if image.format == "PNG" else ".jpg"
    except OSError:
        return ""  # a DICOM file, or of another format


def each(
    function: Callable, jobs: Iterable, processes: int | None, label: str, batch: int = 32
) -> Iterator:
    """`function(*job)` for every job, in order, on several processes, with a progress bar.

    `batch` jobs are handed over at a time. A few jobs are done in this process: starting others takes longer.
    """
    jobs = list(jobs)
    if not jobs:
        return
    processes = min(processes or cores(), len(jobs) // (8 * batch) + 1)
    if processes <= 1:
        yield from progress((function(*job) for job in jobs), total=len(jobs), desc=label)
        return
    spawn = get_context("spawn")  # fork and threads clash
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        results = pool.map(function, *zip(*jobs, strict=True), chunksize=batch)
        yield from progress(results, total=len(jobs), desc=label)
