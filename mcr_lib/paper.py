"""What the paper says and what we chose, read from paper.yaml. Nothing measured."""

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Fact:
    """Something the paper states, and where."""

    what: str
    where: str


@dataclass(frozen=True)
class Choice:
    """Something we could not read in the paper: config keys, our value, the reason, the paper's values by key."""

    keys: tuple[str, ...]
    value: str
    reason: str
    paper: dict


_CONTENT = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PAPER: str = _CONTENT["paper"]
FACTS = tuple(Fact(**fact) for fact in _CONTENT["facts"])
CLAIMS = tuple(Fact(**claim) for claim in _CONTENT["claims"])
CHOICES = tuple(Choice(**choice) for choice in _CONTENT["choices"])
