"""Measures beyond the findings' names: against a count by hand, at chance, and for a model that knows all."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks.study.fine import measure_alike, measure_label_f1

LABELS = ["mass|nodule", "nodule|mass", "normal", "mass", "normal", "mass|nodule", "", "mass"]
REPORTS = torch.tensor([0, 1, 2, 3, 4, 0, 5, 3])


def features(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, count, 6, generator=generator, dtype=torch.float64)
    return F.normalize(pair, dim=-1)


def by_hand(images, texts, numbers, labels):
    """Pair → percent and chance, in slow loops."""
    numbers, found = numbers.tolist(), {}
    for n, own in enumerate(labels):
        group = [m for m in range(len(labels)) if set(labels[m].split("|")) == set(own.split("|"))]
        reports = {int(numbers[m]) for m in group}
        if own in ("", "normal") or len(reports) < 2:
            continue
        text_of = {int(numbers[m]): texts[m] for m in group}
        best_report = max(text_of, key=lambda number: float(images[n] @ text_of[number]))
        best_image = max(group, key=lambda m: float(images[m] @ texts[n]))
        hits = (best_report == numbers[n]) + (numbers[best_image] == numbers[n])
        equal = sum(int(numbers[m] == numbers[n]) for m in group)
        found[n] = 50.0 * int(hits), 50 / len(reports) + 50 * equal / len(group)
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["mass", "mass|nodule", "nodule|mass", "normal", ""]),
        min_size=1,
        max_size=9,
    ),
    st.integers(0, 99),
)
def test_right_among_equal_findings_is_the_count_by_hand(labels, seed):
    numbers = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, len(labels)))
    images, texts = features(len(labels), seed)
    texts = texts[[numbers.tolist().index(number) for number in numbers.tolist()]]  # same report
    measured = measure_alike(images, texts, numbers, labels)
    expected = by_hand(images, texts, numbers, labels)
    place = measured["query_of_pair"]
    assert [n for n, at in enumerate(place) if at >= 0] == list(expected)
    for n, (hits, chance) in expected.items():
        assert measured["hits"][place[n]] == hits
        assert measured["chance"][place[n]] == pytest.approx(chance)


def test_who_knows_all_is_right_and_who_knows_nothing_is_not():
    known = F.normalize(F.one_hot(REPORTS).double(), dim=-1)
    assert set(measure_alike(known, known, REPORTS, LABELS)["hits"]) == {100.0}
    same = torch.ones_like(known)  # all tied
    assert set(measure_alike(same, same, REPORTS, LABELS)["hits"]) == {0.0}
    assert measure_alike(known, known, REPORTS, ["normal"] * 8)["hits"] == []


def test_random_features_are_right_as_often_as_chance_says():
    labels = ["mass", "nodule", "mass|nodule"] * 400
    numbers = torch.arange(1200) // 2
    images, texts = features(1200, 0)
    texts = texts[numbers * 2]
    measured = measure_alike(images, texts, numbers, labels)
    assert np.mean(measured["hits"]) == pytest.approx(np.mean(measured["chance"]), abs=0.5)


def test_f1_of_the_first_reports_findings_is_that_of_the_formula():
    held = [{"mass", "nodule"}, {"mass", "nodule"}, {"normal"}, {"mass"}]
    held += [{"normal"}, {"mass", "nodule"}, set(), {"mass"}]
    images, texts = features(8, 3)
    measured = measure_label_f1(images, texts, LABELS)
    place = measured["query_of_pair"]
    assert place[6] == -1 and sorted(place) == list(range(-1, 7))
    for n, own in enumerate(held):
        if own:
            f1 = [200 * len(own & other) / (len(own) + len(other)) for other in held]
            first = int((texts @ images[n]).argmax())
            assert measured["hits"][place[n]] == pytest.approx(f1[first], abs=1e-4)
            assert measured["chance"][place[n]] == pytest.approx(np.mean(f1), abs=1e-4)
