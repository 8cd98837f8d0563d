"""How a study stands to what can be had without the method (benchmarks/baselines.py): its baselines and ceilings, and
whether it can decide anything about retrieval. Not here: how they are measured, and how they are shown (tables.py).

A verdict on retrieval is given only where the better arm of the comparison finds more than the linear model, its whole
interval above the linear model's whole interval. Else its arms are under-trained, and which of them is ahead says
nothing of the method.
"""

from __future__ import annotations

import numpy as np

from benchmarks.study.interval import find_interval

LINEAR = "linear CCA"
NOT_DECIDABLE = "not decidable here"
CONTROL = "(our control)"  # what its rows are called: they ask how much comes of nothing
POINTS = "points of RSum (0–600)"
ALIKE = "percent come first"
F1 = "percent of F1"
OF_RETRIEVAL = (POINTS, ALIKE, F1)  # the units of what is said of retrieval


def rsum_interval(arm: dict) -> list[float] | None:
    """95 % interval of an arm's RSum: over seeds and patients, in older files over seeds alone; None of one seed."""
    values = arm["metrics"]["test, unmasked"]["rsum"]
    if arm.get("rsum_interval") or len(values) < 2:
        return arm.get("rsum_interval")
    found = find_interval(np.array(values))
    return [found.low, found.high]


def mean_rsum(arm: dict) -> float:
    """Of whole test input, over the seeds."""
    return float(np.mean(arm["metrics"]["test, unmasked"]["rsum"]))


def best_arm(arms: dict) -> str:
    """The name of the arm with the highest mean RSum on whole test input."""
    return max(arms, key=lambda name: mean_rsum(arms[name]))


def is_decidable(arms: dict, baselines: dict | None) -> bool:
    """Whether the best arm clears the linear model, interval above interval."""
    interval = rsum_interval(arms[best_arm(arms)])
    if not baselines or interval is None:
        return False
    return interval[0] > baselines["rows"][LINEAR]["interval"]["rsum"][1]


def hold_back(rows: list[dict], arms: dict, baselines: dict | None) -> list[dict]:
    """The rows of claims, without a verdict on retrieval where none of a row's arms clears the linear model."""
    held = []
    for row in rows:
        of_retrieval = row["unit"] in OF_RETRIEVAL and row["claim"] != CONTROL and row["interval"]
        if of_retrieval:
            compared = {name: arms[name] for name in row["arms"].split(",") if name in arms}
            of_retrieval = not is_decidable(compared or arms, baselines)
        held.append(row | {"verdict": NOT_DECIDABLE} if of_retrieval else row)
    return held


def explain(content: dict) -> str:
    """In a sentence, why there is or is not a verdict on retrieval."""
    arms, baselines = content["arms"], content.get("baselines")
    if not baselines:
        return (
            "Retrieval is not decidable here: no linear model was fitted to these data "
            "(python -m benchmarks.baselines)."
        )
    name = best_arm(arms)
    arm = f"the best arm, {name}, has RSum {_with_interval(mean_rsum(arms[name]), rsum_interval(arms[name]))}"
    linear = baselines["rows"][LINEAR]
    model = f"the linear model {_with_interval(linear['rsum'], linear['interval']['rsum'])}"
    found = "is" if is_decidable(arms, baselines) else "is not"
    return f"Retrieval {found} decidable here: {arm}, {model}."


def _with_interval(value: float, interval: list[float] | None) -> str:
    return f"{value:.0f} " + (
        f"[{interval[0]:.0f}, {interval[1]:.0f}]" if interval else "(one seed)"
    )
