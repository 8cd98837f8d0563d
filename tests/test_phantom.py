"""The synthetic data set: the same everywhere, and the text says what the picture shows."""

import hashlib
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.study.phrases import find_mentions
from data_prep import phantom
from data_prep.phantom import body, case, hard, report

ZONE_WORDS = {"upper": "upper", "middle": "mid|lingula", "lower": "lower|base"}
GOLDEN = {  # (seed, index): SHA-256 of pixels and text
    (0, 0): "42463dd046510ca4",
    (0, 7): "de56dfc32837e96a",
    (0, 31): "ccf6f31faacba8a0",
    (1, 3): "c0951b4d41fa78f3",
    (1099511627776, 1999): "8aeca10841955a89",
}


GOLDEN_HARD = {(0, 0): "022afe70ae1b3e8c", (1, 3): "71636a7e5a92a12a", (0, 41): "617fdaa47de807e4"}


def study_hash(study: phantom.PhantomStudy) -> str:
    text = json.dumps(
        [study.findings, study.impression, study.labels, study.patient_id, study.split]
    )
    return hashlib.sha256(study.pixels.tobytes() + text.encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def texts():
    """(findings, report) of 1,000 studies, without drawing them."""
    rows = []
    for index in range(1000):
        found = case.make_findings(0, index)
        draw = case.Draw(0, case.REPORT, index)
        rows.append((found, report.write_report(draw, found, body.body_of(0, index).incidental)))
    return rows


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same twelve studies written by one and by two processes."""
    folders = [tmp_path_factory.mktemp("phantom") / name for name in ("one", "two")]
    for processes, folder in enumerate(folders, 1):
        phantom.write(folder, studies=12, seed=3, processes=processes)
    return folders


def test_bytes_do_not_depend_on_the_number_of_processes(written):
    one, two = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in written
    )
    assert one == two and len(one) == 12 + 5


def test_a_study_does_not_depend_on_how_many_there_are(written, tmp_path):
    phantom.write(tmp_path / "five", studies=5, seed=3, processes=1)
    five, twelve = (
        pd.read_parquet(folder / "manifest.parquet") for folder in (tmp_path / "five", written[0])
    )
    pd.testing.assert_frame_equal(five, twelve.head(5))
    for path in five.image_path:
        assert (tmp_path / "five" / path).read_bytes() == (written[0] / path).read_bytes()


def test_running_again_keeps_what_is_there_and_repairs_what_is_not(written):
    kept, lost = written[0] / "images/ph000001.png", written[0] / "images/ph000002.png"
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    phantom.write(written[0], studies=12, seed=3, processes=1)
    assert lost.read_bytes() == content and kept.stat().st_mtime_ns == before
    again = lost.stat().st_mtime_ns
    phantom.write(written[0], studies=12, seed=3, processes=1)
    assert lost.stat().st_mtime_ns == again


@pytest.mark.parametrize("seed, index", GOLDEN)
def test_golden_studies(seed, index):
    assert study_hash(phantom.make_study(seed, index)) == GOLDEN[seed, index], (
        "raise its version in GENERATOR_VERSIONS if meant"
    )


@pytest.mark.parametrize("seed, index", GOLDEN_HARD)
def test_golden_hard_studies(seed, index):
    study = phantom.make_study(seed, index, difficulty="hard")
    assert study_hash(study) == GOLDEN_HARD[seed, index], (
        "raise its version in GENERATOR_VERSIONS if meant"
    )


def hard_study(seed, index, findings=None):
    found = case.make_findings(seed, index, case.HARD)
    body = hard.hard_body(seed, index, found)
    drawn = found if findings is None else findings
    return found, body, *phantom.draw_findings(seed, index, drawn, body)


def test_hard_findings_are_in_the_picture_in_their_boxes_and_on_their_side():
    several = 0
    for index in range(40):
        found, body, pixels, boxes = hard_study(5, index)
        assert [box.label for box in boxes] == [finding.label for finding in found]
        several += len({finding.label for finding in found}) < len(found)
        _, _, bare, _ = hard_study(5, index, [])
        difference = np.abs(pixels.astype(int) - bare) > 12
        outside = difference.copy()
        height, width = pixels.shape
        for box in boxes:
            rows = slice(round(box.y0 * height), round(box.y1 * height))
            columns = slice(round(box.x0 * width), round(box.x1 * width))
            assert min(rows.stop - rows.start, columns.stop - columns.start) >= 3, box
            assert np.count_nonzero(difference[rows, columns]) >= 10, box
            outside[rows, columns] = False
            middle = (box.x0 + box.x1) / 2 * width - body.centre_x
            middle += body.turn * ((box.y0 + box.y1) / 2 * height - body.top_y)
            if box.side in ("left", "right") and box.label not in case.CHEST_WALL:
                assert (middle > 0) == (box.side == "left"), (index, box)
        assert np.count_nonzero(outside) <= 0.01 * outside.size, index
    assert several >= 8


def test_the_hard_phantom_varies_in_what_the_easy_one_holds_still():
    bodies = []
    for index in range(60):
        bodies.append(hard.hard_body(5, index, case.make_findings(5, index, case.HARD)))
    easy = [body.body_of(5, index) for index in range(60)]
    for name in ("centre_x", "half_width", "exposure", "turn"):
        assert np.std([getattr(b, name) for b in bodies]) > 1.3 * np.std(
            [getattr(b, name) for b in easy]
        ), name
    seen = {name.rpartition("_")[0] for b in bodies for name in b.incidental}
    assert {"nipple", "skin_fold", "rib_crossing", "external"} <= seen


def test_hard_is_written_resumed_and_named(tmp_path):
    for _ in range(2):
        phantom.write(tmp_path, studies=3, seed=5, processes=1, difficulty="hard")
    about = json.loads((tmp_path / "dataset.json").read_text())
    assert about["name"] == "phantom, hard" and about["source"]["difficulty"] == "hard"
    assert about["source"]["generator_version"] == 3
    study = phantom.make_study(5, 2, difficulty="hard")
    assert (tmp_path / "images" / "ph000002.png").read_bytes() == phantom.png_bytes(study.pixels)
    row = pd.read_parquet(tmp_path / "manifest.parquet").iloc[2]
    assert row["findings"] == study.findings and row["labels"] == "|".join(study.labels)


def test_png_is_read_back_as_the_same_pixels():
    pixels = phantom.make_study(0, 1).pixels
    image = Image.open(io.BytesIO(phantom.png_bytes(pixels)))
    assert image.mode == "L" and np.array_equal(np.asarray(image), pixels)
    assert pixels.dtype == np.uint8 and pixels.shape[1] == 256 and 224 <= pixels.shape[0] <= 304


@pytest.mark.parametrize("label", case.KINDS)
def test_a_finding_is_inside_its_box_and_only_there(label):
    """Against the same study without the finding: differs clearly inside the box, hardly outside."""
    indices = [
        i for i in range(500) if label in [finding.label for finding in case.make_findings(0, i)]
    ]
    assert len(indices) >= 8
    for index in indices[:3]:
        found = case.make_findings(0, index)
        pixels, boxes = phantom.draw_findings(0, index, found)
        without, _ = phantom.draw_findings(
            0, index, [finding for finding in found if finding.label != label]
        )
        box = next(box for box in boxes if box.label == label)
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
        difference = np.abs(pixels.astype(int) - without)
        height, width = pixels.shape
        inside = np.zeros(pixels.shape, bool)
        inside[
            round(box.y0 * height) : round(box.y1 * height),
            round(box.x0 * width) : round(box.x1 * width),
        ] = True
        assert np.count_nonzero(difference[inside] > 12) >= 10
        assert (
            np.count_nonzero(difference[~inside] > 12)
            <= 0.02 * np.count_nonzero(difference[inside] > 12) + 4
        )
        if box.side in ("left", "right") and label != "central_line":
            assert ((box.x0 + box.x1) / 2 > 0.5) == (box.side == "left"), (index, box)


def test_words_agree_with_side_zone_and_size(texts):
    """The only sided finding of a study: its own side is said, the other is not; so for zone and size."""
    said = {"side": [], "zone": [], "size": []}
    for found, (findings, impression) in texts:
        report = re.sub(
            r"[^.]*rotated[^.]*\.|right ventric\w+", "", f"{findings} {impression}"
        ).lower()
        sides = {finding.side for finding in found} - {""}
        zones = {finding.zone for finding in found} & set(ZONE_WORDS)
        for side in sides if len(sides) == 1 else ():
            other = {"left": "right", "right": "left"}.get(side, "left|right")
            assert not re.search(rf"\b({other})\b", report), report
            words = "bilateral|both|hila|lung bases" if side == "bilateral" else rf"\b{side}\b"
            said["side"].append(bool(re.search(words, report)))
        lesions = {finding.label for finding in found} <= {"nodule", "mass", "consolidation"}
        for zone in zones if len(zones) == 1 and lesions else ():
            others = "|".join(words for name, words in ZONE_WORDS.items() if name != zone)
            assert not re.search(rf"\b({others})[^.]*(lung|lobe|zone|base|lingula)", report), report
            said["zone"].append(bool(re.search(ZONE_WORDS[zone], report)))
        said["size"] += [
            finding.size in report for finding in found if finding.size.endswith(("mm", "cm"))
        ]
    for attribute, hits in said.items():
        assert len(hits) > 30 and sum(hits) >= 0.8 * len(hits), attribute


def test_a_report_denies_nothing_that_is_there(texts):
    words = {
        "pneumothorax": "pneumothora",
        "pleural_effusion": "effusion",
        "consolidation": "consolidation|airspace",
        "edema": "edema",
        "nodule": "nodule",
        "mass": "mass",
    }
    for found, sections in texts:
        denied = " ".join(re.findall(r"(?:No |no |Negative for)[^.]*\.", " ".join(sections)))
        for finding in found:
            if finding.label in words:
                assert not re.search(words[finding.label], denied), (finding, denied)


def test_text_is_whole_and_of_the_right_length(texts):
    lengths = []
    for found, (findings, impression) in texts:
        report = f"{findings} {impression}"
        assert not re.search(r"[\[\]{}|~]| [.,]|\.\.|  |\ba [aeio]", report.strip()), report
        assert impression and (not found or len(report.split()) >= 6)
        lengths.append(len(report.split()))
    assert max(lengths) <= 110 and 25 <= np.median(lengths) <= 60
    assert 0.05 < np.mean([not sections[0] for _, sections in texts]) < 0.25
    assert 0.15 < np.mean(["XXXX" in " ".join(sections) for _, sections in texts]) < 0.6


def test_only_normal_reports_are_repeated(texts):
    abnormal = [sections for found, sections in texts if found]
    normal = [sections for found, sections in texts if not found]
    assert len(set(abnormal)) == len(abnormal)
    expected = case.CHRONIC_COUNT[0] * case.ACUTE_COUNT[0]
    assert abs(len(normal) / len(texts) - expected) < 0.03
    stock = np.mean([sections in report.STOCK for sections in normal])
    assert abs(stock - report.STOCK_NORMAL) < 0.15
    assert len(set(abnormal + normal)) >= 0.85 * len(texts)


def test_number_of_findings(texts):
    counts = np.bincount([len(found) for found, _ in texts])
    most = case.CHRONIC_COUNT[2] * case.ACUTE_COUNT[2]
    assert len(counts) == 5 and abs(counts[4] / counts.sum() - most) < 0.03


@pytest.mark.parametrize("studies", [100, 700, 2000])
def test_splits_are_by_patient_with_steady_shares(studies):
    rows = pd.DataFrame(
        [case.patient_of(0, index) for index in range(studies)], columns=["patient", "split"]
    )
    assert rows.groupby("patient").split.nunique().max() == 1
    shares = rows.split.value_counts(normalize=True)
    assert abs(shares["test"] - 0.1) < 0.03 and abs(shares["validate"] - 0.1) < 0.03
    several = (rows.patient.value_counts() > 1).mean()
    assert 0.15 < several < 0.35 and rows.patient.value_counts().max() == 3


def test_a_patient_keeps_body_and_lasting_findings():
    first = next(i for i in range(100) if case.patient_of(0, i)[0] == case.patient_of(0, i + 1)[0])
    one, two = body.body_of(0, first), body.body_of(0, first + 1)
    assert (one.fat, one.heart, one.diaphragms) == (two.fat, two.heart, two.diaphragms)
    lasting = [
        {f for f in case.make_findings(0, i) if case.KINDS[f.label].chronic}
        for i in (first, first + 1)
    ]
    assert lasting[0] == lasting[1]


def test_one_small_lesion_is_all_there_is_and_small(tmp_path):
    """The picture differs from the lesion-free body inside the box only, and the box is at most two patches wide."""
    for index in range(40):
        study = phantom.make_study(5, index, "one-small-lesion")
        (box,) = study.boxes
        assert study.labels == (f"nodule_{box.side}_{box.zone}",)
        height, width = study.pixels.shape
        assert (box.x1 - box.x0) * width <= 32 and (
            box.y1 - box.y0
        ) * width <= 32  # of 256: 16 of a 128-pixel input
        bare, _ = phantom.draw_findings(5, index, [])
        inside = np.zeros_like(study.pixels, dtype=bool)
        inside[
            round(box.y0 * height) - 1 : round(box.y1 * height) + 1,
            round(box.x0 * width) - 1 : round(box.x1 * width) + 1,
        ] = True
        assert (bare == study.pixels)[~inside].all() and (bare != study.pixels)[inside].any()
        stated = {
            m.finding for m in find_mentions(f"{study.findings} {study.impression}") if m.present
        }
        assert stated == {"nodule"}
    phantom.write(tmp_path / "d", studies=4, seed=5, processes=1, findings="one-small-lesion")
    about = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert (
        about["name"] == "phantom, one-small-lesion"
        and about["source"]["findings"] == "one-small-lesion"
    )
    assert set(pd.read_parquet(tmp_path / "d" / "boxes.parquet")["label"]) == {"nodule"}
