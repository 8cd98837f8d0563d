"""A DICOM radiograph to 8-bit grey, 0 = black whatever the file's photometric interpretation.

* Modality CR, DX, RG (film), or none named, which converters write as OT; one frame. Others are refused: a CT slice is
  no radiograph.
* With or without the preamble of 128 bytes, with or without file meta information.
* Rescaling and lookup tables of the file are applied, then its first VOI table or window that leaves at least a quarter
  of the grey levels that the drawing has; a window of width 1, or beside the drawing, or that is no number, counts as
  none. A decimal comma is read as a point.
* What is stretched to 0 … 255 lies between the 0.5th and the 99.5th percentile of what is drawn.
* Padding (PixelPaddingValue and its range limit) is black, and counts for nothing.
* Palettes are applied; colour becomes grey.

The header decides before anything is decoded: a size over the limits of gray.py is refused, a deflated file is
inflated to MAX_BYTES at most, run lengths are decoded to rows × columns at most, and compressed pixels whose own header
tells of another size are refused.
"""

import math
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from .gray import (
    MAX_BYTES,
    ImageError,
    check_not_blank,
    check_size,
    deep_to_8bit,
    ends,
    sample,
    to_8bit,
)

MODALITIES = ("CR", "DX", "RG", "OT", "")
LEVELS_KEPT = 1 / 4  # of the drawing's grey levels: a window that leaves fewer is of no use
LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow has it
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
JPEG_SIZE = re.compile(  # a frame header: marker, length, bits, height, width
    rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]...(?P<height>..)(?P<width>..)", re.DOTALL
)


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM does, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(132)
    return preamble(start) > 0 or start[:2] in (b"\x02\x00", b"\x08\x00")


def preamble(start: bytes) -> int:
    """How many bytes a file's first element comes after: 128 and DICM, DICM alone, or none."""
    return next((at for at in (132, 4) if start[at - 4 : at] == b"DICM"), 0)


def read_dicom(path: Path) -> np.ndarray:
    """→ uint8 (H, W). Raises ImageError, and whatever a decoder raises."""
    dataset = _open(path.read_bytes())
    _check_header(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == RLE:
        _unpack_rle(dataset)
    elif syntax.is_encapsulated:
        _check_coded_size(dataset)
    stored = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3:
        return deep_to_8bit(_colour_to_gray(stored), 8 * stored.itemsize)
    drawn = ~_padding(stored, dataset)
    seen, inside = sample(stored), sample(drawn)
    if inside.any():
        check_not_blank(np.where(inside, seen, seen[inside][0]), int(dataset.BitsStored))
    gray = _stretch(_rescale(stored, dataset), drawn, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        gray = 255 - gray
    gray[~drawn] = 0
    return gray


def _open(content: bytes):
    """The data set, nothing of its pixels decoded yet; `file_meta` names the transfer syntax."""
    import pydicom
    from pydicom.filereader import read_dataset

    content = content[preamble(content) :]
    file = BytesIO(content)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DEFLATED:
        content, syntax = _inflate(file.read()), pydicom.uid.ExplicitVRLittleEndian
        dataset = read_dataset(BytesIO(content), False, True)
    else:
        dataset = pydicom.dcmread(BytesIO(content), force=True)
        syntax = meta.get("TransferSyntaxUID") or _guess_syntax(dataset)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _inflate(content: bytes) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacked = unpacker.decompress(content, MAX_BYTES)
    if unpacker.unconsumed_tail:
        raise ImageError(f"image too large: inflates to more than {MAX_BYTES // 10**6} MB")
    return unpacked


def _guess_syntax(dataset):
    """The transfer syntax by which a data set without file meta information could be read."""
    from pydicom import uid

    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian


def _check_header(dataset) -> None:
    """Raises ImageError for what is no single radiograph of a reasonable size."""
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality not in MODALITIES:
        raise ImageError(f"DICOM of another modality: {modality}, not CR, DX or RG")
    if not all(name in dataset for name in ("Rows", "Columns", "PixelData")):
        raise ImageError("DICOM without an image")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise ImageError(f"DICOM of several frames: {dataset.NumberOfFrames}")
    if dataset.get("SamplesPerPixel", 1) not in (1, 3) or dataset.get("BitsAllocated", 16) > 32:
        raise ImageError("DICOM of another pixel format: not grey or colour of up to 32 bits")
    check_size(int(dataset.Columns), int(dataset.Rows))


def _check_coded_size(dataset) -> None:
    """Compressed pixels must be of the size that the header names: decoders go by the former."""
    from pydicom.encaps import get_frame

    coded = get_frame(dataset.PixelData, 0, number_of_frames=1)
    siz = coded.find(b"\xff\x4f\xff\x51", 0, 4096)  # a JPEG 2000 codestream, in a box or not
    if siz >= 0:
        right, bottom, left, top = np.frombuffer(coded, ">u4", 4, siz + 8).tolist()
        width, height = right - left, bottom - top
    else:
        frame = JPEG_SIZE.search(coded)
        if frame is None:
            raise ImageError("DICOM of another compression: neither JPEG nor RLE")
        width, height = (int.from_bytes(frame[side]) for side in ("width", "height"))
    if (width, height) != (dataset.Columns, dataset.Rows):
        raise ImageError(
            f"DICOM in disagreement: header {dataset.Columns} × {dataset.Rows}, "
            f"compressed pixels {width} × {height}"
        )


def _unpack_rle(dataset) -> None:
    """Replace run lengths by the pixels they stand for, and not one byte more."""
    from pydicom.encaps import get_frame
    from pydicom.uid import ExplicitVRLittleEndian

    coded = get_frame(dataset.PixelData, 0, number_of_frames=1)
    samples, width = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated) // 8
    length, segments = int(dataset.Rows) * int(dataset.Columns), samples * width
    count, *starts = np.frombuffer(coded, "<u4", 16).tolist()
    if count != segments or len(coded) > 2 * length * segments + 2**16:
        raise ImageError("DICOM in disagreement: its run lengths are not for the pixels it names")
    bounds = [*starts[:count], len(coded)]
    planes = np.empty((samples, length, width), np.uint8)
    for segment in range(segments):
        plane = _unpack_runs(coded[bounds[segment] : bounds[segment + 1]], length)
        planes[segment // width, :, width - 1 - segment % width] = np.frombuffer(plane, np.uint8)
    dataset.PixelData = planes.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = False
    dataset.PlanarConfiguration = 1
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _unpack_runs(coded: bytes, length: int) -> bytes:
    """`length` bytes of a segment of run lengths."""
    result, at = bytearray(), 0
    while len(result) < length and at + 1 < len(coded):
        count = coded[at]
        if count < 128:
            result += coded[at + 1 : at + 2 + count]
            at += count + 2
        elif count > 128:
            result += coded[at + 1 : at + 2] * (257 - count)
            at += 2
        else:
            at += 1
    if len(result) < length:
        raise ImageError("image not readable: the run lengths end too early")
    return bytes(result[:length])


def _colour_to_gray(colours: np.ndarray) -> np.ndarray:
    """(H, W, 3) → (H, W); grey that is stored as colour stays as it is."""
    first = colours[..., 0]
    if all(np.array_equal(first, colours[..., other]) for other in (1, 2)):
        return first
    gray = np.zeros(first.shape, np.float32)
    for channel, weight in enumerate(LUMA):
        gray += colours[..., channel] * np.float32(weight)
    return gray


def _padding(stored: np.ndarray, dataset) -> np.ndarray:
    """Which pixels (H, W) are declared to be padding, and lie outside the values of all others."""
    none = np.zeros(stored.shape, dtype=bool)
    values = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = dataset.get(name)
        if isinstance(value, int):
            values.append(value % 2 ** (8 * stored.itemsize) if stored.dtype.kind == "u" else value)
    if not values:
        return none
    low, high = min(values), max(values)
    padding = (stored >= low) & (stored <= high)
    others = stored[~padding]
    is_outside = others.size and (others.min() > high or others.max() < low)
    return padding if is_outside else none


def _rescale(stored: np.ndarray, dataset) -> np.ndarray:
    """The modality's values, float32: by its lookup table, or slope and intercept."""
    if dataset.get("ModalityLUTSequence"):
        return _look_up(dataset.ModalityLUTSequence[0], stored).astype(np.float32)
    slope, intercept = (
        next(iter(_numbers(dataset, f"Rescale{name}")), math.nan) for name in ("Slope", "Intercept")
    )
    if slope in (0, 1) or math.isnan(slope + intercept):
        slope = 1
    if math.isnan(intercept):
        intercept = 0
    values = stored.astype(np.float32)
    values *= slope
    values += intercept
    return values


def _stretch(pixels: np.ndarray, drawn: np.ndarray, dataset) -> np.ndarray:
    """uint8: by the first window of use, else as wide as the drawing."""
    low, high = ends(pixels, drawn)
    plain = to_8bit(pixels, low, high)
    least = LEVELS_KEPT * len(np.unique(plain[drawn]))
    for window in _windows(dataset):
        edges = window(np.array([low, high]))
        gray = to_8bit(window(pixels), float(edges.min()), float(edges.max()))
        if len(np.unique(gray[drawn])) >= least:
            return gray
    return plain


def _windows(dataset) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """The file's VOI tables, then its windows, each as a function of the modality's values."""
    for item in dataset.get("VOILUTSequence") or []:
        yield partial(_look_up, item)
    kind = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    pairs = zip(*(_numbers(dataset, f"Window{name}") for name in ("Center", "Width")), strict=False)
    for center, width in pairs:
        if kind == "SIGMOID" and width > 0:
            yield partial(_sigmoid, center, width)
        elif width > 1:
            exact = kind == "LINEAR_EXACT"
            middle, half = (center, width / 2) if exact else (center - 0.5, (width - 1) / 2)
            yield partial(np.clip, min=middle - half, max=middle + half)


def _sigmoid(center: float, width: float, pixels: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip(-4 * (pixels - center) / width, -80, 80)))


def _look_up(item, pixels: np.ndarray) -> np.ndarray:
    """The values of a lookup table; what lies beyond its ends gets these."""
    count, first, _ = item.LUTDescriptor
    count, data = count or 2**16, item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, "u1" if len(data) in (count, count + 1) else "<u2")
    table = np.asarray(data)[:count]
    return table[np.clip(np.round(pixels).astype(np.int64) - first, 0, len(table) - 1)]


def _numbers(dataset, keyword: str) -> list[float]:
    """The numbers of a decimal string, with points or commas; nan for what is none."""
    value = dataset.get_item(keyword).value if keyword in dataset else None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    numbers = []
    for part in text.strip("\0 ").split("\\") if text else []:
        try:
            number = float(part.strip().replace(",", "."))
        except ValueError:
            number = math.nan
        numbers.append(number if math.isfinite(number) else math.nan)
    return numbers
