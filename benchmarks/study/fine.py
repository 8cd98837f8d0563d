"""What a model knows beyond the findings' names, and how far those names agree: two measures of the test split, pair by
pair. Nothing is trained on the labels.

* `alike`: among reports (images) with exactly the same findings, does the true one come first? Their labels say
  nothing here, so only side, place, size and wording can. Mean of both directions; pairs without a finding, and
  findings of which there is one report only, are left out.
* `label_f1`: the findings of the report that comes first, against those of the image: F1.

Not here: recall among all (measure.py), where in the image a finding is (pointing.py).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

NORMAL = "normal"


def measure_alike(images: Tensor, texts: Tensor, text_of_pair: Tensor, labels: list[str]) -> dict:
    """images, texts (N, D) of N pairs; text_of_pair (N,): number of each pair's report; labels: of each pair, joined
    by |. → hits and chance in percent of the pairs measured, and of each of the N pairs the place there, −1: none."""
    numbers, joined = text_of_pair.numpy(), np.array(["|".join(_names(text)) for text in labels])
    similarity = (images.double() @ texts.double().T).cpu().numpy()  # N, N
    hits, chance, place = [], [], np.full(len(joined), -1)
    for findings in np.unique(joined):
        rows = np.flatnonzero(joined == findings)
        distinct, report = np.unique(numbers[rows], return_inverse=True)
        if findings in ("", NORMAL) or len(distinct) < 2:
            continue
        true = report[:, None] == report  # n, n: whose report is the same
        scores = similarity[np.ix_(rows, rows)]  # n images, n reports
        place[rows] = len(hits) + np.arange(len(rows))
        found = _is_first(scores, true), _is_first(scores.T, true)
        hits += (50 * (found[0] + found[1])).tolist()
        chance += (50 * (1 / len(distinct) + true.mean(1))).tolist()
    return {"hits": hits, "chance": chance, "query_of_pair": place.tolist()}


def measure_label_f1(images: Tensor, texts: Tensor, labels: list[str]) -> dict:
    """As `measure_alike`: F1 of the findings of the first report with those of the image, in percent; `chance` is that
    of any report of the gallery."""
    names = [_names(text) for text in labels]
    known = sorted(set().union(*names))
    held = np.array([[name in own for name in known] for own in names], dtype=float)  # N, labels
    labelled = np.flatnonzero(held.any(1))
    f1 = 200 * (held @ held.T) / np.maximum(held.sum(1)[:, None] + held.sum(1), 1)  # N, N
    first = (images.double() @ texts.double().T).argmax(1).cpu().numpy()  # N
    place = np.full(len(names), -1)
    place[labelled] = np.arange(len(labelled))
    return {
        "hits": f1[labelled, first[labelled]].round(5).tolist(),
        "chance": f1[labelled].mean(1).round(5).tolist(),
        "query_of_pair": place.tolist(),
    }


def _is_first(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(n,) 1 where something true scores higher than all that is not; a tie is no hit."""
    best_true = np.where(true, scores, -np.inf).max(1)
    best_other = np.where(true, -np.inf, scores).max(1)
    return (best_true > best_other).astype(float)


def _names(text: str) -> list[str]:
    """The labels of a pair, each once, in order."""
    return sorted({name for name in text.split("|") if name.strip()})
