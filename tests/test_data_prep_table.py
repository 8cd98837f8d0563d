"""Bring your own table: names of columns, splits by patient, DICOM, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_data_prep_images import RAMP, write_dicom

from data_prep import folder, images, patients, sources
from data_prep.__main__ import main

ROWS = pd.DataFrame(
    {
        "image": ["a.png", "b.dcm", "sub/a.png", "", "a.png", "a.png", "no.png"],
        "report": ["Clear  lungs.", "Edema.", "Normal.", "x y", " ", "No patient.", "No image."],
        "patient_id": ["1", "2", "1", "3", "4", "", "5"],
        "view": ["PA", "", "lateral", "", "", "", ""],
    }
)


@pytest.fixture
def pictures(tmp_path):
    """Three images, one of them DICOM, beside the table."""
    (tmp_path / "sub").mkdir()
    for path, pixels in [
        (tmp_path / "a.png", RAMP),
        (tmp_path / "sub" / "a.png", RAMP[::-1, ::-1]),
    ]:
        Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
    write_dicom(tmp_path / "b.dcm", (1 - RAMP) * 4095, "MONOCHROME1")
    return tmp_path


def run(root, table, *options, name="table.csv"):
    """Write the table and run the command on it → exit status."""
    path = root / name
    if name.endswith("parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(
            path,
            index=False,
            sep="\t" if ".tsv" in name else ";" if name.startswith("excel") else ",",
        )
    return main(["csv", "--table", str(path), "--out", str(root / "out"), *options])


def run_file(root, name, *options):
    """The command on a table that is there → exit status."""
    return main(["csv", "--table", str(root / name), "--out", str(root / "out"), *options])


@pytest.mark.parametrize(
    "name", ["table.csv", "table.tsv", "table.csv.gz", "table.parquet", "excel.csv"]
)
def test_rows_and_quarantine(pictures, name):
    assert run(pictures, ROWS, name=name) == 0
    table = folder.read(pictures / "out").sort_values("report", ignore_index=True)
    assert list(table.report) == ["Clear lungs.", "Edema.", "Normal."]
    assert list(table["view"]) == ["frontal", "unknown", "lateral"]
    assert [path.split("_")[1] for path in table.image_path] == ["a.png", "b.jpg", "a.png"]
    assert (
        list(table.split) == [patients.split_of(patient) for patient in "121"]
        and table.study_id.nunique() == 3
    )
    left_out = pd.read_csv(pictures / "out" / "quarantine.csv", keep_default_na=False)
    assert sorted(reason.split(":")[0] for reason in left_out.reason) == [
        "image file missing",
        "no image path",
        "no patient_id",
        "no text",
    ]
    gray = np.asarray(Image.open(pictures / "out" / table.image_path[1])).astype(int)
    assert gray.shape == RAMP.shape and gray[:, 0].mean() < 10 and gray[:, -1].mean() > 245


def test_a_table_that_grows_shrinks_and_turns_is_read_again_but_not_its_images(
    pictures, monkeypatch, capsys
):
    assert run(pictures, ROWS[:2]) == 0
    before = folder.read(pictures / "out").set_index("pair_id")
    stored, opened = images.store, []

    def store(source, target, short_side):
        opened.extend([] if [*target.parent.glob(f"{target.name}.*")] else [source.name])
        return stored(source, target, short_side)

    monkeypatch.setattr(images, "store", store)
    same_image = ROWS[:1].assign(report="Another opinion.", patient_id="1")
    assert run(pictures, pd.concat([ROWS[2:3], same_image, ROWS[:2]])) == 0
    after = folder.read(pictures / "out").set_index("pair_id")
    assert opened == ["a.png"] and len(after) == 4 and after.image_path.nunique() == 3
    assert before.image_path.isin(after.image_path).all()
    assert list(after.loc[before.index[before.report == "Edema."]].report) == ["Edema."]
    assert (
        run(pictures, ROWS[1:2], "--remove") == 0
    )  # patients who are no longer in the table leave no image behind
    assert [path.name for path in (pictures / "out" / "images").iterdir()] == [
        Path(folder.read(pictures / "out").image_path[0]).name
    ]
    assert run(pictures, ROWS, "--size", "64") == 2 and "size: 512 → 64" in capsys.readouterr().err


def test_other_names_own_split_sections_and_root(pictures):
    (pictures / "tables").mkdir()
    table = pd.DataFrame(
        {
            "path": ["a.png", "b.dcm", "sub/a.png"],
            "subject": [7, 8, 9],
            "findings": ["F.", "F.", ""],
            "concl": ["I.", "", "I."],
            "fold": ["train", "VAL", "test"],
            "labels": ["normal", "", "a|b"],
        }
    )
    columns = ["image=path", "patient_id=subject", "impression=concl", "split=fold"]
    options = [word for column in columns for word in ("--column", column)]
    assert run(pictures, table, *options, "--images-root", str(pictures), name="tables/t.csv") == 0
    made = folder.read(pictures / "out").sort_values("patient_id")
    assert list(made.split) == ["train", "validate", "test"]
    assert list(made.report) == ["F. I.", "F.", "I."] and list(made.labels) == ["normal", "", "a|b"]
    about = folder.read_json(pictures / "out" / "dataset.json")
    assert about["licence"] == "not stated" and about["synthetic"] is False


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda t: t.drop(columns="patient_id"),
            (),
            "has no patient_id, and no image of it is DICOM",
        ),
        (lambda t: t.drop(columns="report"), (), "has no column report, findings or impression"),
        (lambda t: t, ("--column", "report=text"), "lacks the column(s) text"),
        (lambda t: t, ("--column", "picture=image"), "not picture"),
        (lambda t: t.assign(split="half"), (), "split 'half' is none of"),
        (
            lambda t: t.assign(split=["train", "train", "test", *["train"] * 4]),
            (),
            "patient 1 is in two splits",
        ),
        (lambda t: t.assign(image="no.png"), (), "no image–report pair is left"),
        (lambda t: t, ("--images-root", "/no/such/place"), "does not exist"),
    ],
)
def test_refused(pictures, capsys, change, options, message):
    assert run(pictures, change(ROWS), *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("data_prep: ") and message in error
    assert not (pictures / "out" / "manifest.parquet").exists()


def test_unreadable_table(pictures, capsys):
    (pictures / "t.parquet").write_bytes(b"PAR1 not")
    assert (
        main(["csv", "--table", str(pictures / "t.parquet"), "--out", str(pictures / "out")]) == 2
    )
    assert "is not a readable table" in capsys.readouterr().err
    assert not (pictures / "out").exists()


def test_words_for_nothing_are_nothing(pictures, capsys):
    rows = ROWS.iloc[:3].assign(
        report=["Clear lungs.", "NULL", "nan"], patient_id=["1", "2", "3"], labels="None"
    )
    assert run(pictures, pd.concat([rows, rows[:1].assign(patient_id="<NA>")])) == 0
    table = folder.read(pictures / "out")
    assert list(table.report) == ["Clear lungs."] and list(table.labels) == [""]
    assert "no patient_id" in capsys.readouterr().out


def test_a_missing_value_does_not_change_the_other_patients(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"patient_id": [123, None], "age": [60.5, 61]}).to_parquet(path)
    table = sources.read_table(path, ["patient_id"], "")
    assert list(table.patient_id) == ["123", ""] and list(table.age) == ["60.5", "61.0"]


def test_a_table_in_latin_1_is_refused_with_the_way_out(pictures, capsys):
    (pictures / "table.csv").write_bytes(
        "image,report,patient_id\na.png,Ergüsse,1\n".encode("cp1252")
    )
    assert (
        main(["csv", "--table", str(pictures / "table.csv"), "--out", str(pictures / "out")]) == 2
    )
    said = capsys.readouterr().err
    assert "is not UTF-8 text (line 2)" in said and "cp1252" in said and "iconv" not in said
    assert not (pictures / "out").exists()
    assert run_file(pictures, "table.csv", "--encoding", "cp1252") == 0
    assert list(folder.read(pictures / "out").report) == ["Ergüsse"]


def test_a_wrong_root_names_the_path_that_was_tried(pictures, capsys):
    (pictures / "elsewhere").mkdir()
    assert run(pictures, ROWS[:1], "--images-root", str(pictures / "elsewhere")) == 2
    assert str(pictures / "elsewhere" / "a.png") in capsys.readouterr().err
    kept = (pictures / "out" / "quarantine.csv").read_text()
    assert "a.png" in kept and str(pictures) not in kept  # which others are given
