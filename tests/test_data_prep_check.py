"""`check` on data set folders and downloads, and the command line's way of failing: one line, status 2."""

import subprocess
import sys

import pandas as pd
import pytest
from test_data_prep_folder import FINISH, rows

from data_prep import folder
from data_prep.__main__ import main


@pytest.fixture
def data_set(tmp_path):
    """A finished data set folder of three pairs."""
    folder.finish(tmp_path / "data", rows(tmp_path / "data"), **FINISH)
    return tmp_path / "data"


def test_whole_folder(data_set, capsys):
    assert main(["check", str(data_set)]) == 0
    out = capsys.readouterr().out
    assert "rows 3, studies 3, patients 3" in out and "no problems" in out and "agrees" in out
    assert "left out image file missing 1" in out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: (d / "images" / "1.png").unlink(),
            "1 image(s) missing or empty, first images/1.png",
        ),
        (lambda d: (d / "images" / "1.png").write_bytes(b""), "1 image(s) missing or empty"),
        (lambda d: (d / "images" / "1.png").write_bytes(b"else"), "SHA-256"),
        (lambda d: (d / "dataset.json").unlink(), "dataset.json is missing"),
        (lambda d: (d / "dataset.json").write_text("{"), "is not valid JSON"),
        (lambda d: (d / "manifest.parquet").write_bytes(b"PAR1"), "is not readable Parquet"),
        (
            lambda d: (
                pd.read_parquet(d / "manifest.parquet")
                .assign(patient_id="q")
                .to_parquet(d / "manifest.parquet")
            ),
            "a patient in two splits",
        ),
        (
            lambda d: (
                pd.read_parquet(d / "manifest.parquet")
                .drop(columns="view")
                .to_parquet(d / "manifest.parquet")
            ),
            "lacks the column(s) view",
        ),
    ],
)
def test_damaged_folder(data_set, capsys, damage, message):
    damage(data_set)
    assert main(["check", str(data_set)]) == 1
    assert message in capsys.readouterr().out


def test_unfinished_folder(tmp_path, capsys):
    folder.start(tmp_path / "out", {})
    assert main(["check", str(tmp_path / "out")]) == 1
    assert "is not finished" in capsys.readouterr().out


def test_mimic_download(tmp_path, capsys):
    (tmp_path / "files" / "p10" / "p10000032" / "s50000001").mkdir(parents=True)
    (tmp_path / "files" / "p10" / "p10000032" / "s50000001" / "a1.jpg").touch()
    pd.DataFrame(
        [["a1", "50000001", "10000032", "train"], ["a2", "50000001", "10000032", "train"]],
        columns=["dicom_id", "study_id", "subject_id", "split"],
    ).to_csv(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", index=False)
    assert main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    for line in (
        "mimic-cxr-2.0.0-metadata.csv.gz is missing — from MIMIC-CXR-JPG on PhysioNet (credentialed)",
        "expected  377,110   difference -377,109",
        "1 image(s) of the split table are not in files/",
        "mimic-cxr-reports.zip — from MIMIC-CXR on PhysioNet (credentialed)",
    ):
        assert line in out


def test_a_download_that_has_only_begun_is_told_what_is_missing(tmp_path, capsys):
    (tmp_path / "files").mkdir()
    assert main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "split.csv.gz is missing — from MIMIC-CXR-JPG" in out and "difference -377,110" in out


def test_mimic_reports(tmp_path, capsys):
    (tmp_path / "files" / "p10" / "p10000032").mkdir(parents=True)
    (tmp_path / "files" / "p10" / "p10000032" / "s50000001.txt").touch()
    assert main(["check", str(tmp_path)]) == 0
    assert "report files" in capsys.readouterr().out


def test_what_is_damaged_in_a_download_is_named(tmp_path, capsys):
    (tmp_path / "files").mkdir()
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(b"half a file")
    (tmp_path / "mimic-cxr-reports.zip").write_bytes(b"PK half a file")
    assert main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "split.csv.gz is not a readable table" in out and "mimic-cxr-reports.zip" in out
    openi = tmp_path / "openi"
    openi.mkdir()
    for number, name in [(1, "1.xml"), (2, "2.xml"), (2, "again.xml")]:
        (openi / name).write_text(f'<eCitation><uId id="CXR{number}"/></eCitation>')
    (openi / "half.xml").write_text("<eCitation>")
    for name in ("CXR1_1_IM-0001-3001.png", "1_IM-0001-3001.dcm.png", "holiday.png"):
        (openi / name).touch()
    assert main(["check", str(openi)]) == 1
    out = capsys.readouterr().out
    assert "1 report(s) without an image" in out
    for problem in (
        "again.xml: a second report of CXR2",
        "half.xml: not a readable Open-i report",
        "holiday.png: not named as an Open-i image",
        "another spelling of an image",
    ):
        assert problem in out, problem


def test_openi_download(tmp_path, capsys):
    (tmp_path / "ecgen-radiology").mkdir()
    (tmp_path / "ecgen-radiology" / "1.xml").write_text('<eCitation><uId id="CXR1"/></eCitation>')
    assert main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "expected    3,955   difference -3,954" in out and "NLMCXR_png.tgz" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "/no/such/folder"], "is not a folder"),
        (["check", "."], "is neither a data set folder"),
        (["chck", "."], "No such command"),
        (["check"], "Missing argument"),
        ([], "Missing command"),
        (["openi", "--bogus", "1"], "No such option"),
        (["pack", ".", "--size", "big"], "Invalid value"),
        (["openi", "--reports", "/no", "--images", ".", "--out", "x"], "does not exist"),
        (["openi", "--reports", ".", "--images", ".", "--out", "x"], "no .xml report"),
        (
            ["openi", "--reports", ".", "--images", ".", "--out", "x", "--text-policy", "all"],
            "Invalid value",
        ),
        (["pack", "."], "has no manifest.parquet"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert (
        captured.err.startswith("data_prep: ")
        and captured.err.count("\n") == 1
        and message in captured.err
    )
    assert list(tmp_path.iterdir()) == [] and captured.out == ""


def test_unwritable_target(data_set, capsys, monkeypatch):
    def read_only(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(
        type(data_set), "mkdir", read_only
    )  # root may write anywhere, so it is simulated
    (data_set / "t.csv").write_text("image,report,patient_id\nimages/0.png,Clear.,1\n")
    assert main(["csv", "--table", str(data_set / "t.csv"), "--out", str(data_set / "new")]) == 2
    assert (
        "new" in (error := capsys.readouterr().err)
        and "Permission denied" in error
        and error.count("\n") == 1
    )


def test_from_the_shell(data_set):
    for arguments, status in [
        (["check", str(data_set)], 0),
        (["check", "/no/such/folder"], 2),
        (["--help"], 0),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "data_prep", *arguments], capture_output=True, text=True
        )
        assert done.returncode == status and "Traceback" not in done.stderr
