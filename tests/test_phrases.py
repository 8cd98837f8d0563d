"""The matcher of findings: by hand on the traps of negation, against the phantom's own labels (which are the truth of
what its reports state), and on the real collection against its indexers."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.study.phrases import cut_by_relation, find_mentions, relation


def said(text):
    return [(m.finding, m.present, m.side) for m in find_mentions(text)]


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "No pneumothorax or pleural effusion.",
            [("pneumothorax", False, ""), ("pleural_effusion", False, "")],
        ),
        (
            "No pneumothorax. Small left effusion.",
            [("pneumothorax", False, ""), ("pleural_effusion", True, "left")],
        ),
        (
            "No effusion, but a right pneumothorax.",
            [("pleural_effusion", False, ""), ("pneumothorax", True, "right")],
        ),
        ("No change in the left pleural effusion.", [("pleural_effusion", True, "left")]),
        (
            "The effusion has resolved; there is no edema.",
            [("pleural_effusion", False, ""), ("edema", False, "")],
        ),
        ("Right MediPort is noted.", [("port", True, "right")]),  # 'noted' is no 'not'
        ("Pneumonia is not excluded.", [("consolidation", True, "")]),
        (
            "The lungs are clear of focal airspace disease, pneumothorax, or pleural effusion.",
            [
                ("opacity", False, ""),
                ("consolidation", False, ""),
                ("pneumothorax", False, ""),
                ("pleural_effusion", False, ""),
            ],
        ),
        ("The heart is normal in size.", [("cardiomegaly", False, "")]),
        ("The heart size is mildly enlarged.", [("cardiomegaly", True, "")]),
        ("The heart is not enlarged.", []),  # neither phrase: nothing is claimed
        ("Calcified granuloma in the left upper lobe.", [("calcified_granuloma", True, "left")]),
        ("Negative for acute disease.", []),
        (
            "A 4.5 cm mass in the right base. 1. Mild edema.",
            [("mass", True, "right"), ("edema", True, "")],
        ),
        (
            "Bilateral effusions and a left pacemaker.",
            [("pleural_effusion", True, "both"), ("pacemaker", True, "left")],
        ),
        ("", []),
    ],
)
def test_by_hand(text, expected):
    assert said(text) == expected


@pytest.mark.parametrize(
    "own, found, expected",
    [
        ("Left pleural effusion.", "Large left effusion.", "truth"),
        ("Left pleural effusion.", "Pleural effusion.", "truth"),  # no side said, none contradicted
        ("Left pleural effusion.", "Right pleural effusion.", "similar"),
        (
            "Left pleural effusion.",
            "No pleural effusion.",
            "irrelevant",
        ),  # the opposite is not similar
        ("No pleural effusion.", "No pleural effusion.", "truth"),
        ("Left consolidation.", "Left atelectasis.", "similar"),
        ("Left consolidation.", "Sternotomy wires.", "irrelevant"),
        ("", "Sternotomy wires.", "irrelevant"),
    ],
)
def test_relation(own, found, expected):
    (mention,) = find_mentions(found)
    assert relation(mention, find_mentions(own)) == expected


def test_coloured_keeps_the_text_and_colours_the_phrases():
    report = "There is a large left pleural effusion. No pneumothorax. Sternotomy wires are noted."
    pieces = cut_by_relation(report, "Small left effusion. Mild edema.")
    assert "".join(text for text, _ in pieces) == report
    assert [piece for piece in pieces if piece[1]] == [
        ("pleural effusion", "truth"),
        ("pneumothorax", "irrelevant"),
        ("Sternotomy wires", "irrelevant"),
    ]


def test_every_finding_of_the_phantom_is_found_and_no_other():
    from data_prep.phantom.body import body_of
    from data_prep.phantom.case import EASY, HARD, REPORT, Draw, make_findings
    from data_prep.phantom.hard import hard_body
    from data_prep.phantom.hard_report import write_hard_report
    from data_prep.phantom.report import write_report

    for index in range(1000):
        is_hard = index >= 600
        drawn = make_findings(11, index, HARD if is_hard else EASY)
        body = hard_body(11, index, drawn) if is_hard else body_of(11, index)
        write = write_hard_report if is_hard else write_report
        text = " ".join(write(Draw(11, REPORT, index), drawn, body.incidental))
        stated = {m.finding for m in find_mentions(text) if m.present} - {"opacity"}
        assert stated == {finding.label for finding in drawn}, text
        sides = {f.label: "both" if f.side == "bilateral" else f.side for f in drawn}
        several = len(sides) < len(drawn)
        for mention in find_mentions(
            text
        ):  # a side may be left out of a report, but never be another
            if mention.present and mention.side and sides.get(mention.finding) and not several:
                assert mention.side == sides[mention.finding], text


@pytest.mark.real
def test_on_the_real_collection_it_agrees_with_the_indexers(openi):
    """Their labels are no transcription (hyperinflation is not always 'emphysema' to them), so: recall, and precision
    where the terms mean the same."""
    table = pd.read_csv(openi / "indiana_reports.csv").fillna("")
    table = table[table["Problems"] != "No Indexing"]
    stated = [
        {m.finding for m in find_mentions(f"{f} {i}") if m.present}
        for f, i in zip(table["findings"], table["impression"], strict=True)
    ]
    for finding, label, precision, recall in (
        ("cardiomegaly", "Cardiomegaly", 0.9, 0.93),
        ("pneumothorax", "Pneumothorax", 0.85, 0.85),
        ("pleural_effusion", "Pleural Effusion", 0.7, 0.95),
        ("atelectasis", "Pulmonary Atelectasis", 0.75, 0.93),
        ("calcified_granuloma", "Calcified Granuloma", 0.5, 0.95),
        ("fracture", "Fractures, Bone", 0.65, 0.95),
    ):
        truth = np.array([label in map(str.strip, row.split(";")) for row in table["Problems"]])
        found = np.array([finding in row for row in stated])
        assert (truth & found).sum() / found.sum() > precision, finding
        assert (truth & found).sum() / truth.sum() > recall, finding
