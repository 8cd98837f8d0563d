"""Where a training stands still: the plateau, by a rule that was written before the runs. Not here: how it is drawn
(pictures.py) and printed (tables.py).

Rule: the last doubling of the training adds less than 1 % of RSum on `validate`.
"""

from __future__ import annotations

import numpy as np

LEAST = 0.01  # what a doubling adds at least, as a share of RSum, while the training goes on


def growths(validated: dict) -> np.ndarray:
    """By what share the RSum of each checkpoint is above that of half its steps, mean over seeds; NaN where nothing is
    known of half its steps, or nothing was found then.

    validated: of an arm of study.json; `steps` and, for each, `rsum` of the seeds.
    """
    steps, rsums = np.array(validated["steps"]), np.mean(validated["rsum"], axis=1)
    at_half = np.interp(steps / 2, steps, rsums, left=0)
    return rsums / np.where(at_half > 0, at_half, np.nan) - 1


def plateau_begins(validated: dict) -> int | None:
    """The first checkpoint, counted from 0, from which on every doubling adds less than 1 %; None while it grows."""
    grows = ~(growths(validated) < LEAST)  # not known counts as growing
    if grows[-1]:
        return None
    still = np.flatnonzero(grows)
    return int(still[-1]) + 1 if still.size else 0
