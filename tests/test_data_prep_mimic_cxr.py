"""MIMIC-CXR as downloaded, on a small tree of the official layout written here (no patient's data)."""

import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import folder, images, mimic_cxr, pack
from data_prep.__main__ import main

# (subject, study, dicom, split, ViewPosition, code meaning, description)
IMAGES = [
    ("10000032", "50000001", "a1", "train", "PA", "", ""),
    ("10000032", "50000001", "a2", "train", "LATERAL", "", ""),
    ("10000032", "50000002", "a3", "train", "AP", "", ""),
    ("10000764", "50000003", "b1", "validate", "", "antero-posterior", ""),
    ("10000764", "50000004", "b2", "validate", "", "", "CHEST (PORTABLE AP)"),
    ("10000764", "50000004", "b3", "validate", "", "", "CHEST (PA AND LAT)"),
    ("11000000", "50000005", "c1", "test", "AP", "", ""),
    ("11000000", "50000006", "c2", "test", "PA", "", ""),  # image without a report
    ("11000000", "50000007", "c3", "test", "PA", "", ""),  # truncated image
    ("11000000", "50000008", "c4", "test", "PA", "", ""),  # image file missing
    ("11000000", "50000009", "c5", "test", "LAO", "", ""),
]
REPORTS = {
    ("10000032", "50000001"): "    FINAL REPORT\n FINDINGS:\n Clear ___.\n\n IMPRESSION: Normal.",
    ("10000032", "50000002"): "Findings: Edema.\nimpression: Worse.",
    (
        "10000764",
        "50000003",
    ): " WET READ: ___\n Collapse.\n\n   FINAL REPORT\n FINDINGS/IMPRESSION: Small effusion.",
    (
        "10000764",
        "50000004",
    ): "   FINAL REPORT\n PORTABLE CHEST\n\n The tube ends above the carina.",
    ("11000000", "50000005"): " INDICATION: ___",  # no usable text
    ("11000000", "50000007"): " IMPRESSION: Broken image.",
    ("11000000", "50000008"): " IMPRESSION: Missing image.",
    ("11000000", "50000009"): " IMPRESSION: Oblique.",
    ("12000000", "50000010"): " IMPRESSION: A study without images.",
}
LEFT_OUT = {
    "a2": "view is lateral",
    "b3": "view position missing",
    "c1": "no text by the policy findings+impression",
    "c2": "report file missing",
    "c3": "image not readable",
    "c4": "image file missing",
    "c5": "view is unknown: LAO",
    "s50000010": "report without an image",
}


@pytest.fixture
def root(tmp_path):
    """jpg/ and txt/ as the two downloads are laid out."""
    for subject, study, dicom, *_ in IMAGES:
        place = tmp_path / "jpg" / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
        place.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(int(study) + ord(dicom[1])).integers(
            0, 255, (90, 70), np.uint8
        )
        Image.fromarray(noise).resize((700, 900)).save(place / f"{dicom}.jpg")
        if dicom == "c3":
            (place / "c3.jpg").write_bytes((place / "c3.jpg").read_bytes()[:2000])
        if dicom == "c4":
            (place / "c4.jpg").unlink()
    columns = [
        "subject_id",
        "study_id",
        "dicom_id",
        "split",
        "ViewPosition",
        "ViewCodeSequence_CodeMeaning",
        "PerformedProcedureStepDescription",
    ]
    table = pd.DataFrame(IMAGES, columns=columns)
    stem = str(tmp_path / "jpg" / "mimic-cxr-2.0.0-")
    table[["dicom_id", "study_id", "subject_id", "split"]].to_csv(
        f"{stem}split.csv.gz", index=False
    )
    table.drop(columns="split").to_csv(f"{stem}metadata.csv.gz", index=False)
    pd.DataFrame(
        [
            ["10000032", "50000001", 1.0, None, None],
            ["10000032", "50000002", None, 1.0, 1.0],
            ["10000764", "50000003", None, -1.0, 0.0],
            ["10000764", "50000004", 1.0, None, 1.0],
        ],
        columns=["subject_id", "study_id", "No Finding", "Edema", "Support Devices"],
    ).to_csv(f"{stem}chexpert.csv.gz", index=False)
    for (subject, study), text in REPORTS.items():
        place = tmp_path / "txt" / "files" / f"p{subject[:2]}" / f"p{subject}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"s{study}.txt").write_text(text)
    return tmp_path


def run(root, out, *options, reports="txt"):
    """The command, in this process → exit status."""
    return main(
        [
            "mimic-cxr",
            "--jpg-root",
            str(root / "jpg"),
            "--reports-root",
            str(root / reports),
            "--out",
            str(out),
            "--size",
            "64",
            "--store-size",
            "32",
            "--processes",
            "1",
            *options,
        ]
    )


def tree(out: Path) -> dict:
    """What is in a finished folder: every file's bytes. `store/` holds when each image was written, too."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
        and "parts" not in path.parts
        and path.name != ".lock"
        and (path.parent.name, path.suffix) not in (("store", ".rows"), ("store", ".json"))
    }


def test_rows_sections_labels_and_official_split(root):
    assert run(root, root / "out") == 0
    table = folder.read(root / "out").set_index("pair_id")
    assert dict(table.split) == {"a1": "train", "a3": "train", "b1": "validate", "b2": "validate"}
    assert dict(table.report) == {
        "a1": "Clear ___. Normal.",
        "a3": "Edema. Worse.",
        "b1": "Small effusion.",
        "b2": "The tube ends above the carina.",
    }
    assert dict(table.labels) == {
        "a1": "normal",
        "a3": "edema|support_devices",
        "b1": "",
        "b2": "support_devices",
    }
    assert set(table["view"]) == {"frontal"} and table.image_path["b1"] == "images/p10/b1.jpg"
    with Image.open(root / "out" / table.image_path["a1"]) as image:
        assert (image.mode, image.size) == ("L", (64, 82))
    assert pack.open_store(root / "out", 32).shape == (4, 32, 32)


def test_everything_left_out_is_named(root):
    assert run(root, root / "out") == 0
    left_out = pd.read_csv(root / "out" / "quarantine.csv")
    found = {Path(path).stem: reason for path, reason in left_out.itertuples(index=False)}
    found |= {
        name: found[name].split(":")[0] for name in ("c3", "c4")
    }  # the decoder's words, or the path, follow
    assert found == LEFT_OUT
    steps = folder.read_json(root / "out" / "funnel.json")
    assert list(steps.values()) == [11, 8, 7, 6, 4]
    assert steps["images in the split table"] == 11 == 4 + len(LEFT_OUT) - 1


def test_all_views(root):
    assert run(root, root / "out", "--views", "all") == 0
    assert dict(folder.read(root / "out").set_index("pair_id")["view"]) == {
        "a1": "frontal",
        "a2": "lateral",
        "a3": "frontal",
        "b1": "frontal",
        "b2": "frontal",
        "b3": "unknown",
        "c5": "unknown",
    }


def test_reports_from_the_zip_are_the_same(root):
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
        for path in (root / "txt").rglob("*.txt"):
            archive.write(path, path.relative_to(root / "txt"))
    assert run(root, root / "a") == 0
    assert run(root, root / "b", reports="mimic-cxr-reports.zip") == 0
    assert run(root, root / "c", reports=".") == 0
    assert tree(root / "a") == tree(root / "b") == tree(root / "c")


def test_interrupted_run_resumes_to_the_same_folder(root, monkeypatch):
    assert run(root, root / "whole") == 0
    store, stored = images.store, []

    def interrupted(source, target, short_side):
        if len(stored) == 2:
            raise KeyboardInterrupt
        stored.append(target.name)
        return store(source, target, short_side)

    monkeypatch.setattr(images, "store", interrupted)
    assert run(root, root / "out") == 130
    assert not (root / "out" / "manifest.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in (root / "out" / "images").rglob("*.jpg")}
    monkeypatch.setattr(images, "store", store)
    assert run(root, root / "out") == 0
    assert len(before) == 2 and all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert tree(root / "out") == tree(root / "whole")
    assert run(root, root / "out") == 0  # and once more: nothing to do
    assert tree(root / "out") == tree(root / "whole")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_equal_one_go(root, order, capsys):
    assert run(root, root / "whole") == 0
    for i in order[:-1]:
        assert run(root, root / "out", "--shard", f"{i}/3") == 0
        assert not (root / "out" / "manifest.parquet").exists()
    assert "still to come: " + f"{order[-1]}-of-3" in capsys.readouterr().out
    assert run(root, root / "out", "--shard", f"{order[-1]}/3") == 0
    assert tree(root / "out") == tree(root / "whole")
    assert run(root, root / "out", "--shard", "1/3") == 0


def test_plain_run_takes_over_from_shards(root):
    assert run(root, root / "whole") == 0
    assert run(root, root / "out", "--shard", "2/3") == 0
    assert run(root, root / "out") == 0
    assert tree(root / "out") == tree(root / "whole")


def test_official_sections_and_text_policy(root):
    pd.DataFrame(
        [
            ["s50000001", "I one.", "F one.", None, None],
            ["s50000002", None, None, "Last\n paragraph.", "x"],
            ["s50000003", "I three.", None, None, None],
        ],
        columns=["study", "impression", "findings", "last_paragraph", "comparison"],
    ).to_csv(root / "sectioned.csv", index=False)
    options = ("--sections-csv", str(root / "sectioned.csv"))
    assert run(root, root / "a", *options) == 0
    assert dict(folder.read(root / "a").set_index("pair_id").report) == {
        "a1": "F one. I one.",
        "a3": "Last paragraph.",
        "b1": "I three.",
    }
    assert run(root, root / "b", *options, "--text-policy", "findings") == 0
    assert list(folder.read(root / "b").pair_id) == ["a1", "a3"]
    assert folder.read_json(root / "b" / "dataset.json")["text_policy"] == "findings"


def test_without_label_tables_labels_are_empty(root, capsys):
    (root / "jpg" / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    assert run(root, root / "out") == 0
    assert set(folder.read(root / "out").labels) == {""}
    assert "labels stay empty" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("position", "code", "description", "view"),
    [
        ("PA", "lateral", "", "frontal"),
        ("LL", "", "", "lateral"),
        ("", "postero-anterior", "", "frontal"),
        ("", "left lateral", "CHEST (PORTABLE AP)", "lateral"),
        ("", "", "CHEST (PORTABLE AP)", "frontal"),
        ("", "", "CHEST (PA AND LAT)", "unknown"),
        ("", "", "", "unknown"),
        ("LAO", "", "CHEST (AP)", "unknown"),
    ],
)
def test_view_of(position, code, description, view):
    assert mimic_cxr.view_of(position, code, description)[0] == view


def damage(root, what):
    """Make one thing wrong → the run's options."""
    split = root / "jpg" / "mimic-cxr-2.0.0-split.csv.gz"
    if what == "no split table":
        split.unlink()
    elif what == "truncated table":
        split.write_bytes(split.read_bytes()[:60])
    elif what == "missing column":
        split.write_bytes(gzip.compress(b"dicom_id,study_id,subject_id\n"))
    elif what == "wrong jpg root":
        (root / "jpg" / "files").rename(root / "jpg" / "pictures")
    elif what == "wrong reports root":
        (root / "txt" / "files").rename(root / "txt" / "texts")
    elif what == "bad zip":
        (root / "txt" / "files").rename(root / "elsewhere")
        (root / "txt" / "mimic-cxr-reports.zip").write_bytes(b"PK nothing")
    elif what == "bad shard":
        return ["--shard", "4/3"]
    return []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no split table", "mimic-cxr-2.0.0-split.csv.gz is missing: it comes with MIMIC-CXR-JPG"),
        ("truncated table", "split.csv.gz is not a readable table"),
        ("missing column", "lacks the column(s) split"),
        ("wrong jpg root", "has no folder files/"),
        ("wrong reports root", "has neither files/ nor mimic-cxr-reports.zip"),
        ("bad zip", "is not a readable zip"),
        ("bad shard", "--shard 4/3: give I/N"),
    ],
)
def test_errors_are_one_line_and_write_nothing(root, capsys, what, message):
    assert run(root, root / "out", *damage(root, what)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("data_prep: ") and "\n" not in error
    assert not (root / "out").exists()


def test_full_target(root, capsys, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(28, os.strerror(28), "images/a1.jpg")

    monkeypatch.setattr(Image.Image, "save", full)
    assert run(root, root / "out") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path for path in (root / "out").rglob("*") if path.is_file()] == [
        root / "out" / "building.json"
    ]
    monkeypatch.undo()
    assert run(root, root / "out") == 0
