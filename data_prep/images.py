"""Any radiograph file to 8-bit grayscale: JPEG, PNG (8 or 16 bit), TIFF, DICOM.

Not augmentation and not normalisation: those belong to training. The aspect ratio is always kept.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from .errors import KitError
from .folder import atomic
from .machine import cores, progress
from .sources import Funnel

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")  # over 8 bits: Pillow's convert() would clip


class ImageError(KitError):
    """A file that cannot be used as an image; the message is the reason."""


def read_gray(path, short_side: int | None = None) -> Image.Image:
    """The image as mode L. With `short_side`, a JPEG may be decoded smaller, at no less than twice that."""
    path = Path(path)
    try:
        if _is_dicom(path):
            return Image.fromarray(_dicom_pixels(path))
        with Image.open(path) as image:
            if short_side:
                scale = 2 * short_side / min(image.size)
                image.draft("L", (round(image.width * scale), round(image.height * scale)))
            if image.mode in DEEP_MODES:
                return Image.fromarray(to_8bit(np.asarray(image)))
            return image.convert("L")
    except FileNotFoundError:
        raise ImageError(f"image file missing: {path}") from None
    except Exception as error:  # decoders raise whatever they like
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ImageError(f"image not readable: {why}") from error


def read_upload(name: str, content: bytes) -> Image.Image:
    """An uploaded PNG, JPEG or DICOM file as mode L; nothing of it stays on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            return read_gray(path)
        except ImageError as error:
            advice = "give a PNG, JPEG or DICOM file"
            raise ImageError(f"{name} cannot be used as an image: {advice}") from error


def to_8bit(pixels: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Stretch [low, high] to [0, 255]; without them, the 0.5th to the 99.5th percentile."""
    pixels = pixels.astype(np.float32)
    if low is None or high is None:
        low, high = np.percentile(pixels, (0.5, 99.5))
    return np.clip((pixels - low) * (255 / max(high - low, 1e-6)) + 0.5, 0, 255).astype(np.uint8)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"  # whatever the file is called


def _dicom_pixels(path: Path) -> np.ndarray:
    """Modality and VOI transforms as the file asks, 0 = black whatever the photometric interpretation."""
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    dataset = pydicom.dcmread(path)
    if dataset.get("SamplesPerPixel", 1) != 1 or int(dataset.get("NumberOfFrames") or 1) != 1:
        raise ValueError("not a single grayscale frame")
    pixels = apply_modality_lut(dataset.pixel_array, dataset)
    windowed = "WindowWidth" in dataset or "VOILUTSequence" in dataset
    if windowed:
        pixels = apply_voi_lut(pixels, dataset)
    pixels = to_8bit(pixels, pixels.min(), pixels.max()) if windowed else to_8bit(pixels)
    return 255 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


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

    An 8-bit grayscale JPEG or PNG within the size is copied byte for byte, after decoding it to be sure that
    it is whole; all else becomes JPEG quality 95. What is already there is left as it is, unless the source is newer.
    """
    target = Path(target)
    for suffix in (".jpg", ".png"):
        there = target.with_name(target.name + suffix)
        if there.exists() and not _newer(Path(source), there):
            return there.name, ""
    try:
        suffix = _copy_suffix(Path(source), short_side)
        if not suffix:
            image = shrink(read_gray(source, short_side), short_side)
    except ImageError as error:
        return "", str(error)
    name = target.name + (suffix or ".jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target.with_name(name)) as temporary:
        if suffix:
            shutil.copyfile(source, temporary)
        else:
            image.save(temporary, "JPEG", quality=95)
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
    """ ".jpg" or ".png" if the file may be copied as it is, else ""."""
    try:
        with Image.open(source) as image:
            is_gray = image.format in ("JPEG", "PNG") and image.mode == "L"
            if not is_gray or min(image.size) > short_side:
                return ""
            image.load()
            return ".jpg" if image.format == "JPEG" else ".png"
    except FileNotFoundError:
        raise ImageError(f"image file missing: {source}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""  # DICOM, or broken: read_gray finds out which


def each(
    function: Callable, jobs: Iterable, processes: int | None, label: str, batch: int = 32
) -> Iterator:
    """`function(*job)` for every job, in order, on several processes, with a progress bar.

    `batch` jobs are handed over at a time. A few jobs are done in this process: starting others takes longer.
    """
    jobs = list(jobs)
    processes = min(processes or cores(), len(jobs) // (8 * batch) + 1)
    if processes <= 1:
        yield from progress((function(*job) for job in jobs), total=len(jobs), desc=label)
        return
    spawn = get_context("spawn")  # fork and threads clash
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        results = pool.map(function, *zip(*jobs, strict=True), chunksize=batch)
        yield from progress(results, total=len(jobs), desc=label)
