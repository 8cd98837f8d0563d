"""What lessons say of the study is read from its committed files, and no verdict on retrieval is given away there."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study.tables import format_studies
from kit import found

SOURCES = sorted((Path(__file__).parent.parent / "notebooks" / "src").glob("[0-9][0-9]_*.py"))


def asked_in_lessons() -> list[tuple[str, str]]:
    """Every (file, what was measured) that a lesson shows."""
    asked = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "found.verdicts":
                asked += [ast.literal_eval(argument) for argument in node.args]
    return asked


def test_lessons_show_rows_that_are_there_with_their_effects():
    asked = asked_in_lessons()
    assert len(asked) > 10
    for name, measured in asked:
        line, said = found.row(name, measured), found.verdicts((name, measured)).data
        assert f"{abs(line['effect']):.1f}"[:-1] in said and f"{name}.json" in said
        low, high = line["interval"]
        has_linear = bool(found.read(name).get("baselines"))
        if line["unit"] == found.RETRIEVAL and not has_linear:
            shown = said.removesuffix(found.ABOUT_RETRIEVAL)
            assert ("clear of 0" in shown) == (low > 0 or high < 0) and shown != said
            assert "**supported**" not in said and "**contradicted**" not in said
        else:
            assert f"**{line['verdict']}**" in said
    with pytest.raises(KeyError):
        found.row("study_phantom", "nothing of the kind")


def test_mask_rates_and_the_linear_model_are_those_of_the_files():
    rates = found.mask_rates()
    arms = found.read("study_phantom_masks")["arms"]
    rsum = np.mean(arms["mask-0.75-0.25"]["metrics"]["test, unmasked"]["rsum"])
    assert rates.loc["image 75%", "report 25%"] == rsum and rates.notna().all().all()
    for name in ("phantom", "openi"):
        beside, file = found.beside_linear(name), found.read(f"baselines_{name}")
        linear = file["rows"]["linear CCA"]["image_to_text_R@10"]
        assert beside.loc["linear CCA", "image to text"] == linear
        assert (beside.round(1)["text to image"] * 10 % 1 < 1e-6).all()
        assert beside.loc["chance", "data"] == file["data"]["sha256"][:8]


def test_operations_of_a_training_are_those_of_the_study_s_own_table():
    curves = found.learning_curves(found.read("study_hard"))
    printed = format_studies([found.RESULTS / "study_hard.json"])
    assert len(curves) == 5
    for arm, (spent, rsums) in curves.items():
        (line,) = re.findall(rf"^\| {arm} \|.*$", printed, re.M)
        assert f"| {spent[-1]:.3g} |" in line and len(rsums) == len(spent)
