"""How far apart images and reports lie on the unit sphere: gap, alignment, uniformity.

It is measures on feature tensors, all in float64. It is not a quality score: a smaller gap need not mean better
retrieval, so read it beside the recall.

Axes: N pairs, D width. Row n of both tensors is one pair; anything but unit vectors is a ValueError."""

import torch.nn.functional as F
from torch import Tensor

from .ranking import check_features


def _unit(name: str, features: Tensor) -> Tensor:
    """Features (N, D) checked and normalised again in float64: float32 rows are unit only to about 1e-7."""
    return F.normalize(check_features(name, features).double())


def unit_pairs(image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
    """Both features (N, D) as unit vectors in float64. ValueError if they are none, or not pairs."""
    if image_features.shape != text_features.shape:
        raise ValueError(
            f"not one row per pair: {[*image_features.shape]} and {[*text_features.shape]}"
        )
    return _unit("image_features", image_features), _unit("text_features", text_features)


def gap_vector(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Centre of the images minus centre of the reports, (D,) float64 (Liang et al. 2022, Mind the Gap)."""
    images, texts = unit_pairs(image_features, text_features)
    return images.mean(dim=0) - texts.mean(dim=0)


def gap_distance(image_features: Tensor, text_features: Tensor) -> float:
    """Length of the gap vector, 0 (same centre) to 2 (opposite points) (Liang et al. 2022)."""
    return float(gap_vector(image_features, text_features).norm())


def _mean_dissimilarity(features: Tensor) -> Tensor:
    """Mean of (1 − cos)/2 over all unordered distinct pairs of unit rows (N, D), in O(N·D). ‖Σx‖² =
    Σ‖x‖² + Σ_{i≠j} x_i·x_j, so the mean cosine is (‖Σx‖² − Σ‖x‖²) / (N(N−1))."""
    count = len(features)
    if count < 2:
        raise ValueError("pairs within a modality need at least 2 rows, got 1")
    mean_cosine = (features.sum(dim=0).square().sum() - features.square().sum()) / (
        count * (count - 1)
    )
    return ((1 - mean_cosine) / 2).clamp(min=0)


def relative_modality_gap(image_features: Tensor, text_features: Tensor) -> float:
    """d_pair / (d_pair + (d_II + d_TT)/2) with d = (1 − cos)/2 (Schrodi et al. 2025, Two Effects).
    d_pair is the mean over the true pairs, d_II and d_TT the means over all distinct pairs within a
    modality. 0: true pairs coincide; near 1: pairs are far apart against the spread within the
    modalities. 0 by definition when all vectors are one point. N ≥ 2."""
    images, texts = unit_pairs(image_features, text_features)
    between = ((1 - (images * texts).sum(dim=1).mean()) / 2).clamp(min=0)
    within = (_mean_dissimilarity(images) + _mean_dissimilarity(texts)) / 2
    total = float(between + within)
    return float(between) / total if total > 1e-12 else 0.0


def alignment(image_features: Tensor, text_features: Tensor) -> float:
    """Mean squared distance of true pairs, E‖i − t‖² = 2 − 2·cosine, 0 to 4 (Wang & Isola 2020, α = 2)."""
    images, texts = unit_pairs(image_features, text_features)
    return float((images - texts).square().sum(dim=1).mean())


def uniformity(features: Tensor, chunk: int = 1024) -> float:
    """log of the mean of exp(−2‖x − x'‖²) over all distinct pairs of rows (N, D) (Wang & Isola
    2020, t = 2). −8 to 0; 0 when all rows are one point, about −4 when they are spread evenly over
    a sphere of high dimension. Computed in blocks of chunk × chunk. N ≥ 2."""
    features = _unit("features", features)
    count = len(features)
    if count < 2:
        raise ValueError("uniformity needs at least 2 rows, got 1")
    total = features.new_zeros(())
    for row in range(0, count, chunk):
        for column in range(row, count, chunk):
            # ‖x − x'‖² = 2 − 2·cos of unit rows
            kernel = (
                4 * (features[row : row + chunk] @ features[column : column + chunk].T) - 4
            ).exp()
            total += kernel.triu(diagonal=1).sum() if row == column else kernel.sum()
    return float((total / (count * (count - 1) / 2)).log())


def true_pair_cosine(image_features: Tensor, text_features: Tensor) -> float:
    """Mean cosine of the true pairs, −1 to 1."""
    images, texts = unit_pairs(image_features, text_features)
    return float((images * texts).sum(dim=1).mean())


def modality_gap(image_features: Tensor, text_features: Tensor) -> dict[str, float]:
    """All measures of this module for N ≥ 2 pairs; `uniformity` is the mean of the two modalities'."""
    image_uniformity, text_uniformity = uniformity(image_features), uniformity(text_features)
    return {
        "gap_distance": gap_distance(image_features, text_features),
        "relative_modality_gap": relative_modality_gap(image_features, text_features),
        "alignment": alignment(image_features, text_features),
        "uniformity": (image_uniformity + text_uniformity) / 2,
        "image_uniformity": image_uniformity,
        "text_uniformity": text_uniformity,
        "true_pair_cosine": true_pair_cosine(image_features, text_features),
    }
