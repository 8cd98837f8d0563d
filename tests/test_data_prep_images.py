"""Reading any image to 8-bit grayscale, the DICOM ways of saying what is white, and copying what is fine already."""

import errno
import os

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from data_prep import images, machine
from data_prep.images import ImageError
from data_prep.sources import Funnel

RAMP = np.linspace(0, 1, 64)[None].repeat(48, 0)  # black left, white right


def write_dicom(path, pixels, photometric="MONOCHROME2", bits=16, **tags):
    """A small valid DICOM file."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.PixelData = pixels.astype(np.uint16 if bits == 16 else np.uint8).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "LA", "I;16", "F"])
def test_any_mode_becomes_8_bit_gray(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(
            (RAMP * 4095).astype(np.uint16)
        )  # 12 bits in 16: Pillow's convert would clip
    elif mode == "F":
        image = Image.fromarray((RAMP * 1e4).astype(np.float32))
    else:
        image = Image.fromarray((RAMP * 255).astype(np.uint8)).convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    gray = np.asarray(images.read_gray(path))
    assert gray.dtype == np.uint8 and gray.shape == (48, 64)
    assert gray[:, :4].mean() < 20 and gray[:, -4:].mean() > 235


@pytest.mark.parametrize(
    ("photometric", "bits", "tags"),
    [
        ("MONOCHROME2", 16, {}),
        ("MONOCHROME2", 8, {}),
        ("MONOCHROME1", 16, {}),
        ("MONOCHROME1", 8, {}),
        ("MONOCHROME2", 16, {"WindowCenter": 2048, "WindowWidth": 4096}),
        ("MONOCHROME1", 16, {"WindowCenter": 2048, "WindowWidth": 4096}),
        ("MONOCHROME2", 16, {"RescaleSlope": 2, "RescaleIntercept": -1000}),
    ],
)
def test_dicom(tmp_path, photometric, bits, tags):
    values = RAMP if photometric == "MONOCHROME2" else 1 - RAMP  # MONOCHROME1: low is white
    path = write_dicom(
        tmp_path / "image.dcm", values * (4095 if bits == 16 else 255), photometric, bits, **tags
    )
    gray = np.asarray(images.read_gray(path)).astype(float)
    assert np.abs(gray - RAMP * 255).max() < 5


def test_dicom_window_selects_the_range(tmp_path):
    path = write_dicom(
        tmp_path / "noname", RAMP * 4095, WindowCenter=1024, WindowWidth=1024
    )  # known by its bytes
    gray = np.asarray(images.read_gray(path))
    assert (gray[:, :5] == 0).all() and (gray[:, 32:] == 255).all()


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "dicom", "missing"])
def test_bad_files_have_a_reason(tmp_path, damage):
    path = tmp_path / ("image.dcm" if damage == "dicom" else "image.jpg")
    Image.effect_noise((200, 200), 50).save(tmp_path / "good.jpg")
    good = (tmp_path / "good.jpg").read_bytes()
    if damage != "missing":
        path.write_bytes(
            {
                "truncated": good[: len(good) // 2],
                "text": b"hello",
                "empty": b"",
                "dicom": b"\0" * 128 + b"DICM" + good,
            }[damage]
        )
    reasons = {"missing": "missing", "dicom": "DICOM without an image"}
    with pytest.raises(ImageError, match=reasons.get(damage, "not readable")):
        images.read_gray(path)
    name, reason = images.store(path, tmp_path / "out" / "x", 512)
    assert name == "" and reason and not list(tmp_path.glob("out/*"))


def test_store_copies_what_is_fine_and_shrinks_the_rest(tmp_path):
    small = Image.effect_noise((300, 200), 50)
    small.save(tmp_path / "small.jpg")
    small.save(tmp_path / "small.png")
    Image.effect_noise((3000, 2000), 50).save(tmp_path / "large.jpg")
    small.convert("RGB").save(tmp_path / "colour.png")
    for source, target, size in [
        ("small.jpg", "a.jpg", (300, 200)),
        ("small.png", "b.png", (300, 200)),
        ("large.jpg", "c.jpg", (384, 256)),
        ("colour.png", "d.jpg", (300, 200)),
    ]:
        assert images.store(tmp_path / source, tmp_path / target[0], 256) == (target, "")
        with Image.open(tmp_path / target) as image:
            assert (image.mode, image.size) == ("L", size)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "small.jpg").read_bytes()
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "small.png").read_bytes()


def test_store_leaves_what_is_there(tmp_path):
    (tmp_path / "done.jpg").write_bytes(b"earlier")
    assert images.store(tmp_path / "no.jpg", tmp_path / "done", 64) == ("done.jpg", "")


def test_names_with_dots_keep_them(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.b.png")
    assert images.store(tmp_path / "a.b.png", tmp_path / "1.2.840", 64) == ("1.2.840.png", "")


def test_full_target_raises_and_leaves_nothing(tmp_path, monkeypatch):
    Image.effect_noise((300, 200), 50).save(tmp_path / "a.jpg")

    def full(source, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(images.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        images.store(tmp_path / "a.jpg", tmp_path / "out" / "a", 512)
    assert os.listdir(tmp_path / "out") == []


def test_letterbox_keeps_the_aspect_ratio():
    for width, height in [(31, 17), (17, 31), (20, 20), (1, 50)]:
        square = images.letterbox(Image.new("L", (width, height), 200), 32)
        filled = square > 0
        scale = 32 / max(width, height)
        assert square.shape == (32, 32)
        assert filled.any(0).sum() == max(1, round(width * scale))
        assert filled.any(1).sum() == max(1, round(height * scale))


def test_several_processes_give_the_order_of_one(tmp_path):
    jobs = [(i, 3) for i in range(600)]
    assert list(images.each(pow, jobs, 2, "pow")) == [i**3 for i in range(600)]


def test_store_all_quarantines_by_origin(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "good.png")
    funnel = Funnel()
    table = pd.DataFrame(
        {
            "file": [tmp_path / "good.png", tmp_path / "no.png"],
            "target": ["p1/good", "p1/no"],
            "origin": ["good.png", "no.png"],
        }
    )
    kept = images.store_all(table, tmp_path / "out", 64, 1, funnel)
    assert list(kept.image_path) == ["images/p1/good.png"]
    assert funnel.quarantine == [("no.png", f"image file missing: {tmp_path / 'no.png'}")]
    assert list(funnel.steps.values()) == [1]


@pytest.mark.parametrize(
    "syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"]
)
def test_compressed_dicom_gives_the_pixels_of_the_uncompressed(tmp_path, syntax):
    import gdcm

    write_dicom(tmp_path / "plain.dcm", RAMP * 4095, "MONOCHROME2")
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(tmp_path / "compressed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    plain, compressed = (
        np.asarray(images.read_gray(tmp_path / name)) for name in ("plain.dcm", "compressed.dcm")
    )
    assert (plain == compressed).all()


def test_a_corrected_image_is_stored_again_and_an_old_one_is_not(tmp_path):
    source, target = tmp_path / "a.png", tmp_path / "out" / "a"
    Image.linear_gradient("L").save(source)
    name, _ = images.store(source, target, 64)
    os.utime(source, (1, 1))
    Image.new("L", (8, 8), 99).save(target.with_name(name))  # stands for what was stored
    images.store(source, target, 64)
    assert Image.open(target.with_name(name)).getpixel((0, 0)) == 99
    Image.linear_gradient("L").rotate(180).save(source)
    later = target.with_name(name).stat().st_mtime + 5
    os.utime(source, (later, later))
    images.store(source, target, 64)
    assert Image.open(target.with_name(name)).getpixel((0, 0)) > 200


def test_where_the_system_does_not_say_the_cores_are_the_machines(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS has none
    assert machine.cores() == os.cpu_count()
