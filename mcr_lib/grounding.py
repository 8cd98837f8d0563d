"""Patch ↔ word maps: where in an image the meaning of a text lies, and how often that is where the finding is.

MbA maps every patch and every word into the common space and then aggregates, so the score of a pair is exactly the
mean of its patch × word table. AbM trains only the map of the pooled feature: its tables can be computed too, but do
not add up to the score.
It is not a detector (nothing is trained on boxes) and draws nothing.

Axes: N images, L patches, T tokens, D common_dim, S patches along a side (L = S·S). Boxes (N, 4) are x0, y0, x1, y1.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.stats import hypergeom
from torch import Tensor

from .retrieval import cluster_draws, query_weights

LUNG_ZONES = {"upper": "upper lobe", "middle": "mid lung", "lower": "lower lobe"}


@torch.inference_mode()
def patch_features(model, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
    """images (N, C, H, W) normalised → what every (kept) patch gives to the image's vector: (N, L, D).

    With MbA their mean over the patches is S^v before it is brought to length 1; with the mean as aggregation they are
    simply F_{v→s} of every patch.
    """
    return _given(model.image_head, model.image_encoder(images, ids_keep), None)


@torch.inference_mode()
def word_features(model, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """input_ids, attention_mask (N, T) → what every token gives to the report's vector: (N, T, D); see above."""
    return _given(model.report_head, model.report_encoder(input_ids, attention_mask), attention_mask.bool())


def _given(head, local_features: Tensor, present: Tensor | None) -> Tensor:
    mapped, pooling = head.map(local_features).float(), head.aggregate.pooling  # N, L, D
    if head.alignment == "abm" or pooling == "mean":
        return mapped
    present = mapped.new_ones(mapped.shape[:2]).bool() if present is None else present
    count = present.sum(1)[:, None, None]
    if pooling == "max":  # every channel of the pooled vector comes from one patch
        winner = mapped.masked_fill(~present[:, :, None], -torch.inf).argmax(1, keepdim=True)  # N, 1, D
        return count * torch.zeros_like(mapped).scatter(1, winner, mapped.gather(1, winner))
    score = mapped @ head.aggregate.query / mapped.shape[2] ** 0.5
    return count * score.masked_fill(~present, -torch.inf).softmax(1)[:, :, None] * mapped


def heat_map(patches: Tensor, direction: Tensor, ids_keep: Tensor | None = None, num_patches: int = 0) -> Tensor:
    """patches (N, L, D), direction (D,) or (N, D) → (N, S, S): what each patch adds to the score along `direction`.

    Inner products divided by the length of the mean patch. With MbA the mean of the map is the cosine of the image with
    a unit `direction`. With direction = text − mean of all texts, a positive patch speaks for this text
    rather than for any. Of `num_patches` only ids_keep (N, L) are given where the image was masked: the others are nan.
    """
    scale = patches.mean(dim=1).norm(dim=-1, keepdim=True)  # N, 1
    heat = (patches @ direction.expand(len(patches), -1)[:, :, None]).squeeze(2) / scale  # N, L, D @ N, D, 1 → N, L
    if ids_keep is not None:
        heat = heat.new_full((len(heat), num_patches), float("nan")).scatter(1, ids_keep.to(heat.device), heat)
    side = round(heat.shape[1] ** 0.5)
    return heat.reshape(len(heat), side, side)


def patch_word_table(patches: Tensor, words: Tensor) -> Tensor:
    """patches (L, D), words (T, D) of one pair → (L, T); with MbA its mean is the pair's score."""
    return patches @ words.T / (patches.mean(dim=0).norm() * words.mean(dim=0).norm())


def split_words(tokenizer, text: str, max_length: int) -> tuple[Tensor, list[tuple[int, int]], list[int | None]]:
    """input_ids (1, T); where each word stands in the text, [start, stop); the word of each token (None: special)."""
    encoded = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)
    words, spans = encoded.word_ids(), {}
    for word, (start, stop) in zip(words, encoded["offset_mapping"], strict=True):
        if word is not None:
            spans[word] = (spans.get(word, (start, stop))[0], stop)
    return torch.tensor([encoded["input_ids"]]), [spans[word] for word in sorted(spans)], words


def prompt(finding) -> str:
    """A short text for a row of boxes.parquet, from its label, side, zone, size and severity."""
    zone = LUNG_ZONES.get(finding.zone, finding.zone)
    words = [finding.severity, finding.size, finding.side, zone, finding.label.replace("_", " ")]
    return " ".join(word for word in words if word).capitalize() + "."


def boxes_on_square(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """boxes (N, 4) in fractions of images with sizes (N, 2) = width, height → fractions of the letterboxed square.

    The packed store makes the longer side fill the square and centres the other (data_prep.images.letterbox).
    """
    share = sizes / sizes.max(axis=1, keepdims=True)  # N, 2: how much of the square's width and height is image
    return boxes * np.tile(share, 2) + np.tile((1 - share) / 2, 2)


def coverage(boxes: np.ndarray, side: int) -> np.ndarray:
    """boxes (N, 4) in fractions of the square → (N, S, S): the share of each patch that lies inside the box."""
    edges = np.arange(side + 1) / side
    low, high = edges[:-1], edges[1:]
    x, y = (np.clip(np.minimum(high, boxes[:, [stop]]) - np.maximum(low, boxes[:, [start]]), 0, None) * side
            for start, stop in ((0, 2), (1, 3)))  # N, S each
    return y[:, :, None] * x[:, None, :]


def measure(heat: Tensor, boxes: np.ndarray) -> pd.DataFrame:
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
        rows.append({
            "pointing": float(cover[order[0]] > 0), "pointing_chance": float((cover > 0).mean()),
            "iou": inside / (2 * n - inside),
            "iou_chance": float((hypergeom.pmf(drawn, len(cover), n, n) * drawn / (2 * n - drawn)).sum()),
        })
    return pd.DataFrame(rows)


def bootstrap_mean(values, clusters, n_bootstrap: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values (N,) and its 95 % interval, whole clusters (patients) resampled."""
    values = torch.tensor(np.asarray(values, dtype=float))
    codes, names = pd.factorize(pd.Series(clusters))
    weights = query_weights(cluster_draws(len(names), n_bootstrap, seed), torch.from_numpy(codes),
                            torch.arange(len(values)))  # B, N
    low, high = (weights @ values / weights.sum(dim=1)).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return float(values.mean()), low, high
