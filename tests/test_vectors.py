"""Vectors as files: those of a run for anyone's code, and anyone's measured by the kit."""

import io
import zipfile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from test_cli import call

from data_prep import folder
from data_prep.commands import UsageError
from data_prep.errors import DataError
from data_prep.vectors import read_vectors
from mcr_lib import retrieval
from mcr_lib.data import PairData
from mcr_lib.evaluate import evaluate_embeddings, evaluate_run
from mcr_lib.features import encode_pairs
from mcr_lib.run import load_run

CPU = torch.device("cpu")


@pytest.mark.parametrize("end", ["npz", "parquet"])
def test_embed_writes_both_sides_with_ids_and_evaluate_reads_them(
    end, phantom, smoke_run, tmp_path, capsys
):
    out = tmp_path / f"vectors.{end}"
    status, said, err = call(
        capsys, "embed", "--run", smoke_run, "--data", phantom, "--out", out, "--split", "test"
    )
    assert status == 0 and "pairs" in said, err
    model, tokenizer = load_run(smoke_run)
    pairs = PairData(phantom, "test", tokenizer, model.config)
    features, about = read_vectors(out)
    for found, expected in zip(features, encode_pairs(model, pairs, CPU), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert about["texts"] == pairs.table.report.tolist()
    assert about["clusters"] == pairs.table.patient_id.tolist()
    names = {"pair_id", "study_id", "split"}
    if end == "npz":
        with np.load(out) as file:  # without pickle
            assert names < {*file.files} and file["pair_id"].tolist() == [*pairs.table.pair_id]
    else:
        table = pq.read_table(out)
        assert names < {*table.column_names}
        assert table["pair_id"].to_pylist() == pairs.table.pair_id.tolist()
    with pytest.raises(DataError, match="encoded alone"):  # the vectors are of whole reports
        evaluate_embeddings(out, "findings")
    for protocol in set(retrieval.PROTOCOLS) - {"findings"}:
        ours = evaluate_run(smoke_run, phantom, device=CPU, protocol=protocol)
        theirs = evaluate_embeddings(out, protocol)
        for key in ours["chance"]:
            assert theirs[key] == pytest.approx(ours[key], abs=1e-9), key
        assert theirs["interval"] == ours["interval"]
    status, said, _ = call(capsys, "evaluate", "--embeddings", out)
    assert status == 0 and "image_to_text_R@1" in said and "chance" in said


def test_all_splits_are_embedded_unless_one_is_named(phantom, smoke_run, tmp_path, capsys):
    out = tmp_path / "all.parquet"
    assert call(capsys, "embed", "--run", smoke_run, "--data", phantom, "--out", out)[0] == 0
    table = pd.read_parquet(out)
    manifest = folder.read(phantom)
    assert sorted(table.pair_id) == sorted(manifest.pair_id[manifest["view"] != "lateral"])


def arrays(count=12, width=5, **changes):
    """What an .npz of somebody's embeddings holds; a change to None takes one out."""
    random = np.random.default_rng(0)

    def unit():
        rows = random.normal(size=(count, width)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    made = {
        "image_features": unit(),
        "text_features": unit(),
        "texts": np.array([f"report {i % 9}" for i in range(count)]),
        "labels": np.array(["a|b", "b", ""] * (count // 3)),
        "patients": np.arange(count) // 2,
    } | changes
    return {name: values for name, values in made.items() if values is not None}


def test_anyone_s_vectors_are_measured_as_the_kit_s_are(tmp_path):
    given = arrays()
    np.savez(tmp_path / "a.npz", **given)
    found = evaluate_embeddings(tmp_path / "a.npz", "label-match")
    expected = retrieval.evaluate(
        torch.from_numpy(given["image_features"]),
        torch.from_numpy(given["text_features"]),
        texts=given["texts"].tolist(),
        labels=given["labels"].tolist(),
        clusters=[str(patient) for patient in given["patients"]],
        protocol="label-match",
    )
    assert found == expected | {"notes": []}


def test_labels_are_needed_for_label_match_only(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(labels=None))
    assert evaluate_embeddings(tmp_path / "a.npz")["rsum"] > 0
    with pytest.raises(DataError, match="label-match needs labels"):
        evaluate_embeddings(tmp_path / "a.npz", "label-match")


UNIT = arrays()["image_features"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"text_features": None}, "lacks text_features"),
        ({"patients": None, "texts": None}, "lacks texts, patients"),
        ({"image_features": UNIT[:7]}, "differ: one row per pair"),
        ({"image_features": UNIT[:, :3]}, "differ: one row per pair"),
        ({"image_features": UNIT[0]}, r"image_features is float32 \(5,\)"),
        ({"image_features": (100 * UNIT).astype(int)}, "expected floats"),
        ({"image_features": 3 * UNIT}, "expected unit vectors"),
        ({"image_features": np.where(UNIT > 0.5, np.nan, UNIT)}, "non-finite"),
        ({"texts": np.array(["a", "b"])}, r"texts has the shape \(2,\)"),
        ({"texts": np.array([""] * 12)}, "12 of 12 reports are empty"),
        ({"texts": np.array([["a"] * 12])}, "texts has the shape"),
        ({"texts": np.array(["a"] * 12, dtype=object)}, r"np.array\(…, dtype=str\)"),
        ({"patients": np.full(12, np.nan)}, "12 pairs have no patient"),
    ],
)
def test_vectors_that_do_not_fit_are_one_line(changes, words, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(DataError, match=words):
        evaluate_embeddings(tmp_path / "a.npz")
    status, _, err = call(capsys, "evaluate", "--embeddings", tmp_path / "a.npz")
    assert status == 2 and len(err.strip().splitlines()) == 1 and "Traceback" not in err


def not_a_zip(path):
    path.write_bytes(b"PK\3\4 no")


def an_array_alone(path):
    with path.open("wb") as file:
        np.save(file, UNIT)


def cut(path):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays())
    path.write_bytes(buffer.getvalue()[:-200])


def garbled(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("image_features.npy", b"\x93NUMPY\x01\x00nothing")


@pytest.mark.parametrize("write", [not_a_zip, an_array_alone, cut, garbled])
def test_a_damaged_file_is_one_line(write, tmp_path):
    write(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz") as error:
        evaluate_embeddings(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_other_mistakes_are_one_line(phantom, smoke_run, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", **arrays())
    embed = ("embed", "--run", smoke_run, "--data", phantom)
    for arguments, words in (
        (("evaluate",), "either --run or --embeddings"),
        (
            ("evaluate", "--run", smoke_run, "--embeddings", tmp_path / "a.npz"),
            "either --run or --embeddings",
        ),
        (("evaluate", "--embeddings", tmp_path / "a.npz", "--masked"), "need --run"),
        (("evaluate", "--embeddings", tmp_path / "a.csv"), ".npz or .parquet"),
        (("evaluate", "--embeddings", tmp_path / "b.npz"), "no such file"),
        (("evaluate", "--embeddings", tmp_path / "a.npz", "--protocol", "x"), "unknown protocol"),
        ((*embed, "--out", tmp_path / "a.csv"), ".npz or .parquet"),
        ((*embed, "--out", tmp_path / "a.npz", "--split", "tset"), "'tset'"),
        ((*embed, "--out", tmp_path / "no" / "folder.npz"), "folder.npz"),
    ):
        status, _, err = call(capsys, *arguments)
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, err
    with pytest.raises(UsageError):
        read_vectors(tmp_path / "a.txt")
