"""Retrieval between images and reports: named protocols, metrics, chance levels and intervals.

Pure functions on feature tensors. The ranks themselves and their tie rule stand in ranking.py, searching in index.py.
Not an encoder, a plot or a data reader.

Axes: N pairs, D width, Q queries, G gallery items, M distinct reports, C clusters (patients), B resamples. Everything
is computed on the device of the features (on the CPU for mps, which has no float64)."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from .ranking import KS, TIE_RULE, check_features, label_ranking, merge_texts, ranks

PROTOCOLS = ("text-identical", "exact", "label-match", "findings", "pools")
POOL = 100  # pairs


@dataclass(frozen=True)
class QueryRanks:
    """What one direction measured, query by query (all on the CPU); two arms are paired by `rows`.
    rows (Q,): the pair that each query is taken from. query_of_pair (N,): the query that each pair
    stands behind (−1: left out). n_relevant (Q,): relevant items among the gallery_size. ranks
    (Q,): rank of the best of them. precision (Q, 3) and average_precision (Q,), 0–1: in label-match
    only."""

    rows: Tensor
    query_of_pair: Tensor
    gallery_size: int
    n_relevant: Tensor
    ranks: Tensor
    precision: Tensor | None = None
    average_precision: Tensor | None = None


def query_ranks(
    image_features: Tensor, text_features: Tensor, *, texts, labels, protocol="text-identical"
) -> dict[str, QueryRanks]:
    """Rank the gallery for every query in both directions: keys `image_to_text` and `text_to_image`.

    Row n of image_features (N, D) and text_features (N, D), both unit vectors, is pair n, with report
    texts[n] and labels[n] ('a|b', '' = unknown). Protocols:
    * `text-identical`: identical reports (spaces and case aside) are one item. An image ranks the distinct
      reports; a distinct report is asked once, and every image that carries it is relevant.
    * `exact`: only the own pair is relevant; identical reports then tie and count against the model.
    * `label-match`: relevant = at least one label shared; pairs without a label are left out.
    * `findings`: `text-identical` of reports that are cut to their findings sections (evaluate.py does).
    * `pools`: `label-match` within pools of POOL pairs, drawn once; what does not fill a pool is left out.
    In all of them identical reports share the features of the first: two encodings of one text, in batches of
    different length, may differ in the last bits and must not break a tie.
    """
    images = check_features("image_features", image_features)
    reports = check_features("text_features", text_features)
    count = len(images)
    if {len(reports), len(texts), len(labels)} != {count}:
        sizes = f"{len(reports)} text features, {len(texts)} texts, {len(labels)} labels"
        raise ValueError(f"one row per pair: {count} images, {sizes}")
    text_id, first = merge_texts(texts)
    reports = reports.to(images.device)[first[text_id]]
    if protocol in ("text-identical", "findings"):
        return _rank_identical(images, reports, text_id, first)
    if protocol == "exact":
        own = torch.arange(count)
        return _rank_identical(images, reports, own, own)
    if protocol == "label-match":
        return _rank_by_label(images, reports, labels)
    if protocol == "pools":
        return _rank_in_pools(images, reports, labels)
    raise ValueError(f"unknown protocol {protocol!r}: choose from {', '.join(PROTOCOLS)}")


def _rank_identical(
    images: Tensor, reports: Tensor, text_id: Tensor, first: Tensor
) -> dict[str, QueryRanks]:
    """`query_ranks` where pairs n and m are relevant to each other if text_id (N,) is the same.
    first (M,): the row that a text's features are taken from."""
    pairs, asked = torch.arange(len(images)), torch.arange(len(first))
    forward = ranks(images, reports[first], text_id, asked)
    backward = ranks(reports[first], images, asked, text_id)
    return {
        "image_to_text": QueryRanks(pairs, pairs, len(first), torch.ones_like(pairs), forward),
        "text_to_image": QueryRanks(first, text_id, len(images), text_id.bincount(), backward),
    }


def _rank_by_label(images: Tensor, reports: Tensor, labels: list[str]) -> dict[str, QueryRanks]:
    """`query_ranks` among the pairs that have a label, where one label in common is enough."""
    count = len(labels)
    label_sets = [set(map(str.strip, row.split("|"))) - {""} for row in labels]
    names = sorted(set().union(*label_sets))
    if not names:
        raise ValueError(f"label-match needs labels: none of the {count} pairs has one")
    has_label = torch.zeros(count, len(names))
    for row, present in enumerate(label_sets):
        has_label[row, [names.index(label) for label in present]] = 1
    rows = has_label.any(dim=1).nonzero()[:, 0]
    has_label, images, reports = has_label[rows], images[rows], reports[rows]
    query_of_pair = torch.full((count,), -1).index_copy(0, rows, torch.arange(len(rows)))
    forward = label_ranking(images, reports, has_label, has_label)
    backward = label_ranking(reports, images, has_label, has_label)
    return {
        "image_to_text": QueryRanks(rows, query_of_pair, len(rows), *forward),
        "text_to_image": QueryRanks(rows, query_of_pair, len(rows), *backward),
    }


def _rank_in_pools(images: Tensor, reports: Tensor, labels: list[str]) -> dict[str, QueryRanks]:
    """`_rank_by_label` within each pool; of fewer than POOL pairs with a label all are one pool."""
    rows = torch.tensor([row for row, own in enumerate(labels) if own.strip("| ")])
    if len(rows) < POOL:
        return _rank_by_label(images, reports, labels)
    drawn = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    kept = drawn[: len(rows) // POOL * POOL]
    own = [(images[p], reports[p], [labels[row] for row in p.tolist()]) for p in kept.split(POOL)]
    pools, joined = [_rank_by_label(*pool) for pool in own], {}
    query_of_pair = torch.full((len(labels),), -1).index_copy(0, kept, torch.arange(len(kept)))
    for way in pools[0]:
        columns = "n_relevant ranks precision average_precision".split()
        values = [torch.cat([getattr(pool[way], name) for pool in pools]) for name in columns]
        joined[way] = QueryRanks(kept, query_of_pair, POOL, *values)
    return joined


def _medians(values: Tensor, weights: Tensor) -> Tensor:
    """Medians of values (V,) under weights (B, V) -> (B,); the mean of two where half falls between."""
    values, order = values.sort()
    cumulative = weights[:, order].cumsum(dim=1)
    half = cumulative[:, -1:] / 2
    lower = torch.searchsorted(cumulative, half * (1 - 1e-10))  # first with cumulative ≥ half
    upper = torch.searchsorted(cumulative, half * (1 + 1e-10), right=True)  # first with … > half
    return (values[lower] + values[upper])[:, 0].double() / 2


def summarise(results: dict[str, QueryRanks], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of both directions under query weights (B, Q) per direction: name -> (B,). Percent
    (0–100): R@K (share of queries with a relevant item among the first K), precision@K, mAP. Ranks
    from 1: median_rank, mean_rank. rsum: the six R@K added, 0–600 (LIMITR, ICCV 2023)."""
    table = {}
    for direction, result in results.items():
        weight = weights[direction]  # (B, Q)
        total = weight.sum(dim=1)
        if result.average_precision is not None:
            for column, k in enumerate(KS):
                precision = weight @ result.precision[:, column]
                table[f"{direction}_precision@{k}"] = 100 * precision / total
            table[f"{direction}_mAP"] = 100 * (weight @ result.average_precision) / total
            continue
        for k in KS:
            table[f"{direction}_R@{k}"] = 100 * (weight @ (result.ranks <= k).double()) / total
        table[f"{direction}_median_rank"] = _medians(result.ranks, weight)
        table[f"{direction}_mean_rank"] = weight @ result.ranks.double() / total
    recalls = [value for name, value in table.items() if "_R@" in name]
    return table | ({"rsum": torch.stack(recalls).sum(dim=0)} if recalls else {})


def chance(results: dict[str, QueryRanks]) -> dict[str, float]:
    """Exact expected value of every metric under a random order of the gallery (same keys as
    `summarise`). With m relevant among G: P(rank > r) = C(G−m, r) / C(G, r), so R@K = 1 − P(rank >
    K) and the mean rank is (G+1)/(m+1); precision@K = m/G (times min(K, G)/K); E[AP] = (H_G +
    (m−1)(G−H_G)/(G−1)) / G with H_G the harmonic number. The median is that of the distribution of
    all queries' ranks together. A random order has no ties: where identical reports stand in the
    gallery (`exact`, `label-match`) a random model stays below."""
    table = {}
    for direction, result in results.items():
        size, m = result.gallery_size, result.n_relevant.double()
        if result.average_precision is not None:
            for k in KS:
                precision = 100 * float(m.mean()) / size
                table[f"{direction}_precision@{k}"] = precision * min(k, size) / k
            harmonic = float((1 / torch.arange(1, size + 1).double()).sum())
            average = (harmonic + (m - 1) * (size - harmonic) / max(size - 1, 1)) / size  # (Q,)
            table[f"{direction}_mAP"] = 100 * float(average.mean())
            continue
        distinct, count = m.unique(return_counts=True)
        drawn = torch.arange(size).double()
        above = ((size - distinct[:, None] - drawn) / (size - drawn)).clamp(min=0)
        above = above.cumprod(dim=1)  # (U, G) P(rank > r)
        above = (count / count.sum()).double() @ above  # (G,), r = 1..G
        for k in KS:
            table[f"{direction}_R@{k}"] = 100 * (1 - float(above[min(k, size) - 1]))
        at = -above.diff(prepend=above.new_ones(1))  # (G,) P(rank = r)
        table[f"{direction}_median_rank"] = float(_medians(torch.arange(1, size + 1), at[None]))
        table[f"{direction}_mean_rank"] = float(((size + 1) / (m + 1)).mean())
    recalls = [value for name, value in table.items() if "_R@" in name]
    return table | ({"rsum": sum(recalls)} if recalls else {})


def cluster_draws(n_clusters: int, n_bootstrap: int, seed: int) -> Tensor:
    """(B, C) float64: how often each of C patients is drawn in each of B resamples of C patients."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n_clusters, (n_bootstrap, n_clusters), generator=generator)
    ones = torch.ones(n_bootstrap, n_clusters).double()
    return torch.zeros_like(ones).scatter_add_(1, drawn, ones)


def query_weights(draws: Tensor, cluster_of_pair: Tensor, query_of_pair: Tensor) -> Tensor:
    """Weights (B, Q) of the queries under draws (B, C): the mean draw count of the patients behind
    a query. cluster_of_pair, query_of_pair (N,) int64, −1 = left out. An image has one patient; a
    distinct report may have many, and one that many patients share hardly varies."""
    kept = query_of_pair >= 0
    query, cluster = query_of_pair[kept], cluster_of_pair[kept]
    share = 1 / query.bincount().double()  # (Q,)
    contributions = draws.T[cluster] * share[query, None]  # (N, B)
    return torch.zeros(len(share), len(draws)).double().index_add_(0, query, contributions).T


def evaluate(
    image_features: Tensor,
    text_features: Tensor,
    *,
    texts: list[str],
    labels: list[str],
    clusters: list[str],
    protocol: str = "text-identical",
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict:
    """All metrics of one protocol, with chance levels and 95 % intervals, ready for JSON. Inputs as
    in `query_ranks`, and clusters[n], the patient of pair n. Returns the metrics of `summarise`;
    `chance`: the same keys for a random order; `interval`: key -> [low, high], percentile bootstrap
    that resamples patients, the same draw in both directions, the gallery fixed, {} if n_bootstrap
    is 0 or there is one patient; `protocol`, `gallery` (sizes), `tie_rule`, `n_bootstrap`, `seed`, `left_out` (pairs
    without a label in label-match)."""
    if len(clusters) != len(texts) or any(pd.isna(cluster) for cluster in clusters):
        sizes = f"{len(clusters)} clusters, {len(texts)} texts"
        raise ValueError(f"one cluster per pair, none empty: {sizes}")
    asked = {"texts": texts, "labels": labels, "protocol": protocol}
    results = query_ranks(image_features, text_features, **asked)
    forward, backward = results["image_to_text"], results["text_to_image"]
    kept = forward.query_of_pair >= 0
    known = pd.Series(clusters, dtype=object).where(kept.numpy())
    cluster_of_pair, names = pd.factorize(known)  # −1: left out
    once = {direction: torch.ones(1, len(one.rows)).double() for direction, one in results.items()}
    metrics = {name: float(value) for name, value in summarise(results, once).items()}
    draws = cluster_draws(len(names), n_bootstrap, seed)
    gallery = {
        "images": backward.gallery_size,
        "texts": forward.gallery_size,
        "distinct_texts": len(merge_texts(texts)[0][kept].unique()),
        "clusters": len(names),
        "image_to_text_queries": len(forward.rows),
        "text_to_image_queries": len(backward.rows),
    }
    interval = _intervals(results, draws, torch.from_numpy(cluster_of_pair))
    about = {"protocol": protocol, "gallery": gallery, "tie_rule": TIE_RULE}
    about |= {"n_bootstrap": n_bootstrap, "seed": seed, "left_out": int((~kept).sum())}
    return metrics | {"chance": chance(results), "interval": interval} | about


def _intervals(
    results: dict[str, QueryRanks], draws: Tensor, cluster_of_pair: Tensor
) -> dict[str, list[float]]:
    """95 % of the resamples of every metric, [low, high]; draws (B, C), {} if B = 0 or C = 1."""
    if len(draws) == 0 or draws.shape[1] < 2:
        return {}
    samples = []
    for part in draws.split(100):
        weights = {}
        for way, result in results.items():
            weights[way] = query_weights(part, cluster_of_pair, result.query_of_pair)
        samples.append(summarise(results, weights))
    ends, names = torch.tensor([0.025, 0.975]).double(), samples[0].keys()
    values = {name: torch.cat([sample[name] for sample in samples]) for name in names}
    return {name: value.quantile(ends).tolist() for name, value in values.items()}


def evaluate_pairs(
    image_features: Tensor, text_features: Tensor, table: pd.DataFrame, **how
) -> dict:
    """`evaluate` of the pairs of a manifest's rows; how: protocol, n_bootstrap, seed."""
    columns = {"texts": "report", "labels": "labels", "clusters": "patient_id"}
    lists = {name: table[column].tolist() for name, column in columns.items()}
    return evaluate(image_features, text_features, **lists, **how)
