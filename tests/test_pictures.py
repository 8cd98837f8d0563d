"""What `read_gray` promises for each kind of picture, and that nothing of more than its size is decoded.

Every odd file is written beside a plain one of the same drawing: it must give the same picture, or be refused by name.
"""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from data_prep import gray, images
from data_prep.errors import KitError
from data_prep.images import ImageError

ROWS, COLUMNS = np.mgrid[0:96, 0:80]
DRAWING = (1400 + 10 * ROWS + 4 * COLUMNS + 60 * np.sin(ROWS / 9)).astype(
    np.uint16
)  # 12 bits, not symmetric
CORNER = np.s_[:24, :24]  # where padding goes


def dataset(pixels, syntax=ExplicitVRLittleEndian, **tags) -> pydicom.Dataset:
    """A DX image in memory; `tags` overrules what follows from the pixels."""
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    bits = 8 * pixels.itemsize
    made.Modality, made.Rows, made.Columns = "DX", *pixels.shape[:2]
    made.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelData = pixels.tobytes()
    for tag, value in tags.items():
        setattr(made, tag, value)
    return made


def save(made: pydicom.Dataset, path, force=True):
    made.save_as(path, enforce_file_format=force)
    return path


def read(path) -> np.ndarray:
    return np.asarray(images.read_gray(path)).astype(int)


@pytest.fixture
def plain(tmp_path):
    """The drawing as a plain file gives it."""
    return read(save(dataset(DRAWING), tmp_path / "plain.dcm"))


# ------------------------------------------------------------------------------- DICOM: the drawing, always


def without_preamble(path):
    path.write_bytes(path.read_bytes()[132:])


def without_padding(path):
    path.write_bytes(path.read_bytes()[128:])


def with_comma(path):
    """Decimal commas, which pydicom does not write."""
    path.write_bytes(path.read_bytes().replace(b"2000.5", b"2000,5").replace(b"2400.5", b"2400,5"))


WHOLE = {  # the drawing with nothing covered
    "a window of width 1": ({"WindowCenter": 0, "WindowWidth": 1}, None),
    "a window beside the drawing": ({"WindowCenter": 128, "WindowWidth": 256}, None),
    "a window that leaves a few levels": ({"WindowCenter": 1900, "WindowWidth": 40}, None),
    "a negative window": ({"WindowCenter": 1900, "WindowWidth": -400}, None),
    "a useless window, then a good one": (
        {"WindowCenter": [0, 1500], "WindowWidth": [1, 4000]},
        None,
    ),
    "a window over everything": ({"WindowCenter": 32768, "WindowWidth": 65536}, None),
    "decimal commas": ({"WindowCenter": "2000.5", "WindowWidth": "2400.5"}, with_comma),
    "a slope": ({"RescaleSlope": 2, "RescaleIntercept": -1000}, None),
    "a slope of nothing": ({"RescaleSlope": 0, "RescaleIntercept": 0}, None),
    "no preamble": ({}, without_preamble),
    "DICM at the very beginning": ({}, without_padding),
    "no modality": ({"Modality": ""}, None),
    "CR": ({"Modality": "CR"}, None),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_odd_headers_give_the_drawing(tmp_path, plain, kind):
    tags, change = WHOLE[kind]
    path = save(dataset(DRAWING, **tags), tmp_path / "odd")
    if change:
        change(path)
    assert np.abs(read(path) - plain).max() <= 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_neither_preamble_nor_file_meta(tmp_path, plain, syntax):
    made = dataset(DRAWING)
    del made.file_meta
    is_implicit = syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "bare", made, implicit_vr=is_implicit, little_endian=True)
    assert (read(tmp_path / "bare") == plain).all()


PADDING = {  # value, the pixels' type, tags
    "declared, the least": (-32768, np.int16, {"PixelPaddingValue": -32768}),
    "declared, near the drawing": (1000, np.uint16, {"PixelPaddingValue": 1000}),
    "declared, the most": (4095, np.uint16, {"PixelPaddingValue": 4095}),
    "a declared range": (
        -2000,
        np.int16,
        {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1000},
    ),
    "declared, as the other sign": (65535, np.uint16, {"PixelPaddingValue": 65535}),
    "not declared, the least": (-32768, np.int16, {}),
    "not declared, nothing": (0, np.uint16, {}),
    "declared, with a slope": (
        -32768,
        np.int16,
        {"PixelPaddingValue": -32768, "RescaleSlope": 2, "RescaleIntercept": 0},
    ),
    "declared, with a wide window": (
        -32768,
        np.int16,
        {"PixelPaddingValue": -32768, "WindowCenter": 0, "WindowWidth": 65536},
    ),
}


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("kind", PADDING)
def test_padding_is_black_and_takes_no_grey_levels(tmp_path, kind, photometric):
    value, dtype, tags = PADDING[kind]
    padded = DRAWING.astype(dtype)
    padded[CORNER] = value
    seen = read(
        save(dataset(padded, PhotometricInterpretation=photometric, **tags), tmp_path / "x")
    )
    drawn = np.ones(DRAWING.shape, dtype=bool)
    drawn[CORNER] = False
    low, high = np.percentile(DRAWING[drawn], gray.CUT)
    expected = np.clip((DRAWING - low) / (high - low), 0, 1) * 255
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(seen - expected)[drawn].max() <= 1.5
    if tags or photometric == "MONOCHROME2":  # undeclared, it is the lowest value and no more
        assert (seen[CORNER] == 0).all()


def test_padding_declared_within_the_drawing_is_no_hole(tmp_path, plain):
    value = int(DRAWING[50, 40])
    assert (read(save(dataset(DRAWING, PixelPaddingValue=value), tmp_path / "x")) == plain).all()


def test_a_white_mark_stays_white(tmp_path):
    marked = DRAWING.copy()
    marked[CORNER] = 4095
    seen = read(save(dataset(marked), tmp_path / "x"))
    assert (seen[CORNER] == 255).all() and len(np.unique(seen)) > 100


def test_a_palette_and_colours_give_the_grey(tmp_path, plain):
    codes = ((DRAWING - 1200) // 8).astype(np.uint8)
    ramp = np.linspace(65535, 0, 256).astype(np.uint16)  # falling: a code is not its brightness
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = ramp.tobytes()
    path = save(dataset(255 - codes, **tags), tmp_path / "palette")
    assert np.abs(read(path) - plain).max() <= 3
    colours = np.repeat(codes[..., None], 3, axis=2)
    tags = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    assert np.abs(read(save(dataset(colours, **tags), tmp_path / "rgb")) - plain).max() <= 3


def test_a_voi_table_is_used_and_a_useless_one_is_not(tmp_path, plain):
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = (
        [4096, 0, 16],
        (1000 * np.sqrt(np.arange(4096))).astype("<u2").tobytes(),
    )
    item["LUTData"].VR = "OW"
    bright = read(save(dataset(DRAWING, VOILUTSequence=[item]), tmp_path / "x"))
    assert (
        bright.mean() > plain.mean() + 3 and np.corrcoef(bright.ravel(), plain.ravel())[0, 1] > 0.9
    )
    item.LUTData = bytes(8192)
    assert (read(save(dataset(DRAWING, VOILUTSequence=[item]), tmp_path / "x")) == plain).all()


def likeness(seen: np.ndarray, expected: np.ndarray) -> float:
    return np.corrcoef(seen.ravel(), expected.ravel())[0, 1]


def test_a_modality_table_comes_before_the_stretch(tmp_path):
    item = pydicom.Dataset()
    table = np.linspace(65535, 0, 4096).astype("<u2")  # falling
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [4096, 0, 16], table.tobytes(), "US"
    item["LUTData"].VR = "OW"
    seen = read(save(dataset(DRAWING, ModalityLUTSequence=[item]), tmp_path / "x"))
    assert likeness(seen, DRAWING) < -0.999


def test_a_sigmoid_window_is_followed(tmp_path):
    tags = {"WindowCenter": 1800, "WindowWidth": 600, "VOILUTFunction": "SIGMOID"}
    seen = read(save(dataset(DRAWING, **tags), tmp_path / "x"))
    expected = 1 / (1 + np.exp(-4 * (DRAWING - 1800.0) / 600))
    assert likeness(seen, expected) > 0.9999 > likeness(seen, DRAWING) + 0.001


def test_true_colours_become_their_brightness(tmp_path):
    """Red rises and green, which counts twice as much, falls."""
    codes = ((DRAWING - 1200) // 8).astype(np.uint8)
    colours = np.stack([codes, 255 - codes, np.zeros_like(codes)], axis=2)
    tags = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    seen = read(save(dataset(colours, **tags), tmp_path / "x"))
    assert likeness(seen, 0.299 * codes + 0.587 * (255.0 - codes)) > 0.999


def test_a_number_that_is_none_is_no_window(tmp_path, plain):
    path = save(dataset(DRAWING, WindowCenter="2000.5", WindowWidth="2400.5"), tmp_path / "x")
    path.write_bytes(path.read_bytes().replace(b"2400.5", b"broad."))
    assert (read(path) == plain).all()


# ------------------------------------------------------------------------------- DICOM: refused by name

REFUSED = {
    "a CT slice": (dict(Modality="CT"), "another modality: CT"),
    "several frames": (dict(NumberOfFrames=3), "several frames: 3"),
    "no pixels": (dict(Rows=0), "without pixels"),
    "64 bits a pixel": (dict(BitsAllocated=64), "another pixel format"),
    "too many pixels": (dict(Rows=30000, Columns=30000), "too large: 30000 × 30000"),
    "a strip": (dict(Rows=2, Columns=3840), "too long"),
    "fewer pixels than it says": (dict(Rows=97), "not readable"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_dicom_is_refused_by_name(tmp_path, kind):
    tags, reason = REFUSED[kind]
    path = save(dataset(DRAWING, **tags), tmp_path / "x.dcm")
    with pytest.raises(ImageError, match=reason):
        images.read_gray(path)
    assert images.store(path, tmp_path / "out" / "x", 64)[0] == ""


# --------------------------------------------------------------------------------------- other pictures


@pytest.mark.parametrize("turn", range(2, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_a_picture_is_upright_wherever_its_rotation_is_noted(tmp_path, turn, suffix):
    upright = Image.fromarray((DRAWING / 16).astype(np.uint8)).resize((80, 96))
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[turn]
    exif = Image.Exif()
    exif[images.ORIENTATION] = turn
    path = tmp_path / f"x.{suffix}"
    note = {"tiffinfo": {images.ORIENTATION: turn}} if suffix == "tif" else {"exif": exif}
    upright.transpose(turned).save(path, quality=95, **note)
    assert images.read_gray(path).size == (80, 96)
    assert np.abs(read(path) - np.asarray(upright)).max() <= 4
    name, _ = images.store(path, tmp_path / "out" / "x", 512)
    with Image.open(tmp_path / "out" / name) as stored:
        assert stored.size == (80, 96) and not stored.getexif()


def tiff(path, pixels, photometric=1, bits=16, kind=1):
    """A TIFF of one strip as scanners write it; Pillow itself cannot write WhiteIsZero in 16 bits."""
    height, width = pixels.shape
    entries = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, height),
        (279, 4, pixels.nbytes),
        (339, 3, kind),
    ]
    table = struct.pack("<H", len(entries))
    for tag, form, value in entries:
        table += struct.pack("<HHII", tag, form, 1, value)
    head = b"II*\0" + struct.pack("<I", 8 + pixels.nbytes)
    path.write_bytes(head + pixels.tobytes() + table + bytes(4))
    return path


def test_16_bit_white_is_zero_is_positive(tmp_path, plain):
    assert np.abs(read(tiff(tmp_path / "a.tif", DRAWING)) - plain).max() <= 1
    assert np.abs(read(tiff(tmp_path / "b.tif", 4095 - DRAWING, photometric=0)) - plain).max() <= 1


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, -3.4e38, -9999])
def test_fractions_without_a_value_leave_the_drawing(tmp_path, hole):
    pixels = (DRAWING / 4096).astype(np.float32)
    pixels[CORNER] = hole
    seen = read(tiff(tmp_path / "x.tif", pixels, bits=32, kind=3))
    assert (seen[CORNER] == 0).all()
    seen[CORNER] = 128
    assert seen.min() == 0 and seen.max() == 255 and len(np.unique(seen)) > 200


NOISE = np.random.default_rng(0)
BLANK = {
    "black": np.zeros((64, 64), np.uint8),
    "white": np.full((64, 64), 255, np.uint8),
    "nearly one grey": np.full((64, 64), 90, np.uint8) + NOISE.integers(0, 3, (64, 64), np.uint8),
    "noise of a few levels": (90 + NOISE.integers(0, 6, (64, 64))).astype(np.uint8),
    "a few specks": np.where(NOISE.random((64, 64)) < 0.002, 255, 0).astype(np.uint8),
    "16 bits of one value": np.full((64, 64), 5000, np.uint16),
    "16 bits of noise": (5000 + NOISE.integers(0, 30, (64, 64))).astype(np.uint16),
}


@pytest.mark.parametrize("suffix", ["png", "tif", "dcm"])
@pytest.mark.parametrize("kind", BLANK)
def test_blank_pictures_are_refused(tmp_path, kind, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "dcm":
        save(dataset(BLANK[kind]), path)
    else:
        Image.fromarray(BLANK[kind]).save(path)
    with pytest.raises(ImageError, match="image blank"):
        images.read_gray(path)
    assert images.store(path, tmp_path / "out" / "x", 32) == ("", gray.BLANK)


@settings(max_examples=50, deadline=None)
@given(low=st.integers(0, 60000), span=st.integers(64, 5000), high=st.booleans())
def test_a_faint_drawing_is_no_blank(low, span, high):
    """Whatever part of 16 bits it uses."""
    faint = low + np.round((DRAWING - DRAWING.min()) / np.ptp(DRAWING) * span)
    pixels = np.clip(faint, 0, 65535).astype(np.uint16)
    if np.ptp(pixels) >= 64:
        seen = gray.deep_to_8bit(pixels, 16)
        assert seen.min() == 0 and seen.max() == 255


def test_uploads_queries_and_preparation_give_the_same_reason(tmp_path):
    path = tmp_path / "blank.png"
    Image.new("L", (64, 64)).save(path)
    reason = images.store(path, tmp_path / "x", 64)[1]
    for ask in (
        lambda: images.read_query(path),
        lambda: images.read_upload("blank.png", path.read_bytes()),
    ):
        with pytest.raises(KitError, match=f"blank.png cannot be used as an image: {reason}"):
            ask()


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a dead link", "postscript"])
def test_what_is_no_picture_is_neither_waited_for_nor_run(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a dead link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n")
    with pytest.raises(ImageError, match="not readable" if kind == "postscript" else "not a file"):
        images.read_gray(path)


# ---------------------------------------------------------------------------------------------- bombs


def png_of(width, height, lines: bytes) -> bytes:
    """A PNG whose header says so much, whatever lines follow."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def deflated(body: bytes, times: int) -> bytes:
    """A deflated DICOM file whose data set is `body`, so many times."""
    file, packer = io.BytesIO(), zlib.compressobj(wbits=-zlib.MAX_WBITS)
    meta = dataset(DRAWING, DeflatedExplicitVRLittleEndian).file_meta
    file.write(bytes(128) + b"DICM")
    pydicom.filewriter.write_file_meta_info(file, meta)
    packed = b"".join(packer.compress(body) for _ in range(times))
    return file.getvalue() + packed + packer.flush()


def compressed(syntax, frame: bytes, **tags) -> bytes:
    """A DICOM file with this frame."""
    made = dataset(DRAWING, syntax, PixelData=encapsulate([frame]), **tags)
    made["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def run_lengths(pixels: np.ndarray) -> bytes:
    """16-bit pixels as literal runs of two bytes, the most wasteful way."""
    segments = []
    for byte in (1, 0):
        plane = pixels.view(np.uint8).reshape(-1, 2)[:, byte].tobytes()
        segments.append(b"".join(b"\x01" + plane[at : at + 2] for at in range(0, len(plane), 2)))
    starts = [64, 64 + len(segments[0])]
    return struct.pack("<16I", 2, *starts, *[0] * 13) + b"".join(segments)


def jpeg_header(width, height) -> bytes:
    content = io.BytesIO()
    Image.new("L", (16, 16)).save(content, "JPEG")
    small, large = struct.pack(">HH", 16, 16), struct.pack(">HH", height, width)
    return content.getvalue().replace(
        b"\xff\xc0\x00\x0b\x08" + small, b"\xff\xc0\x00\x0b\x08" + large
    )


def many_scans() -> bytes:
    """A small progressive JPEG whose last scan comes again and again."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((500, 500)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + 200 * scan + content[-2:]


def bombs() -> dict[str, tuple[bytes, str]]:
    """Name → content, the reason it is refused for."""
    runs = struct.pack("<16I", 2, 64, 64, *[0] * 13) + bytes([129, 7]) * 10**7
    return {
        "pixels.png": (png_of(30000, 30000, bytes(10**6)), "too large: at most 50 million"),
        "many_pixels.png": (png_of(9000, 9000, bytes(10**6)), "too large: 9000 × 9000"),
        "scans.jpg": (many_scans(), "too large: a JPEG of more than 100 scans"),
        "strip.png": (png_of(100, 70000, bytes(10**6)), "too long: 100 × 70000"),
        "deflated.dcm": (deflated(bytes(10**7), 60), "too large: inflates to more"),
        "runs.dcm": (compressed(RLELossless, runs), "run lengths are not for the pixels"),
        "few_runs.dcm": (
            compressed(RLELossless, runs[:200], Rows=7000, Columns=7000),
            "run lengths end too early",
        ),
        "jpeg.dcm": (
            compressed(JPEGBaseline8Bit, jpeg_header(40000, 40000), BitsAllocated=8, BitsStored=8),
            "disagreement: header 80 × 96, compressed pixels 40000 × 40000",
        ),
    }


MEASURE = """
import re, sys, time
from pathlib import Path
from data_prep import images
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        images.read_gray(path)
        print("accepted")
    except images.ImageError as error:
        print(error)
    assert time.process_time() - start < 10, path
status = Path("/proc/self/status").read_text()  # what `resource` says would be the parent's too
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024)
"""


def test_bombs_are_refused_before_they_go_off(tmp_path):
    made = bombs()
    for name, (content, _) in made.items():
        (tmp_path / name).write_bytes(content)
    with (tmp_path / "long.tif").open("wb") as file:
        file.truncate(gray.MAX_BYTES + 1)  # sparse
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / n) for n in [*made, "long.tif"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *reasons, peak = done.stdout.splitlines()
    expected = [*(reason for _, reason in made.values()), "a file of 200 MB"]
    for found, reason in zip(reasons, expected, strict=True):
        assert reason in found
    assert int(peak) < 1000, "MB"
    assert "Traceback" not in done.stderr


def test_run_lengths_give_the_pixels(tmp_path, plain):
    (tmp_path / "x.dcm").write_bytes(compressed(RLELossless, run_lengths(DRAWING)))
    assert (read(tmp_path / "x.dcm") == plain).all()


def test_deflated_gives_the_pixels(tmp_path, plain):
    file = io.BytesIO()
    made = dataset(DRAWING)
    del made.file_meta
    pydicom.dcmwrite(file, made, implicit_vr=False, little_endian=True)
    (tmp_path / "x.dcm").write_bytes(deflated(file.getvalue(), 1))
    assert (read(tmp_path / "x.dcm") == plain).all()
