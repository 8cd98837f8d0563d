"""What DICOM tags give: a folder without a table, and what a table leaves open."""

import json
import zlib

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian
from test_data_prep_images import RAMP, write_dicom

from data_prep import folder, tags
from data_prep.__main__ import main

TAGS = ("PatientID", "Modality", *tags.VIEW_TAGS)


def draw(path, number, **given):
    """A DICOM radiograph that shows something of its own."""
    pixels = np.roll(RAMP, 3 * number, axis=1) * 4000
    given = {"Modality": "DX", "PatientID": f"P{number}"} | given
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_dicom(path, pixels, **given)


def of_code(meaning):
    """A ViewCodeSequence."""
    item = pydicom.Dataset()
    item.CodeMeaning = meaning
    return [item]


def left_out(out):
    table = pd.read_csv(out / "quarantine.csv", keep_default_na=False)
    return dict(zip(table.path, table.reason, strict=True))


@pytest.fixture
def archive(tmp_path):
    """Two studies with a report, and what lies in archives beside them."""
    root = tmp_path / "archive"
    first = {"StudyInstanceUID": "1.2.3", "AccessionNumber": "A1", "StudyDate": "20200102"}
    draw(root / "s1" / "IM1", 1, PatientID="007 ", ViewPosition="PA", **first)
    draw(root / "s1" / "IM2", 2, PatientID="007", ViewCodeSequence=of_code("left lateral"), **first)
    copy = pydicom.dcmread(root / "s1" / "IM1")
    (root / "s2").mkdir()
    copy.save_as(root / "s2" / "again.dcm")
    draw(root / "s2" / "x.dcm", 3, Modality="CR", StudyInstanceUID="1.2.4", AccessionNumber="A2")
    draw(root / "s3" / "x.dcm", 4, StudyInstanceUID="1.2.5", AccessionNumber="A3")
    draw(root / "s4" / "ct", 5, Modality="CT", StudyInstanceUID="1.2.4")
    draw(root / "s4" / "none", 6, Modality="", StudyInstanceUID="1.2.4")
    draw(root / "s4" / "nobody", 7, PatientID="", StudyInstanceUID="1.2.4", AccessionNumber="A2")
    (root / "s4" / "notes.pdf").write_bytes(b"%PDF")
    return root


REASONS = {
    "s2/again.dcm": "the same SOPInstanceUID as: s1/IM1",
    "s3/x.dcm": "no report of its study",
    "s4/ct": "DICOM of another modality: CT, not CR or DX",
    "s4/none": "DICOM of another modality: none, not CR or DX",
    "s4/nobody": "no patient_id",
    "s4/notes.pdf": "no DICOM file, or a damaged one",
}


def test_a_folder_becomes_pairs_by_its_tags_and_a_table_of_reports(archive, tmp_path, capsys):
    table = pd.DataFrame(
        {
            "acc": ["A1", "1.2.4", "A9"],
            "text": ["HISTORY: cough. FINDINGS: Clear.\nIMPRESSION: Normal.", "Edema.", "Unused."],
            "labels": ["normal", "edema", ""],
        }
    )
    table.to_csv(tmp_path / "reports.csv", index=False)
    out = tmp_path / "out"
    options = ["--reports", str(tmp_path / "reports.csv"), "--keep", "StudyDate"]
    options += ["--column", "study_id=acc", "--column", "report=text", "--out", str(out)]
    assert main(["dicom", str(archive), *options]) == 0
    made = folder.read(out).sort_values("source_path", ignore_index=True)
    assert list(made.source_path) == ["s1/IM1", "s1/IM2", "s2/x.dcm"]
    assert list(made.patient_id) == ["007", "007", "p3"]
    assert list(made.study_id) == ["1.2.3", "1.2.3", "1.2.4"]
    assert list(made["view"]) == ["frontal", "lateral", "unknown"]
    assert list(made.report) == ["Clear. Normal.", "Clear. Normal.", "Edema."]
    assert list(made.labels) == ["normal", "normal", "edema"]
    assert list(made.StudyDate) == ["20200102", "20200102", ""]
    assert left_out(out) == REASONS
    assert "1  reports of studies that have no image here" in capsys.readouterr().out
    assert main(["check", str(out)]) == 0


def test_the_text_files_of_the_folder_are_its_reports(archive, tmp_path):
    (archive / "s1" / "1.2.3.txt").write_text("Clear lungs.")
    (archive / "A2.TXT").write_bytes("Edema, größer.".encode("utf-16"))
    (archive / "A3.txt").write_bytes("Erguß".encode("cp1252"))
    out = tmp_path / "out"
    command = ["dicom", str(archive), "--out", str(out)]
    assert main(command) == 0
    assert sorted(set(folder.read(out).report)) == ["Clear lungs.", "Edema, größer."]
    why = "report not UTF-8 text: name its encoding by --encoding"
    assert left_out(out) == REASONS | {"A3.txt": why}
    (archive / "A3.txt").write_text("Now readable.")
    (archive / "s1" / "IM1").rename(archive / "s1" / "moved")  # the same image in another place
    before = {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    assert main(command) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    assert len(folder.read(out)) == 4 and before.items() <= after.items()


def test_reports_of_a_study_that_differ_are_not_chosen_from(archive, tmp_path):
    reports = pd.DataFrame(
        {"study_id": ["A1", "A1", "A2", "A2"], "report": ["Yes.", "No.", "Same.", "Same."]}
    )
    reports.to_csv(tmp_path / "reports.csv", index=False)
    command = ["dicom", str(archive), "--out", str(tmp_path / "out")]
    assert main([*command, "--reports", str(tmp_path / "reports.csv")]) == 0
    assert list(folder.read(tmp_path / "out").report) == ["Same."]
    assert left_out(tmp_path / "out")["s1/IM2"] == "several reports of its study that differ"


def test_a_delta_is_added_by_what_its_images_are_called_inside(archive, tmp_path):
    for number, day in enumerate(("monday", "tuesday")):
        study = {"StudyInstanceUID": f"1.{number}", "PatientID": "same"}
        draw(tmp_path / day / "IM1", number, **study)
        (tmp_path / day / f"1.{number}.txt").write_text(f"Of {day}.")
    command = ["--out", str(tmp_path / "out")]
    assert main(["dicom", str(tmp_path / "monday"), *command]) == 0
    assert main(["dicom", str(tmp_path / "tuesday"), "--append", *command]) == 0
    assert sorted(folder.read(tmp_path / "out").report) == ["Of monday.", "Of tuesday."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "holds no report: give --reports FILE"),
        (["--keep", "Weather"], "--keep Weather: no keyword of DICOM"),
        (["--keep", "view"], "--keep view: the manifest has a column of that name"),
        (["--column", "report=text"], "is a folder of text files"),
        (["--reports", "s4/notes.pdf"], "is a PDF, not a table"),
        (["--reports", "ct.csv"], "no image–report pair is left"),
        (["--reports", "empty"], "holds no report"),
        (["--reports", "no_id.csv"], "lacks the column(s) study_id"),
    ],
)
def test_refused_in_one_line(archive, tmp_path, capsys, options, message):
    (archive / "empty").mkdir()
    (archive / "ct.csv").write_text("study_id,report\nA7,Nobody.\n")
    (archive / "no_id.csv").write_text("id,report\nA1,Clear.\n")
    options = [str(archive / o) if (archive / o).exists() else o for o in options]
    assert main(["dicom", str(archive), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("data_prep: ") and message in error
    assert not (tmp_path / "out" / "manifest.parquet").exists()


# ------------------------------------------------------------------------------------------------------ the headers


def test_a_header_is_read_however_it_is_written(tmp_path):
    """With and without preamble, deflated, in another character set, and never past the pixels."""
    given = {"SpecificCharacterSet": "ISO_IR 100", "PatientID": "Müller", "ViewPosition": "LL"}
    plain = draw(tmp_path / "plain", 1, **given)
    expected = {"PatientID": "Müller", "Modality": "DX", "ViewPosition": "LL"}
    bare = tmp_path / "bare"
    bare.write_bytes(plain.read_bytes()[132:])
    dataset = pydicom.dcmread(plain)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated", enforce_file_format=True)
    cut = tmp_path / "cut"
    cut.write_bytes(plain.read_bytes()[:-1000])
    (tmp_path / "no padding").write_bytes(plain.read_bytes()[128:])
    for name in ("plain", "bare", "no padding", "deflated", "cut"):
        found = tags.read_tags(tmp_path / name, TAGS)
        assert found == expected | {"ViewCodeSequence": ""}, name
        assert tags.view_of(found) == "lateral"


def test_what_is_no_dicom_file_has_no_tags(tmp_path):
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "junk").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)) * 9)
    (tmp_path / "empty").write_bytes(b"")
    bomb = draw(tmp_path / "bomb", 1).read_bytes()
    bomb = bomb.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")[:360]
    (tmp_path / "bomb").write_bytes(bomb + zlib.compress(b"\0" * 10**8)[2:])
    for name in ("a.png", "junk", "empty", "missing", ".", "bomb"):
        found = tags.read_tags(tmp_path / name, TAGS)
        assert found is None or set(found.values()) == {""}, name


# ---------------------------------------------------------------------------------------- what a table leaves open


@pytest.fixture
def mixed(tmp_path):
    """A table's images: four DICOM files and a PNG."""
    draw(tmp_path / "a.dcm", 1, PatientID="7", ViewPosition="PA")
    draw(tmp_path / "b2", 2, PatientID="8", ViewPosition="LATERAL")
    draw(tmp_path / "c.dcm", 3, PatientID="9", ViewPosition="AP")
    draw(tmp_path / "d.dcm", 4, PatientID="")
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(tmp_path / "e.png")
    return pd.DataFrame({"image": ["a.dcm", "b2", "c.dcm", "d.dcm", "e.png"], "report": "A text."})


def make(root, table):
    table.to_csv(root / "table.csv", index=False)
    assert main(["csv", "--table", str(root / "table.csv"), "--out", str(root / "out")]) == 0
    made = folder.read(root / "out").set_index("source_path")
    about = json.loads((root / "out" / "dataset.json").read_text())
    return made, about["notes"]


def test_patient_and_view_are_the_tags_where_the_table_has_no_such_column(mixed, tmp_path):
    made, notes = make(tmp_path, mixed)
    assert dict(made.patient_id) == {"a.dcm": "7", "b2": "8", "c.dcm": "9"}
    assert dict(made["view"]) == {"a.dcm": "frontal", "b2": "lateral", "c.dcm": "frontal"}
    assert left_out(tmp_path / "out") == {"d.dcm": "no patient_id", "e.png": "no patient_id"}
    assert notes == {
        "rows whose patient is the DICOM tags'": 3,
        "rows whose view is the DICOM tags'": 3,
    }


def test_a_table_comes_first_and_what_it_disagrees_in_is_counted(mixed, tmp_path, capsys):
    mixed["patient_id"] = ["7.0", "nan", "99", "10", "11"]
    mixed["view"] = ["lateral", "XR CHEST 2 VIEWS", "", "PA", ""]
    made, notes = make(tmp_path, mixed)
    assert list(made.patient_id[["a.dcm", "b2", "c.dcm"]]) == ["7", "8", "99"]
    views = ["lateral", "lateral", "frontal", "frontal", "unknown"]
    assert list(made["view"][["a.dcm", "b2", "c.dcm", "d.dcm", "e.png"]]) == views
    said = capsys.readouterr().out
    for kind in ("patient", "view"):
        counts = f"rows of another {kind} in the table than in the DICOM tags: the table's counts"
        assert notes[counts] == 1 and f"1  {counts}" in said
    assert notes["rows whose patient is the DICOM tags'"] == 1
    assert notes["rows whose view is the DICOM tags'"] == 2
