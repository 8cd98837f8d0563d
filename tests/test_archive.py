"""What a profile is worth on an archive: its summaries against retrieval.evaluate, its folds against leaks."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks import archive
from benchmarks.baselines import Setting, read_splits
from data_prep import closed_form, folder
from data_prep.errors import KitError
from mcr_lib import retrieval


@pytest.fixture(autouse=True)
def few_windows(monkeypatch):
    monkeypatch.setattr(closed_form, "MOST_WINDOWS", 5000)


@pytest.fixture
def features(phantom):
    """Vectors of the test pairs that are right for some of them."""
    table = folder.read(phantom).query("split == 'test'").reset_index(drop=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(table), 8, generator=generator)
    texts = images + 0.5 * torch.randn(len(table), 8, generator=generator)
    return normalize(images), normalize(texts), table


def test_a_summary_of_one_is_what_evaluate_gives_and_of_equals_nothing(features):
    hits, whole = archive.Hits(*features), retrieval.evaluate_pairs(*features)
    for name, (value, low, high) in archive.summary([(1.0, hits)]).items():
        assert value == pytest.approx(whole[name])
        assert [low, high] == pytest.approx(whole["interval"][name])
    assert all(
        value == [0.0, 0.0, 0.0]
        for value in archive.summary([(0.5, hits), (0.5, hits), (-1.0, hits)]).values()
    )


def test_the_baseline_of_a_fold_is_lined_up_with_its_pairs(phantom):
    points = read_splits(phantom)
    table = folder.read(phantom).sample(frac=1, random_state=0).reset_index(drop=True)
    setting = Setting(10, 10, 0.1, 1.0)
    images, texts = archive.cca_of_fold(points, table, np.ones(len(table), bool), setting)
    again = archive.cca_of_fold(points, table[::-1], np.ones(len(table), bool), setting)
    assert torch.allclose(images, again[0].flip(0), atol=1e-6)
    own = (images * texts).sum(1).mean()
    assert own > (images * texts.roll(1, 0)).sum(1).mean() + 0.1


def test_no_fold_is_asked_by_a_model_that_knows_it(phantom, tmp_path, monkeypatch):
    fitted, asked, fit, ask = [], [], archive.fit_fold, archive.ask_labels
    patients = folder.read(phantom)["patient_id"]

    def fit_and_note(data, table, rows, config):
        fitted.append(set(patients.iloc[rows]))
        return fit(data, table, rows, config)

    def ask_and_note(model, tokenizer, images, table):
        asked.append(set(table["patient_id"]))
        return ask(model, tokenizer, images, table)

    monkeypatch.setattr(archive, "fit_fold", fit_and_note)
    monkeypatch.setattr(archive, "ask_labels", ask_and_note)
    out = tmp_path / "result.json"
    small = ["embed_dim=16", "vocab_size=300"]
    archive.main(phantom, out, tmp_path / "runs", settings=small, seeds=2, folds=2)
    assert [bool(known & new) for known, new in zip(fitted, asked, strict=True)] == [False, False]
    assert set.union(*asked) == set(patients)
    measured = json.loads(out.read_text())
    folds = measured["folds"]["image_to_text, all reports"]
    assert folds["model"]["R@10"][0] > 2 * folds["chance"]["R@10"]
    assert measured["split"]["mean of seeds"]["rsum"][0] > 100
    assert "normal" not in measured["folds"]["labels as sentences"]


def test_what_an_archive_takes_names_a_command_that_fails_and_measures_one_that_does_not(tmp_path):
    from benchmarks.cost import archives

    (tmp_path / "a").write_bytes(b"x" * 2_000_000)
    assert archives.size_of(tmp_path) == 2
    took = archives.take("data_prep", "--help")
    assert took["seconds"] > 0 and 10 < took["memory_mb"] < 5000
    with pytest.raises(KitError, match="data_prep check ended with status 2"):
        archives.take("data_prep", "check", tmp_path / "nowhere")
