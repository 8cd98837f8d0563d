"""How a run folder begins, and what it must be to go on with. Not here: its files (data_prep/run_files.py)."""

from __future__ import annotations

from pathlib import Path

import yaml

from data_prep.folder import describe_data
from data_prep.own_files import atomic, fingerprints, sealed, write_json
from data_prep.run_files import RunError, check_new, read_data, writing_to

from ..config import ConfigError, RunConfig, read_config

HOW = {"accumulation", "compile"}  # settings that change how a step is computed, not what it gives
VOCABULARY = {"vocab_size", "special_token_ids", "mask_token_id"}  # settings that the data decide


def begin(run: Path, data: Path, config: RunConfig, tokenizer) -> None:
    """Write what a run begins with. Raises RunError, also if another command was first."""
    check_new(run)
    with writing_to(run):
        tokenizer.save_pretrained(run / "tokenizer")
        content = describe_data(data) | {"tokenizer": fingerprints(run / "tokenizer")}
        write_json(run / "data.json", sealed(content))
        with atomic(run / "config.yaml") as temporary:
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            temporary.write_text(text, encoding="utf-8")


def check_resumable(run: Path, data: Path, asked: RunConfig) -> RunConfig:
    """The configuration of a run that was begun, which `asked` must be, but for the vocabulary.
    Into how many parts a step is cut may change, and whether it is compiled: its gradient stays the
    same. Raises RunError if the run was begun on other data, ConfigError if a setting differs."""
    stored, began, now = read_config(run / "config.yaml"), read_data(run), describe_data(data)
    if began and began.sha256 != now["sha256"]:
        raise RunError(
            f"{run} was begun on other data than {data} is now ({began.name}, SHA-256 "
            f"{began.sha256[:12]}, now {now['sha256'][:12]}): name another folder for a new run"
        )
    for part in ("model", "train"):
        a, b = getattr(stored, part).model_dump(), getattr(asked, part).model_dump()
        for key in a.keys() - VOCABULARY - HOW:
            if a[key] != b[key]:
                differs = f"{run} was started with {key}={a[key]!r}, now it is {b[key]!r}"
                raise ConfigError(f"{differs}; resume with the same settings, or start another run")
    train = stored.train.model_copy(update={key: getattr(asked.train, key) for key in HOW})
    return stored.model_copy(update={"train": train})
