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

from .retrieval import Index

DEPTH = 10
MOST = 100  # queries: the scorers are slow, and these curves are a picture, no verdict rests on them
METRICS = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
NO_JAVA = "METEOR 1.5 runs on Java: there is no `java` on this machine's PATH, so its column is empty"


def words(report: str) -> str:
    """Lower case, words and numbers only, one space between: 'Left-sided, 4.5 cm.' → 'left-sided 4.5 cm'."""
    return " ".join(re.findall(r"[^\W_]+(?:['.\-/][^\W_]+)*", report.lower()))


def scores(candidates: list[list[str]], references: list[str]) -> dict[str, list[float] | None]:
    """candidates[q]: what was retrieved for query q, best first, all equally many; references[q]: its own report.

    Returns for each of METRICS a value per depth K = 1, 2, …, over the first K of all queries: BLEU-4, METEOR,
    ROUGE-L 0–1, CIDEr 0–10; None for METEOR without Java.
    """
    depth = len(candidates[0])
    found = [[words(report) for report in row] for row in candidates]
    own = [words(report) for report in references]
    single = {"ROUGE-L": [], "CIDEr": []}  # means over candidates: taken a column at a time
    gts = {q: [report] for q, report in enumerate(own)}
    for k in range(depth):
        res = {q: [row[k]] for q, row in enumerate(found)}
        single["ROUGE-L"].append(Rouge().compute_score(gts, res)[0])
        single["CIDEr"].append(Cider().compute_score(gts, res)[0])
    curves = {name: (np.cumsum(values) / np.arange(1, depth + 1)).tolist() for name, values in single.items()}
    bleu, curves["BLEU-4"] = BleuScorer(n=4), []  # BLEU and METEOR add up counts before they divide
    for k in range(depth):
        for q, reference in enumerate(own):
            bleu += (found[q][k], [reference])
        curves["BLEU-4"].append(float(bleu.compute_score(option="closest", verbose=0)[0][3]))
    curves["METEOR"] = _meteor(found, own) if shutil.which("java") else None
    return {name: curves[name] for name in METRICS}


@cache
def meteor_process() -> Meteor:
    """METEOR's Java process. It takes seconds to start, so there is one for as long as Python runs."""
    return Meteor()


def _meteor(found: list[list[str]], own: list[str]) -> list[float]:
    """METEOR 1.5 per depth: the statistics of each candidate are asked for once, their sum for each depth."""
    meteor, curve, collected, known = meteor_process(), [], [], {}
    for k in range(len(found[0])):
        for row, reference in zip(found, own, strict=True):
            pair = (row[k], reference)
            if pair not in known:
                known[pair] = meteor._stat(row[k], [reference])
            collected.append(known[pair])
        meteor.meteor_p.stdin.write(" ||| ".join(["EVAL", *collected]).encode() + b"\n")
        meteor.meteor_p.stdin.flush()
        for _ in collected:
            meteor.meteor_p.stdout.readline()  # one score per candidate, then that of all together
        curve.append(float(meteor.meteor_p.stdout.readline()))
    return curve


def curves(image_features: Tensor, text_features: Tensor, table, depth: int = DEPTH,
           most: int = MOST) -> dict[str, dict]:
    """Both directions of Fig. 3 for N pairs: image_features, text_features (N, D) unit vectors, table with their
    reports → {image_to_text, text_to_image: `scores`}; fewer than `depth` where the gallery is smaller.

    At most `most` pairs ask, evenly spread over the rows; all N are the gallery.
    """
    index, reports = Index(image_features, text_features, table, ""), table["report"].tolist()
    asking = np.linspace(0, len(reports) - 1, min(most, len(reports))).round().astype(int).tolist()
    result = {}
    for direction, queries, among in (("image_to_text", image_features, "texts"),
                                      ("text_to_image", text_features, "images")):
        _, top = index.topk(queries[asking], depth, among, distinct=among == "texts")  # Q, K
        result[direction] = scores([[reports[row] for row in rows] for rows in top.tolist()],
                                   [reports[row] for row in asking])
    return result
