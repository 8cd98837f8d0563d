"""The checkpoints of a run folder as files: which are whole to the last byte, which is the newest, which the best.

    checkpoints/step-00000200/  model.safetensors  optimizer.safetensors  state.json (sizes, SHA-256, score)

Not here: what is in them, and how they are written and loaded (mcr_lib/engine/checkpoint.py).
"""

import re
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open

from .errors import KitError
from .own_files import DamagedFile, check_fingerprints, file_sha256, read_model

FILES = {"model.safetensors", "optimizer.safetensors"}
PASSED_OVER = "an older one is used"


class State(BaseModel):
    """What `state.json` says."""

    model_config = ConfigDict(allow_inf_nan=False)
    step: int
    sizes: dict[str, int]
    sha256: dict[str, str] = {}  # older checkpoints have none
    score: float | None = None
    seconds: float = 0.0
    scaler: dict = {}


class CheckpointError(KitError):
    """No usable checkpoint; the message says which were tried and what is wrong with them."""


def find_newest(folder: Path) -> tuple[Path, dict, list[str]]:
    """The newest whole checkpoint, its state, and a line for each newer one that was skipped.
    Raises CheckpointError if there is none."""
    return _first_whole(folder, list(reversed(list_folders(folder))))


def find_best(folder: Path) -> Path | None:
    """The checkpoint with the highest score, none of whose files is cut; None if none has one."""
    scored = _by_score(folder)
    return scored[0] if scored else None


def find(run: Path, best: bool = False) -> tuple[Path, dict, list[str]]:
    """A run's newest whole checkpoint, or its best, as `find_newest` gives it."""
    folder = Path(run) / "checkpoints"
    if not best:
        return find_newest(folder)
    scored = _by_score(folder)
    if not scored:
        raise CheckpointError(f"{folder}: no checkpoint was validated, so none is known to be best")
    return _first_whole(folder, scored)


def weights_sha256(run: Path, best: bool = False) -> str:
    """SHA-256 of the newest (or best) checkpoint's weights: the model's name in result files."""
    path, state, _ = find(run, best)
    name = "model.safetensors"
    return state["sha256"].get(name) or file_sha256(path / name)


def list_folders(folder: Path) -> list[Path]:
    """All checkpoints, whole or not, oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def _by_score(folder: Path) -> list[Path]:
    """The checkpoints that have a score and no cut file, the best first."""
    scores = {}
    for path in list_folders(folder):
        with suppress(DamagedFile):
            scores[path] = _read_state(path)["score"]
    scored = [path for path in scores if scores[path] is not None]
    return sorted(scored, key=scores.get, reverse=True)


def _first_whole(folder: Path, paths: list[Path]) -> tuple[Path, dict, list[str]]:
    """The first that is whole to the last byte, its state, a line for each that is not."""
    skipped = []
    for path in paths:
        try:
            state = _read_state(path)
            check_fingerprints(path, state["sha256"], PASSED_OVER)
            return path, state, skipped
        except DamagedFile as error:
            skipped.append(f"skipped {path.name}, which is damaged: {error}")
    raise CheckpointError("; ".join([f"{folder}: no whole checkpoint", *skipped]))


def _read_state(path: Path) -> dict:
    """state.json of a checkpoint whose files are all there at their full sizes; raises DamagedFile."""
    state = read_model(path / "state.json", State, PASSED_OVER)
    try:
        if state.sizes.keys() != FILES:
            raise ValueError("state.json names other files")
        for name, size in state.sizes.items():
            there = (path / name).stat().st_size
            if there != size:
                raise ValueError(f"{name} has {there} bytes, {size} were written")
            with safe_open(path / name, "pt") as tensors:
                tensors.keys()
        return state.model_dump()
    except (OSError, ValueError, SafetensorError) as error:
        raise DamagedFile(f"{path}: {error}: {PASSED_OVER}") from error
