"""The rows of the recipe: lined up with their pairs, no fold knows its own; a report is mapped as the model does."""

import json

import numpy as np
import pytest
import torch

from benchmarks import recipe
from data_prep import closed_form, folder
from data_prep.closed_form import correlate, report_components
from mcr_lib import linear


@pytest.fixture(scope="module")
def bench(phantom):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form, "MOST_WINDOWS", 5000)
        yield recipe.Bench(phantom, 3)


def test_it_knows_no_pair_of_the_test_split_and_no_patient_in_two_folds(bench, phantom):
    table = folder.read(phantom)
    frontal = table[table["view"] != "lateral"]
    assert len(bench.table) == (frontal["split"] != "test").sum()
    assert bench.table.groupby("patient_id")["pair_id"].count().max() > 1
    folds = bench.table.assign(fold=bench.fold).groupby("patient_id")["fold"].nunique()
    assert folds.max() == 1 and len(set(bench.fold)) == 3


def test_a_row_that_knows_the_answer_finds_it_and_noise_does_not(bench):
    """The report's own words as the image; then images that say nothing."""
    counts = np.zeros((len(bench.table), linear.WORD_PAIRS + 4096), np.float32)
    for row, numbers in enumerate(bench.pieces):
        counts[row, numbers] = 1
    known = bench.measure(recipe.reduced(counts), bench.pieces)
    noise = np.random.default_rng(0).standard_normal((len(counts), 40)).astype(np.float32)
    unknown = bench.measure(recipe.reduced(noise), bench.pieces)
    assert np.mean(known.folds) > 400 > 150 > np.mean(unknown.folds)
    whole = recipe.summary([(1.0, known)])["rsum"][0]
    assert whole == pytest.approx(np.mean(known.folds), rel=0.05)  # folds are of nearly one size


def test_a_report_is_mapped_as_the_models_encoder_maps_it(bench):
    histograms = np.random.default_rng(0).standard_normal((len(bench.table), 30))
    _, side = correlate(histograms, report_components(bench.pieces, 0), 20, 0)
    words = linear.WeightedWords(bench.config.model)
    with torch.no_grad():
        words.rarity[side.known] = torch.from_numpy(side.rarity).float()
        words.map[side.known, :20] = torch.from_numpy(side.map).float()
        words.bias[:20] = torch.from_numpy(side.bias).float()
        ids = bench.tokenizer(bench.table["report"].tolist()[:5], padding=True, return_tensors="pt")
        mapped = words(ids["input_ids"], ids["attention_mask"])
        there = ids["attention_mask"]
        mean = (mapped * there[:, :, None]).sum(1) / there.sum(1, keepdim=True)
    expected = recipe.map_reports(bench.pieces[:5], side)
    np.testing.assert_allclose(mean[:, :20].numpy(), expected, atol=1e-4)


def test_components_keep_distances_and_negated_words_are_others():
    x = np.random.default_rng(0).standard_normal((20, 50))
    y = recipe.reduced(x.copy())
    np.testing.assert_allclose((y @ y.T), (x - x.mean(0)) @ (x - x.mean(0)).T, atol=1e-8)
    marked = recipe.mark_negation("No effusion or edema. Large heart without lesion")
    assert marked == "no not_effusion not_or not_edema large heart without not_lesion"


def test_the_command_writes_each_row_with_its_gain(phantom, tmp_path, monkeypatch):
    kept = ("the profile", "settled images alone", "a jittered copy of each image in the fit")
    rows = recipe.rows_of
    monkeypatch.setattr(closed_form, "MOST_WINDOWS", 5000)
    monkeypatch.setattr(recipe, "rows_of", lambda bench: {name: rows(bench)[name] for name in kept})
    recipe.main(phantom, tmp_path / "out.json", folds=2)
    content = json.loads((tmp_path / "out.json").read_text())
    assert tuple(content["rows"]) == kept
    assert content["rows"]["the profile"]["gain"]["rsum"] == [0, 0, 0]
    assert content["rows"]["settled images alone"]["gain"]["rsum"][0] != 0
