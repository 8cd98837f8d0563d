"""`mcr_lib.Encoder`: the same vectors as everywhere else in the kit, and one clear line for what it cannot encode."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import mcr_lib
from data_prep import folder
from data_prep.errors import DataError, KitError
from data_prep.gray import ImageError
from data_prep.run_files import RunError
from mcr_lib.data import PairData
from mcr_lib.features import encode_pairs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(smoke_run):
    return mcr_lib.Encoder(smoke_run, "cpu")


@pytest.fixture(scope="module")
def pairs(phantom, encoder):
    return PairData(phantom, "test", encoder.tokenizer, encoder.model.config)


@pytest.fixture(scope="module")
def file(phantom):
    return phantom / folder.read(phantom).image_path[0]


@pytest.fixture(scope="module")
def vector(encoder, file):
    return encoder.encode_images([file])


def test_it_gives_the_vectors_of_evaluation_and_search(phantom, encoder, pairs):
    """Both sides, in batches of any size, of any order of lengths."""
    images, texts = encode_pairs(encoder.model, pairs, CPU)
    files = [phantom / path for path in pairs.table.image_path]
    for size in (3, 1000):
        found = encoder.encode_images(files, batch_size=size)
        np.testing.assert_allclose(found, images, atol=1e-6)
        found = encoder.encode_texts(pairs.table.report, batch_size=size)
        np.testing.assert_allclose(found, texts, atol=1e-6)


def test_vectors_are_float32_unit_vectors_or_tensors_to_train_on(encoder, file):
    width = encoder.model.config.common_dim
    for found in (encoder.encode_images([file] * 3), encoder.encode_texts(["no effusion"] * 3)):
        assert isinstance(found, np.ndarray) and found.shape == (3, width)
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    tensors = encoder.encode_images([file], as_tensor=True)
    probe = torch.nn.Linear(width, 1)
    probe(tensors).sum().backward()  # which tensors of inference mode would refuse
    assert probe.weight.grad is not None and not tensors.requires_grad


def test_a_picture_may_be_a_path_a_pil_image_or_an_array(encoder, file, vector):
    image = Image.open(file)
    gray = np.asarray(image.convert("L"))
    rgb = np.repeat(gray[:, :, None], 3, axis=2)
    pictures = [file, str(file), image, image.convert("RGB"), gray, gray[:, :, None], rgb]
    for picture in pictures:
        np.testing.assert_allclose(encoder.encode_images([picture]), vector, atol=1e-6)
    np.testing.assert_allclose(
        encoder.encode_images(np.stack([gray, gray])), [*vector, *vector], atol=1e-6
    )


def test_a_picture_in_memory_is_read_as_its_file_is(encoder, file, tmp_path):
    """16 bits and rotation by EXIF, which a plain convert("L") would get wrong."""
    gray = np.asarray(Image.open(file).convert("L"))
    deep = tmp_path / "deep.png"
    Image.fromarray(gray.astype(np.uint16) * 200 + 9000).save(deep)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(gray).save(turned, exif=exif)
    for path in (deep, turned):
        found = encoder.encode_images([Image.open(path)])
        np.testing.assert_allclose(found, encoder.encode_images([path]), atol=1e-6)


@pytest.mark.parametrize(
    "pictures, kind, words",
    [
        ([], DataError, "the list of images is empty"),
        ("a.png", DataError, "give a list of images, not one str alone"),
        (Path("a.png"), DataError, "give a list of images"),
        (Image.new("L", (9, 9)), DataError, "give a list of images"),
        (7, DataError, "give a list of images"),
        (["missing.png"], ImageError, "missing.png"),
        ([7], ImageError, "image 0 is of type int: give paths, PIL images or uint8 arrays"),
        ([None], ImageError, "image 0 is of type NoneType"),
        ([Image.new("L", (64, 64))], ImageError, "image 0 .* blank"),
        ([np.zeros((64, 64), np.uint8)], ImageError, "image 0 .* blank"),
        ([np.zeros((64, 64))], ImageError, r"image 0 is an array of float64 \(64, 64\)"),
        ([np.zeros((3, 64, 64), np.uint8)], ImageError, r"expected uint8 of shape \(H, W\)"),
        ([np.zeros(64, np.uint8)], ImageError, "expected uint8"),
        ([np.zeros((0, 64), np.uint8)], ImageError, "expected uint8"),
        ([np.zeros((64, 4000), np.uint8)], ImageError, "image 0 .* too long"),
    ],
)
def test_what_is_no_picture_is_one_line(pictures, kind, words, encoder):
    with pytest.raises(kind, match=words) as error:
        encoder.encode_images(pictures)
    assert "\n" not in str(error.value)


def test_of_many_pictures_the_bad_one_is_named(encoder, file, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png cannot be used as an image"):
        encoder.encode_images([file, tmp_path / "text.png"])
    cut = Image.open(file)
    cut.close()
    with pytest.raises(ImageError, match="image 1 cannot be used as an image"):
        encoder.encode_images([file, cut])


@pytest.mark.parametrize(
    "texts, words",
    [
        ([], "the list of texts is empty"),
        (pd.Series([], dtype=str), "the list of texts is empty"),
        ("left effusion", "give a list of texts, not one str alone"),
        (None, "give a list of texts"),
        (["left effusion", 3], "text 1 is of type int: give strings"),
        (["left effusion", float("nan")], "text 1 is of type float"),
        (["left effusion", " "], "text 1 is empty"),
        (["日本語 日本語"], "words of text 0 are unknown to this model"),
    ],
)
def test_what_is_no_text_is_one_line(texts, words, encoder):
    with pytest.raises(KitError, match=words) as error:
        encoder.encode_texts(texts)
    assert "\n" not in str(error.value)


def test_a_long_text_is_read_up_to_the_model_s_length(encoder):
    long = "no pleural effusion. " * 200
    assert encoder.encode_texts([long]).shape == (1, encoder.model.config.common_dim)


def test_several_batches_show_progress_on_stderr_and_one_does_not(encoder, capsys):
    encoder.encode_texts(["no effusion"] * 3)
    assert capsys.readouterr() == ("", "")
    encoder.encode_texts(["no effusion"] * 3, batch_size=1)
    out, err = capsys.readouterr()
    assert out == "" and "encode" in err


def test_a_folder_that_is_neither_run_nor_export_is_said(tmp_path, encoder):
    with pytest.raises(RunError, match="neither a run folder"):
        mcr_lib.Encoder(tmp_path)
    with pytest.raises(RunError, match="neither a run folder"):
        mcr_lib.load(tmp_path / "nowhere")
