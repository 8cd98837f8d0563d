"""The plain baselines: a linear model against scikit-learn's, oracles whose answer is known, the file they leave."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cross_decomposition import CCA

from benchmarks import baselines
from data_prep.commands import run_app


def table_of(texts, labels=None):
    count = len(texts)
    return pd.DataFrame(
        {
            "pair_id": [f"p{n}" for n in range(count)],
            "report": texts,
            "labels": labels or [""] * count,
            "patient_id": [str(n) for n in range(count)],
        }
    )


def split_of(images, texts):
    return baselines.Split(table_of([f"r{n}" for n in range(len(images))]), images, texts)


def test_without_ridge_the_directions_are_those_of_canonical_correlation():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((500, 2))
    images = shared @ rng.standard_normal((2, 4)) + 0.5 * rng.standard_normal((500, 4))
    texts = shared @ rng.standard_normal((2, 3)) + 0.5 * rng.standard_normal((500, 3))
    model = baselines.LinearCCA(images, texts, baselines.Setting(4, 3, 1e-9, 0.0))
    ours = [images - images.mean(0), texts - texts.mean(0)]
    ours = [side @ projection for side, projection in zip(ours, model.maps, strict=True)]
    theirs = CCA(3, max_iter=2000).fit_transform(images, texts)
    for k in range(3):
        correlation = [np.corrcoef(x[:, k], y[:, k])[0, 1] for x, y in (ours, theirs)]
        assert abs(correlation[0]) == pytest.approx(abs(correlation[1]), abs=1e-3)


def test_a_shared_signal_is_found_in_new_pairs_and_noise_is_not():
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((5, 12)), rng.standard_normal((5, 9))

    def draw(n, strength):
        shared = strength * rng.standard_normal((n, 5))
        return split_of(*(shared @ m + rng.standard_normal((n, m.shape[1])) for m in mix))

    for strength, low, high in ((10, 95, 100), (0, 0, 15)):
        train, new = draw(400, strength), draw(100, strength)
        setting = baselines.Setting(12, 9, 0.01, 1.0)
        features = baselines.LinearCCA(train.images, train.texts, setting).features(new)
        found = baselines.evaluate_pairs(*features, new.table, n_bootstrap=0)
        assert low <= found["image_to_text_R@10"] <= high + 1e-9


def test_an_oracle_that_knows_everything_finds_everything_and_one_that_knows_nothing_guesses():
    table = table_of([f"report {n}" for n in range(40)])
    whole = pd.Series([f"label{n}" for n in range(40)])
    assert baselines.oracle_result(whole, table)["rsum"] == pytest.approx(600)
    nothing = baselines.oracle_result(pd.Series(["normal"] * 40), table)
    assert nothing["image_to_text_R@10"] == pytest.approx(25, abs=8)  # 10 of 40
    halves = baselines.oracle_result(pd.Series(["a", "b"] * 20), table)
    assert halves["image_to_text_R@10"] == pytest.approx(50, abs=8)  # 10 of 20


def test_the_most_frequent_report_is_first_for_every_image():
    train = table_of(["Normal."] * 5 + ["Effusion."] * 2 + ["Nodule."])
    test = table_of(["Nodule.", "normal.", "Effusion.", "Fracture."])
    images, texts = baselines.frequent_features(train, test)
    assert (images @ texts.T)[0].argsort(descending=True).tolist() == [1, 2, 0, 3]
    assert torch.allclose(texts.norm(dim=1), torch.ones(4).double())


def test_the_command_measures_a_data_set_and_names_where_it_came_from(
    phantom, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(baselines, "GRID", baselines.GRID[:2])
    out = tmp_path / "baselines.json"
    arguments = ["--data", str(phantom), "--out", str(out)]
    assert run_app(baselines.app, "benchmarks.baselines", arguments) == 0
    printed, content = capsys.readouterr().out, json.loads(out.read_text())
    rows = {"linear CCA", "label oracle", "attribute oracle", "most frequent report"}
    assert set(content["rows"]) == rows and all(f"| {name} |" in printed for name in rows)
    assert content["rows"]["linear CCA"]["rsum"] > content["chance"]["rsum"]
    assert content["rows"]["attribute oracle"]["rsum"] > content["rows"]["label oracle"]["rsum"]
    assert len(content["tried"]) == 2 and content["data"]["synthetic"] and content["commit"]
    text = out.read_text()
    assert not any(
        report in text for report in pd.read_parquet(phantom / "manifest.parquet").report
    )
    assert run_app(baselines.app, "benchmarks.baselines", ["--data", str(tmp_path)]) == 2
    assert "no manifest.parquet" in capsys.readouterr().err
