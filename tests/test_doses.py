"""Arms and effects against the number of training pairs: what is printed and drawn is what the studies say."""

import copy
import json
from pathlib import Path

import pytest

from benchmarks.study import doses
from data_prep.commands import UsageError, run_app

HARD = Path(__file__).parent.parent / "benchmarks" / "results" / "study_hard.json"
ROW = "MCR against contrastive on whole input, equal FLOPs"


@pytest.fixture
def files(tmp_path):
    """Two studies: the second with a quarter of the pairs, and another effect."""
    whole = json.loads(HARD.read_text())
    for arm in whole["arms"].values():
        arm["training_pairs"] = 6400
    few = copy.deepcopy(whole)
    for arm in few["arms"].values():
        arm["training_pairs"] = 1600
    for row in few["claims"]:
        if row["measured"] == ROW:
            row |= {"effect": 12.0, "interval": [5.0, 19.0]}
    paths = [tmp_path / "whole.json", tmp_path / "few.json"]
    for path, content in zip(paths, (whole, few), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_the_table_and_the_picture_are_what_the_studies_say(files, tmp_path, capsys):
    out = tmp_path / "doses.png"
    assert run_app(doses.app, doses.MODULE, [*map(str, files), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    head, _, few, whole = capsys.readouterr().out.strip().splitlines()
    assert few.startswith("| 1,600 |") and whole.startswith("| 6,400 |") and "mcr-mba@flops" in head
    assert "+12 [+5, +19]" in few and "+12 [+5, +19]" not in whole
    effects = doses.draw_doses(doses.read_doses(files)).axes[1]
    line = next(x for x in effects.lines if x.get_label() == "MCR − contrast, whole input")
    assert line.get_xdata().tolist() == [1600, 6400] and line.get_ydata()[0] == 12.0


def test_studies_that_cannot_be_compared_are_refused(files):
    content = json.loads(files[1].read_text())
    with pytest.raises(UsageError, match="two or more"):
        doses.read_doses(files[:1])
    with pytest.raises(UsageError, match="different numbers"):
        doses.read_doses([*files, files[0]])
    content["gallery"]["images"] += 1
    files[1].write_text(json.dumps(content))
    with pytest.raises(UsageError, match="one gallery"):
        doses.read_doses(files)
    del content["arms"]["mcr-mba@flops"]["training_pairs"]
    files[1].write_text(json.dumps(content))
    with pytest.raises(UsageError, match="does not say"):
        doses.read_doses(files)
