"""The fair search: the same draws for every arm, on `validate`, resumable; and the arms that it hands to a study."""

import json

import numpy as np
import pytest
import torch

from benchmarks.study import runs, search
from benchmarks.study.arms import parse_arms, with_draws
from benchmarks.study.comparisons import COST_ARMS
from benchmarks.study.files import read_search
from data_prep.commands import run_app
from data_prep.folder import write_json
from data_prep.own_files import DamagedFile
from mcr_lib.config import ConfigError, read_config, resolve
from mcr_lib.data import PairData
from mcr_lib.engine.precision import autocast_dtype, precision_name
from mcr_lib.engine.run_folder import RunError
from mcr_lib.run import train_run

CPU = torch.device("cpu")
PRECISION = precision_name(autocast_dtype("auto", CPU))
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

    with pytest.raises(ConfigError, match="mcr-mba@time: a search takes arms of equal operations"):
        search.run_search(
            phantom, out, parse_arms("mcr-mba@time"), draws, 1, "smoke", {}, device=CPU
        )
    assert run_app(search.app, search.MODULE, [*again, "--seeds", "0"]) == 2
    assert "take 1 or more" in capsys.readouterr().err


def test_a_study_takes_the_best_draw_of_each_arm_and_leaves_the_rest():
    draws = [{}, {"learning_rate": 0.002, "framework": "contrastive"}]
    found = {"mcr-mba@flops": {"best": 1}, "two-stream-mba": {"best": 0}}
    arms = parse_arms("mcr-mba@flops,two-stream-mba,mcr-abm")
    mcr, two_stream, other = with_draws(arms, {"draws": draws, "arms": found})
    assert mcr.settings == {"learning_rate": 0.002, **arms[0].settings}  # its own keys stay
    assert (two_stream, other) == (arms[1], arms[2])


def test_a_tuned_study_trains_with_the_draws_says_so_and_mixes_with_no_other(phantom, tmp_path):
    draw = {"learning_rate": 0.002, "pooling": "max"}
    found = {"profile": "smoke", "draws": [{}, draw], "arms": {"mcr-mba@flops": {"best": 1}}}
    write_json(tmp_path / "search.json", found)
    asked = {"profile": "smoke", "settings": {"steps": 2}, "device": CPU}
    asked |= {"seeds": "2", "scored": 2, "with_baselines": False, "arms": ARMS}
    out = tmp_path / "study"
    out.mkdir()
    costs = {name: {"seconds": [1.0, 1.0], "peak_bytes": [2, 2]} for name in COST_ARMS}
    conditions = {"device": "cpu", "batch_size": 32, "precision": PRECISION}
    write_json(out / "cost.json", {"arms": costs, "steps_of": {}, **conditions})  # nothing to time
    content = runs.run_study(phantom, out, tuned=tmp_path / "search.json", **asked)
    assert content["arms"]["mcr-mba@flops"]["settings"].items() >= draw.items()
    assert "learning_rate" not in content["arms"]["two-stream-mba"]["settings"]
    config = read_config(out / "runs" / "mcr-mba@flops-seed1" / "config.yaml")
    assert (config.train.learning_rate, config.model.pooling) == (0.002, "max")
    row = next(row for row in content["claims"] if "two-stream, equal FLOPs" in row["measured"])
    assert row["repeats"] == 2
    assert "--tuned" in content["repeat"]
    with pytest.raises(RunError, match="is of the profile other, not smoke"):
        write_json(tmp_path / "other.json", found | {"profile": "other"})
        runs.run_study(phantom, out, tuned=tmp_path / "other.json", **asked)
    with pytest.raises(RunError, match="pooling='max', now it is 'mean'"):
        runs.run_study(phantom, out, **asked)
    with pytest.raises(DamagedFile, match="not among the draws"):
        write_json(tmp_path / "bad.json", found | {"draws": [{}]})
        read_search(tmp_path / "bad.json")
