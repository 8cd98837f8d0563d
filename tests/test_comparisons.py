"""The rule, on made-up data with a known answer: an effect of zero is undecided about 95 times in 100, a planted one
is found, and the stated power is the power. The bootstrap of retrieval.py is the oracle of the patients' part."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.study import comparisons, interval, standing, tables
from benchmarks.study.arms import GROUPS
from mcr_lib import retrieval

KEYS = {"rsum", "image_to_text_R@1"}


def simulated(rng, seeds, patients, effect, seed_sd, patient_sd, noise_sd):
    """effects (S,) and influence (S, P) of a made-up contrast: one query a patient, difference = effect + a seed's own
    deviation + a patient's own + noise."""
    d = (
        effect
        + seed_sd * rng.standard_normal((seeds, 1))
        + patient_sd * rng.standard_normal((1, patients))
        + noise_sd * rng.standard_normal((seeds, patients))
    )
    return d.mean(1), (d - d.mean(1, keepdims=True)) / patients


SPREADS = [
    (3, 60, 0.1, 1.0, 1.0),
    (5, 120, 0.3, 1.0, 2.0),
    (5, 200, 0.0, 1.0, 1.0),
    (5, 80, 0.5, 0.0, 1.0),
    (3, 100, 1.0, 0.3, 0.3),
    (10, 50, 0.2, 2.0, 0.5),
]


@pytest.mark.parametrize("seeds, patients, seed_sd, patient_sd, noise_sd", SPREADS)
def test_zero_is_undecided_and_the_interval_covers(seeds, patients, seed_sd, patient_sd, noise_sd):
    rng, n = np.random.default_rng(0), 2000
    verdicts = []
    for _ in range(n):
        found = interval.find_interval(
            *simulated(rng, seeds, patients, 0.0, seed_sd, patient_sd, noise_sd)
        )
        verdicts.append(interval.judge(found.low, found.high))
    undecided = verdicts.count("undecided") / n
    tolerance = 4 * np.sqrt(0.05 * 0.95 / n)  # four binomial standard deviations
    assert (
        0.95 - tolerance <= undecided <= 0.975 + tolerance
    )  # careful where seeds and patients matter alike
    assert (
        abs(verdicts.count("supported") - verdicts.count("contradicted"))
        <= 4 * np.sqrt(0.05 * n) + 1
    )


def test_a_percentile_bootstrap_over_seeds_would_be_too_narrow():
    """Why the rule is not the usual one: it would call one in eight zeros an effect."""
    rng, n, called = np.random.default_rng(1), 400, 0
    for _ in range(n):
        effects, _ = simulated(rng, 5, 120, 0.0, 0.3, 0.0, 1.0)
        low, high = np.percentile(rng.choice(effects, (1000, 5)).mean(1), [2.5, 97.5])
        called += low > 0 or high < 0
    assert called / n > 0.09


@pytest.mark.parametrize(
    "seeds, patients, seed_sd, patient_sd, noise_sd", SPREADS[:2] + SPREADS[3:]
)
def test_an_effect_of_the_detectable_size_is_found_four_times_in_five(
    seeds, patients, seed_sd, patient_sd, noise_sd
):
    rng, n = np.random.default_rng(2), 1500
    runs = [
        interval.find_interval(*simulated(rng, seeds, patients, 0.0, seed_sd, patient_sd, noise_sd))
        for _ in range(n)
    ]
    detectable = np.sqrt(
        np.mean([found.detectable**2 for found in runs])
    )  # a study's own varies with its seeds
    power = np.mean(
        [interval.judge(f.low + detectable, f.high + detectable) == "supported" for f in runs]
    )
    assert 0.77 < power < 0.9, power
    sure = [
        interval.find_interval(
            *simulated(rng, seeds, patients, 3 * detectable, seed_sd, patient_sd, noise_sd)
        )
        for _ in range(300)
    ]
    assert np.mean([interval.judge(f.low, f.high) == "supported" for f in sure]) > 0.97
    assert (
        np.mean([interval.judge(f.low, f.high, better=-1) == "contradicted" for f in sure]) > 0.97
    )


def test_judge_at_its_borders():
    assert (
        interval.judge(0.1, 0.3) == "supported"
        and interval.judge(0.1, 0.3, better=-1) == "contradicted"
    )
    assert (
        interval.judge(-0.3, -0.1) == "contradicted"
        and interval.judge(-0.3, -0.1, better=-1) == "supported"
    )
    assert (
        interval.judge(0.0, 0.3)
        == interval.judge(-0.3, 0.0)
        == interval.judge(0.0, 0.0)
        == "undecided"
    )
    assert (
        interval.judge(0.5, 0.79, 0.8, -1) == "supported"
        and interval.judge(0.5, 0.81, 0.8, -1) == "undecided"
    )


def test_interval_by_hand():
    found = interval.find_interval(
        np.array([1.0, 2.0, 3.0])
    )  # no patients: the t-interval of the textbook
    assert found.effect == 2
    assert found.high - 2 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    still = interval.find_interval(
        np.zeros(4), np.zeros((4, 9))
    )  # two arms that are one: nothing to find, nothing found
    assert (still.effect, still.low, still.high, still.detectable) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="at least 2"):
        interval.find_interval(np.array([1.0]))


def test_p_is_where_the_interval_reaches_zero_and_holms_correction_by_hand():
    rng = np.random.default_rng(3)
    for effect in (0.0, 0.3, 0.8):
        drawn = simulated(rng, 5, 80, effect, 0.2, 1.0, 1.0)
        found = interval.find_interval(*drawn)
        assert (interval.p_value(*drawn) < 0.05) == (found.low > 0 or found.high < 0)
    p = interval.p_value(np.array([1.0, 2.0, 4.0]))
    assert p == pytest.approx(stats.ttest_1samp([1.0, 2.0, 4.0], 0).pvalue)
    p = rng.random(12) ** 3
    by_hand, largest = {}, 0.0
    for place, number in enumerate(sorted(range(12), key=lambda n: p[n])):
        largest = max(largest, (12 - place) * p[number])
        by_hand[number] = min(1.0, largest)
    assert interval.holm(list(p)) == pytest.approx([by_hand[n] for n in range(12)])
    assert interval.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def arms_with(rsums):
    return {
        "best": {"metrics": {"test, unmasked": {"rsum": rsums}}},
        "other": {"metrics": {"test, unmasked": {"rsum": [1.0, 2.0]}}},
    }


@pytest.mark.parametrize(
    "rsums, linear, decidable",
    [
        ([100.0, 101.0, 102.0], [80.0, 90.0], True),
        ([100.0, 101.0, 102.0], [80.0, 100.0], False),  # the intervals touch
        ([60.0, 61.0, 62.0], [80.0, 90.0], False),
        ([100.0], [80.0, 90.0], False),  # one seed has no interval
        ([100.0, 101.0, 102.0], None, False),  # nobody has fitted a linear model
    ],
)
def test_a_verdict_on_retrieval_needs_an_arm_above_the_linear_model(rsums, linear, decidable):
    linear = linear and {"rows": {"linear CCA": {"rsum": 85.0, "interval": {"rsum": linear}}}}
    rows = comparisons.judge_comparisons(study_of(4.0), None)
    held = standing.hold_back(rows, arms_with(rsums), linear)
    verdicts = {row["measured"]: row["verdict"] for row in held}
    of_recall = verdicts["MbA against AbM, recall of MCR"]
    assert of_recall == ("supported" if decidable else standing.NOT_DECIDABLE)
    assert verdicts["MbA against AbM, modality gap of MCR"] in ("undecided", "supported")
    assert verdicts["MCR against two-stream, equal steps"] == comparisons.NOT_MEASURED
    content = {"arms": arms_with(rsums), "baselines": linear}
    assert (" is decidable here" in standing.explain(content)) == decidable


def made_up_result(rng, arm="mcr-mba", seed=0, shift=0.0):
    """A result file of 90 pairs of 40 patients with 70 distinct reports, ranks drawn about 8 − shift."""
    patient, text = rng.integers(0, 40, 90), rng.integers(0, 70, 90)
    patient, text = (
        np.unique(patient, return_inverse=True)[1],
        np.unique(text, return_inverse=True)[1],
    )
    return {
        "arm": arm,
        "seed": seed,
        "gradient_agreement": {"image": 0.1, "text": 0.3},
        "test": {
            "patient_of_pair": patient.tolist(),
            "text_of_pair": text.tolist(),
            "ranks": {
                "image_to_text": (1 + rng.poisson(8 - shift, 90)).tolist(),
                "text_to_image": (1 + rng.poisson(8 - shift, text.max() + 1)).tolist(),
            },
            "pairs": {
                name: rng.normal(0.5, 0.1, 90).tolist() for name in ("gap_distance", "alignment")
            },
        },
    }


def as_query_ranks(result):
    test = result["test"]
    text, pairs = torch.tensor(test["text_of_pair"]), torch.arange(90)
    return {
        way: retrieval.QueryRanks(
            torch.arange(len(ranks)),
            pairs if way == "image_to_text" else text,
            90,
            torch.ones(len(ranks)),
            torch.tensor(ranks),
        )
        for way, ranks in test["ranks"].items()
    }


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_values_are_those_of_retrieval_and_influence_is_that_of_its_bootstrap(seed):
    result = made_up_result(np.random.default_rng(seed))
    ranked, patient = as_query_ranks(result), torch.tensor(result["test"]["patient_of_pair"])
    draws = retrieval.cluster_draws(int(patient.max()) + 1, 3000, seed)
    weights = {
        way: retrieval.query_weights(draws, patient, r.query_of_pair) for way, r in ranked.items()
    }
    ones = {way: torch.ones(1, len(r.rows)).double() for way, r in ranked.items()}
    for name in KEYS:
        value, influence = interval.measure_value(result, name)
        assert value == pytest.approx(float(retrieval.summarise(ranked, ones)[name]), abs=1e-9)
        assert abs(influence.sum()) < 1e-9
        P = len(influence)
        by_bootstrap = float(retrieval.summarise(ranked, weights)[name].std())
        by_influence = np.sqrt((influence**2).sum() * P / (P - 1))
        assert by_influence == pytest.approx(by_bootstrap, rel=0.12)


def test_influence_on_pair_means_and_on_labels_is_that_of_the_bootstrap():
    rng = np.random.default_rng(5)
    result = made_up_result(rng)
    test = result["test"]
    query = np.where(
        np.arange(90) < 12, -1, np.unique(rng.integers(0, 50, 90), return_inverse=True)[1]
    )
    query[query >= 0] = np.unique(query[query >= 0], return_inverse=True)[
        1
    ]  # −1: a pair without a label
    test["label_query_of_pair"] = query.tolist()
    test["average_precision"] = {way: rng.random(query.max() + 1).tolist() for way in test["ranks"]}
    patient = torch.tensor(test["patient_of_pair"])
    P = int(patient.max()) + 1
    draws = retrieval.cluster_draws(P, 4000, 6)
    of_pairs, of_labels = (
        retrieval.query_weights(draws, patient, torch.tensor(q)) for q in (np.arange(90), query)
    )
    both = 50 * sum(torch.tensor(values).double() for values in test["average_precision"].values())
    for name, weights, values in (
        ("gap_distance", of_pairs, torch.tensor(test["pairs"]["gap_distance"]).double()),
        ("alignment", of_pairs, torch.tensor(test["pairs"]["alignment"]).double()),
        ("mAP", of_labels, both),
    ):
        value, influence = interval.measure_value(result, name)
        assert (
            value == pytest.approx(float(values.mean()))
            and len(influence) == P
            and abs(influence.sum()) < 1e-9
        )
        resampled = (weights @ values) / weights.sum(1)
        # patient by patient, not only in size: what each one's weight does to the resampled mean
        by_hand = torch.linalg.lstsq(
            (draws - draws.mean(0)), resampled - resampled.mean()
        ).solution.numpy()
        assert np.corrcoef(by_hand, influence)[0, 1] > 0.98, name
        assert np.sqrt((influence**2).sum() * P / (P - 1)) == pytest.approx(
            float(resampled.std()), rel=0.1
        ), name


def test_a_contrast_of_four_arms_by_hand():
    """Reconstruction costs two-stream 30 − 20 = 10 and MCR 14 − 9 = 5, so MCR loses 5 less."""
    results = []
    for arm, value in (
        ("contrastive-mba", 30),
        ("two-stream-mba", 20),
        ("contrastive-masked-mba", 14),
        ("mcr-mba", 9),
    ):
        for seed in (0, 1):
            results.append(made_up_result(np.random.default_rng(7), arm, seed))
            ranks = results[-1]["test"]["ranks"]
            for way in ranks:
                hits = np.arange(len(ranks[way])) < round(len(ranks[way]) * value / 100)
                ranks[way] = np.where(hits, 1, 99).tolist()
    claim = next(
        c
        for c in comparisons.COMPARISONS
        if c.what.startswith("recall that adding reconstruction costs")
    )
    seeds, values, influence = comparisons.contrast_effects(
        results, "image_to_text_R@1", claim.contrast
    )
    assert seeds == [0, 1] and values == pytest.approx([100 * (27 - 18 - 13 + 8) / 90] * 2)
    four = {
        r["arm"]: interval.measure_value(r, "image_to_text_R@1")[1]
        for r in results
        if r["seed"] == 0
    }
    assert influence[0] == pytest.approx(
        four["contrastive-mba"]
        - four["two-stream-mba"]
        - four["contrastive-masked-mba"]
        + four["mcr-mba"]
    )


def study_of(shift, seeds=5, rng=None):
    """Results of two arms on the same queries, the first better by `shift` in the mean rank."""
    rng = rng or np.random.default_rng(4)
    results = []
    for seed in range(seeds):
        for arm, better in (("mcr-mba", shift), ("mcr-abm", 0.0)):
            result = made_up_result(np.random.default_rng(7), arm, seed)  # one test split
            fresh = made_up_result(rng, arm, seed, better)["test"]["ranks"]
            ways = result["test"]["ranks"]
            ways["image_to_text"] = fresh["image_to_text"]
            ways["text_to_image"] = (fresh["text_to_image"] * 2)[: len(ways["text_to_image"])]
            results.append(result)
    return results


def test_rows_from_result_files_and_the_table():
    costs = {
        f: {"seconds": [s, 1.1 * s, s], "peak_bytes": [b, b, b + 1]}
        for f, s, b in (("mcr-mba", 0.5, 60), ("two-stream-mba", 1.0, 100))
    }
    rows = comparisons.judge_comparisons(study_of(4.0), costs)
    by = {row["measured"]: row for row in rows}
    assert by["MbA against AbM, recall of MCR"]["verdict"] == "supported"
    assert by["MbA against AbM, recall of MCR"]["arms"] == "mcr-mba,mcr-abm"
    assert by["seconds of a training step, MCR / two-stream"]["effect"] == pytest.approx(0.5)
    assert by["seconds of a training step, MCR / two-stream"]["verdict"] == "supported"
    assert by["state of the art on MIMIC-CXR"]["verdict"] == "not measured here"
    assert (
        by["MCR against two-stream, equal steps"]["verdict"] == "not measured here"
    )  # that arm was not run
    worse = {row["measured"]: row for row in comparisons.judge_comparisons(study_of(-4.0), None)}
    assert worse["MbA against AbM, recall of MCR"]["verdict"] == "contradicted"
    assert worse["seconds of a training step, MCR / two-stream"]["verdict"] == "not measured here"
    one = {
        row["measured"]: row for row in comparisons.judge_comparisons(study_of(4.0, seeds=1), None)
    }
    assert one["MbA against AbM, recall of MCR"]["verdict"] == "undecided"
    assert one["MbA against AbM, recall of MCR"]["interval"] is None
    table, missing = tables.format_claims(rows).split("\n\n")
    measured = [row for row in rows if row["verdict"] != comparisons.NOT_MEASURED]
    assert (
        len(table.splitlines()) == len(measured) + 2
        and len({line.count("|") for line in table.splitlines()}) == 1
    )
    assert missing.startswith(
        "Not measured here: state of the art on MIMIC-CXR; MCR against two-stream, equal steps;"
    )
    json.dumps(rows)


def test_state_of_the_art_can_never_be_claimed():
    for claim in comparisons.COMPARISONS:
        assert claim.contrast or claim.what == "state of the art on MIMIC-CXR"


def test_variants_are_judged_where_they_were_run_and_all_groups_have_a_row():
    compared = {arm for variant in comparisons.VARIANTS for arm in variant.contrast}
    assert compared | {"mask-0.5-0.25"} == {"mcr-mba", "mcr-mba@flops"} | {
        arm.name
        for group in (
            "pooling",
            "projection",
            "mask",
            "mask@time",
            "weights",
            "methods",
            "methods@flops",
        )
        for arm in GROUPS[group]
    }
    results = study_of(4.0)
    for result in [r for r in results if r["arm"] == "mcr-abm"]:
        result["arm"] = "mask-0.9-0.5"
    (row,) = comparisons.judge_variants(results)
    assert (
        row["measured"]
        == "masking 50 % of the image and 25 % of the report is better than 90 % and 50 %"
    )
    assert (row["verdict"], row["arms"], row["repeats"]) == ("supported", "mcr-mba,mask-0.9-0.5", 5)
    assert comparisons.judge_variants(results[:1]) == []
