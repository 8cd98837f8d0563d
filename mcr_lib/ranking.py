"""Ranks and top-k lists of feature vectors: exact, in blocks. What counts as before what stands here.

Pure functions on tensors. Not here: protocols and metrics (retrieval.py), files and hits (index.py).

**Tie rule.** Scores are inner products in float64, divided by ‖query‖ · max‖gallery‖ and rounded to nine decimals
before any comparison. Products computed in blocks of another shape differ by about 1e-16, features in float32 are good
to about 1e-8: equal vectors tie whatever the block, and nothing that the features can tell apart is merged. Among tied
items the irrelevant ones come first (pessimistic): a model that maps everything to one point gets the worst rank.

Axes: D width, Q queries, G gallery items, q and g some of them. All is computed where the features are."""

from collections.abc import Iterator

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from .engine.precision import full_float32

KS = (1, 5, 10)
TIE = 1e-9  # two normalised scores that agree to this are equal
TIE_RULE = "pessimistic: an irrelevant item that scores like a relevant one (nine decimals) ranks before it"
ITEMS = 2**22  # scores held at a time
BLOCK = 8192  # gallery rows read at a time, at most
SPARE = 32  # candidates beyond k: the last of them says whether a better item may be missing
TINY = 1e-300  # in place of a norm of zero


def check_features(name: str, features: Tensor, unit: bool = True) -> Tensor:
    """Features (N, D), on the CPU if mps; ValueError if empty, not finite 2-D floats, not unit vectors."""
    if features.ndim != 2 or len(features) == 0 or not features.is_floating_point():
        raise ValueError(f"{name}: expected floats of shape (N, D), got {[*features.shape]}")
    features = features.detach().cpu() if features.device.type == "mps" else features.detach()
    bad = int((~features.isfinite().all(dim=1)).sum())
    if bad:
        raise ValueError(f"{name}: {bad} of {len(features)} rows hold non-finite values")
    off = float((features.float().norm(dim=1) - 1).abs().max())
    if unit and off > 1e-2:  # bfloat16 rounding stays below
        raise ValueError(f"{name}: expected unit vectors, a norm is off by {off:.3g}")
    return features


def _scores(unit: Tensor, gallery: Tensor) -> Tensor:
    """float64 (q, D), (g, D) -> (q, g): the products in units of TIE, whole numbers."""
    return (unit @ gallery.T).div_(TIE).round_()


def _score_rows(queries: Tensor, gallery: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (q,) of the queries and their scores (q, G), block after block."""
    queries = check_features("queries", queries, unit=False)
    gallery = check_features("gallery", gallery, unit=False)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"sizes do not fit: {[*queries.shape]} and {[*gallery.shape]}")
    gallery = gallery.double() / gallery.float().norm(dim=1).max().double().clamp(min=TINY)
    every = torch.arange(len(queries), device=queries.device)
    for rows in every.split(max(1, ITEMS // len(gallery))):
        yield rows, _scores(F.normalize(queries[rows].double(), eps=TINY), gallery)


def _check_relevant(found: Tensor) -> None:
    if not found.all():
        missing = f"{int((~found).sum())} of {len(found)}"
        raise ValueError(f"{missing} queries have no relevant item in the gallery")


def ranks(queries: Tensor, gallery: Tensor, query_group: Tensor, gallery_group: Tensor) -> Tensor:
    """Rank of the best relevant gallery item of every query; relevant = same group. queries (Q, D)
    and gallery (G, D) are floats of any norm, query_group (Q,) and gallery_group (G,) integers.
    Returns (Q,) int64 on the CPU, from 1 (best) to G, ties pessimistic. ValueError on features that
    are not finite and on queries without a relevant item."""
    _check_relevant(torch.isin(query_group, gallery_group))
    result = []
    for rows, score in _score_rows(queries, gallery):
        own, others = query_group.to(rows.device)[rows], gallery_group.to(rows.device)
        relevant = own[:, None] == others  # (q, G)
        best = score.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
        result.append(1 + ((score >= best) & ~relevant).sum(dim=1).cpu())
    return torch.cat(result)


def label_ranking(
    queries: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Precision at K and average precision; relevant = at least one label shared. queries (Q, D),
    gallery (G, D); query_labels (Q, L) and gallery_labels (G, L) are 0/1. Returns on the CPU the
    number of relevant items (Q,), the rank of the best one (Q,), precision (Q, 3) for K = 1, 5, 10
    (also where K > G: hits / K) and average precision (Q,), both 0–1. Ties and errors as in
    `ranks`."""
    size, parts = len(gallery), []
    for rows, score in _score_rows(queries, gallery):
        own, others = query_labels.to(rows.device)[rows], gallery_labels.to(rows.device)
        irrelevant = (own.float() @ others.float().T) == 0  # (q, G)
        # even = relevant, odd = irrelevant and just above: one sort gives the pessimistic order
        key = score.mul_(2).add_(irrelevant).sort(dim=1, descending=True).values
        relevant = key.remainder_(2) == 0  # (q, G), best first
        hits = relevant.cumsum(dim=1)
        precision = torch.stack([hits[:, min(k, size) - 1].double() / k for k in KS], dim=1)
        place = torch.arange(1, size + 1, device=rows.device).double()
        average = (relevant * hits / place).sum(dim=1) / hits[:, -1]
        parts.append((hits[:, -1], relevant.int().argmax(dim=1) + 1, precision, average))
    n_relevant, first, precision, average = map(torch.cat, zip(*parts, strict=True))
    _check_relevant(n_relevant > 0)
    return n_relevant.cpu(), first.cpu(), precision.cpu(), average.cpu()


def normal_text(text: str) -> str:
    """A report without what does not count: runs of spaces and case."""
    return " ".join(text.casefold().split())


def merge_texts(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Number the distinct reports, spaces and case aside: text_id (N,) in 0..M−1, first rows (M,)."""
    keys = pd.Series([normal_text(text) for text in texts])
    empty = int((keys == "").sum())
    if empty:
        raise ValueError(f"{empty} of {len(keys)} reports are empty")
    return torch.tensor(keys.factorize()[0]), torch.tensor(keys.drop_duplicates().index)


def float32_error(width: int) -> float:
    """How far a product in float32 of vectors (D,) no longer than 1.01 lies from their exact score."""
    # With u = 2⁻²⁴: rounding both vectors moves the product by at most (2u + u²)·‖a‖‖b‖ (Cauchy–Schwarz); adding D
    # products in any order by at most D·u/(1 − D·u)·‖a‖‖b‖ (Higham, Accuracy and Stability, eq. 3.5), counted twice
    # for units that round towards zero. Three ties are added for the rounding of the rule.
    u = 2.0**-24
    return 1.03 * (2 * u + u * u + 2 * width * u * (1 + u) ** 2) + 3 * TIE


def top_k(
    queries: Tensor, gallery: Tensor, k: int, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k best gallery rows of every query: scores (Q, k) float64 and rows (Q, k) int64, best
    first. queries (Q, D) of any norm; gallery (G, D) of norms about one, read in blocks; rows (g,):
    only these, at least k. Scores have nine decimals; of equal ones the lower row comes first. A
    product in float32 picks k + SPARE candidates of each query, which are scored exactly; where an
    item left out could still belong to the k (equal or clustered features), the query is compared
    with all in float64."""
    unit, size = F.normalize(queries.double()), len(gallery)
    count = min(k + SPARE, size if rows is None else len(rows))
    value, candidate = unit.new_empty(len(unit), 0).float(), unit.new_empty(len(unit), 0).long()
    for some, items in _blocks(gallery, rows, len(unit)):
        with full_float32(unit.device):
            score = unit.float() @ items.float().T  # (Q, g)
        score, place = score.topk(min(count, len(some)))
        value, candidate = torch.cat([value, score], 1), torch.cat([candidate, some[place]], 1)
        value, place = value.topk(min(count, value.shape[1]))  # (Q, count)
        candidate = candidate.gather(1, place)
    key = torch.cat([_exact(one, gallery, k, candidate[q]) for q, one in enumerate(unit.split(1))])
    left_out = value[:, -1].double() + float32_error(unit.shape[1])  # scores at most this
    unsure = key[:, -1].double() / size * TIE - TIE <= left_out
    if unsure.any():
        key[unsure] = _exact(unit[unsure], gallery, k, rows)
    return key.div(size, rounding_mode="floor").double() * TIE, size - 1 - key.remainder(size)


def _exact(unit: Tensor, gallery: Tensor, k: int, rows: Tensor | None) -> Tensor:
    """float64 (q, D) -> (q, k) int64, best first: score · G + (G − 1 − row), so the lower row wins a tie."""
    size = len(gallery)  # below 2³¹
    best = torch.full((len(unit), k), -(2**62), device=unit.device)  # nothing yet
    for some, items in _blocks(gallery, rows, len(unit)):
        key = _scores(unit, items.double()).long().mul_(size).add_(size - 1 - some)
        best = torch.cat([best, key], dim=1).topk(k).values
    return best


def _blocks(gallery: Tensor, rows: Tensor | None, q: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Row numbers (g,) and features (g, D) of the gallery, as many at a time as q queries allow."""
    every = torch.arange(len(gallery), device=gallery.device) if rows is None else rows
    for some in every.split(max(1, min(BLOCK, ITEMS // q))):
        yield some, gallery[some[0] : some[-1] + 1] if rows is None else gallery[some]
