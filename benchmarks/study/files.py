"""The study's own files, read back: what each must hold, for those that read it. One clear line for any other.

Not here: what is computed from them (summary.py, tables.py), how a file is read at all (data_prep/own_files.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmarks.study.arms import ARMS
from benchmarks.study.standing import LINEAR
from data_prep.own_files import DamagedFile, read_json, validated
from mcr_lib.config import MCRConfig, TrainConfig

AGAIN = "restore it, or take it away and start the study's command again"
Numbers = Annotated[list[float], Field(min_length=1)]
Metrics = dict[str, dict[str, Numbers]]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Some = Annotated[list[int], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Hardware(_Part):
    gpu: str | None
    cpus: int


class Claim(_Part):
    claim: str
    measured: str
    unit: str
    effect: float | None
    interval: Pair | None
    verdict: str
    detectable: float | None
    p_holm: float | None = None
    repeats: int
    arms: str


class Origin(_Part):
    synthetic: bool


class Data(Origin):
    name: str
    sha256: str


class Gallery(_Part):
    images: int
    distinct_texts: int
    patients: int


class Trained(_Part):
    hardware: Hardware
    commit: str | None
    precision: str | None = None


class ArmSummary(_Part):
    seeds: Some
    steps: int
    metrics: Metrics
    rsum_interval: Pair | None = None

    @model_validator(mode="after")
    def _has_recall(self):
        if "rsum" not in self.metrics.get("test, unmasked", {}):
            raise ValueError("there is no rsum of whole test input")
        return self


class StepCost(_Part):
    seconds: Numbers
    peak_bytes: Numbers | None = None
    flops: float | None = None


class Costs(_Part):
    """cost.json, and the part of study.json that repeats it."""

    arms: dict[str, StepCost] = {}
    steps_of: dict[str, float] = {}
    flops: dict[str, float] = {}
    device: str | None = None


class BaselineRow(_Part):
    rsum: float
    interval: dict[str, Pair] | None = None


class Baselines(_Part):
    """The baselines as a study repeats them."""

    rows: dict[str, BaselineRow]

    @model_validator(mode="after")
    def _has_intervals(self):
        for name, row in self.rows.items():
            if "rsum" not in (row.interval or {"rsum": None}):
                raise ValueError(f"{name} has no interval of rsum")
        if LINEAR not in self.rows or not self.rows[LINEAR].interval:
            raise ValueError(f"there is no {LINEAR} with its interval")
        return self


class MeasuredBaselines(Baselines):
    """baselines.json."""

    data: Data


class Study(_Part):
    """study.json."""

    study: str
    profile: str
    repeat: str
    rule: str
    data: Origin
    gallery: Gallery
    trained_on: Annotated[list[Trained], Field(min_length=1)]
    claims: list[Claim]
    variants: list[Claim] = []
    baselines: Baselines | None = None
    arms: Annotated[dict[str, ArmSummary], Field(min_length=1)]
    cost: Costs


class Config(_Part):
    model: dict
    train: dict


class Training(_Part):
    precision: str
    steps: int
    training_seconds: float
    parameters: int


class OfPairs(_Part):
    hits: Numbers
    query_of_pair: Some


class PerQuery(_Part):
    patient_of_pair: Some
    text_of_pair: Some
    ranks: dict[str, Some]
    pairs: dict[str, Numbers]
    pointing: OfPairs | None = None
    alike: OfPairs | None = None
    label_f1: OfPairs | None = None


class Result(_Part):
    """results/<arm>-seed<n>.json."""

    arm: str
    seed: int
    config: Config
    data: Data
    training: Training
    weights_sha256: str
    metrics: dict[str, dict[str, float]]
    gap: dict[str, dict[str, float]]
    test: PerQuery
    nlg: dict[str, dict[str, Numbers | None]]
    gradient_agreement: dict[str, float] | None
    own_settings: dict | None = None


class Searched(_Part):
    best: int = Field(ge=0)


class Search(_Part):
    """search.json."""

    profile: str
    draws: Annotated[list[dict], Field(min_length=1)]
    arms: dict[str, Searched]

    @model_validator(mode="after")
    def _has_the_best(self):
        for name, arm in self.arms.items():
            if arm.best >= len(self.draws):
                raise ValueError(f"the best draw of {name} is not among the draws")
        return self


class Gap(_Part):
    """gap_middle.json of a run folder."""

    step: int
    gap_distance: float


def read_study(path: Path) -> dict:
    """study.json. Raises DamagedFile."""
    return _read(path, Study)


def read_result(path: Path) -> dict:
    """One result file, of an arm that there is. Raises DamagedFile."""
    content = _read(path, Result)
    for part, of_now in (("model", MCRConfig()), ("train", TrainConfig())):  # keys that came later
        content["config"][part] = of_now.model_dump(mode="json") | content["config"][part]
    if content["arm"] not in ARMS and content.get("own_settings") is None:
        raise DamagedFile(
            f"{path} names an arm that there is not, {content['arm'][:50]!r}: {AGAIN}"
        )
    return content


def read_costs(path: Path) -> dict:
    """cost.json. Raises DamagedFile."""
    return _read(path, Costs)


def read_baselines(path: Path) -> dict:
    """baselines.json. Raises DamagedFile."""
    return _read(path, MeasuredBaselines)


def read_search(path: Path) -> dict:
    """search.json. Raises DamagedFile."""
    return _read(path, Search)


def read_gap(path: Path) -> dict:
    """gap_middle.json. Raises DamagedFile."""
    return _read(path, Gap)


def _read(path: Path, shape: type[BaseModel]) -> dict:
    """The content as it stands in the file, once it is known to have this shape."""
    content = read_json(Path(path), AGAIN)
    validated(path, content, shape, AGAIN)
    return content
