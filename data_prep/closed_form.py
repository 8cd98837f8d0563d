"""What can be fitted to images and word lists without training: small windows, word weights, linear maps.

Pure functions of arrays, used by the linear encoders (mcr_lib/linear.py) and the plain baseline
(benchmarks/baselines.py). Not here: what is encoded with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

WHITENING = 0.1  # added to the variances of windows
MOST_WINDOWS = 200_000
SPREAD = np.array([0.15, 0.15, 0.1, 0.15, 0.06])  # of the moves that are tried: zooms, shifts, turn
NARROWER, COPIES, MOVE_RIDGE = 0.7, 4, 0.026  # from round to round; of each image; of the variance
AXES = 400, 200  # principal components of images and of reports
RIDGE, POWER = (0.3, 0.3), 2.0  # these and AXES: chosen by folds, see benchmarks/recipe.py


def learn_moves(look: Callable, count: int, rounds: int, random) -> np.ndarray:
    """How far an image is off, as a linear function of what one sees of it. All are moved at random,
    and ridge regression finds the moves again; each round begins where the last one has moved
    them and moves them less. look(by): moves (N, M) → what is seen then (N, P). → (rounds, P, M)."""
    by, found = np.zeros((count, len(SPREAD))), []
    for number in range(rounds):
        inner = outer = 0.0
        for _ in range(COPIES):
            more = random.standard_normal(by.shape) * SPREAD * NARROWER**number
            seen = look(by + more).astype(float)
            inner, outer = inner + seen.T @ seen, outer + seen.T @ more
        ridge = MOVE_RIDGE * COPIES * count * np.eye(len(inner))
        found.append(np.linalg.solve(inner + ridge, outer))
        by = by - look(by) @ found[-1]
    return np.stack(found)


def learn_windows(images: np.ndarray, side: int, count: int, floor: float, random) -> tuple:
    """Random windows of images (N, H, W), each brought to mean 0 and variance 1 (`floor` is added to
    its variance), whitened, in `count` clusters (Coates, Lee, Ng 2011). random: a NumPy generator.
    → whitening (side², side²), the whitened mean (side²,), the clusters' means (count, side²)."""
    places = [random.integers(0, size - side + 1, MOST_WINDOWS) for size in images.shape[1:]]
    image = random.integers(0, len(images), MOST_WINDOWS)
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
    x = windows[image, *places].reshape(MOST_WINDOWS, -1).astype(float)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + floor)
    values, axes = np.linalg.eigh(np.cov(x.T))
    whiten = axes / np.sqrt(values + WHITENING) @ axes.T
    middle = x.mean(0) @ whiten
    how = {
        "batch_size": 4096,
        "n_init": 1,
        "max_iter": 20,
        "random_state": int(random.integers(2**31)),
    }
    means = MiniBatchKMeans(count, **how).fit((x @ whiten - middle).astype(np.float32))
    return whiten, middle, means.cluster_centers_


def weigh_words(reports: list[np.ndarray]):
    """Reports as arrays of word numbers → their sublinear TF-IDF as unit vectors (N, known), the
    known numbers in ascending order (known,), and how rare each is (known,). A word that only one
    report has is not known."""
    weights = TfidfVectorizer(analyzer=np.ndarray.tolist, min_df=2, sublinear_tf=True)
    weighted = weights.fit_transform(reports)
    return weighted, weights.get_feature_names_out().astype(int), weights.idf_


def ridge_cca(x: np.ndarray, y: np.ndarray, ridge: tuple[float, float], power: float) -> tuple:
    """Canonical correlation of x (N, a) and y (N, b), both centred (Hotelling 1936) → maps (a, k)
    and (b, k), k the smaller of a and b, whose projections correlate most, each weighted by its
    correlation to the `power`. ridge is added to the variances, as a share of their mean."""
    whiten_x, whiten_y = (
        _inverse_root(side.T @ side / len(side), share)
        for side, share in zip((x, y), ridge, strict=True)
    )
    left, correlation, right = np.linalg.svd(whiten_x @ (x.T @ y / len(x)) @ whiten_y)
    k, weight = len(correlation), correlation**power
    return whiten_x @ left[:, :k] * weight, whiten_y @ right[:k].T * weight


class ImageSide(NamedTuple):
    """centre (P,) is taken from a histogram, map (P, k) takes it to the common space."""

    centre: np.ndarray
    map: np.ndarray


class ReportSide(NamedTuple):
    """known (K,): numbers of the words, rarity (K,) of each; map (K, k), bias (k,): see ImageSide."""

    known: np.ndarray
    rarity: np.ndarray
    map: np.ndarray
    bias: np.ndarray


class ReportComponents(NamedTuple):
    """known, rarity: see ReportSide; axes (b, K) of them, and where on these each report lies (N, b)."""

    known: np.ndarray
    rarity: np.ndarray
    axes: np.ndarray
    places: np.ndarray


def report_components(
    reports: list[np.ndarray], seed: int, count: int = AXES[1]
) -> ReportComponents:
    """The principal components of reports, each an array of word numbers."""
    weighted, known, rarity = weigh_words(reports)
    svd = TruncatedSVD(min(count, len(reports) - 1, len(known) - 1), random_state=seed)
    places = svd.fit_transform(weighted)
    return ReportComponents(known, rarity, svd.components_, places)


def correlate(
    histograms: np.ndarray,
    reports: ReportComponents,
    most: int,
    seed: int,
    *,
    axes: int = AXES[0],
    ridge: tuple[float, float] = RIDGE,
    power: float = POWER,
) -> tuple[ImageSide, ReportSide]:
    """Ridge CCA of the principal components of images (N, P) and those of their reports, into at
    most `most` dimensions; ridge, power: see `ridge_cca`."""
    pca = PCA(min(axes, len(histograms) - 1, histograms.shape[1]), random_state=seed)
    x, middle = pca.fit_transform(histograms), reports.places.mean(0)
    maps = ridge_cca(x, reports.places - middle, ridge, power)
    image_map, text_map = (side[:, :most] for side in maps)
    image = ImageSide(pca.mean_, pca.components_.T @ image_map)
    text = reports.axes.T @ text_map, -middle @ text_map
    return image, ReportSide(reports.known, reports.rarity, *text)


def _inverse_root(covariance: np.ndarray, ridge: float) -> np.ndarray:
    size = len(covariance)
    values, axes = np.linalg.eigh(covariance + ridge * np.trace(covariance) / size * np.eye(size))
    return axes / np.sqrt(values) @ axes.T
