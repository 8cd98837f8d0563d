"""The files of a run folder, but for checkpoints: begun, found fit to go on with, described when done.

    config.yaml  data.json  tokenizer/     when the run begins; config.yaml last: with it there is a run
    metrics.jsonl  checkpoints/            while it trains
    manifest.json                          when it is done
    metrics.json                           when it is evaluated

Not here: training and loading (run.py), evaluating (evaluate.py)."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from data_prep.errors import KitError
from data_prep.folder import atomic, describe_data, read_json, write_json

from ..config import ConfigError, RunConfig, read_config

VOCABULARY = {"vocab_size", "special_token_ids", "mask_token_id"}  # settings that the data decide
OF_TRAINING = (  # what results repeat of a manifest
    "profile seed steps training_seconds training_pairs parameters precision peak_memory_bytes "
    "command"
).split()


class RunError(KitError):
    """A run folder that is missing, taken, or does not fit."""


def open_folder(run: Path, data: Path, config: RunConfig, tokenizer, resume: bool) -> None:
    """Make the run folder, or see that it can be written to. Raises RunError."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not os.access(run, os.W_OK):
            raise OSError("it is read-only")
        if not resume:
            tokenizer.save_pretrained(run / "tokenizer")
            write_json(run / "data.json", describe_data(data))
            content = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            with atomic(run / "config.yaml") as temporary:
                temporary.write_text(content)
    except Exception as error:  # tokenizers reports a full disk as a bare Exception
        reason = getattr(error, "strerror", None) or error
        advice = "put that right, or name another --run"
        raise RunError(f"{run} cannot be written: {reason}; {advice}") from error


def check_resumable(run: Path, data: Path, asked: RunConfig) -> RunConfig:
    """The configuration of a run that was begun, which `asked` must be, but for the vocabulary.
    Into how many parts a step is cut may change: its gradient stays the same. Raises RunError if
    the run was begun on other data, ConfigError if a setting differs."""
    stored, before, now = read_config(run / "config.yaml"), run / "data.json", describe_data(data)
    began = read_json(before) if before.exists() else now
    if began["sha256"] != now["sha256"]:
        raise RunError(
            f"{run} was begun on other data than {data} is now ({began['name']}, SHA-256 "
            f"{began['sha256'][:12]}, now {now['sha256'][:12]}): name another folder for a new run"
        )
    for part in ("model", "train"):
        a, b = getattr(stored, part).model_dump(), getattr(asked, part).model_dump()
        for key in a.keys() - VOCABULARY - {"accumulation"}:
            if a[key] != b[key]:
                differs = f"{run} was started with {key}={a[key]!r}, now it is {b[key]!r}"
                raise ConfigError(f"{differs}; resume with the same settings, or start another run")
    train = stored.train.model_copy(update={"accumulation": asked.train.accumulation})
    return stored.model_copy(update={"train": train})


def check_begun(run: Path) -> None:
    """Raise RunError if there is no run in this folder."""
    if not (run / "config.yaml").exists():
        train = f"python -m mcr_lib train --data DIR --run {run}"
        raise RunError(f"{run}: no run here (no config.yaml): {train}")


def read_manifest(run: Path) -> dict:
    """What a finished run's manifest says of its training. Raises RunError if it is not finished."""
    manifest = _read_finished(run)
    return {key: manifest[key] for key in OF_TRAINING}


def find_training_data(run: Path) -> Path:
    """The data set folder a run was trained on. Raises RunError if it is no longer there."""
    data = Path(_read_finished(run)["data_folder"])
    if not data.is_dir():
        raise RunError(f"{run} was trained on {data}, which is gone: give the data with --data DIR")
    return data


def _read_finished(run: Path) -> dict:
    path = Path(run) / "manifest.json"
    if not path.exists():
        advice = "an interrupted one goes on with the same train command and --resume"
        raise RunError(f"{run}: no finished run here (no manifest.json); {advice}")
    return read_json(path)
