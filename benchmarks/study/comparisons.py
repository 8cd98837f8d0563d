"""The paper's claims as comparisons: which effect each is, and the rule by which it is judged (RULE, written down
before the runs). From result files, numbers only. Not here: how an interval is found (interval.py), the rows as tables
(tables.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.study.arms import ARMS, FRAMEWORKS, GROUPS, METHODS, Arm
from benchmarks.study.interval import (
    LEVEL,
    OF_PAIRS,
    POWER,
    find_interval,
    holm,
    judge,
    measure_value,
    p_value,
)
from benchmarks.study.standing import ALIKE, CONTROL, F1, POINTS
from mcr_lib import paper

MUCH_LESS = 0.8  # 'much less memory and time': abstract and captions name no number; we ask for a fifth less
NOT_MEASURED = "not measured here"
RULE = (
    "Written before the runs. Each claim is one effect, its direction fixed in advance; a difference is judged "
    f"against 0, a ratio of costs against {MUCH_LESS}. If its {LEVEL:.0%} interval lies wholly on the claimed side the "
    "claim is supported, wholly on the other side contradicted, else undecided; fewer than 2 seeds decide nothing. The "
    "smallest detectable effect is the one that this study's rule would have found in "
    f"{POWER:.0%} of repetitions, as a distance from that value; it is estimated from the spread that was found, so "
    "with few seeds it is itself only roughly known. Intervals are not adjusted for the number of claims; the column "
    "`p, Holm` is, over all rows but the control. Equal FLOPs: the steps follow from counted operations. Equal time: "
    "the steps follow from seconds measured beforehand, and the interval takes them as exact. Intervals of costs are "
    "over repeats on one machine. Measured on the test split at the last step. All arms have the profile's numbers, "
    "which were settled for MCR with MbA, or in a study with --tuned each its own best draw (search.py). A verdict on "
    "retrieval is given only where the better arm of the comparison clears the linear model, its whole interval "
    "above that model's whole interval; else the row says that it is not decidable here."
)


@dataclass(frozen=True)
class Comparison:
    """A row: which sentence of the paper, what is compared on which measure, and where the claim points.

    `of`: index into paper.CLAIMS, or words where the sentence is our own. `contrast`: arm → weight; of a ratio the
    cost of the first arm is divided by that of the second.
    """

    of: int | str
    what: str
    measure: str
    contrast: dict
    better: int = 1
    ratio: bool = False
    unit: str = ""


# ----------------------------------------------------------------------------------------- what is compared


GAP, DISTANCE = "gap (0–2)", "squared distance (0–4)"
COST_ARMS = ("mcr-mba", "two-stream-mba")  # the arms whose costs are divided, first by second
RETRIEVAL = (
    "Better retrieval (the paper: state of the art on MIMIC-CXR)"  # what these data can speak to
)
OUR_CHOICES = "(our choices)"
OTHERS = "Other methods, on the same encoders"
OCCLUDED = "Retrieval with half of the image and a quarter of the words hidden (our measure)"
BUDGETS = {"equal FLOPs": "@flops", "equal time": "@time"}  # what is equal: the arms' suffix


def _difference(first: str, second: str) -> dict:
    return {first: 1.0, second: -1.0}


def _recall(of: int | str, what: str, first: str, second: str) -> Comparison:
    """The claim that the first arm's RSum is higher."""
    return Comparison(of, what, "rsum", _difference(first, second), unit=POINTS)


def _occluded(what: str, first: str, second: str) -> Comparison:
    """The claim that the first arm finds more when it is shown masked input."""
    contrast = _difference(first, second)
    return Comparison(OCCLUDED, what, "rsum masked", contrast, unit=POINTS)


def _gap(what: str, first: str, second: str) -> Comparison:
    """The claim that the first arm's modality gap is smaller."""
    return Comparison(3, what, "gap_distance", _difference(first, second), better=-1, unit=GAP)


def _distance(what: str, first: str, second: str) -> Comparison:
    """The claim that true pairs lie closer in the first arm's space."""
    return Comparison(3, what, "alignment", _difference(first, second), better=-1, unit=DISTANCE)


def _pointing(what: str, first: str, second: str) -> Comparison:
    """The claim that the first arm's maps point at findings more often."""
    unit = "percent of findings pointed at"
    return Comparison(3, what, "pointing", _difference(first, second), unit=unit)


def _alike(what: str, first: str, second: str) -> Comparison:
    """The claim that the first arm tells the true one from others with the same findings more often."""
    return Comparison(3, what, "alike", _difference(first, second), unit=ALIKE)


def _label_f1(what: str, first: str, second: str) -> Comparison:
    """The claim that the first report found names the image's findings better."""
    return Comparison(RETRIEVAL, what, "label_f1", _difference(first, second), unit=F1)


def _cost(what: str, measure: str) -> Comparison:
    """The claim that MCR's step costs much less than two-stream's."""
    contrast = _difference(*COST_ARMS)
    return Comparison(2, what, measure, contrast, better=-1, ratio=True, unit="ratio")


def _competition(what: str, at: str) -> Comparison:
    """The claim that reconstruction costs two-stream more of the recall that contrast alone has on the same input."""
    contrast = {
        f"contrastive-mba{at}": 1.0,
        "two-stream-mba": -1.0,
        f"contrastive-masked-mba{at}": -1.0,
        f"mcr-mba{at}": 1.0,
    }
    return Comparison(1, what, "rsum", contrast, unit=POINTS)


def _mean_of_frameworks(what: str, at: str) -> Comparison:
    """The claim that MbA beats AbM in the mean of all frameworks; two-stream-mba is its own arm of equal time."""
    contrast = {}
    for framework in FRAMEWORKS:
        mapped_first = f"{framework}-mba"
        mapped_first += "" if framework == "two-stream" else at
        contrast[mapped_first] = 0.25
        contrast[f"{framework}-abm{at}"] = -0.25
    return Comparison(3, what, "rsum", contrast, unit=POINTS)


def _at_equal(words: str, at: str) -> tuple[Comparison, ...]:
    """The comparisons on retrieval at equal cost; two-stream with MbA is its own arm of equal cost."""
    mcr, whole, masked = f"mcr-mba{at}", f"contrastive-mba{at}", f"contrastive-masked-mba{at}"
    return (
        _recall(RETRIEVAL, f"MCR against two-stream, {words}", mcr, "two-stream-mba"),
        _recall(RETRIEVAL, f"MCR against contrastive on whole input, {words}", mcr, whole),
        _recall(RETRIEVAL, f"MCR against contrastive on masked input, {words}", mcr, masked),
        _label_f1(
            f"MCR against two-stream, findings of the first report, {words}", mcr, "two-stream-mba"
        ),
        _occluded(f"MCR against two-stream, hidden input, {words}", mcr, "two-stream-mba"),
        _occluded(f"MCR against contrastive, hidden input, {words}", mcr, whole),
        _occluded(f"contrastive on masked against whole, hidden input, {words}", masked, whole),
        _competition(
            f"recall that adding reconstruction costs, {words}: two-stream's drop minus MCR's", at
        ),
        _recall(3, f"MbA against AbM, recall of MCR, {words}", mcr, f"mcr-abm{at}"),
        _mean_of_frameworks(f"MbA against AbM, recall, mean of the four frameworks, {words}", at),
        _gap(f"MbA against AbM, modality gap of MCR, {words}", mcr, f"mcr-abm{at}"),
        _distance(f"MbA against AbM, distance of true pairs of MCR, {words}", mcr, f"mcr-abm{at}"),
        _pointing(f"MbA against AbM, pointing at findings of MCR, {words}", mcr, f"mcr-abm{at}"),
        _alike(
            f"MbA against AbM, right among equal findings, of MCR, {words}", mcr, f"mcr-abm{at}"
        ),
    )


COMPARISONS = (
    Comparison(0, "state of the art on MIMIC-CXR", "", {}),
    _recall(RETRIEVAL, "MCR against two-stream, equal steps", "mcr-mba", "two-stream-mba"),
    _recall(
        RETRIEVAL,
        "MCR against contrastive on whole input, equal steps",
        "mcr-mba",
        "contrastive-mba",
    ),
    _recall(
        RETRIEVAL,
        "MCR against contrastive on masked input, equal steps",
        "mcr-mba",
        "contrastive-masked-mba",
    ),
    _competition("recall that adding reconstruction costs: two-stream's drop minus MCR's", ""),
    Comparison(
        1,
        "agreement of the tasks' gradients on the encoders at the end, MCR minus two-stream",
        "gradient_agreement",
        _difference("mcr-mba", "two-stream-mba"),
        unit="cosine",
    ),
    _cost(
        "peak memory of a training step (CPU: resident; GPU: allocated), MCR / two-stream",
        "peak_bytes",
    ),
    _cost("seconds of a training step, MCR / two-stream", "seconds"),
    _recall(3, "MbA against AbM, recall of MCR", "mcr-mba", "mcr-abm"),
    _mean_of_frameworks("MbA against AbM, recall, mean of the four frameworks", ""),
    _gap("MbA against AbM, modality gap of MCR", "mcr-mba", "mcr-abm"),
    _distance("MbA against AbM, distance of true pairs of MCR", "mcr-mba", "mcr-abm"),
    _pointing("MbA against AbM, pointing at findings of MCR", "mcr-mba", "mcr-abm"),
    *(row for words, at in BUDGETS.items() for row in _at_equal(words, at)),
    _recall(
        CONTROL,
        "null control: linear map and mean, the two orders trained apart (no effect exists)",
        "null-mba",
        "null-abm",
    ),
)


def _claim_of(comparison: Comparison) -> str:
    of = comparison.of
    return paper.CLAIMS[of].what if isinstance(of, int) else of


def _mba_against_abm(arm: str, how: str) -> Comparison:
    what = f"MbA against AbM, recall of MCR, {how}"
    return _recall(3, what, f"{arm}-mba", f"{arm}-abm")


def _choice(arm: str, ours: str, other: str) -> Comparison:
    """The claim that our setting is better than that of `arm`."""
    return _recall(OUR_CHOICES, f"{ours} is better than {other}", "mcr-mba", arm)


def _mask_choice(arm: Arm, when: str = "") -> Comparison:
    image, text = 100 * arm.settings["mask_ratio"], 100 * arm.settings["mlm_probability"]
    ours = "masking 50 % of the image and 25 % of the report"
    return _choice(arm.name, ours, f"{image:g} % and {text:g} %{when}")


def _method(name: str, words: str, at: str) -> Comparison:
    """The claim that MCR finds more than this method."""
    return _recall(OTHERS, f"MCR against {name}, {words}", f"mcr-mba{at}", f"{name}{at}")


def _weight_choice(arm: Arm) -> Comparison:
    image = arm.settings["image_reconstruction_weight"]
    text = arm.settings["text_reconstruction_weight"]
    return _choice(arm.name, "weighting L_mim by 1 and L_mrm by 1", f"{image:g} and {text:g}")


# each beside MCR with MbA as the profile has it, whose masks and weights are the paper's and ours
VARIANTS = (
    _mba_against_abm("pool-mean", "aggregated by the mean"),
    _mba_against_abm("pool-attention", "by attention"),
    _mba_against_abm("pool-max", "by the maximum"),
    _mba_against_abm("linear", "mapped linearly"),
    # added after the runs: with the maximum most of the gap's difference is there before training, with these it is not
    _gap(
        "MbA against AbM, modality gap of MCR, aggregated by the mean",
        "pool-mean-mba",
        "pool-mean-abm",
    ),
    _distance(
        "MbA against AbM, distance of true pairs of MCR, aggregated by the mean",
        "pool-mean-mba",
        "pool-mean-abm",
    ),
    _gap(
        "MbA against AbM, modality gap of MCR, by attention",
        "pool-attention-mba",
        "pool-attention-abm",
    ),
    _distance(
        "MbA against AbM, distance of true pairs of MCR, by attention",
        "pool-attention-mba",
        "pool-attention-abm",
    ),
    _choice("pool-mean-mba", "the maximum", "the mean"),
    _choice("pool-attention-mba", "the maximum", "attention"),
    _choice("linear-mba", "the perceptron", "a linear map"),
    *(_mask_choice(arm) for arm in GROUPS["mask"] if arm.name != "mask-0.5-0.25"),
    *(_mask_choice(arm, ", equal time") for arm in GROUPS["mask@time"]),
    *(_weight_choice(arm) for arm in GROUPS["weights"]),
    *(_method(name, "equal steps", "") for name in METHODS),
    *(_method(name, "equal FLOPs", "@flops") for name in METHODS),
)


ORDER = [_claim_of(comparison) for comparison in COMPARISONS]  # of the table, by claim


# ------------------------------------------------------------------------------------------- how it is judged


def judge_comparisons(results: list[dict], costs: dict | None) -> list[dict]:
    """Every comparison as a row: what the README, the report page and study.json show.

    costs: what step_cost.py measured, arm → measure → a value per repeat. A row's `arms` are what --arms takes to
    repeat it.
    """
    rows = [_judge_row(comparison, results, costs) for comparison in COMPARISONS]
    rows.sort(key=lambda row: ORDER.index(row["claim"]))  # stable
    counted = [row for row in rows if row["p"] is not None and row["claim"] != CONTROL]
    for row, adjusted in zip(counted, holm([row["p"] for row in counted]), strict=True):
        row["p_holm"] = adjusted
    return rows


def judge_variants(results: list[dict]) -> list[dict]:
    """The VARIANTS of which there are results, judged by the same rule."""
    rows = [_judge_row(variant, results, None) for variant in VARIANTS]
    return [row for row in rows if row["verdict"] != NOT_MEASURED]


def judge_own(results: list[dict]) -> list[dict]:
    """The recall of every arm that somebody has added (--arm) against every other, judged by the same rule."""
    names = list(dict.fromkeys(result["arm"] for result in results))
    rows = []
    for own in (name for name in names if name not in ARMS):
        for other in (name for name in names if name != own):
            what = f"{own} against {other}, recall"
            rows.append(
                _judge_row(_recall("(an arm of one's own)", what, own, other), results, None)
            )
    return rows


def contrast_effects(
    results: list[dict], name: str, contrast: dict
) -> tuple[list[int], np.ndarray, np.ndarray | None]:
    """Of a contrast: the seeds that all its arms have (S), the effect per seed (S,), the influence (S, P) or None."""
    if name in OF_PAIRS:
        results = [result for result in results if name in result["test"]]
    by_run = {(result["arm"], result["seed"]): result for result in results}
    seeds_of_arm = {arm: set() for arm in contrast}
    for arm, seed in by_run:
        if arm in contrast:
            seeds_of_arm[arm].add(seed)
    seeds = sorted(set.intersection(*seeds_of_arm.values()))
    effects, influences = [], []
    for seed in seeds:
        effect, influence = 0, 0
        for arm, weight in contrast.items():
            value, of_patients = measure_value(by_run[arm, seed], name)
            effect += weight * value
            influence = None if of_patients is None else influence + weight * of_patients
        effects.append(effect)
        influences.append(influence)
    has_influence = bool(seeds) and influences[0] is not None
    return seeds, np.array(effects), np.array(influences) if has_influence else None


def _judge_row(comparison: Comparison, results: list[dict], costs: dict | None) -> dict:
    row = {
        "claim": _claim_of(comparison),
        "measured": comparison.what,
        "unit": comparison.unit,
        "effect": None,
        "interval": None,
        "verdict": NOT_MEASURED,
        "detectable": None,
        "p": None,
        "p_holm": None,
        "repeats": 0,
        "arms": "mcr-mba" if comparison.ratio else ",".join(comparison.contrast),
    }
    if not comparison.contrast:
        return row
    if comparison.ratio:
        return row | (_judge_ratio(comparison, costs) if costs else {})
    return row | _judge_difference(comparison, results)


def _judge_ratio(comparison: Comparison, costs: dict) -> dict:
    first, second = (np.array(costs[arm][comparison.measure]) for arm in comparison.contrast)
    of_logarithm = find_interval(np.log(first / second))
    low, high, effect = np.exp([of_logarithm.low, of_logarithm.high, of_logarithm.effect])
    return {
        "effect": effect,
        "interval": [low, high],
        "verdict": judge(low, high, MUCH_LESS, comparison.better),
        "detectable": MUCH_LESS * (1 - np.exp(-of_logarithm.detectable)),
        "p": p_value(np.log(first / second / MUCH_LESS)),
        "repeats": len(first),
    }


def _judge_difference(comparison: Comparison, results: list[dict]) -> dict:
    seeds, effects, influence = contrast_effects(results, comparison.measure, comparison.contrast)
    if len(seeds) == 0:
        return {}
    if len(seeds) == 1:
        return {"effect": float(effects[0]), "verdict": "undecided", "repeats": 1}
    found = find_interval(effects, influence)
    return {
        "effect": found.effect,
        "interval": [found.low, found.high],
        "verdict": judge(found.low, found.high, 0.0, comparison.better),
        "detectable": found.detectable,
        "p": p_value(effects, influence),
        "repeats": len(seeds),
    }
