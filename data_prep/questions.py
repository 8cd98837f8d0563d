"""What may be asked of a gallery: a sentence, an image or both, what hits should not be like, and which pairs count.

Not here: the answer (mcr_lib/question.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .commands import UsageError


@dataclass(frozen=True)
class Question:
    """`text`, `image` (a file) or both, of which the image counts image_weight, 0 to 1, and the
    text the rest; `without`: a sentence that hits should not be like."""

    text: str | None = None
    image: Path | None = None
    without: str | None = None
    image_weight: float = 0.5


@dataclass(frozen=True)
class Searching:
    """How to search: the k best `among` the images or the texts (None: images for a sentence, else
    texts), `where` conditions hold, one hit `per` value of a column; other_patients: none of the
    patient whose image is asked with."""

    k: int = 5
    among: str | None = None
    where: Sequence[str] = ()
    per: str | None = None
    other_patients: bool = False


def read_questions(one: Question, texts: Path | None, images: Path | None) -> list[Question] | None:
    """Many questions: the lines of a file or the files of a folder, each with what else `one` says.
    None if there is only the one. Raises UsageError if more than one kind is given, or nothing."""
    if sum(x is not None for x in (one.text or one.image, texts, images)) != 1:
        raise UsageError("give --text, --image or both, or --texts, or --images")
    if texts is not None:
        lines = texts.read_text(encoding="utf-8").splitlines()
        return [replace(one, text=line.strip()) for line in lines if line.strip()]
    if images is not None:
        files = sorted(path for path in images.iterdir() if path.is_file())
        return [replace(one, image=path) for path in files]
    return None
