"""Bring your own table: names of columns, splits by patient, DICOM, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_data_prep_images import RAMP, write_dicom

from data_prep import folder
from data_prep.__main__ import main

ROWS = pd.DataFrame({
    "image": ["a.png", "b.dcm", "sub/a.png", "", "a.png", "a.png", "no.png"],
    "report": ["Clear  lungs.", "Edema.", "Normal.", "x y", " ", "No patient.", "No image."],
    "patient_id": ["1", "2", "1", "3", "4", "", "5"],
    "view": ["PA", "", "lateral", "", "", "", ""]})


@pytest.fixture
def pictures(tmp_path):
    """Three images, one of them DICOM, beside the table."""
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "sub" / "a.png"):
        Image.fromarray((RAMP * 255).astype(np.uint8)).save(path)
    write_dicom(tmp_path / "b.dcm", (1 - RAMP) * 4095, "MONOCHROME1")
    return tmp_path


def run(root, table, *options, name="table.csv"):
    """Write the table and run the command on it → exit status."""
    path = root / name
    if name.endswith("parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    return main(["csv", "--table", str(path), "--out", str(root / "out"), *options])


@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "table.csv.gz", "table.parquet"])
def test_rows_and_quarantine(pictures, name):
    assert run(pictures, ROWS, name=name) == 0
    table = folder.read(pictures / "out")
    assert list(table.report) == ["Clear lungs.", "Edema.", "Normal."]
    assert list(table["view"]) == ["frontal", "unknown", "lateral"]
    assert list(table.image_path) == ["images/0000000_a.png", "images/0000001_b.jpg", "images/0000002_a.png"]
    assert list(table.split) == [folder.split_of(patient) for patient in "121"] and table.study_id.nunique() == 3
    left_out = pd.read_csv(pictures / "out" / "quarantine.csv", keep_default_na=False)
    assert sorted(left_out.reason) == ["image file missing", "no image path", "no patient_id", "no text"]
    gray = np.asarray(Image.open(pictures / "out" / "images" / "0000001_b.jpg")).astype(int)
    assert gray.shape == RAMP.shape and gray[:, 0].mean() < 10 and gray[:, -1].mean() > 245


def test_other_names_own_split_sections_and_root(pictures):
    (pictures / "tables").mkdir()
    table = pd.DataFrame({"path": ["a.png", "b.dcm", "sub/a.png"], "subject": [7, 8, 9], "findings": ["F.", "F.", ""],
                          "concl": ["I.", "", "I."], "fold": ["train", "VAL", "test"], "labels": ["normal", "", "a|b"]})
    columns = ["image=path", "patient_id=subject", "impression=concl", "split=fold"]
    options = [word for column in columns for word in ("--column", column)]
    assert run(pictures, table, *options, "--images-root", str(pictures), name="tables/t.csv") == 0
    made = folder.read(pictures / "out")
    assert list(made.split) == ["train", "validate", "test"]
    assert list(made.report) == ["F. I.", "F.", "I."] and list(made.labels) == ["normal", "", "a|b"]
    about = folder.read_json(pictures / "out" / "dataset.json")
    assert about["licence"] == "not stated" and about["synthetic"] is False


@pytest.mark.parametrize(("change", "options", "message"), [
    (lambda t: t.drop(columns="patient_id"), (), "lacks the column(s) patient_id"),
    (lambda t: t.drop(columns="report"), (), "has no column report, findings or impression"),
    (lambda t: t, ("--column", "report=text"), "lacks the column(s) text"),
    (lambda t: t, ("--column", "picture=image"), "not picture"),
    (lambda t: t.assign(split="half"), (), "split 'half' is none of"),
    (lambda t: t.assign(split=["train", "train", "test", *["train"] * 4]), (), "patient 1 is in two splits"),
    (lambda t: t.assign(image="no.png"), (), "no image–report pair is left"),
    (lambda t: t, ("--images-root", "/no/such/place"), "does not exist")])
def test_refused(pictures, capsys, change, options, message):
    assert run(pictures, change(ROWS), *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (pictures / "out" / "manifest.parquet").exists()


def test_unreadable_table(pictures, capsys):
    (pictures / "t.parquet").write_bytes(b"PAR1 not")
    assert main(["csv", "--table", str(pictures / "t.parquet"), "--out", str(pictures / "out")]) == 2
    assert "is not a readable table" in capsys.readouterr().err
    assert not (pictures / "out").exists()
