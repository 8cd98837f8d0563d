"""Both modalities in one plane: what the pictures of the clouds show.

Not here: measures of the gap (mcr_lib/modality_gap.py), the pictures (plotting/alignment.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from mcr_lib.modality_gap import unit_pairs


@dataclass(frozen=True)
class Projection:
    """Points in the plane: images, texts (n, 2); rows (n,), the pairs shown; explained variance (PCA)."""

    images: np.ndarray
    texts: np.ndarray
    rows: np.ndarray
    explained: tuple[float, float] | None


def project_2d(
    image_features: Tensor,
    text_features: Tensor,
    method: str = "pca",
    seed: int = 0,
    max_points: int = 1000,
) -> Projection:
    """Both modalities in one plane, fitted jointly: `pca` (first two components) or `tsne` (after PCA to 50).

    At most max_points pairs are shown, drawn by `seed`; a pair stays together. Deterministic for a given
    seed. t-SNE keeps neighbourhoods, not distances: the width of a gap is to be read from PCA. N ≥ 2.
    """
    images, texts = unit_pairs(image_features, text_features)
    if len(images) < 2 or max_points < 2:
        raise ValueError(f"a projection needs at least 2 pairs, got {min(len(images), max_points)}")
    shown = min(len(images), max_points)
    rows = np.sort(np.random.default_rng(seed).choice(len(images), shown, replace=False))
    points = torch.cat([images[rows], texts[rows]]).cpu().numpy()  # (2n, D)
    if method == "pca":
        pca = PCA(n_components=2, svd_solver="full")
        flat, explained = pca.fit_transform(points), tuple(pca.explained_variance_ratio_.tolist())
    elif method == "tsne":
        points = PCA(n_components=min(50, *points.shape), svd_solver="full").fit_transform(points)
        tsne = TSNE(
            n_components=2, init="pca", perplexity=min(30.0, (2 * shown - 1) / 3), random_state=seed
        )
        flat, explained = tsne.fit_transform(points), None
    else:
        raise ValueError(f"unknown method {method!r}: choose pca or tsne")
    return Projection(flat[:shown], flat[shown:], rows, explained)  # (n, 2) each
