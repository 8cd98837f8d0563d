"""How a claim is judged: an effect's 95 % interval over seeds and test patients together, and what follows from it. It
reads numbers only: no model, no data set. Not here: which effects, and the rule in words (comparisons.py).

**The interval.** Every measure here is a mean over test queries, so a run has a value and, for each patient, the
influence on it: how much the value would move if that patient counted a little more. An effect is a weighted sum of
arms, taken seed by seed (arms share seeds, batches and queries, so it is paired): d_s with influence u_sp. Seeds are
to a trained model what readers are to a radiograph, and the parts are those of a multi-reader multi-case study
(Obuchowski & Rockette 1995):

    V = variance of the d_s over seeds / S,    C = covariance of two seeds' d through the shared patients (at least 0),
    half width of the interval = √(t²·V + t'²·C),   t with S − 1, t' with P − 1 degrees of freedom.

The halves are added as squares (MOVER, Zou & Donner 2008). A bootstrap of five seeds would be too narrow by a third,
and one number of degrees of freedom for both parts (Satterthwaite, Hillis) too narrow with three seeds; this is not, as
tests/test_comparisons.py shows by simulation.
The gallery is fixed: the interval speaks of other patients asked about this gallery, and of other seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq

KS = (1, 5, 10)
LEVEL, POWER = 0.95, 0.80


@dataclass(frozen=True)
class Interval:
    """An effect with its interval; `detectable`: the smallest effect found in 80 % of repetitions."""

    effect: float
    low: float
    high: float
    detectable: float


def find_interval(effects: np.ndarray, influence: np.ndarray | None = None) -> Interval:
    """effects (S,): one per seed; influence (S, P): of each patient on it, None where patients play no part.

    ValueError with fewer than two seeds: one seed says nothing of the spread over seeds.
    """
    effects = np.asarray(effects, float)
    parts = _parts_of_variance(effects, influence)

    def combined(distance) -> float:
        return float(np.sqrt(sum(distance(df) ** 2 * variance for variance, df in parts)))

    mean, half = float(effects.mean()), combined(_threshold)
    return Interval(mean, mean - half, mean + half, combined(_detectable_distance))


def _parts_of_variance(
    effects: np.ndarray, influence: np.ndarray | None
) -> list[tuple[float, int]]:
    """The variance of the mean effect: (variance, degrees of freedom) of the seeds' part and of the patients'."""
    seeds = len(effects)
    if seeds < 2:
        raise ValueError(f"an interval over seeds needs at least 2, got {seeds}")
    parts = [(effects.var(ddof=1) / seeds, seeds - 1)]  # variance, degrees of freedom
    if influence is not None:
        patients = influence.shape[1]
        covariance = influence @ influence.T * patients / (patients - 1)  # S, S
        shared = (covariance.sum() - covariance.trace()) / (seeds * (seeds - 1))
        parts.append((max(0.0, shared), patients - 1))
    return parts


def p_value(effects: np.ndarray, influence: np.ndarray | None = None, least: float = 1e-6) -> float:
    """1 − the level of the interval that just reaches 0; `least` for anything smaller. Else as find_interval."""
    parts, effect = _parts_of_variance(effects, influence), float(np.mean(effects))

    def beyond(p: float) -> float:
        """By how much the interval of level 1 − p stays away from 0."""
        half = np.sqrt(sum(stats.t.ppf(1 - p / 2, df) ** 2 * variance for variance, df in parts))
        return abs(effect) - float(half)

    if effect == 0:
        return 1.0
    return least if beyond(least) > 0 else brentq(beyond, least, 1.0)


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction: each p as it counts among all of them, in their order."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, number in enumerate(np.argsort(p_values)):
        largest = max(largest, (len(p_values) - place) * p_values[number])
        adjusted[number] = min(1.0, float(largest))
    return adjusted


@cache
def _threshold(df: int) -> float:
    """How many standard errors from the value it is judged against an effect must lie to be told from it."""
    return stats.t.ppf((1 + LEVEL) / 2, df)


@cache
def _detectable_distance(df: int) -> float:
    """How many standard errors away the true effect must be for that to happen in POWER of repetitions."""
    return brentq(lambda away: stats.nct.sf(_threshold(df), df, away) - POWER, 0, 100)


def judge(low: float, high: float, against: float = 0.0, better: int = 1) -> str:
    """The rule. better = 1: the claim is that the effect is larger than `against`, −1: smaller."""
    above, below = low > against, high < against
    if not (above or below):
        return "undecided"
    as_claimed = above if better > 0 else below
    return "supported" if as_claimed else "contradicted"


# ------------------------------------------------------------------------------------------ measures of one run

# measured where the data allow it; older files have none
OF_PAIRS = ("pointing", "alike", "label_f1")


def patient_influence(
    values: np.ndarray, query_of_pair: np.ndarray, patient_of_pair: np.ndarray
) -> np.ndarray:
    """The influence (P,) of each patient on the mean of values (Q,), adding up to 0.

    query_of_pair (N,): the query each pair stands behind, −1 = none; a query of several patients counts for each in
    its share, as in `retrieval.query_weights`, whose bootstrap has this variance.
    """
    kept = query_of_pair >= 0
    query, patient = query_of_pair[kept], patient_of_pair[kept]
    share = 1 / np.bincount(query, minlength=len(values))
    moved = (values - values.mean())[query] * share[query] / len(values)
    return np.bincount(patient, moved, minlength=int(patient_of_pair.max()) + 1)


def measure_value(result: dict, name: str) -> tuple[float, np.ndarray | None]:
    """A run's value for a measure and the influence of each test patient (P,) on it; from its result file.

    Names: rsum, image_to_text_R@1 … text_to_image_R@10 (percent; with ' masked' of masked input), mAP (percent, mean
    of both directions, label-match), gap_distance, alignment, true_pair_cosine, pointing (percent of findings),
    alike, label_f1 (percent, fine.py); gradient_agreement (mean of the two encoders, −1 to 1), which is no mean over
    test patients and has no influence (None).
    """
    if name == "gradient_agreement":
        return float(np.mean(list(result[name].values()))), None
    test = result["test"]
    patient_of_pair = np.array(test["patient_of_pair"])
    plain, _, masked = name.partition(" ")
    if plain == "rsum" or "_R@" in plain:
        parts = _recall_parts(test, plain, "ranks masked" if masked else "ranks")
    elif plain in OF_PAIRS:
        parts = [(np.array(test[plain]["hits"]), np.array(test[plain]["query_of_pair"]))]
    elif plain == "mAP":
        labelled = np.array(test["label_query_of_pair"])
        parts = [(50 * np.array(values), labelled) for values in test["average_precision"].values()]
    else:
        parts = [(np.array(test["pairs"][plain]), np.arange(len(patient_of_pair)))]
    value = float(sum(values.mean() for values, _ in parts))
    return value, sum(patient_influence(values, query, patient_of_pair) for values, query in parts)


def _recall_parts(test: dict, name: str, ranks: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The recalls that add up to a measure: per direction values (Q,), whose mean counts, and query_of_pair (N,)."""
    text_of_pair = np.array(test["text_of_pair"])
    query_of_pair = {"image_to_text": np.arange(len(text_of_pair)), "text_to_image": text_of_pair}
    directions, depths = tuple(query_of_pair), KS
    if name != "rsum":
        direction, _, k = name.partition("_R@")
        directions, depths = (direction,), (int(k),)
    parts = []
    for direction in directions:
        rank = np.array(test[ranks][direction])
        hits = sum(100.0 * (rank <= depth) for depth in depths)
        parts.append((hits, query_of_pair[direction]))
    return parts
