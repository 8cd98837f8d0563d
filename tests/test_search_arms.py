"""The fair search: the same draws for every arm, on `validate`, resumable; and the arms that it hands to a study."""

import json

import numpy as np
import pytest
import torch

from benchmarks.study import search
from benchmarks.study.arms import parse_arms
from data_prep.commands import run_app
from mcr_lib.config import read_config, resolve
from mcr_lib.data import PairData
from mcr_lib.engine.run_folder import RunError
from mcr_lib.run import train_run

CPU = torch.device("cpu")
ARMS = "two-stream-mba,mcr-mba@flops"


@pytest.fixture(scope="module")
def searched(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "search"
    again = ["--data", phantom, "--out", out, "--arms", ARMS, "--draws", "2", "--seeds", "1"]
    again = [str(word) for word in [*again, "--profile", "smoke", "--set", "steps=4"]]
    read, start = set(), PairData.__init__

    def noted(self, folder, split, *args, **kwargs):
        read.add(split)
        start(self, folder, split, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairData, "__init__", noted)
        assert run_app(search.app, search.MODULE, again) == 0
    assert read == {"train", "validate"}  # the test split is for the study
    return out, again


def test_every_arm_is_trained_with_every_draw_and_the_best_is_its_own(searched, phantom, tmp_path):
    out, _ = searched
    content = json.loads((out / "search.json").read_text())
    assert content["draws"][0] == {}
    assert content["draws"] == search.draw_settings(8)[:2]  # more draws begin with the same
    for name, arm in content["arms"].items():
        assert arm["best"] == np.argmax(np.mean(arm["rsum"], axis=1))
        for number, draw in enumerate(content["draws"]):
            run = out / f"draw-{number}" / "runs" / f"{name}-seed100"
            asked = {"steps": arm["steps"], "seed": 100, **draw}
            asked["framework"] = name.partition("-mba")[0]
            assert read_config(run / "config.yaml").train == resolve("smoke", asked).train
    assert content["arms"]["mcr-mba@flops"]["steps"] > content["arms"]["two-stream-mba"]["steps"]
    alone = tmp_path / "alone"
    config = resolve("smoke", {"framework": "two-stream", "steps": 4, "seed": 100})
    train_run(phantom, alone, config, device=CPU)
    rsum = search.read_validated(alone)[-1][1]
    assert content["arms"]["two-stream-mba"]["rsum"][0] == [pytest.approx(rsum)]
    assert "| mcr-mba@flops |" in search.format_search(content)


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(searched, phantom, capsys):
    out, again = searched
    kept = {path: path.stat().st_mtime_ns for path in out.glob("draw-*/results/*.json")}
    assert len(kept) == 4
    assert run_app(search.app, search.MODULE, again) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in out.glob("draw-*/results/*.json")}
    with pytest.raises(RunError, match="other settings or data"):
        arms, draws = parse_arms(ARMS), search.draw_settings(2)
        search.run_search(phantom, out, arms, draws, 1, "smoke", {"steps": 5}, device=CPU)


def test_a_study_takes_the_best_draw_of_each_arm_and_leaves_the_rest():
    draws = [{}, {"learning_rate": 0.002, "framework": "contrastive"}]
    found = {"mcr-mba@flops": {"best": 1}, "two-stream-mba": {"best": 0}}
    arms = parse_arms("mcr-mba@flops,two-stream-mba,mcr-abm")
    mcr, two_stream, other = search.tuned(arms, {"draws": draws, "arms": found})
    assert mcr.settings == {"learning_rate": 0.002, **arms[0].settings}  # its own keys stay
    assert (two_stream, other) == (arms[1], arms[2])
