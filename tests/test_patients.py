"""No patient and no picture in two splits: however ids are spelt, whatever pictures are called, by every reader."""

import os
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_data_prep_mimic_cxr import root, run  # noqa: F401 (a fixture)

from data_prep import folder, mimic_cxr, patients
from data_prep.__main__ import main
from data_prep.sources import Funnel


def picture(number: int) -> np.ndarray:
    """Pixels (48, 64) that no other number has."""
    noise = np.random.default_rng(number).integers(0, 255, (6, 8), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((64, 48)))


def write(path, number: int) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture(number)).save(path, "PNG")
    return path.name


def prepare(place, rows: dict, *options) -> pd.DataFrame:
    """The folder that `csv` makes of a table with these columns beside a report."""
    table = pd.DataFrame({"report": "Clear lungs.", **rows})
    table.to_csv(place / "table.csv", index=False)
    out = place / "out"
    assert main(["csv", "--table", str(place / "table.csv"), "--out", str(out), *options]) == 0
    return folder.read(out)


def no_picture_crosses(out, table) -> bool:
    """By the pixels of what was written, counted here."""
    splits: dict[bytes, set] = {}
    for image, split in zip(table.image_path, table.split, strict=True):
        with Image.open(out / image) as opened:
            splits.setdefault(opened.tobytes(), set()).add(split)
    return all(len(found) == 1 for found in splits.values())


# ------------------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("spellings", "one"),
    [
        (["100000", "100000.0", "100000,0", "100000.00", " 100000 ", "\u200b100000", "１０００００"], "100000"),
        (["p1", "P1", "P1 ", "p\u00ad1", "\ufeffp1", "'P1", '="P1"', '"P1"'], "p1"),
        (["Zoë 7", "Zoe\u0308 7", "ZOË  7", "zoë\u00a07"], "zoë 7"),
        (["007", "007.0", '="007"'], "007"),
        (["", " ", "nan", "None None", r"\N", "#N/A", "(null)", "NULL", "-", "1.0E+15", "1,2E+12", "3e+07"], ""),
        (["1E5", "12e4"], None),
    ],
)  # fmt: skip
def test_normal_id(spellings, one):
    found = {patients.normal_id(text) for text in spellings}
    assert found == ({text.lower() for text in spellings} if one is None else {one})


@given(st.text(max_size=12))
def test_normal_id_is_settled_and_blind_to_case_and_composition(text):
    once = patients.normal_id(text)
    assert patients.normal_id(once) == once
    assert patients.normal_id(f"\u200b{unicodedata.normalize('NFD', text)} ") == once


def test_one_patient_spelt_in_two_ways_is_one(tmp_path, capsys):
    ids = [str(100000 + i // 2) + ".0" * (i % 2) for i in range(24)]
    images = [write(tmp_path / f"{i}.png", i) for i in range(24)]
    table = prepare(tmp_path, {"image": images, "patient_id": ids})
    assert table.patient_id.nunique() == 12 and not folder.crossing_patients(table)
    assert "12  patients whose id was spelt in several ways" in capsys.readouterr().out
    notes = folder.read_json(tmp_path / "out" / "dataset.json")["notes"]
    assert notes["patients whose id was spelt in several ways"] == 12


def test_ids_that_a_spreadsheet_has_rounded_are_no_patient(tmp_path):
    images = [write(tmp_path / f"{i}.png", i) for i in range(4)]
    table = prepare(tmp_path, {"image": images, "patient_id": ["1.0E+15", "1.0E+15", "7", "8"]})
    assert sorted(table.patient_id) == ["7", "8"]
    left_out = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert left_out.reason.str.contains("has lost its digits").sum() == 2


@pytest.mark.parametrize(
    "kind, first", [("float64", 2**53), ("float32", 2**24), ("float16", 2**11)]
)
def test_numbers_of_parquet_that_have_lost_digits_are_no_ids(tmp_path, kind, first):
    """The second patient is stored as the first."""
    ids = pd.Series([first, first + 1, first // 2, first // 2 + 1]).astype(kind)
    table = pd.DataFrame({"image": [write(tmp_path / f"{i}.png", i) for i in range(4)]})
    table.assign(patient_id=ids, report="Clear lungs.").to_parquet(tmp_path / "t.parquet")
    out = tmp_path / "out"
    assert main(["csv", "--table", str(tmp_path / "t.parquet"), "--out", str(out)]) == 0
    assert set(folder.read(out).patient_id) == {str(first // 2), str(first // 2 + 1)}
    assert (out / "quarantine.csv").read_text().count("is rounded") == 2


def test_two_spellings_in_two_splits_of_the_table_are_refused(tmp_path, capsys):
    images = [write(tmp_path / f"{i}.png", i) for i in range(2)]
    rows = {"image": images, "patient_id": ["P1", "p1"], "split": ["train", "test"]}
    pd.DataFrame({"report": "Clear.", **rows}).to_csv(tmp_path / "t.csv", index=False)
    out = tmp_path / "out"
    assert main(["csv", "--table", str(tmp_path / "t.csv"), "--out", str(out)]) == 2
    assert "patient p1 is in two splits" in capsys.readouterr().err and not out.exists()


# -------------------------------------------------------------------------------------------------------- pictures


@given(
    shown=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from("a b c d 1 01 001 2 02".split())), max_size=14
    )
)
def test_patients_who_are_joined_share_a_split(shown):
    """Against joining again and again until nothing changes."""
    table = pd.DataFrame(shown, columns=["picture", "patient_id"]).astype(str)
    leader = patients.join_patients(table)
    groups = {patient: {patient} for _, patient in shown}
    for _ in groups:
        for picture_1, one in shown:
            for picture_2, other in shown:
                if picture_1 == picture_2 or one.lstrip("0") == other.lstrip("0"):
                    groups[one] |= groups[other]
    assert leader == {patient: min(group) for patient, group in groups.items()}


def test_a_picture_under_two_patients_joins_their_splits_and_loses_nothing(tmp_path, capsys):
    """Under another name and as another kind of file; those of one group share all pictures of both."""
    images, ids = [], []
    for i in range(40):
        images.append(write(tmp_path / f"{i}.png", i % 20))
        ids.append(f"{'ab'[i // 20]}{i % 20 // 2}")
    table = prepare(tmp_path, {"image": images, "patient_id": ids})
    assert len(table) == 40 and table.patient_id.nunique() == 20
    assert table.split.nunique() > 1 and no_picture_crosses(tmp_path / "out", table)
    assert "10  patients split together with another" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "out")]) == 0


def test_of_given_splits_the_held_out_copy_stays(tmp_path):
    numbers, splits = [0, 1, 0, 2, 1, 3], ["train", "train", "test", "test", "validate", "train"]
    images = [write(tmp_path / f"{i}.png", number) for i, number in enumerate(numbers)]
    rows = {"image": images, "patient_id": list("abcdef"), "split": splits}
    table = prepare(tmp_path, rows)
    assert sorted(zip(table.patient_id, table.split, strict=True)) == [
        ("c", "test"),
        ("d", "test"),
        ("e", "validate"),
        ("f", "train"),
    ]
    left_out = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert dict(left_out.itertuples(index=False)) == {
        "0.png": "the same picture stands in another split: test",
        "1.png": "the same picture stands in another split: validate",
    }


def test_a_placeholder_under_many_patients_is_left_out(tmp_path):
    images = [write(tmp_path / f"{i}.png", min(i, 4)) for i in range(12)]
    table = prepare(tmp_path, {"image": images, "patient_id": range(12)})
    assert list(table.patient_id) != [] and len(table) == 4
    left_out = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert set(left_out.reason) == {"the same picture under more than 5 patients"}


def test_check_names_a_picture_and_a_patient_in_two_splits(tmp_path, capsys):
    """In a folder of an earlier version, which knows no fingerprints."""
    images = [write(tmp_path / f"{i}.png", i) for i in range(30)]
    table = prepare(tmp_path, {"image": images, "patient_id": [f"p{i}" for i in range(30)]})
    out = tmp_path / "out"
    one = table.index[table.split == "train"][0]
    other = table.index[table.split == "test"][0]
    table.loc[one, "patient_id"] = table.patient_id[other].upper()
    (out / table.image_path[one]).write_bytes((out / table.image_path[other]).read_bytes())
    table[folder.COLUMNS].to_parquet(out / "manifest.parquet")
    capsys.readouterr()
    assert main(["check", str(out)]) == 1
    said = capsys.readouterr().out
    assert "1 patient(s) in two splits by another spelling" in said
    assert "2 pair(s) show a picture that stands in another split too" in said


def test_check_names_an_image_that_has_become_another(tmp_path, capsys):
    images = [write(tmp_path / f"{i}.png", i) for i in range(3)]
    table = prepare(tmp_path, {"image": images, "patient_id": [1, 2, 3]})
    Image.fromarray(picture(9)).save(tmp_path / "out" / table.image_path[1])
    capsys.readouterr()
    assert main(["check", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "1 image(s) show another picture than when they were written" in said


def test_mimic_keeps_its_splits_and_leaves_out_the_copy(root):  # noqa: F811
    """Also when the two stand in different parts of an array job."""
    files = {path.stem: path for path in (root / "jpg").rglob("*.jpg")}
    files["b1"].write_bytes(files["a1"].read_bytes())  # validate and train
    for out, shards in [("whole", [()]), ("parts", [("--shard", f"{i}/3") for i in (1, 2, 3)])]:
        for shard in shards:
            assert run(root, root / out, *shard) == 0
        assert sorted(folder.read(root / out).pair_id) == ["a3", "b1", "b2"]
        left_out = pd.read_csv(root / out / "quarantine.csv")
        assert "the same picture stands in another split: validate" in set(left_out.reason)


def test_mimic_ids_with_decimals_or_paths_in_them(root):  # noqa: F811
    path = mimic_cxr.table_path(root / "jpg", "split")
    table = pd.read_csv(path, dtype=str)
    table["subject_id"] += ".0"
    outside = table[:1].assign(dicom_id="../../../../outside")
    absolute = table[:1].assign(dicom_id=str(root / "outside"))
    pd.concat([table, outside, absolute, table[:1]]).to_csv(path, index=False)
    (root / "outside.jpg").write_bytes(next((root / "jpg").rglob("a1.jpg")).read_bytes())
    before = {file for file in root.rglob("*") if "out" not in file.parts}
    assert run(root, root / "out") == 0
    assert set(folder.read(root / "out").pair_id) == {"a1", "a3", "b1", "b2"}
    after = {file for file in root.rglob("*") if "out" not in file.relative_to(root).parts}
    assert after == before
    left_out = pd.read_csv(root / "out" / "quarantine.csv")
    assert (left_out.reason == "an id that is none, or that stands there twice").sum() == 3


def test_what_is_merged_and_moved_is_counted():
    table = pd.DataFrame({"patient_id": ["p1", "P1", "p2", "p3"], "origin": list("abcd")})
    funnel = Funnel()
    kept = patients.keep_patients(table, "patient_id", funnel)
    assert dict(funnel.notes) == {"patients whose id was spelt in several ways": 1}
    patients.keep_patients(kept, "patient_id", again := Funnel())
    assert not again.notes
    shown = kept.assign(picture=["x", "x", "y", "x"])  # p3 goes where p1 goes
    patients.split_by_patient(shown, again)
    assert list(again.notes.values()) == [1]


def test_five_patients_may_share_a_picture_and_six_may_not():
    ids = [*"abcde", *"fghijk"]
    table = pd.DataFrame({"patient_id": ids, "picture": ["x"] * 5 + ["y"] * 6, "origin": ids})
    assert list(patients.keep_shown_patients(table, Funnel()).patient_id) == ids[:5]


def test_of_two_copies_the_older_stays_and_a_split_that_is_emptied_is_named(capsys):
    table = pd.DataFrame({"picture": "x", "split": ["train", "test"], "origin": ["old", "new"]})
    is_older = table.origin == "old"
    assert list(patients.keep_one_split(table, Funnel(), is_older).origin) == ["old"]
    assert "no pair is left in test" in capsys.readouterr().out
    assert list(patients.keep_one_split(table, Funnel()).origin) == ["new"]
    assert "no pair is left in train" in capsys.readouterr().out
    more = pd.concat([table, pd.DataFrame([{"picture": "y", "split": "train", "origin": "z"}])])
    patients.keep_one_split(more.reset_index(drop=True), Funnel())
    assert not capsys.readouterr().out


def test_an_image_as_old_as_the_manifest_is_read_again(tmp_path):
    table = prepare(tmp_path, {"image": [write(tmp_path / "0.png", 0)], "patient_id": [1]})
    image, manifest = tmp_path / "out" / table.image_path[0], tmp_path / "out" / "manifest.parquet"
    Image.fromarray(picture(9)).save(image)
    time = manifest.stat().st_mtime_ns
    os.utime(image, ns=(time, time))
    again = patients.add_pictures(table, tmp_path / "out", 1)
    assert list(again.picture) == [patients.picture_of(image)] != list(table.picture)


def test_no_row_is_left_is_no_error_of_ours():
    empty = pd.DataFrame(columns=["picture", "patient_id", "split", "origin"], dtype=object)
    funnel = Funnel()
    for step in (patients.keep_shown_patients, patients.keep_one_split, patients.split_by_patient):
        assert len(step(empty, funnel)) == 0
