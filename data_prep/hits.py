"""What a search finds: one hit, as a row of a table, and which hits show nearly the same picture.

Not here: the search (mcr_lib/index.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from .alike import first_alike

HIT_COLUMNS = ("pair_id", "patient_id", "image_path", "report", "labels", "split")


@dataclass(frozen=True)
class Hit:
    """One search result: rank from 1, score = cosine (−1 … 1), row in the index, manifest entries;
    `other`: the manifest's other columns, such as study_id, view and what was kept of one's own;
    `same_as`: the rank of an earlier hit whose picture is nearly the same."""

    rank: int
    score: float
    row: int
    pair_id: str
    patient_id: str
    image_path: str
    report: str
    labels: str
    split: str
    other: dict[str, str] = field(default_factory=dict)
    same_as: int | None = None


def name_duplicates(hits: list[Hit]) -> list[Hit]:
    """The hits, each with the rank of the first one whose picture is nearly the same, if there is."""
    firsts = first_alike(hit.image_path for hit in hits)
    same_as = [None if first is None else hits[first].rank for first in firsts]
    return [replace(hit, same_as=rank) for hit, rank in zip(hits, same_as, strict=True)]


def as_row(hit: Hit) -> dict:
    """A hit as one flat row: rank, score and every column of the manifest."""
    row = asdict(hit)
    return row | row.pop("other")
