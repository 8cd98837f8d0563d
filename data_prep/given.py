"""What somebody's code hands over, checked before anything is done with it. Each mistake is one line."""

from collections.abc import Iterable
from os import PathLike
from typing import Any

from PIL import Image

from .errors import DataError


def as_list(things: Iterable, what: str) -> list:
    """A list, an array, a column … as a list; DataError for one thing alone, and for none."""
    alone = isinstance(things, str | bytes | dict | PathLike | Image.Image)
    if alone or not isinstance(things, Iterable):
        raise DataError(f"give a list of {what}, not one {_kind(things)} alone")
    things = list(things)
    if not things:
        raise DataError(f"the list of {what} is empty")
    return things


def as_texts(things: Iterable) -> list[str]:
    """`as_list`, all of them strings."""
    texts = as_list(things, "texts")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"text {number} is of type {_kind(text)}: give strings")
    return texts


def _kind(thing: Any) -> str:
    return type(thing).__name__
