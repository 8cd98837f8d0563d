"""Retrieval between images and reports: ranks, named protocols, metrics with intervals, and a search index.

It is the measurement: pure functions on feature tensors, all scores computed exactly, block by block, so that
memory does not grow with queries × gallery. It is not an encoder, a plot or a data reader (only `Index.save`
and `Index.load` touch files), and it knows no approximate search.

**Tie rule.** Scores are inner products in float64, divided by ‖query‖ · max‖gallery‖ and rounded to nine
decimals before any comparison. A product computed in blocks of another shape differs by about 1e-16, features
in float32 are good to about 1e-8: nine decimals lie between, so equal vectors tie whatever the block, and
nothing that the features can tell apart is merged. Among tied items the irrelevant ones come first
(pessimistic): a model that maps everything to one point gets the worst rank, not the best.

Axes: N pairs, D width, Q queries, G gallery items, M distinct reports, C clusters (patients), B resamples.
Everything is computed on the device of the features (on the CPU for mps, which has no float64).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

PROTOCOLS = ("text-identical", "exact", "label-match")
KS = (1, 5, 10)
TIE = 1e-9           # two normalised scores that agree to this are equal
TIE_RULE = "pessimistic: an irrelevant item that scores like a relevant one (nine decimals) ranks before it"


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


def _scaled(queries: Tensor, gallery: Tensor) -> Tensor:
    """Queries (Q, D) in float64, scaled so that the inner product is the normalised score in units of TIE."""
    queries, longest = queries.double(), gallery.float().norm(dim=1).max().double()
    return queries / (queries.norm(dim=1, keepdim=True) * longest * TIE).clamp(min=1e-300)


def _scores(scaled_queries: Tensor, gallery: Tensor) -> Tensor:
    """(q, D), (g, D) -> (q, g): whole numbers, the normalised scores in units of TIE (see the tie rule)."""
    return (scaled_queries @ gallery.double().T).round_()


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

    scaled = _scaled(queries, gallery)
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
        for first in range(0, len(gallery), chunk):
            columns = slice(first, first + chunk)
            not_worse = _scores(block, gallery[columns]) >= best[:, None]                  # (q, g)
            before += (not_worse & (group != gallery_group[columns])).sum(dim=1)
        result[rows] = before + 1
    return result.cpu()


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
    scaled, size = _scaled(queries, gallery), len(gallery)
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


@dataclass(frozen=True)
class QueryRanks:
    """What one direction measured, query by query (all on the CPU); two arms are paired by `rows`.

    rows (Q,): the pair that each query is taken from. query_of_pair (N,): the query that each pair stands
    behind (−1: left out). n_relevant (Q,): relevant items among the gallery_size. ranks (Q,): rank of the
    best of them. precision (Q, 3) and average_precision (Q,), 0–1: in label-match only.
    """
    rows: Tensor
    query_of_pair: Tensor
    gallery_size: int
    n_relevant: Tensor
    ranks: Tensor
    precision: Tensor | None = None
    average_precision: Tensor | None = None


def merge_texts(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Number the distinct reports, spaces and case aside: text_id (N,) in 0..M−1, first rows (M,)."""
    keys = pd.Series([" ".join(text.casefold().split()) for text in texts])
    if empty := int((keys == "").sum()):
        raise ValueError(f"{empty} of {len(keys)} reports are empty")
    return torch.tensor(keys.factorize()[0]), torch.tensor(keys.drop_duplicates().index)


def query_ranks(image_features: Tensor, text_features: Tensor, *, texts: list[str], labels: list[str],
                protocol: str = "text-identical") -> dict[str, QueryRanks]:
    """Rank the gallery for every query in both directions: keys `image_to_text` and `text_to_image`.

    Row n of image_features (N, D) and text_features (N, D), both unit vectors, is pair n, with report
    texts[n] and labels[n] ('a|b', '' = unknown). Protocols:
    * `text-identical`: identical reports (spaces and case aside) are one item. An image ranks the distinct
      reports; a distinct report is asked once, and every image that carries it is relevant.
    * `exact`: only the own pair is relevant; identical reports then tie and count against the model.
    * `label-match`: relevant = at least one label shared; pairs without a label are left out.
    In all of them identical reports share the features of the first: two encodings of one text, in batches of
    different length, may differ in the last bits and must not break a tie.
    """
    images = check_features("image_features", image_features)
    reports = check_features("text_features", text_features)
    count = len(images)
    if {len(reports), len(texts), len(labels)} != {count}:
        raise ValueError(f"one row per pair: {count} images, {len(reports)} text features, "
                         f"{len(texts)} texts, {len(labels)} labels")
    pairs, (text_id, first) = torch.arange(count), merge_texts(texts)
    reports = reports.to(images.device)[first[text_id]]
    if protocol in ("exact", "text-identical"):
        text_id, first = (text_id, first) if protocol == "text-identical" else (pairs, pairs)
        distinct = torch.arange(len(first))
        forward = ranks(images, reports[first], text_id, distinct)
        backward = ranks(reports[first], images, distinct, text_id)
        return {"image_to_text": QueryRanks(pairs, pairs, len(first), torch.ones_like(pairs), forward),
                "text_to_image": QueryRanks(first, text_id, count, text_id.bincount(), backward)}
    if protocol == "label-match":
        label_sets = [{label.strip() for label in row.split("|")} - {""} for row in labels]
        rows = torch.tensor([n for n, row in enumerate(label_sets) if row], dtype=torch.int64)
        if len(rows) == 0:
            raise ValueError(f"label-match needs labels: none of the {count} pairs has one")
        names = sorted(set().union(*label_sets))
        has_label = torch.tensor([[name in row for name in names] for row in label_sets if row])   # (kept, L)
        query_of_pair = torch.full((count,), -1).index_copy(0, rows, torch.arange(len(rows)))
        images, reports = images[rows], reports[rows]
        return {direction: QueryRanks(rows, query_of_pair, len(rows),
                                      *label_ranking(queries, gallery, has_label, has_label))
                for direction, queries, gallery in (("image_to_text", images, reports),
                                                    ("text_to_image", reports, images))}
    raise ValueError(f"unknown protocol {protocol!r}: choose from {', '.join(PROTOCOLS)}")


def _medians(values: Tensor, weights: Tensor) -> Tensor:
    """Medians of values (V,) under weights (B, V) -> (B,); the mean of two where half falls between."""
    values, order = values.sort()
    cumulative = weights[:, order].cumsum(dim=1)
    half = cumulative[:, -1:] / 2
    lower = torch.searchsorted(cumulative, half * (1 - 1e-10))                 # first with cumulative ≥ half
    upper = torch.searchsorted(cumulative, half * (1 + 1e-10), right=True)     # first with cumulative > half
    return (values[lower] + values[upper])[:, 0].double() / 2


def summarise(results: dict[str, QueryRanks], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of both directions under query weights (B, Q) per direction: name -> (B,).

    Percent (0–100): R@K (share of queries with a relevant item among the first K), precision@K, mAP. Ranks
    from 1: median_rank, mean_rank. rsum: the six R@K added, 0–600 (LIMITR, ICCV 2023).
    """
    table = {}
    for direction, result in results.items():
        weight = weights[direction]                                                         # (B, Q)
        total = weight.sum(dim=1)
        if result.average_precision is not None:
            for column, k in enumerate(KS):
                table[f"{direction}_precision@{k}"] = 100 * (weight @ result.precision[:, column]) / total
            table[f"{direction}_mAP"] = 100 * (weight @ result.average_precision) / total
            continue
        for k in KS:
            table[f"{direction}_R@{k}"] = 100 * (weight @ (result.ranks <= k).double()) / total
        table[f"{direction}_median_rank"] = _medians(result.ranks, weight)
        table[f"{direction}_mean_rank"] = weight @ result.ranks.double() / total
    recalls = [value for name, value in table.items() if "_R@" in name]
    return table | ({"rsum": torch.stack(recalls).sum(dim=0)} if recalls else {})


def chance(results: dict[str, QueryRanks]) -> dict[str, float]:
    """Exact expected value of every metric under a random order of the gallery (same keys as `summarise`).

    With m relevant among G: P(rank > r) = C(G−m, r) / C(G, r), so R@K = 1 − P(rank > K) and the mean rank is
    (G+1)/(m+1); precision@K = m/G (times min(K, G)/K); E[AP] = (H_G + (m−1)(G−H_G)/(G−1)) / G with H_G the
    harmonic number. The median is that of the distribution of all queries' ranks together. A random order has
    no ties: where identical reports stand in the gallery (`exact`, `label-match`) a random model stays below.
    """
    table = {}
    for direction, result in results.items():
        size, m = result.gallery_size, result.n_relevant.double()
        if result.average_precision is not None:
            for k in KS:
                table[f"{direction}_precision@{k}"] = 100 * float(m.mean()) / size * min(k, size) / k
            harmonic = float((1 / torch.arange(1, size + 1).double()).sum())
            average = (harmonic + (m - 1) * (size - harmonic) / max(size - 1, 1)) / size    # (Q,)
            table[f"{direction}_mAP"] = 100 * float(average.mean())
            continue
        distinct, count = m.unique(return_counts=True)
        drawn = torch.arange(size).double()
        above = ((size - distinct[:, None] - drawn) / (size - drawn)).clamp(min=0)
        above = above.cumprod(dim=1)                                              # (U, G) P(rank > r)
        above = (count / count.sum()).double() @ above                                     # (G,), r = 1..G
        for k in KS:
            table[f"{direction}_R@{k}"] = 100 * (1 - float(above[min(k, size) - 1]))
        at = -above.diff(prepend=above.new_ones(1))                                        # (G,) P(rank = r)
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
    """Weights (B, Q) of the queries under draws (B, C): the mean draw count of the patients behind a query.

    cluster_of_pair, query_of_pair (N,) int64, −1 = left out. An image has one patient; a distinct report may
    have many, and one that many patients share hardly varies.
    """
    kept = query_of_pair >= 0
    query, cluster = query_of_pair[kept], cluster_of_pair[kept]
    share = 1 / query.bincount().double()                                                   # (Q,)
    contributions = draws.T[cluster] * share[query, None]                                   # (N, B)
    return torch.zeros(len(share), len(draws)).double().index_add_(0, query, contributions).T


def evaluate(image_features: Tensor, text_features: Tensor, *, texts: list[str], labels: list[str],
             clusters: list[str], protocol: str = "text-identical", n_bootstrap: int = 1000,
             seed: int = 0) -> dict:
    """All metrics of one protocol, with chance levels and 95 % intervals, ready for JSON.

    Inputs as in `query_ranks`, and clusters[n], the patient of pair n. Returns the metrics of `summarise`;
    `chance`: the same keys for a random order; `interval`: key -> [low, high], percentile bootstrap that
    resamples patients, the same draw in both directions, the gallery fixed; `protocol`, `gallery` (sizes),
    `tie_rule`, `n_bootstrap`, `seed`, `left_out` (pairs without a label in label-match). n_bootstrap = 0
    leaves `interval` empty.
    """
    if len(clusters) != len(texts) or any(pd.isna(cluster) for cluster in clusters):
        raise ValueError(f"one cluster per pair, none empty: {len(clusters)} clusters, {len(texts)} texts")
    results = query_ranks(image_features, text_features, texts=texts, labels=labels, protocol=protocol)
    forward, backward = results["image_to_text"], results["text_to_image"]
    kept = forward.query_of_pair >= 0
    cluster_of_pair, names = pd.factorize(pd.Series(clusters, dtype=object).where(kept.numpy()))  # −1: out
    cluster_of_pair = torch.from_numpy(cluster_of_pair)
    ones = {direction: torch.ones(1, len(result.rows)).double() for direction, result in results.items()}
    metrics = {name: float(value) for name, value in summarise(results, ones).items()}
    samples = [summarise(results, {direction: query_weights(draws, cluster_of_pair, result.query_of_pair)
                                   for direction, result in results.items()})
               for draws in cluster_draws(len(names), n_bootstrap, seed).split(100) if len(draws)]
    ends = torch.tensor([0.025, 0.975]).double()
    interval = {name: torch.cat([sample[name] for sample in samples]).quantile(ends).tolist()
                for name in metrics if samples}
    gallery = {"images": backward.gallery_size, "texts": forward.gallery_size,
               "distinct_texts": len(merge_texts(texts)[0][kept].unique()), "clusters": len(names),
               "image_to_text_queries": len(forward.rows), "text_to_image_queries": len(backward.rows)}
    return metrics | {"chance": chance(results), "interval": interval, "protocol": protocol,
                      "gallery": gallery, "tie_rule": TIE_RULE, "n_bootstrap": n_bootstrap, "seed": seed,
                      "left_out": int((~kept).sum())}


HIT_COLUMNS = ("pair_id", "patient_id", "image_path", "report", "labels", "split")


@dataclass(frozen=True)
class Hit:
    """One search result: rank from 1, score = cosine (−1 … 1), row in the index, manifest entries."""
    rank: int
    score: float
    row: int
    pair_id: str
    patient_id: str
    image_path: str
    report: str
    labels: str
    split: str


class Index:
    """Exact search over the unit vectors of N pairs, with the manifest rows they come from.

    image_features, text_features (N, D) unit vectors; table: N rows with at least the manifest's columns in
    HIT_COLUMNS; model_hash names the model that made the features. ValueError where these do not fit.
    """

    def __init__(self, image_features: Tensor, text_features: Tensor, table: pd.DataFrame, model_hash: str):
        self.features = {"images": check_features("image_features", image_features),
                         "texts": check_features("text_features", text_features)}
        if image_features.shape != text_features.shape or len(table) != len(image_features):
            raise ValueError(f"index: images {[*image_features.shape]}, texts {[*text_features.shape]} and "
                             f"{len(table)} table rows do not fit")
        if missing := [column for column in HIT_COLUMNS if column not in table.columns]:
            raise ValueError(f"index: the table lacks the columns {', '.join(missing)}")
        self.table, self.model_hash = table.reset_index(drop=True), model_hash

    def __len__(self) -> int:
        return len(self.table)

    def check(self, model_hash: str) -> None:
        """Raise a ValueError if the features were made by another model than the one that asks."""
        if model_hash != self.model_hash:
            raise ValueError(f"this index was built by model {self.model_hash}, the query comes from model "
                             f"{model_hash}: build the index again")

    def topk(self, queries: Tensor, k: int = 5, among: str = "texts", distinct: bool = False,
             chunk: int = 4096) -> tuple[Tensor, Tensor]:
        """The k best for queries (Q, D): cosines (Q, k) float64 and index rows (Q, k) int64, on the CPU.

        Best first, equal scores (to nine decimals) by the lower row. among: `texts` or `images`.
        distinct=True keeps one row, the first, of every distinct report. k is capped at the gallery size.
        Memory is O((Q + N)·D + Q·k + chunk²) and `chunk` never changes the result.
        """
        if among not in self.features:
            raise ValueError(f"among: expected 'texts' or 'images', got {among!r}")
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        gallery = self.features[among]
        queries = check_features("queries", queries, unit=False).to(gallery.device)
        if queries.shape[1] != gallery.shape[1]:
            raise ValueError(f"queries have width {queries.shape[1]}, the index {gallery.shape[1]}")
        rows = merge_texts(self.table["report"].tolist())[1] if distinct else torch.arange(len(gallery))
        rows, size = rows.to(gallery.device), len(gallery)
        best = []
        for block in (F.normalize(queries.double()) / TIE).split(chunk):
            top = torch.empty(len(block), 0, dtype=torch.int64, device=gallery.device)
            for part in rows.split(chunk):
                # one whole number holds score and row, so no two are equal and the lower row wins a tie
                key = _scores(block, gallery[part]).long() * size + (size - 1 - part)           # (q, g)
                top = torch.cat([top, key], dim=1)
                top = top.topk(min(k, top.shape[1])).values
            best.append(top)
        best = torch.cat(best).cpu()                                                            # (Q, k)
        return best.div(size, rounding_mode="floor").double() * TIE, size - 1 - best.remainder(size)

    def search(self, query_feature: Tensor, k: int = 5, among: str = "texts",
               distinct: bool = False) -> list[Hit] | list[list[Hit]]:
        """`topk` as hits: a list for one query (D,), a list of lists for queries (Q, D)."""
        scores, rows = self.topk(query_feature if query_feature.ndim == 2 else query_feature[None],
                                 k, among, distinct)
        hits = [[Hit(rank, score, row, *(str(self.table.at[row, column]) for column in HIT_COLUMNS))
                 for rank, (score, row) in enumerate(zip(*pair, strict=True), start=1)]
                for pair in zip(scores.tolist(), rows.tolist(), strict=True)]
        return hits if query_feature.ndim == 2 else hits[0]

    def save(self, path: str | Path) -> None:
        """Write the folder `path`: features.safetensors, table.parquet, index.json, by renaming."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        about = {"model_hash": self.model_hash, "pairs": len(self), "width": self.features["texts"].shape[1]}
        features = {name: value.contiguous() for name, value in self.features.items()}
        for name, write in (("features.safetensors", lambda file: save_file(features, file)),
                            ("table.parquet", self.table.to_parquet),
                            ("index.json", lambda file: file.write_text(json.dumps(about, indent=1) + "\n"))):
            temporary = path / f".{name}.tmp"
            write(temporary)
            os.replace(temporary, path / name)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "Index":
        """Read what `save` wrote; ValueError if a file is missing or the parts do not belong together."""
        path = Path(path)
        parts = ("index.json", "features.safetensors", "table.parquet")
        if missing := [name for name in parts if not (path / name).is_file()]:
            raise ValueError(f"{path}: no index here, {', '.join(missing)} missing")
        about = json.loads((path / "index.json").read_text())
        try:
            features = load_file(path / "features.safetensors", device=device)
        except SafetensorError as error:
            raise ValueError(f"{path}: features.safetensors is damaged ({error})") from None
        if tuple(features["images"].shape) != (about["pairs"], about["width"]):
            raise ValueError(f"{path}: index.json and features.safetensors are not of one index")
        table = pd.read_parquet(path / "table.parquet")
        return cls(features["images"], features["texts"], table, about["model_hash"])
