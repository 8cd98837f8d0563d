"""Generated odd and damaged input for every reader: `python -m tests.fuzz` (make fuzz), small in tests/test_fuzz.py.

A case follows from its kind and its number (the seed) alone. Every kind of input is a `Kind`: it makes valid input by a
generator, damages some of it, reads it as the kit does, and compares what can be compared. What comes of a case:

    read        as it should be
    refused     a KitError of one line, or a reason in the quarantine
    loss        read, but something is missing or other than it was, and nothing says so
    traceback   any other exception
    signal, timeout   the process ended, or would not end (run.py)
"""

import random
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from data_prep.errors import KitError


class Loss(Exception):
    """Something is missing or other than it was, without a word."""


class Kind(ABC):
    """One kind of input. A subclass has a name, a share of all cases, and `case`."""

    name = ""
    cases = 0  # in a full run

    def __init__(self, folder: Path):
        """folder: for this kind alone, empty; what all cases start from is made here."""
        self.folder = folder

    @abstractmethod
    def case(self, rng: random.Random) -> bool:
        """Make and read one input; True: damaged or foreign enough that it was refused. Raises KitError or Loss."""


def try_case(kind: Kind, seed: int) -> tuple[str, str]:
    """→ what came of a case, and where or why."""
    try:
        refused = kind.case(random.Random(f"{kind.name} {seed}"))
        return ("refused" if refused else "read"), ""
    except Loss as error:
        return "loss", str(error)
    except KitError as error:
        if "\n" in str(error):
            return "traceback", "an error of several lines"
        return "refused", ""
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno} {last.name}"
        return (
            "traceback",
            f"{type(error).__name__} in {where}: {' '.join(str(error).split())[:200]}",
        )


def all_kinds() -> Iterator[type[Kind]]:
    """Every kind, those of light readers first: whoever looks for one of these does not import the others."""
    for module in ("pictures", "tables", "reports", "store", "own", "weights"):
        yield from import_module(f".{module}", __package__).KINDS
