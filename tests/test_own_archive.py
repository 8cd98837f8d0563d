"""An archive as a hospital exports it, from its table to an answer, by the commands of README's "Your archive"."""

import json

import numpy as np
import pandas as pd
from PIL import Image
from test_cli import call
from test_data_prep_images import write_dicom

from data_prep import folder
from data_prep.__main__ import main

COLUMNS = ["image=file", "patient_id=pid", "study_id=accession", "report=text", "view=projection"]


def export(data, root, studies):
    """A mixed export of a data set folder's first studies: JPEG, PNG, DICOM, every fourth with a lateral too.

    The table leaves patient and view of DICOM files to their tags, and has its own names of columns.
    """
    table = folder.read(data).drop_duplicates("study_id")[:studies]
    rows = []
    for number, row in enumerate(table.itertuples()):
        picture = Image.open(data / row.image_path).convert("L")
        views = ["PA", "LATERAL"] if number % 4 == 0 else ["AP"]
        for view in views:
            shown = picture.transpose(Image.Transpose.ROTATE_90) if view == "LATERAL" else picture
            name = (
                f"{number // 100:03d}/IM{number:05d}_{len(rows)}{('.jpg', '.png', '')[number % 3]}"
            )
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            is_dicom = path.suffix == ""
            if is_dicom:
                tags = {"PatientID": row.patient_id, "Modality": "DX", "ViewPosition": view}
                write_dicom(path, np.asarray(shown).astype(np.uint16) * 16, **tags)
            else:
                shown.save(path)
            text = (
                f"EXAMINATION: Chest.\n\nFINDINGS: {row.findings}\n\nIMPRESSION: {row.impression}"
            )
            rows.append(
                {
                    "accession": f"ACC{number:05d}",
                    "pid": "" if is_dicom else row.patient_id,
                    "file": name,
                    "projection": "" if is_dicom else view,
                    "date": f"2024-01-{number % 28 + 1:02d}",
                    "text": text,
                }
            )
    pd.DataFrame(rows).to_csv(root / "export.csv", index=False, sep=";")
    return table


def test_a_wrong_folder_of_images_is_named_by_where_it_was_looked_for(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(
        "image,pid,report\n,1,x y\nf/a.png,2,clear lungs\nf/b.png,3,clear\n"
    )
    columns = ["--column", "image=image", "--column", "patient_id=pid", "--column", "report=report"]
    command = ["csv", "--table", str(tmp_path / "t.csv"), "--out", str(tmp_path / "o"), *columns]
    assert main([*command, "--images-root", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "f" / "a.png") in said and "--images-root" in said


def test_a_command_that_names_less_loses_nothing_unasked(phantom, tmp_path, capsys):
    archive, data = tmp_path / "archive", tmp_path / "data"
    export(phantom, archive, 12)
    columns = [word for column in COLUMNS for word in ("--column", column)]
    command = ["csv", "--table", str(archive / "export.csv"), "--out", str(data)]
    assert main([*command, *columns, "--keep", "date"]) == 0
    made = folder.read(data)
    assert main([*command, *columns]) == 2
    assert "was made with date, which this command does not name" in capsys.readouterr().err
    pd.testing.assert_frame_equal(folder.read(data), made)
    assert main([*command, *columns, "--remove"]) == 0
    assert "date" not in folder.read(data)


def test_from_a_mixed_export_to_an_answer(phantom, tmp_path, capsys):
    archive, data, run = tmp_path / "archive", tmp_path / "data", tmp_path / "run"
    studies = export(phantom, archive, 40)
    columns = [word for column in COLUMNS for word in ("--column", column)]
    command = ["csv", "--table", str(archive / "export.csv"), *columns, "--keep", "date"]
    assert main([*command, "--out", str(data)]) == 0
    made = folder.read(data)
    assert len(made) == 50 and made.study_id.nunique() == 40
    assert made["view"].value_counts().to_dict() == {"frontal": 40, "lateral": 10}
    assert set(made.patient_id) == set(studies.patient_id)
    assert set(made.report) == set(studies.report)
    assert set(made.findings) == set(studies.findings) and "EXAMINATION" not in made.report.sum()
    assert main(["check", str(data)]) == 0
    status, _, err = call(capsys, "train", "--data", data, "--run", run, "--profile", "smoke")
    assert status == 0, err

    def search(*question):
        options = ["--run", run, "--data", data, "-k", "3", "--json", *question]
        status, out, err = call(capsys, "search", *options)
        assert status == 0, err
        return json.loads(out)

    frontal = made[made["view"] == "frontal"].set_index("source_path")
    for question in (["--text", "pleural effusion"], ["--image", archive / "000/IM00002_3"]):
        hits = search(*question)
        assert len(hits) == 3
        for hit in hits:
            assert frontal.report[hit["source_path"]] == hit["report"]
            assert (archive / hit["source_path"]).exists() and hit["date"].startswith("2024")
