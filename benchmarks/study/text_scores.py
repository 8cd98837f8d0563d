"""Fig. 3's measure: how like its own report is what is retrieved, for K = 1…10, by the COCO caption scorers.

For K, each of a query's first K reports is a candidate and the query's own report the reference; a score is over all
candidates of all queries. Image→report ranks the distinct reports; report→image ranks the images, and their reports
are scored. A report found again counts in full: that is the point of retrieval. BLEU-4, ROUGE-L and CIDEr are
pycocoevalcap's; so is METEOR 1.5, which needs `java`: without it that column is None. Not here: other tokenizers:
words are lower case without punctuation, the same with and without Java.
"""

from __future__ import annotations

import re
import shutil
from functools import cache

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from torch import Tensor

from mcr_lib.index import Index

DEPTH = 10
MOST = (
    100  # queries: the scorers are slow, and these curves are a picture, no verdict rests on them
)
NO_JAVA = (
    "METEOR 1.5 runs on Java: there is no `java` on this machine's PATH, so its column is empty"
)


def plain_words(report: str) -> str:
    """Lower case, words and numbers only, one space between: 'Left-sided, 4.5 cm.' → 'left-sided 4.5 cm'."""
    return " ".join(re.findall(r"[^\W_]+(?:['.\-/][^\W_]+)*", report.lower()))


def score_retrieved(
    candidates: list[list[str]], references: list[str]
) -> dict[str, list[float] | None]:
    """candidates[q]: what was retrieved for query q, best first, all equally many; references[q]: its own report.

    Returns for each scorer a value per depth K = 1, 2, …, over the first K of all queries: BLEU-4, METEOR, ROUGE-L
    0–1, CIDEr 0–10; None for METEOR without Java.
    """
    own = [plain_words(report) for report in references]
    columns = []  # columns[k][q]: what stands at place k for query q
    for k in range(len(candidates[0])):
        columns.append([plain_words(row[k]) for row in candidates])
    return {
        "BLEU-4": _score_bleu(columns, own),
        "METEOR": _score_meteor(columns, own) if shutil.which("java") else None,
        "ROUGE-L": _mean_over_places(Rouge, columns, own),
        "CIDEr": _mean_over_places(Cider, columns, own),
    }


def _mean_over_places(scorer: type, columns: list[list[str]], own: list[str]) -> list[float]:
    """A score that is a mean over candidates, per depth: taken a place at a time."""
    references = {q: [report] for q, report in enumerate(own)}
    at_place = []
    for column in columns:
        retrieved = {q: [report] for q, report in enumerate(column)}
        at_place.append(scorer().compute_score(references, retrieved)[0])
    return (np.cumsum(at_place) / np.arange(1, len(columns) + 1)).tolist()


def _score_bleu(columns: list[list[str]], own: list[str]) -> list[float]:
    """BLEU-4 per depth: it adds up counts before it divides."""
    bleu, curve = BleuScorer(n=4), []
    for column in columns:
        for report, reference in zip(column, own, strict=True):
            bleu += (report, [reference])
        curve.append(float(bleu.compute_score(option="closest", verbose=0)[0][3]))
    return curve


@cache
def meteor_process() -> Meteor:
    """METEOR's Java process. It takes seconds to start, so there is one for as long as Python runs."""
    return Meteor()


def _score_meteor(columns: list[list[str]], own: list[str]) -> list[float]:
    """METEOR 1.5 per depth: the statistics of each candidate are asked for once, their sum for each depth."""
    meteor, curve, collected, known = meteor_process(), [], [], {}
    for column in columns:
        for pair in zip(column, own, strict=True):
            if pair not in known:
                report, reference = pair
                known[pair] = meteor._stat(report, [reference])
            collected.append(known[pair])
        meteor.meteor_p.stdin.write(" ||| ".join(["EVAL", *collected]).encode() + b"\n")
        meteor.meteor_p.stdin.flush()
        for _ in collected:
            meteor.meteor_p.stdout.readline()  # one score per candidate, then that of all together
        curve.append(float(meteor.meteor_p.stdout.readline()))
    return curve


def score_curves(
    image_features: Tensor, text_features: Tensor, table, depth: int = DEPTH, most: int = MOST
) -> dict[str, dict]:
    """Both directions of Fig. 3 for N pairs: image_features, text_features (N, D) unit vectors, table with their
    reports → {image_to_text, text_to_image: `score_retrieved`}; fewer than `depth` where the gallery is smaller.

    At most `most` pairs ask, evenly spread over the rows; all N are the gallery.
    """
    index, reports = Index(image_features, text_features, table, ""), table["report"].tolist()
    asking = np.linspace(0, len(reports) - 1, min(most, len(reports))).round().astype(int).tolist()
    own = [reports[row] for row in asking]

    def score(queries: Tensor, among: str) -> dict:
        rows = index.distinct_rows() if among == "texts" else None
        _, top = index.topk(queries[asking], depth, among, rows)  # Q, K
        retrieved = []
        for rows in top.tolist():
            retrieved.append([reports[row] for row in rows])
        return score_retrieved(retrieved, own)

    return {
        "image_to_text": score(image_features, "texts"),
        "text_to_image": score(text_features, "images"),
    }
