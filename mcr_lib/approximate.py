"""Approximate search by FAISS (extra: pip install faiss-cpu) over an Index, and what it misses against exact search.

An inverted file (IVF, flat): the gallery is parted by k-means, and a query looks only into the nearest parts. The
vectors stay whole, so scores are right (float32) and only the choice is approximate. Worth it from about a million
rows; below, exact search takes less time than reading the answer. Not here: exact search (index.py, ranking.py).
"""

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from .index import BLOCK, Index
from .ranking import TIE

SAMPLE = 200             # queries on which recall is measured


class Approximate:
    """The FAISS twin of one side of an index; distinct: the first row of every distinct report only.

    Made in one pass over the index, which FAISS then holds in memory in float32; for an index on disk it is kept
    beside it as `faiss-….ivf` and mapped when asked for again with the same number of rows. ValueError without faiss.
    """

    def __init__(self, index: Index, among: str = "texts", distinct: bool = False):
        try:
            import faiss
        except ImportError:
            raise ValueError("approximate search needs faiss: pip install faiss-cpu, or go without --faiss") from None
        self.index, self.among, self.distinct = index, among, distinct
        size = len(index.distinct_rows()) if distinct else len(index)
        self.file = index.path and index.path / f"faiss-{among}{'-distinct' if distinct else ''}-{len(index)}.ivf"
        if self.file and self.file.exists():
            self.faiss = faiss.read_index(str(self.file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            return
        width, parts = index.features[among].shape[1], max(1, min(round(4 * math.sqrt(size)), size // 39))
        self.faiss = faiss.index_factory(width, f"IVF{parts},Flat", faiss.METRIC_INNER_PRODUCT)
        self.faiss.nprobe = max(8, parts // 32)
        rows = index.distinct_rows() if distinct else torch.arange(size)
        rows = rows[torch.linspace(0, size - 1, min(size, 64 * parts)).round().long()]     # k-means sees 64 a part
        self.faiss.train(index.features[among][rows].float().cpu().numpy())
        for rows, features in index.blocks(among, distinct, BLOCK):
            self.faiss.add_with_ids(features.float().cpu().numpy(), rows.cpu().numpy())
        if self.file:
            for old in self.file.parent.glob(f"faiss-{among}{'-distinct' if distinct else ''}-[0-9]*.ivf"):
                old.unlink()
            partial = Path(f"{self.file}.tmp")
            faiss.write_index(self.faiss, str(partial))
            os.replace(partial, self.file)

    def topk(self, queries: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """As Index.topk, approximately: cosines (Q, k) and rows (Q, k), −1 where the parts seen hold fewer."""
        queries = torch.nn.functional.normalize(self.index.check_queries(queries, k, self.among).float()).cpu()
        scores, rows = self.faiss.search(queries.numpy(), min(k, self.faiss.ntotal))
        return torch.from_numpy(scores).double(), torch.from_numpy(rows)

    def recall(self, k: int = 5) -> float:
        """Share (0–1) of the k best that are found, over up to 200 queries taken evenly from the index's other side.

        Any item that scores as high as the k-th best counts as one of them: among equals FAISS may take another.
        """
        other = self.index.features["texts" if self.among == "images" else "images"]
        queries = other[torch.linspace(0, len(other) - 1, min(SAMPLE, len(other))).round().long()]
        exact, _ = self.index.topk(queries, k, self.among, self.distinct)                      # (q, k)
        _, rows = self.topk(queries, k)
        gallery = self.index.features[self.among][rows.clamp(min=0)].double().cpu()            # (q, k, D)
        found = torch.einsum("qkd,qd->qk", gallery, torch.nn.functional.normalize(queries.double()).cpu())
        return float(((found >= exact[:, -1:] - TIE) & (rows >= 0)).double().mean())
