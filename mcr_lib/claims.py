"""The claims of the paper as rows: which effect each is, the rule by which it is judged (RULE, written down before the
runs). From result files, numbers only. Not here: how an interval is found (verdict.py), the rows as tables
(claim_table.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import paper
from .arms import FRAMEWORKS, GROUPS
from .verdict import LEVEL, POWER, interval, judge, measure

MUCH_LESS = 0.8  # 'much less memory and time': the paper's public part names no number; we ask for a fifth less
NOT_MEASURED = "not measured here"
RULE = (
    "Written before the runs. Each claim is one effect, its direction fixed in advance; a difference is judged "
    f"against 0, a ratio of costs against {MUCH_LESS}. If its {LEVEL:.0%} interval lies wholly on the claimed side the "
    "claim is supported, wholly on the other side contradicted, else undecided; fewer than 2 seeds decide nothing. The "
    "smallest detectable effect is the one that this study's rule would have found in "
    f"{POWER:.0%} of repetitions, as a distance from that value; it is estimated from the spread that was found, so "
    "with few seeds it is itself only roughly known. Intervals are not adjusted for the number of claims. Equal time: "
    "the steps follow from seconds measured beforehand, and the interval takes them as exact. Intervals of costs are "
    "over repeats on one machine. Measured on the test split at the last step. All arms have the profile's numbers, "
    "which were settled for MCR with MbA; of them only the learning rate was compared for the other arms."
)


@dataclass(frozen=True)
class Claim:
    """A row: which sentence of the paper (index into paper.CLAIMS, or words where it is our own), what is compared on
    which measure, and in which direction the claim points. `contrast`: arm → weight; of a ratio the cost of the first
    arm is divided by that of the second."""

    of: int | str
    what: str
    measure: str
    contrast: dict
    better: int = 1
    ratio: bool = False
    unit: str = ""


def _minus(first: str, second: str) -> dict:
    return {first: 1.0, second: -1.0}


POINTS = "points of RSum (0–600)"
COSTS = ("mcr-mba", "two-stream-mba")  # the arms whose costs are divided, first by second
RETRIEVAL = "Better retrieval (the paper: state of the art on MIMIC-CXR)"  # what these data can speak to
CLAIMS = (
    Claim(0, "state of the art on MIMIC-CXR", "", {}),
    Claim(RETRIEVAL, "MCR against two-stream, equal steps", "rsum", _minus("mcr-mba", "two-stream-mba"),
          unit=POINTS),
    Claim(RETRIEVAL, "MCR against two-stream, equal time", "rsum", _minus("mcr-mba@time", "two-stream-mba"),
          unit=POINTS),
    Claim(RETRIEVAL, "MCR against contrastive on whole input, equal steps", "rsum",
          _minus("mcr-mba", "contrastive-mba"), unit=POINTS),
    Claim(RETRIEVAL, "MCR against contrastive on masked input, equal steps", "rsum",
          _minus("mcr-mba", "contrastive-masked-mba"), unit=POINTS),
    Claim(RETRIEVAL, "MCR against contrastive on whole input, equal time", "rsum",
          _minus("mcr-mba@time", "contrastive-mba@time"), unit=POINTS),
    Claim(RETRIEVAL, "MCR against contrastive on masked input, equal time", "rsum",
          _minus("mcr-mba@time", "contrastive-masked-mba@time"), unit=POINTS),
    # competition of a framework: the recall that reconstruction costs the contrastive task of the same input
    Claim(1, "recall that adding reconstruction costs: two-stream's drop minus MCR's", "rsum",
          {"contrastive-mba": 1.0, "two-stream-mba": -1.0, "contrastive-masked-mba": -1.0, "mcr-mba": 1.0},
          unit=POINTS),
    Claim(1, "recall that adding reconstruction costs, equal time: two-stream's drop minus MCR's", "rsum",
          {"contrastive-mba@time": 1.0, "two-stream-mba": -1.0, "contrastive-masked-mba@time": -1.0,
           "mcr-mba@time": 1.0}, unit=POINTS),
    Claim(1, "agreement of the tasks' gradients on the encoders at the end, MCR minus two-stream", "gradient_agreement",
          _minus("mcr-mba", "two-stream-mba"), unit="cosine"),
    Claim(2, "peak memory of a training step (CPU: resident; GPU: allocated), MCR / two-stream", "peak_bytes",
          _minus(*COSTS), -1, True, "ratio"),
    Claim(2, "seconds of a training step, MCR / two-stream", "seconds", _minus(*COSTS), -1, True, "ratio"),
    Claim(3, "MbA against AbM, recall of MCR", "rsum", _minus("mcr-mba", "mcr-abm"), unit=POINTS),
    Claim(3, "MbA against AbM, recall, mean of the four frameworks", "rsum",
          {f"{f}-{a}": 0.25 * sign for f in FRAMEWORKS for a, sign in (("mba", 1), ("abm", -1))}, unit=POINTS),
    Claim(3, "MbA against AbM, recall of MCR, equal time", "rsum", _minus("mcr-mba@time", "mcr-abm@time"), unit=POINTS),
    Claim(3, "MbA against AbM, recall, mean of the four frameworks, equal time", "rsum",
          {"two-stream-mba" if arm == "two-stream-mba@time" else arm: 0.25 * sign for f in FRAMEWORKS
           for arm, sign in ((f"{f}-mba@time", 1), (f"{f}-abm@time", -1))}, unit=POINTS),
    Claim(3, "MbA against AbM, modality gap of MCR", "gap_distance", _minus("mcr-mba", "mcr-abm"), -1,
          unit="gap (0–2)"),
    Claim(3, "MbA against AbM, distance of true pairs of MCR", "alignment", _minus("mcr-mba", "mcr-abm"), -1,
          unit="squared distance (0–4)"),
    Claim(3, "MbA against AbM, modality gap of MCR, equal time", "gap_distance",
          _minus("mcr-mba@time", "mcr-abm@time"), -1, unit="gap (0–2)"),
    Claim(3, "MbA against AbM, distance of true pairs of MCR, equal time", "alignment",
          _minus("mcr-mba@time", "mcr-abm@time"), -1, unit="squared distance (0–4)"),
    Claim("(our control)", "null control: linear map and mean, the two orders trained apart (no effect exists)", "rsum",
          _minus("null-mba", "null-abm"), unit=POINTS),
)
# each beside MCR with MbA as the profile has it, whose masks and weights are the paper's and ours
VARIANTS = (
    *(Claim(3, f"MbA against AbM, recall of MCR, {how}", "rsum", _minus(f"{arm}-mba", f"{arm}-abm"), unit=POINTS)
      for arm, how in (("pool-mean", "aggregated by the mean"), ("pool-attention", "by attention"),
                       ("pool-max", "by the maximum"), ("linear", "mapped linearly"))),
    # added after the runs: with the maximum most of the gap's difference is there before training, with these it is not
    *(Claim(3, f"MbA against AbM, {what} of MCR, {how}", name, _minus(f"{arm}-mba", f"{arm}-abm"), -1, unit=unit)
      for arm, how in (("pool-mean", "aggregated by the mean"), ("pool-attention", "by attention"))
      for what, name, unit in (("modality gap", "gap_distance", "gap (0–2)"),
                               ("distance of true pairs", "alignment", "squared distance (0–4)"))),
    *(Claim("(our choices)", f"{what} is better than {other}", "rsum", _minus("mcr-mba", arm), unit=POINTS)
      for arm, what, other in (
          *((f"pool-{p}-mba", "the maximum", name) for p, name in (("mean", "the mean"), ("attention", "attention"))),
          ("linear-mba", "the perceptron", "a linear map"),
          *((arm.name, "masking 50 % of the image and 25 % of the report",
             f"{100 * arm.settings['mask_ratio']:g} % and {100 * arm.settings['mlm_probability']:g} %{when}")
            for group, when in (("mask", ""), ("mask@time", ", equal time")) for arm in GROUPS[group]
            if arm.name != "mask-0.5-0.25"),
          *((arm.name, "weighting L_mim by 1 and L_mrm by 1",
             "{image_reconstruction_weight:g} and {text_reconstruction_weight:g}".format(**arm.settings))
            for arm in GROUPS["weights"]))),
)


def effects(results: list[dict], name: str, contrast: dict) -> tuple[list[int], np.ndarray, np.ndarray | None]:
    """Of a contrast: the seeds that all its arms have (S), the effect per seed (S,), the influence (S, P) or None."""
    by = {(r["arm"], r["seed"]): r for r in results}
    seeds = sorted(set.intersection(*({seed for arm, seed in by if arm == wanted} for wanted in contrast)))
    values, influences = [], []
    for seed in seeds:
        measured = [(weight, *measure(by[arm, seed], name)) for arm, weight in contrast.items()]
        values.append(sum(weight * value for weight, value, _ in measured))
        if measured[0][2] is not None:
            influences.append(sum(weight * influence for weight, _, influence in measured))
    return seeds, np.array(values), np.array(influences) if influences else None


def rows(results: list[dict], costs: dict | None) -> list[dict]:
    """Every claim as a row: what the README, the report page and study.json show. costs: what step_cost.py measured,
    arm → measure → a value per repeat. A row's `arms` are what --arms takes to repeat it."""
    return [_row(claim, results, costs) for claim in CLAIMS]


def variant_rows(results: list[dict]) -> list[dict]:
    """The VARIANTS of which there are results, judged by the same rule."""
    return [row for row in (_row(variant, results, None) for variant in VARIANTS) if row["verdict"] != NOT_MEASURED]


def _row(claim: Claim, results: list[dict], costs: dict | None) -> dict:
    row = {"claim": paper.CLAIMS[claim.of].what if isinstance(claim.of, int) else claim.of,
           "measured": claim.what, "unit": claim.unit, "effect": None, "interval": None, "verdict": NOT_MEASURED,
           "detectable": None, "repeats": 0, "arms": "mcr-mba" if claim.ratio else ",".join(claim.contrast)}
    if not claim.contrast:
        return row
    if claim.ratio:
        if not costs:
            return row
        first, second = (np.array(costs[arm][claim.measure]) for arm in claim.contrast)
        found = interval(np.log(first / second))
        low, high, effect = np.exp([found.low, found.high, found.effect])
        return row | {"effect": effect, "interval": [low, high], "repeats": len(first), "detectable":
                      MUCH_LESS * (1 - np.exp(-found.detectable)), "verdict": judge(low, high, MUCH_LESS, -1)}
    seeds, values, influence = effects(results, claim.measure, claim.contrast)
    if len(seeds) < 2:
        one = {"effect": float(values[0]), "verdict": "undecided", "repeats": 1} if len(seeds) else {}
        return row | one
    found = interval(values, influence)
    return row | {"effect": found.effect, "interval": [found.low, found.high], "detectable": found.detectable,
                  "verdict": judge(found.low, found.high, 0.0, claim.better), "repeats": len(seeds)}
