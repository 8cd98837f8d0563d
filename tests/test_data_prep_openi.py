"""Open-i: the official XML and the Kaggle layout give the same rows; on the real collection every row agrees."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import folder, openi
from data_prep.__main__ import main

STUDIES = {  # uid: (findings, impression, MeSH, image names)
    1: (
        "Lungs are clear.",
        "Normal chest.",
        ["normal"],
        ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"],
    ),
    2: (
        "",
        "Left  base\n opacity.",
        ["Opacity/lung/base/left", "Cardiomegaly/mild", "Lung/hypoinflation"],
        ["CXR2_IM-0652-1001"],
    ),
    3: ("", "", ["No Indexing"], ["CXR3_IM-1384-1001"]),
    4: ("No image here.", "None.", ["normal"], []),
    5: ("Its image is broken.", "", ["normal"], ["CXR5_IM-2117-1001", "CXR5_IM-2117-1003002"]),
}
VIEWS = ["Lateral", "Frontal", "Frontal", "Frontal", "Frontal", "Frontal"]


def drawing(name):
    """Pixels (600, 800) that differ from name to name."""
    rows, columns = np.mgrid[:600, :800]
    return ((rows * (1 + sum(name.encode()) % 7) + columns) // 8 % 256).astype(np.uint8)


def kaggle_name(official):
    """CXR1_1_IM-0001-3001 → 1_IM-0001-3001.dcm.png."""
    name = official.removeprefix("CXR")
    return (name.split("_", 1)[1] if name.count("_") == 2 else name) + ".dcm.png"


def write_trees(root: Path) -> None:
    """The same five studies as xml/ + png/ and as reports.csv, projections.csv + kaggle/."""
    for name in ("xml", "png", "kaggle"):
        (root / name).mkdir()
    reports, projections = [], []
    for uid, (findings, impression, mesh, names) in STUDIES.items():
        (root / "xml" / f"{uid}.xml").write_text(
            f'<eCitation><uId id="CXR{uid}"/><AbstractText Label="FINDINGS">{findings}</AbstractText>'
            f'<AbstractText Label="IMPRESSION">{impression}</AbstractText><AbstractText Label="INDICATION"/>'
            f"<MeSH>{''.join(f'<major>{term}</major>' for term in mesh)}</MeSH>"
            f'{"".join(f"""<parentImage id="{name}"/>""" for name in names)}</eCitation>'
        )
        reports.append([uid, ";".join(mesh), findings, impression])
        projections += [
            [uid, kaggle_name(name), VIEWS[len(projections) + i]] for i, name in enumerate(names)
        ]
        for name in names:
            image = Image.fromarray(drawing(name))
            image.save(root / "png" / f"{name}.png")
            image.save(root / "kaggle" / kaggle_name(name))
    for path in (
        root / "png" / "CXR5_IM-2117-1001.png",
        root / "kaggle" / "5_IM-2117-1001.dcm.png",
    ):
        path.write_bytes(path.read_bytes()[:300])
    (root / "png" / "CXR5_IM-2117-1003002.png").unlink()
    (root / "kaggle" / "5_IM-2117-1003002.dcm.png").unlink()
    for place, name in [
        ("png", "CXR99_IM-0001-1001.png"),
        ("kaggle", "99_IM-0001-1001.dcm.png"),
        ("png", "Thumbs.png"),
        ("kaggle", "Thumbs.png"),
    ]:
        Image.fromarray(drawing(name)).save(root / place / name)
    (root / "xml" / "6.xml").write_text("<eCitation>")
    pd.DataFrame(reports, columns=["uid", "MeSH", "findings", "impression"]).to_csv(
        root / "reports.csv", index=False
    )
    pd.DataFrame(projections, columns=["uid", "filename", "projection"]).to_csv(
        root / "projections.csv", index=False
    )


def run(root, out, *options, reports="xml", images="png"):
    """The command, in this process → exit status."""
    return main(
        [
            "openi",
            "--reports",
            str(root / reports),
            "--images",
            str(root / images),
            "--projections",
            str(root / "projections.csv"),
            "--out",
            str(out),
            "--processes",
            "1",
            *options,
        ]
    )


def test_both_layouts_give_the_same_rows(tmp_path):
    write_trees(tmp_path)
    assert run(tmp_path, tmp_path / "a") == 0
    assert run(tmp_path, tmp_path / "b", reports="reports.csv", images="kaggle") == 0
    a, b = folder.read(tmp_path / "a"), folder.read(tmp_path / "b")
    same = [*folder.COLUMNS, "picture"]
    pd.testing.assert_frame_equal(a[same], b[same])
    assert list(a.pair_id) == ["CXR1_IM-0001-3001", "CXR1_IM-0001-4001", "CXR2_IM-0652-1001"]
    assert list(a["view"]) == ["lateral", "frontal", "frontal"]
    assert list(a.labels) == ["normal", "normal", "cardiomegaly|opacity"]
    assert a.report[0] == "Lungs are clear. Normal chest." and a.report[2] == "Left base opacity."
    with Image.open(tmp_path / "a" / a.image_path[0]) as image:
        assert (image.mode, image.size) == ("L", (683, 512))


def test_what_is_left_out_is_named(tmp_path):
    write_trees(tmp_path)
    assert run(tmp_path, tmp_path / "out", "--views", "frontal") == 0
    left_out = dict(pd.read_csv(tmp_path / "out" / "quarantine.csv").itertuples(index=False))
    assert left_out.pop("CXR5_IM-2117-1001.png").startswith("image not readable")
    assert left_out == {
        "6.xml": "not a readable Open-i report",
        "Thumbs.png": "not named as an Open-i image",
        "CXR99_IM-0001-1001.png": "image without a report",
        "CXR4": "report without an image",
        "CXR5_IM-2117-1003002": "named by a report or the projections, but not among the images",
        "CXR3_IM-1384-1001.png": "no text by the policy findings+impression",
        "CXR1_1_IM-0001-3001.png": "view is lateral",
    }
    funnel = folder.read_json(tmp_path / "out" / "funnel.json")
    assert list(funnel.values()) == [5, 4, 6, 5, 4, 3, 2]


def test_without_projections_the_view_is_unknown(tmp_path, capsys):
    write_trees(tmp_path)
    arguments = ["openi", "--reports", str(tmp_path / "xml"), "--images", str(tmp_path / "png")]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert set(folder.read(tmp_path / "out")["view"]) == {"unknown"}
    assert "every view is 'unknown'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "CXR1_1_IM-0001-3001.png",
        "1_IM-0001-3001.dcm.png",
        "CXR1_IM-0001-3001.jpg",
        "1_IM-0001-3001.dcm",
        "CXR1_1_IM-0001-3001",
    ],
)
def test_one_key_for_all_spellings(name):
    assert openi.image_key(name) == "CXR1_IM-0001-3001"


@pytest.mark.real
def test_real_collection(tmp_path, record_property):
    root = os.environ.get("MCR_OPENI")
    if not root:
        pytest.skip("MCR_OPENI is not set: the path of a folder with the real Open-i collection")
    root, out = Path(root), tmp_path / "openi"
    assert (
        main(
            [
                "openi",
                "--reports",
                str(root / "ecgen-radiology"),
                "--images",
                str(root / "images"),
                "--projections",
                str(root / "indiana_projections.csv"),
                "--out",
                str(out),
            ]
        )
        == 0
    )
    ours = folder.read(out).set_index("pair_id")
    expected = pd.read_csv(root / "expected_manifest.csv", keep_default_na=False)
    expected = expected.set_index(expected.orig_image_id.map(openi.image_key)).loc[ours.index]
    assert len(ours) == 6308
    agreement = {
        column: float((ours[column] == expected[column]).mean())
        for column in ("study_id", "view", "findings", "impression", "labels")
    }
    print(agreement)  # numbers only: the texts stay where they are
    assert set(agreement.values()) == {1.0}
    left_out = folder.read_json(out / "dataset.json")["left_out"]
    assert left_out["report without an image"] == 110
    assert main(["check", str(out)]) == 0


@pytest.mark.real
def test_real_kaggle_layout_agrees_where_it_has_the_study(tmp_path):
    root = os.environ.get("MCR_OPENI")
    if not root:
        pytest.skip("MCR_OPENI is not set: the path of a folder with the real Open-i collection")
    from_csv = openi.read_csv(Path(root) / "indiana_reports.csv", [])
    from_xml = openi.read_xml(Path(root) / "ecgen-radiology", [])
    assert len(from_csv) == 3274 and set(from_csv) <= set(from_xml)
    same = [
        all(study[section] == from_xml[uid][section] for section in ("findings", "impression"))
        and openi.labels_of(study["mesh"]) == openi.labels_of(from_xml[uid]["mesh"])
        for uid, study in from_csv.items()
    ]
    assert np.mean(same) == 1.0
