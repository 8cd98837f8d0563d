"""Ranks and top-k lists of feature vectors: exact, in blocks, and fast. What counts as before what stands here.

Pure functions on tensors. Not here: protocols, metrics and intervals (retrieval.py), files and search (index.py).

**Tie rule.** Scores are inner products in float64, divided by ‖query‖ · max‖gallery‖ and rounded to nine
decimals before any comparison. A product computed in blocks of another shape differs by about 1e-16, features
in float32 are good to about 1e-8: nine decimals lie between, so equal vectors tie whatever the block, and
nothing that the features can tell apart is merged. Among tied items the irrelevant ones come first
(pessimistic): a model that maps everything to one point gets the worst rank, not the best.

**How it is fast and still exact.** A product in low precision differs from the true score by at most
`error_bound`. It settles every comparison further than that from its threshold; only the few scores nearer to it
are computed again by the rule above. Where they are not few (features in tight clusters), the block as a whole
is. So the results are those of the rule, whatever the features; only the time depends on them.

Axes: D width, Q queries, G gallery items, q × g a block of them, P single pairs of a query and an item.
Everything is computed on the device of the features (on the CPU for mps, which has no float64).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import bf16_is_fast

KS = (1, 5, 10)
MANY = 10             # queries from which a first pass in bfloat16 pays
TIE = 1e-9           # two normalised scores that agree to this are equal
TIE_RULE = "pessimistic: an irrelevant item that scores like a relevant one (nine decimals) ranks before it"
FEW = 256            # below one in so many, scores are computed again one by one; above, the block as a whole
EMPTY = -2**62       # the key of a place in a top-k list that nothing has taken yet


def check_features(name: str, features: Tensor, unit: bool = True) -> Tensor:
    """Features (N, D) as they are, or a ValueError if not 2-D floats, empty, not finite, not unit vectors."""
    if features.ndim != 2 or len(features) == 0 or not features.is_floating_point():
        raise ValueError(f"{name}: expected floats of shape (N, D) with N ≥ 1, "
                         f"got {features.dtype} {tuple(features.shape)}")
    features = features.detach().cpu() if features.device.type == "mps" else features.detach()
    if bad := int((~features.isfinite().all(dim=1)).sum()):
        raise ValueError(f"{name}: {bad} of {len(features)} rows hold non-finite values")
    norms = features.float().norm(dim=1)
    if unit and (norms - 1).abs().max() > 1e-2:    # bfloat16 rounding stays below
        raise ValueError(f"{name}: expected unit vectors, got norms {norms.min():.3g} … {norms.max():.3g}")
    return features


def _longest(gallery: Tensor) -> Tensor:
    return gallery.float().norm(dim=1).max().double().clamp(min=1e-300)


def _scaled(queries: Tensor, longest: Tensor) -> Tensor:
    """Queries (Q, D) in float64, scaled so that the inner product is the normalised score in units of TIE."""
    queries = queries.double()
    return queries / (queries.norm(dim=1, keepdim=True) * longest * TIE).clamp(min=1e-300)


def _scores(scaled_queries: Tensor, gallery: Tensor) -> Tensor:
    """(q, D), (g, D) -> (q, g): whole numbers, the normalised scores in units of TIE (see the tie rule)."""
    return (scaled_queries @ gallery.double().T).round_()


def _pair_scores(scaled_queries: Tensor, gallery: Tensor, q: Tensor, g: Tensor) -> Tensor:
    """(q, D), (g, D) and P positions in each -> (P,): `_scores` of single pairs."""
    return torch.cat([(scaled_queries[i] * gallery[j].double()).sum(dim=1).round_()
                      for i, j in zip(q.split(2048), g.split(2048), strict=True)])


def error_bound(dtype: torch.dtype, width: int) -> float:
    """How far the product of two vectors (D,) no longer than 1.01, rounded to dtype, lies from their true one.

    With u the unit roundoff of dtype (2⁻²⁴ for float32, 2⁻⁸ for bfloat16): rounding both vectors moves the
    product by at most (2u + u²)·‖a‖‖b‖ (Cauchy–Schwarz); adding D products in float32 in any order by at most
    D·2⁻²⁴/(1 − D·2⁻²⁴)·‖a‖‖b‖ (Higham, Accuracy and Stability, eq. 3.5), counted twice for units that round
    towards zero. Three ties are added for the rounding of the rule. A bfloat16 product is rounded once more when
    it is stored: not counted here, because rounding keeps the order and so need only be done to the threshold too.
    """
    u = torch.finfo(dtype).eps / 2
    return 1.03 * (2 * u + u * u + width * 2.0**-23 * (1 + u) ** 2) + 3 * TIE


def _where(mask: Tensor) -> tuple[Tensor, Tensor]:
    """mask.nonzero(as_tuple=True) of (q, g) booleans few of which are true: looked through by eight at a time."""
    if mask.shape[1] % 8:
        return mask.nonzero(as_tuple=True)
    q, g = mask.view(torch.int64).nonzero(as_tuple=True)
    word, byte = mask.view(len(mask), -1, 8)[q, g].nonzero(as_tuple=True)
    return q[word], 8 * g[word] + byte


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Products of float32 in float32, whatever the caller allows elsewhere: the bound fails for TF32 and autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def coarse_dtypes(queries: Tensor) -> tuple[torch.dtype, ...]:
    """Low precisions worth trying for queries (Q, D), the coarsest first: bfloat16 only where a CPU is fast at it, and
    for at least MANY queries: for one, bringing the gallery to bfloat16 takes longer than it saves."""
    coarse = queries.device.type == "cpu" and len(queries) >= MANY and bf16_is_fast(queries.device)
    return (torch.bfloat16, torch.float32) if coarse else (torch.float32,)


def ranks(queries: Tensor, gallery: Tensor, query_group: Tensor, gallery_group: Tensor,
          chunk: int = 1024) -> Tensor:
    """Rank of the best relevant gallery item of every query; relevant = same group.

    queries (Q, D) and gallery (G, D) are floats of any norm, query_group (Q,) and gallery_group (G,)
    integers. Returns (Q,) int64 on the CPU, from 1 (best) to G; ties are pessimistic (module docstring).
    Memory is O((Q + G)·D + chunk²); `chunk` never changes the result. ValueError on non-finite features, on
    sizes that do not fit, and on queries that have no relevant item.
    """
    queries = check_features("queries", queries, unit=False)
    gallery = check_features("gallery", gallery, unit=False)
    if (queries.shape[1], query_group.shape, gallery_group.shape) != (
            gallery.shape[1], queries.shape[:1], gallery.shape[:1]):
        raise ValueError(f"sizes do not fit: queries {[*queries.shape]} with groups {[*query_group.shape]}, "
                         f"gallery {[*gallery.shape]} with groups {[*gallery_group.shape]}")
    query_group, gallery_group = query_group.to(queries.device), gallery_group.to(queries.device)
    if missing := int((~torch.isin(query_group, gallery_group)).sum()):
        raise ValueError(f"{missing} of {len(queries)} queries have no relevant item in the gallery")

    longest = _longest(gallery)
    scaled = _scaled(queries, longest)
    gallery_group, order = gallery_group.sort(stable=True)
    gallery = gallery[order]
    result = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    for rows in query_group.argsort(stable=True).split(chunk):
        block, group = scaled[rows], query_group[rows, None]
        best = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=queries.device)
        # sorted by group on both sides, the relevant items of this block stand in one stretch of the gallery
        start = int(torch.searchsorted(gallery_group, group[0]))
        stop = int(torch.searchsorted(gallery_group, group[-1], right=True))
        for first in range(start, stop, chunk):
            columns = slice(first, min(first + chunk, stop))
            score = _scores(block, gallery[columns])                                       # (q, g)
            best = best.maximum(score.masked_fill_(group != gallery_group[columns], -torch.inf).amax(dim=1))
        before = torch.zeros_like(rows)
        coarse = F.normalize(queries[rows].double()).float()                               # (q, D)
        for first in range(0, len(gallery), chunk):
            columns = slice(first, min(first + chunk, len(gallery)))
            irrelevant = group != gallery_group[columns] if columns.start < stop and columns.stop > start else None
            before += _not_worse(block, coarse, gallery[columns], longest, best, irrelevant)
        result[rows] = before + 1
    return result.cpu()


def _not_worse(scaled: Tensor, coarse: Tensor, gallery: Tensor, longest: Tensor, best: Tensor,
               irrelevant: Tensor | None) -> Tensor:
    """How many (irrelevant) items of a gallery block score at least `best` (q,): (q,) int64.

    scaled (q, D) float64 and coarse (q, D) float32 are the queries, gallery (g, D), irrelevant (q, g) or None: all.
    """
    with _full_float32(gallery.device):
        score = coarse @ (gallery.double() / longest).float().T                                # (q, g)
    error = error_bound(torch.float32, gallery.shape[1]) + 2.0**-22    # two roundings more: of best, of the difference
    score -= (best * TIE).float()[:, None]
    near = score.abs() <= error
    if near.count_nonzero() * FEW > near.numel():
        not_worse = _scores(scaled, gallery) >= best[:, None]
        return (not_worse if irrelevant is None else not_worse & irrelevant).sum(dim=1)
    q, g = _where(near if irrelevant is None else near & irrelevant)
    surely = score.gt_(error)                                                # 0 or 1, which float32 adds up fast
    count = (surely if irrelevant is None else surely.mul_(irrelevant)).sum(dim=1).long()
    if len(q):
        count.index_add_(0, q, (_pair_scores(scaled, gallery, q, g) >= best[q]).long())
    return count


def label_ranking(queries: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor,
                  block_items: int = 2**21) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Precision at K and average precision; relevant = at least one label shared.

    queries (Q, D), gallery (G, D); query_labels (Q, L) and gallery_labels (G, L) are 0/1. Returns on the CPU
    the number of relevant items (Q,), the rank of the best one (Q,), precision (Q, 3) for K = 1, 5, 10 (also
    where K > G: hits / K) and average precision (Q,), both 0–1, ties pessimistic. Whole rows of the gallery
    are sorted, `block_items` scores at a time. ValueError on non-finite features and on queries without a
    relevant item.
    """
    queries = check_features("queries", queries, unit=False)
    gallery = check_features("gallery", gallery, unit=False)
    query_labels, gallery_labels = (x.to(queries.device).float() for x in (query_labels, gallery_labels))
    scaled, size = _scaled(queries, _longest(gallery)), len(gallery)
    position = torch.arange(1, size + 1, device=queries.device)
    parts = []
    for rows in torch.arange(len(queries), device=queries.device).split(max(1, block_items // size)):
        irrelevant = (query_labels[rows] @ gallery_labels.T) == 0                           # (q, G)
        # even key = relevant, odd = irrelevant and just above: one sort gives the pessimistic order
        key = _scores(scaled[rows], gallery).mul_(2).add_(irrelevant).sort(dim=1, descending=True).values
        relevant = key.remainder_(2) == 0                                                 # (q, G), best first
        hits = relevant.cumsum(dim=1)
        precision = torch.stack([hits[:, min(k, size) - 1].double() / k for k in KS], dim=1)   # (q, 3)
        average = (relevant * hits / position.double()).sum(dim=1) / hits[:, -1]
        parts.append((hits[:, -1], relevant.int().argmax(dim=1) + 1, precision, average))
    n_relevant, first, precision, average = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    if missing := int((n_relevant == 0).sum()):
        raise ValueError(f"{missing} of {len(queries)} queries have no relevant item in the gallery")
    return n_relevant, first, precision, average


def normal_text(text: str) -> str:
    """A report without what does not count: runs of spaces and case."""
    return " ".join(text.casefold().split())


def merge_texts(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Number the distinct reports, spaces and case aside: text_id (N,) in 0..M−1, first rows (M,)."""
    keys = pd.Series([normal_text(text) for text in texts])
    if empty := int((keys == "").sum()):
        raise ValueError(f"{empty} of {len(keys)} reports are empty")
    return torch.tensor(keys.factorize()[0]), torch.tensor(keys.drop_duplicates().index)


def top_k(queries: Tensor, blocks: Iterable[tuple[Tensor, Tensor]], k: int, size: int, chunk: int = 1024,
          dtypes: tuple[torch.dtype, ...] | None = None) -> tuple[Tensor, Tensor]:
    """The k best gallery rows of every query: scores (Q, k) float64 and rows (Q, k) int64, best first.

    queries (Q, D) of any norm; blocks: (row numbers (g,), features (g, D) of norm about one) with rows ascending
    from block to block and below `size` (at most 2³¹), at least k of them. Scores are rounded to nine decimals;
    of equal ones the lower row comes first. Each block is read once, for all queries, `chunk` at a time, so a
    gallery need not fit into memory. dtypes: the low precisions to try, `coarse_dtypes` if None; the result does
    not depend on them.
    """
    unit = F.normalize(queries.double())                                                  # (Q, D)
    dtypes = coarse_dtypes(queries) if dtypes is None else dtypes
    best = torch.full((len(queries), k), EMPTY, device=queries.device)
    for rows, gallery in blocks:
        low = {dtype: gallery.to(dtype).T for dtype in dtypes}                                # each (D, g)
        # one whole number holds score and row, so no two are equal and the lower row wins a tie
        for part, kept in zip(unit.split(chunk), best.split(chunk), strict=True):
            _take(kept, part, gallery, low, size - 1 - rows, size)
    return best.div(size, rounding_mode="floor").double() * TIE, size - 1 - best.remainder(size)


def _take(best: Tensor, unit: Tensor, gallery: Tensor, low: dict[torch.dtype, Tensor], last: Tensor, size: int) -> None:
    """Let the items of a block into the lists `best` (q, k) of keys, in place. last (g,): size − 1 − row."""
    k, few = best.shape[1], len(unit) * len(gallery) // FEW
    threshold = best[:, -1].div(size, rounding_mode="floor").double() * TIE                   # (q,) to be reached
    for dtype, items in low.items():
        error = error_bound(dtype, unit.shape[1])
        with _full_float32(unit.device):
            score = unit.to(dtype) @ items                                                    # (q, g)
        floor = (threshold - error).to(dtype)
        some = (score.amax(dim=1) >= floor).nonzero()[:, 0]         # queries whose list may change: soon a few
        if not len(some):
            return
        score, floor = score[some], floor[some]
        near = score >= floor[:, None]
        if len(gallery) > k and near.count_nonzero() > few:
            least = score.topk(k).values[:, -1].double()          # k items reach this, so nothing far below enters
            least -= least.abs() * torch.finfo(dtype).eps + 2 * error
            near = score >= floor.maximum(least.to(dtype))[:, None]
        if near.count_nonzero() <= few:
            q, g = _where(near)
            keys = _pair_scores(unit[some] / TIE, gallery, q, g).long() * size + last[g]       # (P,)
            count = q.bincount(minlength=len(some))
            place = torch.arange(len(q), device=q.device) - (count.cumsum(0) - count)[q]     # within its query
            new = torch.full((len(some), int(count.max())), EMPTY, device=q.device)
            new[q, place] = keys
            best[some] = torch.cat([best[some], new], dim=1).topk(k).values
            return
    keys = _scores(unit / TIE, gallery).long().mul_(size).add_(last)                           # (q, g)
    best.copy_(torch.cat([best, keys.topk(min(k, len(gallery))).values], dim=1).topk(k).values)
