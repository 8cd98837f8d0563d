"""Retrieval is the core measurement: every fast path is checked against plain loops, at odd sizes and with
ties."""

import itertools
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from mcr_lib import ranking
from mcr_lib.ranking import KS, label_ranking, merge_texts, ranks
from mcr_lib.retrieval import (
    POOL,
    PROTOCOLS,
    QueryRanks,
    chance,
    cluster_draws,
    evaluate,
    query_ranks,
    query_weights,
    summarise,
)

DIRECTIONS = ("image_to_text", "text_to_image")


def naive_ranks(queries, gallery, query_group, gallery_group):
    """The definition, in plain loops."""
    result = []
    for query, own in zip(queries.tolist(), query_group.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(query, item, strict=True)) for item in gallery.tolist()]
        relevant = [group == own for group in gallery_group.tolist()]
        best = max(
            score for score, is_relevant in zip(scores, relevant, strict=True) if is_relevant
        )
        before = [
            s >= best and not is_relevant for s, is_relevant in zip(scores, relevant, strict=True)
        ]
        result.append(1 + sum(before))
    return result


def unit(rows, width, seed=0, dtype=torch.float32):
    return F.normalize(
        torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    )


def same(n_queries):
    return torch.arange(n_queries)


# --- ranks


@pytest.mark.parametrize(
    ("n_queries", "n_gallery", "n_groups"), [(11, 13, 5), (13, 19, 19), (19, 11, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("values", ["ties", "floats"])
def test_ranks_equal_the_loops(n_queries, n_gallery, n_groups, values, monkeypatch):
    generator = torch.Generator().manual_seed(n_queries)
    query_group = torch.randint(min(n_groups, n_gallery), (n_queries,), generator=generator) - 7
    gallery_group = torch.arange(n_gallery) % n_groups - 7
    if values == "ties":  # small whole numbers: exact in any precision, and full of ties
        queries = torch.randint(-1, 2, (n_queries, 3), generator=generator).float()
        gallery = torch.randint(-1, 2, (n_gallery, 3), generator=generator).float()
    else:
        queries, gallery = unit(n_queries, 17), unit(n_gallery, 17, seed=1)
    expected = naive_ranks(queries, gallery, query_group, gallery_group)
    for items in (1, 40, 70, 2**20):
        monkeypatch.setattr(ranking, "ITEMS", items)
        assert ranks(queries, gallery, query_group, gallery_group).tolist() == expected


def scores_as_features(rows):
    """A hand-written score matrix: queries are its rows, the gallery is the identity."""
    scores = torch.tensor(rows, dtype=torch.float32)
    return scores, torch.eye(scores.shape[1])


def test_a_matrix_read_by_eye():
    queries, gallery = scores_as_features(
        [
            [0.9, 0.1, 0.2, 0.3],  # own first: 1
            [0.8, 0.7, 0.2, 0.1],  # one better: 2
            [0.5, 0.5, 0.5, 0.1],  # two tied with the own: 3
            [0.4, 0.3, 0.2, 0.1],
        ]
    )  # own is last: 4
    assert ranks(queries, gallery, same(4), same(4)).tolist() == [1, 2, 3, 4]


def test_the_best_of_several_relevant_items_counts_and_relevant_ties_cost_nothing():
    queries, gallery = scores_as_features([[0.9, 0.9, 0.1], [0.2, 0.5, 0.5], [0.1, 0.9, 0.2]])
    assert ranks(queries, gallery, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])).tolist() == [
        1,
        2,
        2,
    ]


def test_a_collapsed_model_gets_the_worst_rank(monkeypatch):
    """Every feature the same: 512 wide float32, an odd size, so that blocks end at different places."""
    collapsed = unit(1, 512).repeat(101, 1)
    for items in (7, 3333, 6464, 2**20):
        monkeypatch.setattr(ranking, "ITEMS", items)
        assert ranks(collapsed, collapsed, same(101), same(101)).unique().tolist() == [101]


def test_duplicates_tie_in_every_block_shape(monkeypatch):
    """The same vector at every place must score the same; float32 blocks alone do not promise it."""
    gallery = unit(97, 512, seed=3)
    gallery[::2] = gallery[0]
    queries = F.normalize(gallery + 0.01 * unit(97, 512, seed=4))
    expected = [
        49 if n % 2 == 0 else 1 for n in range(97)
    ]  # 48 other copies tie with the own, then the own
    for items in (5, 3007, 9312, 2**20):
        monkeypatch.setattr(ranking, "ITEMS", items)
        assert ranks(queries, gallery, same(97), same(97)).tolist() == expected


def test_zero_query_ties_with_everything():
    assert ranks(torch.zeros(1, 4), unit(9, 4), torch.tensor([0]), same(9)).tolist() == [9]


small = st.integers(-2, 2)


@st.composite
def problems(draw):
    """Whole-number features with ties, at least one relevant item for every query."""
    n_queries, n_gallery, width = (
        draw(st.integers(1, 9)),
        draw(st.integers(1, 11)),
        draw(st.integers(1, 4)),
    )

    def matrix(rows):
        row = st.lists(small, min_size=width, max_size=width)
        return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)), dtype=torch.float32)

    gallery_group = torch.tensor(
        draw(st.lists(st.integers(0, 3), min_size=n_gallery, max_size=n_gallery))
    )
    chosen = draw(st.lists(st.integers(0, n_gallery - 1), min_size=n_queries, max_size=n_queries))
    return matrix(n_queries), matrix(n_gallery), gallery_group[chosen], gallery_group


@settings(max_examples=60, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_properties_of_ranks(problem, random):
    queries, gallery, query_group, gallery_group = problem
    expected = ranks(*problem)
    assert expected.tolist() == naive_ranks(*problem)
    order = random.sample(range(len(gallery)), len(gallery))
    assert ranks(queries, gallery[order], query_group, gallery_group[order]).equal(expected), (
        "gallery order"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "ITEMS", random.randint(1, 120))
        assert ranks(*problem).equal(expected), "block size"
    again = [*range(len(gallery)), random.randrange(len(gallery))]
    longer = ranks(queries, gallery[again], query_group, gallery_group[again])
    assert (longer >= expected).all(), "a duplicate helps"
    factor = torch.tensor([[2.0 ** random.randint(-9, 9) * 1.7] for _ in queries])
    assert ranks(factor * queries, gallery, query_group, gallery_group).equal(expected), (
        "monotone transform"
    )
    assert ranks(queries, 0.3 * gallery, query_group, gallery_group).equal(expected), (
        "monotone transform"
    )


@st.composite
def hard_problems(draw):
    """Real-valued features that float32 cannot tell apart: a few of them, many, or all."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    kind, width = (
        draw(st.sampled_from(["random", "constant", "duplicates", "near", "clusters"])),
        draw(st.sampled_from([2, 17, 67, 513])),
    )
    n_queries, n_gallery, n_groups = (draw(st.integers(1, n)) for n in (60, 90, 40))
    dtype, scale = (
        draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])),
        draw(st.sampled_from([1.0, 3e-12, 7e11])),
    )
    gallery = torch.randn(n_gallery, width, generator=generator, dtype=torch.float64)
    some = torch.randint(-(-n_gallery // 3), (n_gallery,), generator=generator)
    gallery = {
        "random": gallery,
        "constant": gallery[:1].expand(n_gallery, width),
        "duplicates": gallery[some],
        "near": F.normalize(gallery[some]) + 3e-8 * gallery,
        "clusters": gallery[some % 3] + 1e-3 * gallery,
    }[kind]
    gallery_group = torch.randint(n_groups, (n_gallery,), generator=generator)
    own = torch.randint(n_gallery, (n_queries,), generator=generator)
    queries = gallery[own] + 0.1 * torch.randn(n_queries, width, generator=generator)
    return queries.to(dtype), (scale * gallery).to(dtype), gallery_group[own], gallery_group


@settings(max_examples=150, deadline=None)
@given(hard_problems(), st.integers(1, 6000))
def test_ranks_are_those_of_the_rule_in_float64(problem, items):
    """The oracle forms the whole product in float64."""
    queries, gallery, query_group, gallery_group = problem
    longest = gallery.float().norm(dim=1).max().double()
    scores = (
        (F.normalize(queries.double()) @ (gallery.double() / longest).T).mul(1e9).round()
    )  # (Q, G)
    relevant = query_group[:, None] == gallery_group
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    expected = 1 + ((scores >= best) & ~relevant).sum(dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "ITEMS", items)
        assert ranks(*problem).equal(expected)


def test_precision_that_the_caller_allows_elsewhere_does_not_matter():
    """bfloat16 arithmetic, allowed for training, must not reach the measurement."""
    gallery = F.normalize(unit(3, 64)[torch.arange(97) % 3] + 1e-4 * unit(97, 64, 1))
    expected, before = (
        ranks(gallery, gallery, same(97), same(97)),
        torch.get_float32_matmul_precision(),
    )
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ranks(gallery, gallery, same(97), same(97)).equal(expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_block_is_larger_than_allowed(monkeypatch):
    shapes, scores = [], ranking._scores

    def counted(queries, gallery):
        shapes.append((len(queries), len(gallery)))
        return scores(queries, gallery)

    monkeypatch.setattr(ranking, "_scores", counted)
    monkeypatch.setattr(ranking, "ITEMS", 16 * 70 + 5)
    group = torch.zeros(70, dtype=torch.int64)
    ranks(unit(50, 8), unit(70, 8), group[:50], group)
    assert shapes == [(16, 70)] * 3 + [(2, 70)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, g: q[0].fill_(torch.nan), "queries: 1 of 4 rows hold non-finite"),
        (lambda q, g: g[1:3].fill_(torch.inf), "gallery: 2 of 4 rows hold non-finite"),
    ],
)
def test_non_finite_scores_are_an_error(change, message):
    queries, gallery = unit(4, 3), unit(4, 3)
    change(queries, gallery)
    with pytest.raises(ValueError, match=message):
        ranks(queries, gallery, same(4), same(4))


def test_a_query_without_a_relevant_item_is_an_error():
    with pytest.raises(ValueError, match="3 of 4 queries have no relevant item"):
        ranks(unit(4, 3), unit(2, 3), torch.tensor([0, 5, 6, 7]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="1 of 2 queries have no relevant item"):
        label_ranking(unit(2, 3), unit(2, 3), torch.eye(2), torch.tensor([[1, 0], [1, 0]]))
    with pytest.raises(ValueError, match="sizes do not fit"):
        ranks(unit(4, 3), unit(4, 5), same(4), same(4))


# --- label-match


def naive_precision(scores, relevant):
    """Pessimistic order by sorting (score down, irrelevant first): first hit, precision at K, AP."""
    order = sorted(range(len(scores)), key=lambda n: (-scores[n], relevant[n]))
    hit_at = [place for place, n in enumerate(order, start=1) if relevant[n]]
    average = sum((i + 1) / place for i, place in enumerate(hit_at)) / len(hit_at)
    return hit_at[0], [sum(place <= k for place in hit_at) / k for k in KS], average


@pytest.mark.parametrize(("n_queries", "n_gallery"), [(11, 13), (13, 19), (5, 3), (1, 1)])
@pytest.mark.parametrize("items", [1, 40, 2**21])
def test_label_ranking_equals_the_loops_with_ties(n_queries, n_gallery, items, monkeypatch):
    monkeypatch.setattr(ranking, "ITEMS", items)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(-1, 2, (n_queries, 3), generator=generator).float()
    gallery = torch.randint(-1, 2, (n_gallery, 3), generator=generator).float()
    gallery_labels = torch.randint(0, 2, (n_gallery, 4), generator=generator)
    gallery_labels[0] = 1
    query_labels = torch.randint(0, 2, (n_queries, 4), generator=generator)
    query_labels[:, 0] = 1
    relevant = (query_labels @ gallery_labels.T) > 0
    n_relevant, first, precision, average = label_ranking(
        queries, gallery, query_labels, gallery_labels
    )
    for n in range(n_queries):
        expected = naive_precision((queries[n] @ gallery.T).tolist(), relevant[n].tolist())
        assert (int(first[n]), precision[n].tolist()) == (expected[0], pytest.approx(expected[1]))
        assert float(average[n]) == pytest.approx(expected[2])
    assert n_relevant.equal(relevant.sum(dim=1))


def test_label_match_equals_scikit_learn_without_ties():
    images, texts = unit(19, 16), unit(19, 16, seed=1)
    labels = ["a|b", "b", "c", "a|c"] * 4 + ["d", "d", "a"]
    sets = [set(row.split("|")) for row in labels]
    relevant = np.array([[bool(a & b) for b in sets] for a in sets])
    scores = (images @ texts.T).numpy()
    result = evaluate(
        images,
        texts,
        texts=[str(n) for n in range(19)],
        labels=labels,
        clusters=["p"] * 19,
        protocol="label-match",
        n_bootstrap=0,
    )
    for direction, matrix in zip(DIRECTIONS, (scores, scores.T), strict=True):
        expected = np.mean([average_precision_score(relevant[n], matrix[n]) for n in range(19)])
        assert result[f"{direction}_mAP"] == pytest.approx(100 * expected)


def test_label_match_leaves_out_pairs_without_a_label_and_counts_them():
    labels = ["a", "", "a|b", " | ", "b", "c", ""]
    images, texts = unit(7, 8), unit(7, 8, seed=1)
    arguments = {
        "texts": [f"t{n}" for n in range(7)],
        "clusters": ["p", "q", "p", "q", "r", "r", "s"],
    }
    result = evaluate(
        images, texts, labels=labels, protocol="label-match", n_bootstrap=20, **arguments
    )
    assert (
        result["left_out"] == 3
        and result["gallery"]["images"] == 4
        and result["gallery"]["clusters"] == 2
    )
    kept = [0, 2, 4, 5]
    alone = evaluate(
        images[kept],
        texts[kept],
        labels=[labels[n] for n in kept],
        protocol="label-match",
        n_bootstrap=20,
        **{name: [value[n] for n in kept] for name, value in arguments.items()},
    )
    assert alone | {"left_out": 3} == result
    assert (
        query_ranks(images, texts, texts=arguments["texts"], labels=labels, protocol="label-match")[
            "text_to_image"
        ].rows.tolist()
        == kept
    )
    with pytest.raises(ValueError, match="none of the 7 pairs"):
        evaluate(images, texts, labels=[""] * 7, protocol="label-match", **arguments)


# --- protocols


def arguments_for(count, seed=0, n_texts=None, n_clusters=4):
    """Features of unrelated pairs with repeated reports; the reports of one text have one feature."""
    random = np.random.default_rng(seed)
    text_id = random.integers(0, n_texts or count, count)
    spelling = ["report {} ", "Report  {}"]
    texts = [spelling[random.integers(2)].format(n) for n in text_id]
    return (unit(count, 12, seed), unit(count, 12, seed + 1)[text_id]), {
        "texts": texts,
        "labels": ["abc"[n % 3] for n in range(count)],
        "clusters": [f"p{n}" for n in random.integers(0, n_clusters, count)],
    }


def test_merge_texts_ignores_space_and_case_only():
    text_id, first = merge_texts(
        ["No  acute\ndisease.", "clear", " no acute disease. ", "no acute disease", "CLEAR"]
    )
    assert text_id.tolist() == [0, 1, 0, 2, 1] and first.tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="2 of 3 reports are empty"):
        merge_texts(["", "a", " \n"])


def test_text_identical_equals_the_loops():
    (images, reports), rest = arguments_for(19, n_texts=7)
    result = query_ranks(images, reports, texts=rest["texts"], labels=rest["labels"])
    keys = [text.lower().split()[1] for text in rest["texts"]]
    distinct = list(dict.fromkeys(keys))
    first = torch.tensor([keys.index(key) for key in distinct])
    number = torch.tensor([distinct.index(key) for key in keys])
    asked = same(len(first))
    assert result["image_to_text"].ranks.tolist() == naive_ranks(
        images, reports[first], number, asked
    )
    assert result["text_to_image"].ranks.tolist() == naive_ranks(
        reports[first], images, asked, number
    )
    assert result["text_to_image"].rows.equal(first)
    assert result["text_to_image"].n_relevant.tolist() == [keys.count(key) for key in distinct]


def test_exact_counts_identical_reports_against_the_model_and_text_identical_does_not():
    images = torch.eye(3)[[0, 0, 1, 2]]
    reports, texts = images.clone(), ["same", "Same", "b", "c"]
    reports[1] = F.normalize(
        torch.tensor([1, 1e-3, 0]), dim=0
    )  # a second encoding must not break the tie
    rest = {"texts": texts, "labels": [""] * 4}
    exact = query_ranks(images, reports, protocol="exact", **rest)
    assert (
        exact["image_to_text"].ranks.tolist()
        == exact["text_to_image"].ranks.tolist()
        == [2, 2, 1, 1]
    )
    merged = query_ranks(images, reports, **rest)
    assert merged["image_to_text"].ranks.tolist() == [1, 1, 1, 1]
    assert merged["text_to_image"].ranks.tolist() == [1, 1, 1]


def test_perfect_features_have_every_recall_at_100():
    features, rest = unit(13, 8), arguments_for(13)[1] | {"texts": [f"t{n}" for n in range(13)]}
    for protocol in ("exact", "text-identical"):
        result = evaluate(features, features, protocol=protocol, n_bootstrap=10, **rest)
        assert result["rsum"] == 600
        assert result["image_to_text_mean_rank"] == 1 == result["text_to_image_median_rank"]
        assert result["interval"]["rsum"] == [600, 600]


def test_in_pools_each_asks_its_own_hundred_and_by_label():
    """Against `label-match` of each pool, told from the pairs that a query's precision comes from."""
    count = 2 * POOL + 30
    (images, reports), rest = arguments_for(count)
    labels = ["" if n % 10 == 0 else label for n, label in enumerate(rest["labels"])]
    asked = {"texts": [f"t{n}" for n in range(count)]}
    found = query_ranks(images, reports, labels=labels, protocol="pools", **asked)
    result = found["image_to_text"]
    assert len(result.rows) == 2 * POOL == len(set(result.rows.tolist()))
    assert all(labels[row] for row in result.rows) and result.gallery_size == POOL
    for start in (0, POOL):
        rows = result.rows[start : start + POOL]
        own = [labels[row] for row in rows]
        distinct = {"texts": [f"t{row}" for row in rows], "labels": own}
        alone = query_ranks(images[rows], reports[rows], protocol="label-match", **distinct)
        for way in DIRECTIONS:
            part = found[way].precision[start : start + POOL]
            assert part.equal(alone[way].precision)
            assert result.query_of_pair[rows].tolist() == [*range(start, start + POOL)]


def test_fewer_pairs_than_a_pool_are_one():
    (images, reports), rest = arguments_for(23)
    rest.pop("clusters")
    one, whole = (
        query_ranks(images, reports, protocol=name, **rest) for name in ("pools", "label-match")
    )
    assert one["text_to_image"].precision.equal(whole["text_to_image"].precision)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_evaluate_has_exactly_the_documented_keys_and_is_json(protocol):
    features, rest = arguments_for(23, n_texts=9)
    result = evaluate(*features, protocol=protocol, n_bootstrap=50, seed=3, **rest)
    by_label = protocol in ("label-match", "pools")
    measures = (
        ["precision@1", "precision@5", "precision@10", "mAP"]
        if by_label
        else ["R@1", "R@5", "R@10", "median_rank", "mean_rank"]
    )
    names = {f"{direction}_{measure}" for direction in DIRECTIONS for measure in measures}
    names |= set() if by_label else {"rsum"}
    about = {
        "chance",
        "interval",
        "protocol",
        "gallery",
        "tie_rule",
        "n_bootstrap",
        "seed",
        "left_out",
    }
    assert (
        set(result) == names | about and set(result["chance"]) == set(result["interval"]) == names
    )
    assert json.loads(json.dumps(result)) == result and result["protocol"] == protocol
    assert all(low <= result[name] <= high for name, (low, high) in result["interval"].items())
    if not by_label:
        recalls = [result[f"{direction}_R@{k}"] for direction in DIRECTIONS for k in KS]
        assert result["rsum"] == pytest.approx(sum(recalls))
    assert evaluate(*features, protocol=protocol, n_bootstrap=50, seed=3, **rest) == result, (
        "same seed"
    )


def test_gallery_sizes_are_those_of_the_protocol():
    features, rest = arguments_for(23, n_texts=9)
    distinct = len({text.lower().strip().split()[1] for text in rest["texts"]})
    merged = evaluate(*features, n_bootstrap=0, **rest)
    assert merged["gallery"] == {
        "images": 23,
        "texts": distinct,
        "distinct_texts": distinct,
        "clusters": 4,
        "image_to_text_queries": 23,
        "text_to_image_queries": distinct,
    }
    assert merged["interval"] == {}
    exact = evaluate(*features, protocol="exact", n_bootstrap=0, **rest)["gallery"]
    assert (exact["texts"], exact["distinct_texts"], exact["text_to_image_queries"]) == (
        23,
        distinct,
        23,
    )


def test_one_pair_and_one_group():
    (images, reports), rest = arguments_for(1)
    for protocol in PROTOCOLS:
        result = evaluate(images, reports, protocol=protocol, n_bootstrap=5, **rest)
        assert result["chance"] == {name: result[name] for name in result["chance"]}, (
            "nothing to get wrong"
        )
    one_text = arguments_for(11)[1] | {"texts": ["normal"] * 11}
    result = evaluate(unit(11, 4), unit(11, 4, seed=1), n_bootstrap=5, **one_text)
    assert result["rsum"] == result["chance"]["rsum"] == 600
    assert result["gallery"]["text_to_image_queries"] == 1


def test_bad_input_is_one_clear_line():
    (images, reports), rest = arguments_for(5)
    for change, message in (
        ({"protocol": "fuzzy"}, "unknown protocol 'fuzzy'"),
        ({"texts": ["a"]}, "one cluster per"),
        ({"labels": []}, "one row per pair"),
        ({"clusters": ["p", None] * 2 + ["q"]}, "none empty"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(images, reports, **rest | change)
    with pytest.raises(ValueError, match="text_features: expected unit vectors"):
        evaluate(images, 2 * reports, **rest)
    with pytest.raises(ValueError, match=r"image_features: expected floats of shape"):
        evaluate(images[0], reports, **rest)


# --- chance


def as_result(ranks_, n_relevant, size, **values):
    rows = torch.arange(len(n_relevant))
    return QueryRanks(rows, rows, size, torch.tensor(n_relevant), torch.tensor(ranks_), **values)


@pytest.mark.parametrize(("size", "m"), [(1, 1), (6, 1), (7, 1), (6, 2), (7, 3), (12, 2), (5, 5)])
def test_chance_is_the_mean_over_all_orders(size, m):
    """Not a simulation: every set of places that m relevant items can take among `size`."""
    scores = list(range(size, 0, -1))
    outcomes = [
        naive_precision(scores, [place in places for place in range(size)])
        for places in itertools.combinations(range(size), m)
    ]
    first = [outcome[0] for outcome in outcomes]
    exact = chance({"image_to_text": as_result([1], [m], size)})
    for k in KS:
        assert exact[f"image_to_text_R@{k}"] == pytest.approx(
            100 * np.mean([rank <= k for rank in first])
        )
    assert exact["image_to_text_mean_rank"] == pytest.approx(np.mean(first))
    assert exact["image_to_text_median_rank"] == pytest.approx(np.median(first))
    none = torch.zeros(1, 3).double(), torch.zeros(1).double()
    exact = chance(
        {"image_to_text": as_result([1], [m], size, precision=none[0], average_precision=none[1])}
    )
    for column, k in enumerate(KS):
        mean = np.mean([outcome[1][column] for outcome in outcomes])
        assert exact[f"image_to_text_precision@{k}"] == pytest.approx(100 * mean)
    assert exact["image_to_text_mAP"] == pytest.approx(
        100 * np.mean([outcome[2] for outcome in outcomes])
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_chance_is_what_random_features_get(protocol):
    """End to end: 200 random models on one data set, mean within four standard errors."""
    rest = arguments_for(13, n_texts=6)[1] | {"labels": ["a", "b", "a|b", "c"] * 3 + ["a"]}
    if (
        protocol != "text-identical"
    ):  # there identical reports tie, and a tie is worse than a random order
        rest["texts"] = [f"report {n}" for n in range(13)]
    runs = [
        evaluate(
            unit(13, 9, seed=2 * n),
            unit(13, 9, seed=2 * n + 1),
            protocol=protocol,
            n_bootstrap=0,
            **rest,
        )
        for n in range(200)
    ]
    for name, expected in runs[0]["chance"].items():
        if (
            "median" in name
        ):  # the exact value is that of all ranks together, not of the mean over runs
            continue
        values = np.array([run[name] for run in runs])
        assert abs(values.mean() - expected) <= 4 * values.std() / np.sqrt(len(runs)) + 1e-9, name


# --- bootstrap


def naive_mean(measured, measure, weights):
    """One metric of one resample, query by query."""
    if measure == "median_rank":  # the ranks at which half of the weight is reached, and passed
        ordered = sorted(zip(measured.ranks.tolist(), weights, strict=True))
        reached = list(
            zip(np.cumsum([weight for _, weight in ordered]) / sum(weights), ordered, strict=True)
        )
        lower = next(rank for part, (rank, _) in reached if part >= 0.5 - 1e-7)
        upper = next(rank for part, (rank, _) in reached if part > 0.5 + 1e-7)
        return (lower + upper) / 2
    if measure == "mean_rank":
        values = measured.ranks.tolist()
    elif measure == "mAP":
        values = (100 * measured.average_precision).tolist()
    else:
        kind, k = measure.split("@")
        values = (
            100
            * (
                measured.precision[:, KS.index(int(k))]
                if kind == "precision"
                else measured.ranks <= int(k)
            )
        ).tolist()
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_intervals_equal_a_naive_loop_over_the_same_draws(protocol):
    features, rest = arguments_for(23, n_texts=9, n_clusters=5)
    result = evaluate(*features, protocol=protocol, n_bootstrap=40, seed=5, **rest)
    results = query_ranks(*features, texts=rest["texts"], labels=rest["labels"], protocol=protocol)
    patients = list(dict.fromkeys(rest["clusters"]))
    samples = {name: [] for name in result["interval"]}
    for draw in cluster_draws(len(patients), 40, 5).tolist():
        sample = {}
        for direction, measured in results.items():
            query_of_pair, count = measured.query_of_pair.tolist(), len(measured.rows)
            times = [draw[patients.index(patient)] for patient in rest["clusters"]]
            behind = [
                [times[n] for n in range(23) if query_of_pair[n] == query] for query in range(count)
            ]
            weights = [sum(draws) / len(draws) for draws in behind]
            for name in samples:
                if name.startswith(direction):
                    sample[name] = naive_mean(measured, name.removeprefix(direction + "_"), weights)
        if "rsum" in samples:
            sample["rsum"] = sum(value for name, value in sample.items() if "R@" in name)
        for name, value in sample.items():
            samples[name].append(value)
    for name, values in samples.items():
        assert result["interval"][name] == pytest.approx(
            np.quantile(values, [0.025, 0.975]).tolist()
        ), name


def test_whole_number_weights_are_the_same_as_repeating_the_queries():
    measured = as_result([3, 1, 8, 2, 30], [1] * 5, 40)
    draws = cluster_draws(5, 30, 0)
    assert draws.sum(dim=1).unique().tolist() == [5]
    table = summarise(
        {"image_to_text": measured}, {"image_to_text": query_weights(draws, same(5), same(5))}
    )
    for n, draw in enumerate(draws.long()):
        repeated = np.repeat(measured.ranks.numpy(), draw.numpy())
        assert float(table["image_to_text_median_rank"][n]) == np.median(repeated)
        assert float(table["image_to_text_mean_rank"][n]) == pytest.approx(repeated.mean())
        assert float(table["image_to_text_R@5"][n]) == pytest.approx(100 * (repeated <= 5).mean())


def test_interval_covers_the_truth_when_the_images_of_a_patient_go_together():
    """50 patients × 4 images that hit or miss together: patients as clusters cover, single images do not."""
    random, truth, covered = np.random.default_rng(0), 40.0, {"patients": 0, "images": 0}
    clusters = {"patients": torch.arange(200) // 4, "images": torch.arange(200)}
    weights = {
        kind: query_weights(cluster_draws(len(cluster.unique()), 400, 0), cluster, same(200))
        for kind, cluster in clusters.items()
    }
    for _ in range(100):
        hits = np.repeat(random.random(50) < truth / 100, 4)
        measured = {"image_to_text": as_result(np.where(hits, 1, 20).tolist(), [1] * 200, 40)}
        for kind in clusters:
            sample = summarise(measured, {"image_to_text": weights[kind]})["image_to_text_R@1"]
            low, high = sample.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
            covered[kind] += low <= truth <= high
    assert 88 <= covered["patients"] <= 99 and covered["images"] <= 75


def test_two_arms_are_paired_by_the_same_draws():
    """What a study does: one set of draws, the difference of two arms; better ranks never lose."""
    features, rest = arguments_for(19, n_texts=8)
    results = query_ranks(*features, texts=rest["texts"], labels=rest["labels"])
    better = {
        name: replace(value, ranks=(value.ranks - 3).clamp(min=1))
        for name, value in results.items()
    }
    clusters = torch.arange(19) // 3
    weights = {
        name: query_weights(cluster_draws(7, 100, 0), clusters, value.query_of_pair)
        for name, value in results.items()
    }
    difference = summarise(better, weights)["rsum"] - summarise(results, weights)["rsum"]
    assert difference.shape == (100,) and (difference >= 0).all() and difference.max() > 0


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: compares it with the CPU"
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cuda_gives_the_same_numbers(protocol):
    (images, reports), rest = arguments_for(97, n_texts=40)
    on_cpu = evaluate(images, reports, protocol=protocol, n_bootstrap=50, **rest)
    on_cuda = evaluate(images.cuda(), reports.cuda(), protocol=protocol, n_bootstrap=50, **rest)
    flat = [
        pd.json_normalize(result).drop(columns=["tie_rule", "protocol"])
        for result in (on_cpu, on_cuda)
    ]
    for name in flat[0]:
        assert flat[1][name][0] == pytest.approx(flat[0][name][0]), name


def test_one_patient_is_no_sample_and_has_no_interval():
    features, rest = arguments_for(9)
    result = evaluate(*features, **rest | {"clusters": ["p"] * 9})
    assert result["interval"] == {} and result["gallery"]["clusters"] == 1


@pytest.mark.parametrize("width", [1, 8, 512])
def test_the_error_bound_is_the_one_derived(width):
    """Of two roundings (2u + u²) and D products added, counted twice, at lengths up to 1.01; and three ties."""
    u = Fraction(1, 2**24)
    rounding = 2 * u + u**2 + 2 * width * u * (1 + u) ** 2
    bound = Fraction(103, 100) * rounding + 3 * Fraction(1, 10**9)
    assert ranking.float32_error(width) == pytest.approx(float(bound), rel=1e-12)


@pytest.mark.parametrize(
    "length, fits", [(1.0099, True), (0.9901, True), (1.0101, False), (0.98, False)]
)
def test_a_unit_vector_may_be_off_by_a_hundredth_and_no_more(length, fits):
    features = F.normalize(torch.randn(3, 4, dtype=torch.float64), dim=1)
    features[1] *= length
    if fits:
        assert ranking.check_features("x", features) is not None
    else:
        with pytest.raises(ValueError, match="x: expected unit vectors, a norm is off by"):
            ranking.check_features("x", features)
    assert ranking.check_features("x", features, unit=False).equal(features)
