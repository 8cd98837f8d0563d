"""One odd file never stops an import: it is left out by name. And words that mean nothing, views, labels."""

import os
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_prep_mimic_cxr import root, run  # noqa: F401 (a fixture)
from test_data_prep_openi import run as run_openi
from test_data_prep_openi import write_trees
from test_patients import write
from test_written import csv

from data_prep import folder, mimic_reports, openi, sections, sources, views
from data_prep.__main__ import main


def left_out(out: Path) -> dict[str, str]:
    return dict(pd.read_csv(out / "quarantine.csv", keep_default_na=False).itertuples(index=False))


@pytest.fixture
def table(tmp_path):
    """Four rows with their images."""
    images = [write(tmp_path / f"{i}.png", i) for i in range(4)]
    return pd.DataFrame({"image": images, "patient_id": range(4), "report": "Clear lungs."})


# ------------------------------------------------------------------------------------------- a table and its images


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("pipe.png", "image"),
        ("folder.png", "image"),
        ("no.png", "image file missing"),
        ("x" * 300 + ".png", "image file missing"),
        ("x/" * 3000 + "0.png", "image file missing"),
        ("0.png/1.png", "image"),
        ("../outside.png", "outside --images-root"),
        ("/etc/hostname", "outside --images-root"),
        (r"C:\export\0.png", "image file missing"),
        ("link.png", "outside --images-root"),
        ("linked/outside.png", "outside --images-root"),
        ("~/0.png", "image file missing"),
        ("https://example.org/0.png", "image file missing"),
        (r"\N", "no image path"),
        ("None", "no image path"),
    ],
)
def test_an_image_that_cannot_be_used_is_left_out_by_name(tmp_path, table, image, reason):
    place = tmp_path / "archive"
    place.mkdir()
    for file in tmp_path.glob("*.png"):
        file.rename(place / file.name)
    write(tmp_path / "outside.png", 9)
    os.mkfifo(place / "pipe.png")
    (place / "folder.png").mkdir()
    (place / "link.png").symlink_to(tmp_path / "outside.png")
    (place / "linked").symlink_to(tmp_path)
    table.loc[1, "image"] = image
    assert csv(place, table) == 0
    assert len(folder.read(place / "out")) == 3
    named = left_out(place / "out")
    assert len(named) == 1 and reason in next(iter(named.values()))


@pytest.mark.parametrize(
    "name",
    [
        "胸部正位片" * 15 + ".png",
        "röntgen größe.png",
        "x" * 250 + ".png",
        "a b\tc;d'e&f.png",
        "..png",
        "...0.png",
        ".png",
        "😀.png",
    ],
)
def test_an_image_of_an_odd_name_is_kept(tmp_path, table, name):
    write(tmp_path / name, 9)
    table.loc[1, "image"] = name
    assert csv(tmp_path, table) == 0
    made = folder.read(tmp_path / "out")
    assert len(made) == 4 and name in set(made.source_path)
    assert all(len(os.path.basename(path).encode()) < 150 for path in made.image_path)


def test_paths_in_other_spellings_are_found(tmp_path, table):
    for i in range(3):
        write(tmp_path / "Aufnahmen größer" / f"{i}.png", 10 + i)
    table.loc[0, "image"] = "Aufnahmen größer\\0.png"
    table.loc[1, "image"] = "Aufnahmen gro\u0308ßer/1.png".replace("gro\u0308ßer", "gro\u0308ßer")
    table.loc[2, "image"] = str(tmp_path / "Aufnahmen größer" / "2.png")
    table.loc[1, "image"] = "Aufnahmen gr\u006f\u0308ßer/1.png"
    assert csv(tmp_path, table) == 0
    made = folder.read(tmp_path / "out")
    assert len(made) == 4
    assert {"Aufnahmen größer/0.png", "Aufnahmen größer/2.png"} <= set(made.source_path)


def test_a_root_that_holds_them_makes_paths_outside_good(tmp_path, table):
    place = tmp_path / "tables"
    place.mkdir()
    assert csv(place, table.assign(image="../" + table.image)) == 2
    assert (
        csv(place, table.assign(image=str(tmp_path) + "/" + table.image), "--images-root", "/") == 0
    )
    assert len(folder.read(place / "out")) == 4


ODD = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "nan", r"\N", "a\0b", "..", "/", "\\", "1.0E+15", "[" * 50, "p\n1", "\ud7ff"]
    ),
)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {name: ODD for name in ("image", "patient_id", "report", "view", "labels", "study_id")}
        ),
        max_size=5,
    )
)
def test_whatever_stands_in_a_table_the_good_rows_come_through(tmp_path_factory, rows):
    """And each other row is counted."""
    place = tmp_path_factory.mktemp("odd")
    good = {"image": write(place / "0.png", 0), "patient_id": "7", "report": "Clear lungs."}
    made = pd.DataFrame([*rows, good]).fillna("")
    assert csv(place, made) == 0
    found = folder.read(place / "out")
    assert "7" in set(found.patient_id) and (place / "out" / found.image_path[0]).exists()
    funnel = folder.read_json(place / "out" / "funnel.json")
    named = pd.read_csv(place / "out" / "quarantine.csv", keep_default_na=False)
    assert funnel["rows"] == len(found) + len(named)


# ------------------------------------------------------------------------------------------------- official layouts


def test_openi_files_that_are_none(tmp_path, capfd):
    write_trees(tmp_path)
    xml, png = tmp_path / "xml", tmp_path / "png"
    before = (xml / "1.xml").read_bytes()
    for name, encoding in [("20", b"utf-88"), ("21", b"gb18030"), ("22", b"utf-16")]:
        declared = b'<?xml version="1.0" encoding="' + encoding + b'"?>'
        (xml / f"{name}.xml").write_bytes(declared + before)
    os.mkfifo(xml / "23.xml")
    (xml / "24.xml").mkdir()
    (xml / "25.xml").write_bytes(before.replace(b"CXR1", b"CXR1.5"))
    (xml / "26.xml").write_bytes(b"<a>" * 100_000)
    os.mkfifo(png / "CXR1_1_IM-0001-5001.png")
    (png / "CXR1_1_IM-0001-6001.png").mkdir()
    (png / ("CXR1_IM-" + "0" * 200 + ".png")).write_bytes(b"")
    latin = os.fsencode(png) + b"/CXR1_1_IM-gr\xf6sse.png"
    with open(latin, "wb") as file:
        file.write(b"")
    assert run_openi(tmp_path, tmp_path / "out") == 0
    assert len(folder.read(tmp_path / "out")) == 3
    named = left_out(tmp_path / "out")
    for number in range(20, 27):
        assert named[f"{number}.xml"] == "not a readable Open-i report"
    assert named["CXR1_1_IM-0001-5001.png"] == named["CXR1_1_IM-0001-6001.png"] == "not a file"
    assert named["CXR1_1_IM-gr\\xf6sse.png"] == "not named as an Open-i image"
    assert main(["check", str(png)]) in (1, 2) and main(["check", str(xml)]) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_openi_numbers_with_decimals_are_joined(tmp_path):
    write_trees(tmp_path)
    table = pd.read_csv(tmp_path / "reports.csv", dtype=str)
    table["uid"] = table.uid + ".0"
    more = [table[:1].assign(uid="1.0E+15"), table[:1].assign(uid="nan"), table[:1]]
    pd.concat([table, *more]).to_csv(tmp_path / "float.csv", index=False)
    assert run_openi(tmp_path, tmp_path / "a", reports="reports.csv", images="kaggle") == 0
    assert run_openi(tmp_path, tmp_path / "b", reports="float.csv", images="kaggle") == 0
    pd.testing.assert_frame_equal(folder.read(tmp_path / "a"), folder.read(tmp_path / "b"))
    reasons = list(left_out(tmp_path / "b").values())
    assert reasons.count("no study number") == 2 and "a second report of CXR1" in reasons


def test_mimic_files_that_are_none(root, monkeypatch):  # noqa: F811
    """A pipe, a folder and a file too large among the reports, a folder among the images."""
    texts = {path.stem: path for path in (root / "txt").rglob("*.txt")}
    pictures = {path.stem: path for path in (root / "jpg").rglob("*.jpg")}
    for path, make in [
        (texts["s50000001"], os.mkfifo),
        (texts["s50000002"], os.mkdir),
        (pictures["b1"], os.mkdir),
    ]:
        path.unlink()
        make(path)
    assert run(root, root / "out") == 0
    assert list(folder.read(root / "out").pair_id) == ["b2"]
    reasons = {Path(name).stem: reason for name, reason in left_out(root / "out").items()}
    assert reasons["a1"] == reasons["a3"] == "report not readable: not a file"
    assert "image" in reasons["b1"]
    monkeypatch.setattr(mimic_reports, "LIMIT", 10)
    assert run(root, root / "small") == 2


def test_a_damaged_report_in_the_zip_is_left_out_alone(root):  # noqa: F811
    path = root / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((root / "txt").rglob("*.txt")):
            archive.write(file, file.relative_to(root / "txt"))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Edema", b"Oedem"))  # its checksum no longer fits
    assert run(root, root / "out", reports=".") == 0
    reasons = {Path(name).stem: reason for name, reason in left_out(root / "out").items()}
    assert reasons["a3"].startswith("report not readable") and len(folder.read(root / "out")) == 3
    for cut in (100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:cut])
        assert run(root, root / f"cut{cut}", reports=".") == 2


def test_mimic_tables_with_rows_that_are_none(root):  # noqa: F811
    """They are named; the other rows are as before."""
    assert run(root, root / "whole") == 0
    for name in ("split", "metadata"):
        path = root / "jpg" / f"mimic-cxr-2.0.0-{name}.csv"
        table = pd.read_csv(f"{path}.gz", dtype=str, keep_default_na=False)
        table.to_csv(path, index=False)
        path.write_text(path.read_text() + 'x1,"50000001,10000032\n')
        Path(f"{path}.gz").unlink()
    assert run(root, root / "out") == 0
    pd.testing.assert_frame_equal(folder.read(root / "whole"), folder.read(root / "out"))
    named = left_out(root / "out")
    assert sum(name.endswith("line 13") for name in named) == 2


# ------------------------------------------------------------------------------------- words, labels, views, headings

NOTHING = [
    "", " ", "nan", "NaN", "nan nan", "nan\nnan", "None", "None.", "None None", "null", "(null)", "[NULL]",
    r"\N", "#NAME?", "#N/A", "#VALUE!", "#DIV/0!", "N/A", "n/a", "NA", "<NA>", "NaT", "nil", "XXXX.",
    "XXXX XXXX XXXX.", "xx", "1.", "1. 2.", "-", "--", "___", ".", "?", "0", "n.a.", "N.A. N.A.", "undefined",
    "Unknown.", "missing", "empty", "not available", "No report.", "1.#QNAN", "-1.#IND", "&nbsp;", "_x000D_", r"N\A",
    "not provided",
]  # fmt: skip
SOMETHING = [
    "No.",
    "normal",
    "Lungs clear. XXXX.",
    "Nan Goldin",
    "x",
    "双肺",
    "1. None of these.",
    "T1",
    "No report of pain.",
    "Unknown opacity.",
]


@pytest.mark.parametrize("text", NOTHING)
def test_words_that_mean_nothing_are_nothing_in_every_reader(tmp_path, text):
    assert sources.clean(text) == "" and sections.parse(text) == ("", "")
    assert sections.parse(f"FINDINGS: {text}\nIMPRESSION:\n {text}\n") == ("", "")
    path = tmp_path / "reports.csv"
    row = {"uid": "1", "MeSH": "normal", "findings": text, "impression": text}
    pd.DataFrame([row]).to_csv(path, index=False)
    study = openi.read_csv(path, [])["1"]
    assert (study["findings"], study["impression"]) == ("", "")


@pytest.mark.parametrize("text", SOMETHING)
def test_words_that_mean_something_stay(text):
    assert sources.clean(f" {text}\n") == text


def test_a_table_takes_no_such_word_for_a_text_a_patient_or_a_label(tmp_path):
    words = [word for word in NOTHING if word.strip() not in ("", "0", "1.", "1. 2.")]
    images = [write(tmp_path / f"{i}.png", i) for i in range(2 * len(words) + 1)]
    reports = [*words, *["Clear lungs."] * (len(words) + 1)]
    ids = [*map(str, range(len(words))), *words, "last"]
    made = pd.DataFrame(
        {"image": images, "report": reports, "patient_id": ids, "labels": r"\N|nan"}
    )
    assert csv(tmp_path, made) == 0
    table = folder.read(tmp_path / "out")
    assert list(table.patient_id) == ["last"] and list(table.labels) == [""]


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("['effusion', 'cardiomegaly']", "effusion|cardiomegaly"),
        ('["effusion", "cardiomegaly"]', "effusion|cardiomegaly"),
        ("['effusion' 'cardiomegaly']", "effusion|cardiomegaly"),
        ("[effusion, heart failure]", "effusion|heart failure"),
        ("('effusion',)", "effusion"),
        ("{'effusion'}", "effusion"),
        ("[]", ""),
        ("[nan]", ""),
        ("['']", ""),
        ("effusion|cardiomegaly", "effusion|cardiomegaly"),
        (" effusion | | effusion ", "effusion"),
        ("['a|b', 'c']", "a|b|c"),
        ("[" * 10_000, ""),
        ("normal", "normal"),
        ("None", ""),
    ],
)
def test_labels(written, labels):
    assert sources.clean_labels(written) == labels


def test_labels_of_parquet_may_be_lists(tmp_path, table):
    path = tmp_path / "t.parquet"
    table.assign(labels=[["a", "b"], [], None, ["c"]]).to_parquet(path)
    assert main(["csv", "--table", str(path), "--out", str(tmp_path / "out")]) == 0
    made = folder.read(tmp_path / "out").sort_values("patient_id")
    assert list(made.labels) == ["a|b", "", "", "c"]


@pytest.mark.parametrize(
    ("view", "texts"),
    [
        ("frontal", ["PA", "AP", "ap", "p.a.", "AP_horizontal", "Frontal", "postero-anterior", "Antero Posterior"]),
        ("frontal", ["LEFT LATERAL DECUBITUS", "LLD", "AP RLD", "lat decub", "decubitus", "XR CHEST PA"]),
        ("lateral", ["LL", "RL", "L", "LATERAL", "Lat.", "left lateral", "XTABLE LATERAL", "profil", "LL LATERAL"]),
        ("unknown", ["XR CHEST PA AND LATERAL", "CHEST 2 VIEWS", "PA/LAT", "Thorax in 2 Ebenen", "CHEST AP 2V"]),
        ("unknown", ["COSTAL", "EXCLUDE", "UNK", "LAO", "RPO", "PA OBLIQUE", "SWIMMERS", "", "nan", "two-view PA"]),
    ],
)  # fmt: skip
def test_one_vocabulary_of_views(view, texts):
    assert {text: views.view_name(text) for text in texts} == dict.fromkeys(texts, view)


def test_a_study_description_is_no_view_and_counted(tmp_path, table, capsys):
    assert csv(tmp_path, table.assign(view="XR CHEST PA AND LATERAL")) == 0
    assert set(folder.read(tmp_path / "out")["view"]) == {"unknown"}
    assert "4  pairs of no known view" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("report", "cut"),
    [
        ("HISTORY: Cough.\nFINDINGS: Clear.\nIMPRESSION: Normal.", ("Clear.", "Normal.")),
        ("Findings:\nClear.\n\nImpression:\n1. Normal.", ("Clear.", "1. Normal.")),
        ("INDICATION: Pain. FINDINGS: Clear. IMPRESSION: Normal.", ("Clear.", "Normal.")),
        ("IMPRESSION: Normal.", ("", "Normal.")),
        ("LUNGS: Clear. HEART: Normal.", None),
        ("The findings: none to speak of.", None),
        ("CHEST PA: Clear.", None),
    ],
)
def test_headings_in_one_column_are_cut(tmp_path, table, report, cut):
    assert csv(tmp_path, table.assign(report=report)) == 0
    made = folder.read(tmp_path / "out").iloc[0]
    assert (made.findings, made.impression) == (cut or ("", ""))
    assert made.report == (" ".join(filter(None, cut)) if cut else report)


@given(st.text())
def test_nothing_that_can_be_written_breaks_the_rules(text):
    assert sources.clean(sources.clean(text)) == sources.clean(text)
    assert sources.clean_labels(sources.clean_labels(text)) is not None
    assert views.view_name(text) in folder.VIEWS
