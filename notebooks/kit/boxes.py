"""How often a map of a text points at the finding it speaks of: maps against the boxes that the phantom knows.

Not here: the maps themselves (mcr_lib/grounding.py), pictures of them. Axes: N images, S patches along a side, L = S·S.
Boxes (N, 4) are x0, y0, x1, y1.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.stats import hypergeom
from torch import Tensor

from mcr_lib.retrieval import cluster_draws, query_weights

LUNG_ZONES = {"upper": "upper lobe", "middle": "mid lung", "lower": "lower lobe"}


def prompt(finding) -> str:
    """A short text for a row of boxes.parquet, from its label, side, zone, size and severity."""
    zone = LUNG_ZONES.get(finding.zone, finding.zone)
    words = [finding.severity, finding.size, finding.side, zone, finding.label.replace("_", " ")]
    return " ".join(word for word in words if word).capitalize() + "."


def boxes_on_square(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """boxes (N, 4) in fractions of images with sizes (N, 2) = width, height → fractions of the letterboxed square.

    The packed store makes the longer side fill the square and centres the other (data_prep.images.letterbox).
    """
    share = sizes / sizes.max(axis=1, keepdims=True)  # N, 2: of the square's width and height
    return boxes * np.tile(share, 2) + np.tile((1 - share) / 2, 2)


def coverage(boxes: np.ndarray, side: int) -> np.ndarray:
    """boxes (N, 4) in fractions of the square → (N, S, S): the share of each patch that lies inside the box."""
    edges = np.arange(side + 1) / side
    low, high = edges[:-1], edges[1:]

    def overlap(start: np.ndarray, stop: np.ndarray) -> np.ndarray:  # N, 1 → N, S
        return side * np.clip(np.minimum(high, stop) - np.maximum(low, start), 0, None)

    x, y = overlap(boxes[:, [0]], boxes[:, [2]]), overlap(boxes[:, [1]], boxes[:, [3]])
    return y[:, :, None] * x[:, None, :]


def measure_grounding(heat: Tensor, boxes: np.ndarray) -> pd.DataFrame:
    """Pointing game and IoU of heat (N, S, S) against boxes (N, 4) on the square, one row per box, with exact chance.

    `pointing`: the hottest patch touches the box. `iou`: of the n hottest patches with the n patches that the box
    covers most, n = its area in patches (at least 1): the size is given away, the place is not. `*_chance`: the
    expectation under a random order of the patches.
    """
    side = heat.shape[1]
    covered = coverage(boxes, side).reshape(len(boxes), -1)  # N, L
    hottest = heat.flatten(1).argsort(dim=1, descending=True, stable=True).numpy()
    rows = []
    for cover, order in zip(covered, hottest, strict=True):
        n = max(1, round(float(cover.sum())))
        inside = np.isin(order[:n], np.argsort(-cover, kind="stable")[:n]).sum()
        drawn = np.arange(n + 1)
        of_drawn = hypergeom.pmf(drawn, len(cover), n, n) * drawn / (2 * n - drawn)
        rows.append(
            {
                "pointing": float(cover[order[0]] > 0),
                "pointing_chance": float((cover > 0).mean()),
                "iou": inside / (2 * n - inside),
                "iou_chance": float(of_drawn.sum()),
            }
        )
    return pd.DataFrame(rows)


def bootstrap_mean(
    values, clusters, n_bootstrap: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of values (N,) and its 95 % interval, whole clusters (patients) resampled."""
    values = torch.tensor(np.asarray(values, dtype=float))
    codes, names = pd.factorize(pd.Series(clusters))
    draws = cluster_draws(len(names), n_bootstrap, seed)
    weights = query_weights(draws, torch.from_numpy(codes), torch.arange(len(values)))  # B, N
    means = weights @ values / weights.sum(dim=1)  # B
    low, high = means.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return float(values.mean()), low, high


def patch_word_table(patches: Tensor, words: Tensor) -> Tensor:
    """patches (L, D), words (T, D) of one pair → (L, T); with MbA its mean is the pair's score."""
    return patches @ words.T / (patches.mean(dim=0).norm() * words.mean(dim=0).norm())
