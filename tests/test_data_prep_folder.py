"""The data set folder: written whole or not at all, checked when read, and the packed store derived from it."""

import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep import folder, pack, patients, sources, views
from data_prep.folder import DataError

FINISH = dict(
    funnel={"rows": 5, "pairs": 3},
    quarantine=[("x.jpg", "image file missing")],
    name="tiny",
    licence="MIT",
    synthetic=True,
    text_policy="findings+impression",
    source={"command": "test"},
)


def rows(out, count=3, size=(40, 30)):
    """Rows with images written for them."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    made = []
    for i in range(count):
        Image.fromarray(np.full(size, i + 5, np.uint8)).save(out / "images" / f"{i}.png")
        made.append(
            {
                "pair_id": f"p{i}",
                "study_id": f"s{i}",
                "patient_id": f"q{i}",
                "image_path": f"images/{i}.png",
                "view": "frontal",
                "report": f"report {i}",
                "findings": f"report {i}",
                "impression": "",
                "labels": "normal",
                "split": folder.SPLITS[i % 3],
            }
        )
    return made


def test_finish_then_read(tmp_path, capsys):
    folder.finish(tmp_path, rows(tmp_path)[::-1], **FINISH)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset.json",
        "funnel.json",
        "images",
        "manifest.parquet",
        "quarantine.csv",
    ]
    table = folder.read(tmp_path)
    assert list(table.columns) == folder.COLUMNS and list(table.pair_id) == ["p0", "p1", "p2"]
    about = json.loads((tmp_path / "dataset.json").read_text())
    assert about["synthetic"] is True and about["counts"]["split"] == {
        "train": 1,
        "validate": 1,
        "test": 1,
    }
    assert pd.read_csv(tmp_path / "quarantine.csv").to_dict("records") == [
        {"path": "x.jpg", "reason": "image file missing"}
    ]
    assert "-2" in capsys.readouterr().out


def test_sha256_follows_rows_and_images_not_their_order(tmp_path):
    made = rows(tmp_path)
    first = folder.content_sha256(tmp_path, pd.DataFrame(made))
    folder.finish(tmp_path, made[::-1], **FINISH)
    assert folder.read_json(tmp_path / "dataset.json")["sha256"] == first
    made[0]["labels"] = "opacity"
    assert folder.content_sha256(tmp_path, pd.DataFrame(made)) != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair_id": "p1"}, "pair_id twice"),
        ({"patient_id": "q1"}, "a patient in two splits"),
        ({"report": " "}, "without text"),
        ({"split": "dev"}, "none of"),
        ({"view": "side"}, "none of"),
        ({"image_path": "images/no.png"}, "missing"),
    ],
)
def test_finish_refuses_faulty_rows_and_writes_no_manifest(tmp_path, change, message):
    made = rows(tmp_path)
    made[0] |= change
    with pytest.raises(DataError, match=message):
        folder.finish(tmp_path, made, **FINISH)
    assert not (tmp_path / "manifest.parquet").exists()


def test_no_pair_left_says_why(tmp_path):
    with pytest.raises(DataError, match=r"rows 5, pairs 3.*image file missing 1.*--images-root"):
        folder.finish(tmp_path, [], **FINISH)


def test_full_target_leaves_nothing_half_written(tmp_path, monkeypatch):
    made = rows(tmp_path)

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        folder.finish(tmp_path, made, **FINISH)
    assert not [path for path in tmp_path.iterdir() if "manifest" in path.name]


def test_start_refuses_foreign_folders_and_changed_settings(tmp_path):
    folder.start(tmp_path / "new", {"size": 512})
    folder.start(tmp_path / "new", {"size": 512})
    with pytest.raises(DataError, match="size: 512 → 256"):
        folder.start(tmp_path / "new", {"size": 256})
    with pytest.raises(DataError, match="is not finished"):
        folder.read(tmp_path / "new")
    (tmp_path / "shard").mkdir()
    (tmp_path / "shard" / ".building.json.1a2b.tmp").touch()  # another shard starts at this moment
    folder.start(tmp_path / "shard", {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds other files"):
        folder.start(tmp_path / "other", {})
    with pytest.raises(DataError, match="is a file"):
        folder.start(tmp_path / "other" / "thesis.txt", {})
    with pytest.raises(DataError, match="no manifest"):
        folder.read(tmp_path / "other")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("findings+impression", "Clear lungs. Normal."),
        ("impression+findings", "Normal. Clear lungs."),
        ("findings", "Clear lungs."),
        ("impression", "Normal."),
        ("longest", "Clear lungs."),
    ],
)
def test_text_policies(policy, expected):
    assert sources.join_report(" Clear lungs.", "Normal. ", policy) == expected
    assert sources.join_report("", "", policy) == ""
    with pytest.raises(DataError, match="unknown text policy"):
        sources.join_report("", "", "shortest")


@pytest.mark.parametrize(
    ("draw", "split"),
    [
        (0, "train"),
        (int(0.8 * 2**64) - 2**12, "train"),
        (int(0.8 * 2**64) + 2**12, "validate"),
        (int(0.8 * 2**64), "validate"),
        (int(0.85 * 2**64), "validate"),
        (int(0.9 * 2**64), "test"),
        (int(0.9 * 2**64) - 2**12, "validate"),
        (int(0.9 * 2**64) + 2**12, "test"),
        (2**64 - 1, "test"),
    ],
)
def test_the_first_eight_bytes_of_the_hash_decide_the_split(monkeypatch, draw, split):
    class Digest:
        def __init__(self, content):
            assert content == b"0:p7"

        def digest(self):
            return draw.to_bytes(8) + bytes(24)

    monkeypatch.setattr(patients.hashlib, "sha256", Digest)
    assert patients.split_of("p7") == split


def test_split_of_is_80_10_10_and_fixed():
    counts = pd.Series([patients.split_of(str(i)) for i in range(5000)]).value_counts(
        normalize=True
    )
    assert abs(counts["train"] - 0.8) < 0.02 and abs(counts["test"] - 0.1) < 0.02
    assert patients.split_of("10000032") == patients.split_of("10000032")


@given(st.text())
def test_view_name_is_total(text):
    assert views.view_name(text) in folder.VIEWS


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("AP", "frontal"),
        ("PA LLD", "frontal"),
        ("LL", "lateral"),
        ("", "unknown"),
        ("XTABLE LATERAL", "lateral"),
        ("SWIMMERS", "unknown"),
        ("p.a.", "frontal"),
        ("Thorax a.p. liegend", "frontal"),
        ("seitlich", "lateral"),
        ("PA/LAT", "unknown"),
        ("PARTIAL", "unknown"),
    ],
)
def test_view_name(text, view):
    assert views.view_name(text) == view


def test_pack_letterboxes_in_row_order(tmp_path):
    folder.finish(tmp_path, rows(tmp_path, 70), **FINISH)  # more than one chunk
    assert pack.pack(tmp_path, 16) == tmp_path / "store" / "16.npy"
    opened, table = pack.open_store(tmp_path, 16), folder.read(tmp_path)
    store = np.array(opened)
    assert isinstance(opened, pack.Store)
    assert store.shape == (70, 16, 16) and store.dtype == np.uint8
    assert [int(image[8, 8]) for image in store] == [int(pair[1:]) + 5 for pair in table.pair_id]
    assert (store[:, :, [0, -1]] == 0).all() and (
        store[:, 0, 8] > 0
    ).all()  # 40 × 30: black left and right
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        ".lock",
        "16.json",
        "16.npy",
        "16.rows",
    ]


def test_pack_resumes_after_an_interruption(tmp_path, monkeypatch):
    folder.finish(tmp_path, rows(tmp_path, 150), **FINISH)
    chunk, calls = pack._pack_chunk, []

    def interrupted(path, size, count, first, *rest):
        calls.append(first)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return chunk(path, size, count, first, *rest)

    monkeypatch.setattr(pack, "_pack_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack.pack(tmp_path, 16)
    with pytest.raises(DataError, match="is missing"):
        pack.open_store(tmp_path, 16)
    pack.pack(tmp_path, 16)
    pack.pack(tmp_path, 16)
    assert calls == [0, 64, 64, 128]
    assert pack.open_store(tmp_path, 16)[:][:, 8, 8].min() == 5


def test_a_store_of_data_that_have_grown_reads_only_new_and_changed_images(tmp_path, monkeypatch):
    made = rows(tmp_path, 70)
    folder.finish(tmp_path, made[:66], **FINISH)
    pack.pack(tmp_path, 16)
    Image.new("L", (30, 40), 200).save(
        tmp_path / made[3]["image_path"]
    )  # another image under the same name
    read, seen = pack.decode_gray, []
    monkeypatch.setattr(
        pack, "decode_gray", lambda path, size: seen.append(Path(path).name) or read(path, size)
    )
    folder.finish(tmp_path, made[::-1], **FINISH)
    pack.pack(tmp_path, 16)
    assert sorted(seen) == sorted(Path(row["image_path"]).name for row in [made[3], *made[66:]])
    grown = np.array(pack.open_store(tmp_path, 16))
    for file in (tmp_path / "store").iterdir():
        file.unlink()
    pack.pack(tmp_path, 16)
    np.testing.assert_array_equal(grown, pack.open_store(tmp_path, 16))


def test_stale_store_and_full_disk_are_refused(tmp_path, monkeypatch):
    made = rows(tmp_path)
    folder.finish(tmp_path, made, **FINISH)
    pack.pack(tmp_path, 16)
    folder.finish(tmp_path, made[:2], **FINISH)
    with pytest.raises(DataError, match="packed from other data"):
        pack.open_store(tmp_path, 16)
    pack.pack(tmp_path, 16)
    assert len(pack.open_store(tmp_path, 16)) == 2
    monkeypatch.setattr(
        pack.shutil, "disk_usage", lambda path: pack.shutil._ntuple_diskusage(1, 1, 0)
    )
    with pytest.raises(DataError, match=r"needs .* GB"):
        pack.pack(tmp_path, 32)
    assert not list((tmp_path / "store").glob("32*"))


def test_a_manifest_whose_bytes_are_no_text_is_refused(tmp_path):
    folder.finish(tmp_path, rows(tmp_path), **FINISH)
    path = tmp_path / "manifest.parquet"
    pd.read_parquet(path).to_parquet(path, compression=None)
    content = path.read_bytes()
    assert b"images/0" in content
    path.write_bytes(content.replace(b"images/0", b"images/\xff"))
    with pytest.raises(DataError, match=r"not readable Parquet \(.*UTF8"):
        folder.read(tmp_path)
