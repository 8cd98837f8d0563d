"""The measures of findings against scikit-learn, and the command on a small run."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks import probe


@pytest.fixture
def answers():
    """Scores with ties, truth, and weights of which the first row is once each."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 60)
    score = np.round(truth + 1.5 * random.standard_normal(60), 1)
    weights = torch.from_numpy(random.integers(0, 4, (5, 60)).astype(float))
    return score, truth, torch.cat([torch.ones(1, 60).double(), weights])


def test_auroc_is_scikit_learns_under_any_weights(answers):
    score, truth, weights = answers
    expected = [100 * roc_auc_score(truth, score, sample_weight=row) for row in weights.numpy()]
    np.testing.assert_allclose(probe.auroc(score, truth, weights).numpy(), expected)
    assert probe.auroc(score, np.ones(60), weights).tolist() == [50.0] * 6


def test_precision_counts_a_pair_as_often_as_it_is_drawn(answers):
    score, truth, weights = answers
    expected = []
    for row in weights.int():
        drawn = np.repeat(np.argsort(-score, kind="stable"), row[np.argsort(-score, kind="stable")])
        expected.append(100 * truth[drawn[:10]].mean())
    np.testing.assert_allclose(probe.precision(score, truth, weights).numpy(), expected)


def test_f1_is_scikit_learns():
    random = np.random.default_rng(0)
    truth, drafted = random.integers(0, 2, (2, 40, 7))
    once = torch.ones(1, 40).double()
    expected = 100 * f1_score(truth, drafted, average="micro")
    assert probe.label_f1(drafted, truth, once).item() == pytest.approx(expected)


def test_a_probe_finds_what_is_there_and_gives_nothing_for_what_it_never_saw():
    random = np.random.default_rng(0)
    known = random.standard_normal((200, 5))
    truth = np.stack([known[:, 0] > 0, np.zeros(200)], axis=1).astype(int)
    asked = random.standard_normal((100, 5))
    scores = probe.probe(known, truth, asked, 1.0)
    once = torch.ones(1, 100).double()
    assert probe.auroc(scores[:, 0], (asked[:, 0] > 0).astype(int), once) > 95
    assert not scores[:, 1].any()


def test_the_command_writes_all_parts(phantom, smoke_run, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "LEAST", 2)
    probe.main(phantom, smoke_run, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert set(content["probe, mean AUROC"]) == {"1 %", "10 %", "100 %"}
    for row in content["probe, mean AUROC"].values():
        for value, low, high in row.values():
            assert low <= value <= high
    assert content["labels"] and set(content["prompts"]["labels"]) == set(content["labels"])
    drafts = content["draft, F1 of labels"]
    assert {"the most frequent report", "above the most frequent report"} <= set(drafts)
