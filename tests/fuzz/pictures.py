"""Pictures: PNG, JPEG, TIFF and DICOM in every form that they take, and damaged.

A valid one must give the drawing: upright, and as like the original as its format allows.
"""

import io
import random
import warnings
from abc import abstractmethod

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

from data_prep import images
from data_prep.images import ImageError

from . import Kind, Loss
from .damage import damage

TURNED = {  # how a picture lies in a file that says so
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def drawing(rng: random.Random) -> np.ndarray:
    """(H, W) in [0, 1], smooth, not symmetric."""
    height, width = rng.randint(24, 96), rng.randint(24, 96)
    y, x = np.mgrid[0:height, 0:width] / 96
    wave = np.sin(y * rng.uniform(2, 9) + rng.random()) * np.cos(x * rng.uniform(2, 9))
    shape = wave + rng.uniform(0.5, 2) * x + rng.uniform(0.5, 2) * y**2
    return (shape - shape.min()) / np.ptp(shape)


class Pictures(Kind):
    """What all formats share: half of the cases are valid, half are damaged."""

    suffix = ""
    alike = 0.95  # correlation of a valid picture with its drawing, at least

    @abstractmethod
    def make(self, rng: random.Random, shown: np.ndarray) -> bytes:
        """A valid file that shows the drawing."""

    def case(self, rng: random.Random) -> bool:
        shown, path = drawing(rng), self.folder / f"x{self.suffix}"
        content = self.make(rng, shown)
        valid = rng.random() < 0.5
        path.write_bytes(content if valid else damage(rng, content))
        try:
            seen = np.asarray(images.read_gray(path))
        except ImageError as error:
            if valid:
                raise Loss(f"a valid picture is refused: {error}") from None
            return True
        if valid and seen.shape != shown.shape:
            raise Loss(f"{shown.shape} became {seen.shape}")
        if valid and not np.corrcoef(seen.ravel(), shown.ravel())[0, 1] > self.alike:
            raise Loss(f"alike by {np.corrcoef(seen.ravel(), shown.ravel())[0, 1]:.3f} only")
        return False


class Png(Pictures):
    name, cases, suffix = "picture, PNG", 15_000, ".png"

    def make(self, rng, shown):
        kind = rng.choice(("L", "RGB", "RGBA", "LA", "P", "I;16"))
        if kind == "I;16":
            image = Image.fromarray((rng.choice((1023, 4095, 65535)) * shown).astype(np.uint16))
        else:
            image = Image.fromarray((255 * shown).astype(np.uint8)).convert(kind)
        return save(rng, image, "PNG", compress_level=1)


class Jpeg(Pictures):
    name, cases, suffix = "picture, JPEG", 10_000, ".jpg"

    def make(self, rng, shown):
        image = Image.fromarray((255 * shown).astype(np.uint8))
        kind = rng.choice(("L", "RGB", "CMYK"))
        progressive = rng.random() < 0.3
        return save(rng, image.convert(kind), "JPEG", quality=90, progressive=progressive)


class Tiff(Pictures):
    name, cases, suffix = "picture, TIFF", 10_000, ".tif"

    def make(self, rng, shown):
        kind = rng.choice(("L", "RGB", "P", "I;16", "F", "NaN"))
        if kind == "I;16":
            image = Image.fromarray((rng.choice((1023, 4095, 65535)) * shown).astype(np.uint16))
        elif kind in ("F", "NaN"):
            pixels = (rng.choice((1, 4095, 1e-3)) * shown).astype(np.float32)
            if kind == "NaN":
                pixels[0, : rng.randint(1, 3)] = np.nan
            image = Image.fromarray(pixels)
        else:
            image = Image.fromarray((255 * shown).astype(np.uint8)).convert(kind)
        compression = rng.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits"))
        return save(rng, image, "TIFF", compression=compression)


def save(rng: random.Random, image: Image.Image, form: str, **options) -> bytes:
    """The file's bytes, lying as one of the eight ways that EXIF knows."""
    turn = rng.choice((1, 1, *TURNED))
    if turn > 1:
        image = image.transpose(TURNED[turn])
        exif = Image.Exif()
        exif[images.ORIENTATION] = turn
        options |= {"tiffinfo": {images.ORIENTATION: turn}} if form == "TIFF" else {"exif": exif}
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


class Dicom(Pictures):
    name, cases, suffix = "picture, DICOM", 15_000, ".dcm"

    def make(self, rng, shown):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are odd by intention
            return dicom(rng, shown)


def dicom(rng: random.Random, shown: np.ndarray) -> bytes:
    """A DX file whose header is odd in one way or another, and whose drawing is all there."""
    signed, bits = rng.random() < 0.3, rng.choice((8, 16))
    depth = 2 ** (bits - signed) - 1 if bits == 8 else rng.choice((1023, 4095, 16383))
    inverted = rng.random() < 0.3
    values = ((1 - shown if inverted else shown) * 0.8 + 0.1) * depth
    pixels = values.astype({8: np.int8, 16: np.int16}[bits] if signed else f"u{bits // 8}")
    made = pydicom.Dataset()
    made.Modality = rng.choice(("DX", "CR", "DX", ""))
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PixelRepresentation = 1, int(signed)
    made.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    if rng.random() < 0.3:
        pixels = _pad(rng, made, pixels)
    if rng.random() < 0.2:
        made.RescaleSlope = rng.choice((1, 2, 0.5, 0))
        made.RescaleIntercept = rng.choice((0, -1000, 0.5))
    if rng.random() < 0.5:
        _add_window(rng, made, depth)
    return _write(rng, made, pixels)


def _pad(rng: random.Random, made: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    """The last pixel is padding, of a value that no other has."""
    value = int(np.iinfo(pixels.dtype).min)
    made.add_new(0x00280120, "SS" if made.PixelRepresentation else "US", value)
    padded = pixels.copy()
    padded[-1, -1] = value
    return padded


def _add_window(rng: random.Random, made: pydicom.Dataset, depth: int) -> None:
    """One that has no use, or shows the whole drawing."""
    windows = [(0, 1), (-5 * depth, 10), (depth / 2, 2 * depth), (depth / 2, depth)]
    if "RescaleSlope" in made:
        windows = windows[:2]
    center, width = rng.choice(windows)
    made.WindowCenter, made.WindowWidth = round(center, 1), round(width, 1)


def _write(rng: random.Random, made: pydicom.Dataset, pixels: np.ndarray) -> bytes:
    """With or without preamble; plain, implicit or as run lengths."""
    content = pixels.tobytes()
    made.PixelData = content + bytes(len(content) % 2)
    made["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    syntax = rng.choice((ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless))
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid(
        entropy_srcs=["x"]
    )
    if syntax == RLELossless:
        made.PixelData = encapsulate([_run_lengths(pixels)])
        made["PixelData"].VR = "OB"
        made["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()[132:] if rng.random() < 0.2 else file.getvalue()


def _run_lengths(pixels: np.ndarray) -> bytes:
    """Each byte plane as literal runs of at most 128."""
    segments = []
    for byte in reversed(range(pixels.itemsize)):
        plane = pixels.view(np.uint8).reshape(-1, pixels.itemsize)[:, byte].tobytes()
        parts = (plane[at : at + 128] for at in range(0, len(plane), 128))
        segments.append(b"".join(bytes([len(part) - 1]) + part for part in parts))
    starts = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    header = np.zeros(16, "<u4")
    header[: len(segments) + 1] = [len(segments), *starts]
    return header.tobytes() + b"".join(segments)


KINDS = [Png, Jpeg, Tiff, Dicom]
