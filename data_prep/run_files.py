"""The files of a run folder, but for the checkpoints: who may write them, what they say, whether they are as they were.

    tokenizer/  data.json  config.yaml     when the run begins; config.yaml last: with it there is a run
    metrics.jsonl  checkpoints/            while it trains, by one command at a time (.lock)
    training_pictures.npy  manifest.json   when it is done
    metrics.json  index/                   when it is evaluated, searched with

Not here: the settings in config.yaml and how a run begins (mcr_lib), the checkpoints (mcr_lib/engine/checkpoint.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from .errors import KitError
from .folder import describe_data
from .own_files import atomic, check_fingerprints, file_sha256, locked, read_json, read_model

RESTORE = "restore it, or train again into another folder"
PICTURES = "training_pictures.npy"
OF_TRAINING = (  # what results repeat of a manifest
    "profile seed steps training_seconds training_pairs parameters precision peak_memory_bytes "
    "command"
).split()


class RunError(KitError):
    """A run folder that is missing, taken, or does not fit."""


class _Kept(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Data(_Kept):
    """What a run keeps of its data set; in data.json also the SHA-256 of each file of tokenizer/."""

    name: str
    sha256: str
    synthetic: bool = False
    text_policy: str = ""
    licence: str = ""  # older ones do not say
    tokenizer: dict[str, str] = {}


class Manifest(_Kept):
    """What manifest.json says at least; older ones lack what has a value here."""

    profile: str
    seed: int
    steps: int
    training_seconds: float
    training_pairs: int
    parameters: int
    precision: str
    peak_memory_bytes: int
    command: str | None
    commit: str | None = None
    data: Data
    data_folder: str = ""
    weights_sha256: str
    files: dict[str, str] = {}  # the SHA-256 of PICTURES

    def of_training(self) -> dict:
        """What results repeat of it."""
        return {key: getattr(self, key) for key in OF_TRAINING}


class Metrics(_Kept):
    """What metrics.json says at least, beside the measures themselves."""

    data: Data
    split: str
    input: str
    protocol: str
    weights_sha256: str
    gallery: dict[str, int]
    chance: dict[str, float]
    interval: dict[str, tuple[float, float]]
    notes: list[str] = []

    @model_validator(mode="after")
    def _has_its_measures(self):
        for measure in self.chance:
            if not isinstance(self.model_extra.get(measure), float | int):
                raise ValueError(f"{measure} is missing")
        return self

    def value(self, measure: str) -> float:
        """One of the measures of `chance`."""
        return self.model_extra[measure]


@contextmanager
def hold_folder(run: Path) -> Iterator[None]:
    """Make the run folder, or see that it can be written to; it is this command's alone for as long
    as the block takes. Raises RunError."""
    with writing_to(run):
        run.mkdir(parents=True, exist_ok=True)
        if not os.access(run, os.W_OK):
            raise OSError("it is read-only")
        (run / ".lock").touch()
    with locked(run / ".lock", wait=False) as ours:
        if not ours:
            raise RunError(f"another command trains in {run}: wait for it, or name another --run")
        yield


@contextmanager
def writing_to(run: Path) -> Iterator[None]:
    """Whatever goes wrong in the block is a RunError: the folder cannot be written."""
    try:
        yield
    except Exception as error:  # tokenizers reports a full disk as a bare Exception
        reason = getattr(error, "strerror", None) or error
        advice = "put that right, or name another --run"
        raise RunError(f"{run} cannot be written: {reason}; {advice}") from error


def check_new(run: Path) -> None:
    """Raise RunError if there is a run in this folder."""
    if (run / "config.yaml").exists():
        raise RunError(f"{run}: holds a run; add --resume to go on with it, or name another --run")


def check_begun(run: Path) -> None:
    """Raise RunError if there is no run in this folder."""
    if not (run / "config.yaml").exists():
        train = f"python -m mcr_lib train --data DIR --run {run}"
        raise RunError(f"{run}: no run here (no config.yaml): {train}")


def check_tokenizer(run: Path) -> None:
    """Raise DamagedFile if a file of tokenizer/ is not the one that the run was begun with: other
    words for the same numbers would go unnoticed. Runs of earlier versions cannot be checked."""
    began = read_data(run)
    if began and began.tokenizer:
        check_fingerprints(run / "tokenizer", began.tokenizer, RESTORE, exactly=True)


def read_data(run: Path) -> Data | None:
    """What data.json says; None for a run of an earlier version."""
    path = run / "data.json"
    return read_model(path, Data, RESTORE) if path.exists() else None


def read_manifest(run: Path) -> Manifest:
    """What a finished run's manifest says. Raises RunError if it is not finished."""
    path = Path(run) / "manifest.json"
    if not path.exists():
        check_begun(path.parent)
        advice = "an interrupted one goes on with the same train command and --resume"
        raise RunError(f"{run}: no finished run here (no manifest.json); {advice}")
    return read_model(path, Manifest, RESTORE)


def read_metrics(run: Path) -> Metrics | None:
    """What metrics.json says; None if the run was not evaluated, or by an earlier version."""
    path = Path(run) / "metrics.json"
    if not path.exists():
        return None
    advice = "evaluate the run again"
    needed = {name for name, field in Metrics.model_fields.items() if field.is_required()}
    if needed - read_json(path, advice).keys():
        return None
    return read_model(path, Metrics, advice)


def notes_on_recall(run: Path) -> list[str]:
    """What to say with every answer of a run: that its recall, as last measured, is that of chance."""
    metrics = read_metrics(run)
    if metrics is None or "rsum" not in metrics.interval:
        return []
    low, _ = metrics.interval["rsum"]
    if low > metrics.chance["rsum"]:
        return []
    measured = f"rsum {metrics.value('rsum'):.0f}, chance {metrics.chance['rsum']:.0f}"
    return [f"this run finds no more than chance would ({measured}): train on more, or longer"]


def find_training_data(run: Path) -> Path:
    """The data set folder a run was trained on. Raises RunError if it is no longer there, or holds
    other data by now."""
    manifest = read_manifest(run)
    if not manifest.data_folder:
        raise RunError(
            f"{run} does not say on which folder it was trained: give it with --data DIR"
        )
    data = Path(manifest.data_folder).expanduser()
    if not data.is_dir():
        raise RunError(f"{run} was trained on {data}, which is gone: give the data with --data DIR")
    now = describe_data(data)
    if now["sha256"] != manifest.data.sha256:
        raise RunError(
            f"{run} was trained on {manifest.data.name}, and {data} holds other data now "
            f"({now['name']}, other SHA-256): give the data that you mean with --data DIR"
        )
    return data


def keep_pictures(run: Path, pictures: np.ndarray) -> dict[str, str]:
    """Keep the hashes (N,) of the pictures trained on → the file's SHA-256, for the manifest."""
    with atomic(run / PICTURES) as temporary, temporary.open("wb") as file:
        np.save(file, np.unique(pictures))
    return {PICTURES: file_sha256(run / PICTURES)}


def count_seen(run: Path, manifest: Manifest, pictures: np.ndarray) -> int | None:
    """How many of these pictures (N,) the run was trained on; None for a run that kept none."""
    if not manifest.files:
        return None
    return int(np.isin(pictures, read_pictures(run, manifest)).sum())


def read_pictures(run: Path, manifest: Manifest) -> np.ndarray:
    """The hashes (M,) of the pictures that a run was trained on, none for a run that kept none."""
    if not manifest.files:
        return np.zeros(0, dtype=np.int64)
    check_fingerprints(run, manifest.files, RESTORE)
    return np.load(run / PICTURES)
