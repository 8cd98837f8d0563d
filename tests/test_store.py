"""The packed store under damage: what is read from it is right, or refused in one line; packing again makes it whole.

Not here: that packing is right at all, resumes and grows (test_data_prep_folder.py).
"""

import json
import os
import shutil
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep import pack
from data_prep.errors import DataError

SIZE, COUNT = 16, 70  # more than one chunk
TABLE = pd.DataFrame({"image_path": [f"images/{number}.png" for number in range(COUNT)]})


def draw(path, seed):
    """An image of its own, always of the same number of bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE), np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data set folder with its store, not to be changed, and the pixels."""
    directory = tmp_path_factory.mktemp("whole")
    (directory / "images").mkdir()
    for number, path in enumerate(TABLE.image_path):
        draw(directory / path, number)
    pack.pack(directory, SIZE, table=TABLE)
    return directory, np.array(pack.open_store(directory, SIZE, table=TABLE))


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it, times kept, and the pixels."""
    shutil.copytree(whole[0], tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy", whole[1]


@pytest.fixture
def read_images(monkeypatch):
    """The names of the images that are decoded from now on."""
    decode, seen = pack.decode_gray, []
    monkeypatch.setattr(pack, "decode_gray", lambda p, s: seen.append(p.name) or decode(p, s))
    return seen


def opened(directory, **options) -> np.ndarray:
    """As training opens it, every row read."""
    pack.pack(directory, SIZE, table=TABLE, **options)
    return np.array(pack.open_store(directory, SIZE, table=TABLE))


def replace(path, content: bytes, keep_time=False):
    about = path.stat()
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_row_that_is_damaged_is_packed_again_and_only_that(copy, read_images):
    directory, pixels = copy
    path = directory / "store" / f"{SIZE}.npy"
    content = bytearray(path.read_bytes())
    content[-3 * SIZE**2] ^= 1
    replace(path, bytes(content))
    assert (opened(directory) == pixels).all() and read_images == [f"{COUNT - 3}.png"]


def test_damage_that_nobody_can_see_is_refused_when_it_is_read_and_repaired_by_the_command(copy):
    directory, pixels = copy
    path = directory / "store" / f"{SIZE}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 128
    replace(path, bytes(content), keep_time=True)
    store = pack.open_store(directory, SIZE, table=TABLE)
    assert (store[:5] == pixels[:5]).all() and (store[[3, 1]] == pixels[[3, 1]]).all()
    for rows in (-1, slice(None), [0, COUNT - 1], np.array([COUNT - 1])):
        with pytest.raises(
            DataError, match=rf"damaged in row {COUNT - 1}: run python -m data_prep"
        ):
            store[rows]
    assert (opened(directory, thorough=True) == pixels).all()


@pytest.mark.parametrize("part", [0, 0.001, 0.5, 0.99])
def test_what_a_cut_store_still_has_is_kept(copy, read_images, part):
    directory, pixels = copy
    path = directory / "store" / f"{SIZE}.npy"
    os.truncate(path, int(part * path.stat().st_size))
    with pytest.raises(DataError, match="is damaged: run python -m data_prep pack"):
        pack.open_store(directory, SIZE, table=TABLE)
    assert (opened(directory) == pixels).all()
    left = (int(part * (128 + COUNT * SIZE**2)) - 128) // SIZE**2
    assert len(read_images) == COUNT - max(left, 0)


@pytest.mark.parametrize("change", ["reversed", "rotated", "zeros", "longer", "other type"])
def test_a_store_of_other_rows_is_put_right(copy, change):
    directory, pixels = copy
    changed = {
        "reversed": pixels[::-1],
        "rotated": np.roll(pixels, 1, axis=0),
        "zeros": np.zeros_like(pixels),
        "longer": np.concatenate([pixels, pixels]),
        "other type": pixels.astype(np.uint16),
    }[change]
    np.save(directory / "store" / f"{SIZE}.npy", changed)
    assert (opened(directory) == pixels).all()


@pytest.mark.parametrize("image_time", ["new", "kept"])
def test_an_image_of_equal_size_renewed_is_packed_anew(copy, read_images, image_time):
    directory, pixels = copy
    path = directory / TABLE.image_path[7]
    before = path.stat()
    draw(path, 1000)
    assert path.stat().st_size == before.st_size
    if image_time == "kept":  # only its own time says so, or nothing
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    renewed = opened(directory)
    assert read_images == ["7.png"] and (renewed[7] != pixels[7]).any()
    assert (np.delete(renewed, 7, 0) == np.delete(pixels, 7, 0)).all()


def test_files_that_were_only_copied_or_touched_are_not_packed_again(copy, read_images):
    directory, pixels = copy
    for file in directory.rglob("*"):
        os.utime(file, (1, 1))
    assert (opened(directory) == pixels).all() and read_images == []
    written = (directory / "store" / f"{SIZE}.json").stat().st_mtime_ns
    opened(directory)
    assert (directory / "store" / f"{SIZE}.json").stat().st_mtime_ns == written  # noted


def test_a_store_without_its_images_is_used(copy, read_images):
    """As on a node's own disk, to which only what training reads is copied."""
    directory, pixels = copy
    shutil.rmtree(directory / "images")
    assert (opened(directory) == pixels).all() and read_images == []
    os.truncate(directory / "store" / f"{SIZE}.npy", 1000)
    with pytest.raises(DataError, match="image file missing"):
        opened(directory)


def test_a_read_only_store_is_used_if_it_is_right(copy, monkeypatch):
    directory, pixels = copy
    os.utime(directory / "store" / f"{SIZE}.npy", (1, 1))
    monkeypatch.setattr(pack.os, "access", lambda path, mode: False)
    assert (opened(directory) == pixels).all()
    draw(directory / TABLE.image_path[7], 1000)
    with pytest.raises(DataError, match=r"is not current, and .* cannot be written"):
        opened(directory)


def test_a_store_of_the_earlier_format_is_packed_anew(copy):
    directory, pixels = copy
    store = directory / "store"
    (store / f"{SIZE}.rows").write_text(
        "".join(f"{json.dumps([path, 1, 2])}\n" for path in TABLE.image_path)
    )
    (store / f"{SIZE}.json").write_text(
        json.dumps({"rows": COUNT, "size": SIZE, "dataset_sha256": "0", "order_sha256": "0"})
    )
    np.save(store / f"{SIZE}.npy", np.zeros_like(pixels))
    assert (opened(directory) == pixels).all()


def test_a_manifest_in_another_order_gets_other_rows(copy):
    directory, pixels = copy
    turned = TABLE[::-1].reset_index(drop=True)
    with pytest.raises(DataError, match="packed from other data than the manifest"):
        pack.open_store(directory, SIZE, table=turned)
    pack.pack(directory, SIZE, table=turned)
    assert (np.array(pack.open_store(directory, SIZE, table=turned)) == pixels[::-1]).all()


def test_what_an_interrupted_run_left_is_checked_before_it_is_used(copy, monkeypatch):
    directory, pixels = copy
    shutil.rmtree(directory / "store")
    chunk = pack._pack_chunk

    def interrupted(*job):
        if job[3]:
            raise KeyboardInterrupt
        return chunk(*job)

    monkeypatch.setattr(pack, "_pack_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(directory)
    part = directory / "store" / f"{SIZE}.part"
    content = bytearray(part.read_bytes())
    content[500] ^= 1
    part.write_bytes(bytes(content))
    monkeypatch.setattr(pack, "_pack_chunk", chunk)
    assert (opened(directory) == pixels).all()


def test_a_line_with_a_checksum_but_no_row_is_not_believed(copy):
    directory, pixels = copy
    path = directory / "store" / f"{SIZE}.rows"
    for text in ("[1]", "{}", '["a", "b", "c", "d", "e"]', "[", "[[[[", "7"):
        line = f"{zlib.crc32(text.encode()):08x} {text}\n"
        path.write_text(line * COUNT)
        assert (opened(directory) == pixels).all()


@settings(max_examples=80, deadline=None)
@given(
    ending=st.sampled_from(["npy", "rows", "json"]),
    change=st.sampled_from(["flip", "cut", "drop", "double", "swap"]),
    keep_time=st.booleans(),
    at=st.floats(0, 1, exclude_max=True),
    to=st.floats(0, 1, exclude_max=True),
)
def test_no_damage_gives_other_pixels(whole, tmp_path_factory, ending, change, keep_time, at, to):
    """Right pixels or one line, whatever is damaged; after the command all is right."""
    directory = tmp_path_factory.mktemp("damaged") / "copy"
    shutil.copytree(whole[0], directory, copy_function=shutil.copy2)
    path = directory / "store" / f"{SIZE}.{ending}"
    content = path.read_bytes()
    first, last = sorted((int(at * len(content)), int(to * len(content))))
    damaged = {
        "flip": content[:first] + bytes([content[first] ^ 1 << (last % 8)]) + content[first + 1 :],
        "cut": content[:first],
        "drop": content[:first] + content[last:],
        "double": content[:last] + content[first:],
        "swap": content[last:] + content[:last],
    }[change]
    replace(path, damaged, keep_time)
    try:
        assert (opened(directory) == whole[1]).all()
    except DataError as error:
        assert "\n" not in str(error) and "run python -m data_prep pack" in str(error)
    assert (opened(directory, thorough=True) == whole[1]).all()
    shutil.rmtree(directory)
