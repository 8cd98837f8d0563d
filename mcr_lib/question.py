"""A question to a gallery, answered: by a sentence, an image or both, and by what hits should not be like.

Not here: what a question is (data_prep/questions.py), exact search (index.py), the gallery of a data set (search.py),
how an answer is drawn (kit/explore.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from data_prep.commands import UsageError
from data_prep.errors import KitError
from data_prep.hits import Hit, as_row, name_duplicates
from data_prep.images import read_query
from data_prep.machine import progress
from data_prep.questions import Question, Searching

from .features import check_query, encode_pictures, encode_texts
from .index import Index
from .model import MCR

WITHOUT = -0.5  # weight of what hits should not be like, beside 1 for what they should
SAME_IMAGE = 1 - 1e-5  # cosine above which two images are one
SAMPLE = 20_000  # gallery vectors from which the spread of a score is taken


def check_question(model: MCR, tokenizer, question: Question) -> None:
    """Raise what `ask` would of the question itself, before a gallery is encoded for it."""
    for sentence in (question.text, question.without):
        if sentence is not None:
            check_query(tokenizer, sentence, model.config.max_text_length)
    if question.image is not None:
        read_query(question.image)


def combine(parts: list[tuple[Tensor, float]], gallery: Tensor) -> Tensor:
    """One query (D,) from vectors (D,) and their weights. Each one's scores over the gallery (N, D)
    are brought to deviation 1, weighted and added, for a sentence and an image spread differently;
    a negative weight sinks what is alike. One part alone stays as it is."""
    if len(parts) == 1:
        return parts[0][0]
    some = thin(gallery)
    weighted = [weight * vector / (some @ vector).std().clamp(min=1e-6) for vector, weight in parts]
    return torch.stack(weighted).sum(0)


def thin(gallery: Tensor, most: int = SAMPLE) -> Tensor:
    """At most 2 · `most` rows of (N, D), evenly spread, float32 on the CPU: enough to see a spread."""
    return gallery[:: max(1, len(gallery) // most)].float().cpu()


def ask(
    model: MCR,
    tokenizer,
    index: Index,
    question: Question,
    how: Searching,
    tell: Callable[[str], None],
) -> list[Hit]:
    """The hits of one question. tell: called with each thing to know about the answer, such as a
    word without meaning. Raises QueryError, ImageError, UsageError."""
    if how.other_patients and question.image is None:
        raise UsageError(
            "--other-patients needs an image: without one there is no patient to leave out"
        )
    both = question.text is not None and question.image is not None
    weights = (1 - question.image_weight, question.image_weight) if both else (1.0, 1.0)
    parts, where = [], list(how.where)
    for sentence, weight in ((question.text, weights[0]), (question.without, WITHOUT)):
        if sentence is not None:
            for note in check_query(tokenizer, sentence, model.config.max_text_length):
                tell(note)
            parts.append((encode_texts(model, tokenizer, [sentence])[0], weight))
    if question.image is not None:
        own = encode_pictures(model, [question.image])[0]
        parts.append((own, weights[1]))
        if how.other_patients:
            where += _not_of_its_patient(index, own, tell)
    among = how.among or ("texts" if question.text is None else "images")
    per = how.per or ("report" if among == "texts" else None)
    query = combine(parts, index.features[among])
    hits = index.search(query, how.k, among, per=per, where=where)
    return name_duplicates(hits) if among == "images" else hits


def _not_of_its_patient(index: Index, image: Tensor, tell: Callable[[str], None]) -> list[str]:
    """The condition that leaves out the patient whose image (D,) this is."""
    (best,) = index.search(image, 1, "images")
    if best.score < SAME_IMAGE:
        tell("the image is none of this data set, so no patient is left out")
        return []
    return [f"patient_id!={best.patient_id}"]


def ask_many(
    model: MCR, tokenizer, index: Index, questions: Iterable[Question], how: Searching
) -> list[dict]:
    """A row per hit of every question, with what was `asked`; for a question that cannot be
    answered one row without a rank that says why in `notes`. Nothing is left out."""
    rows = []
    for question in progress(list(questions), desc="search", unit="question"):
        asked, notes = {"asked": question.text or str(question.image)}, []
        try:
            hits = ask(model, tokenizer, index, question, how, notes.append)
        except KitError as error:
            rows.append(asked | {"notes": [str(error)]})
            continue
        rows += [asked | as_row(hit) | {"notes": notes} for hit in hits]
    return rows
