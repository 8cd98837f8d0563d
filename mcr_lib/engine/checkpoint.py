"""Checkpoints: weights, optimizer and position of a run, as safetensors and JSON, never pickle.

A checkpoint is a folder `step-00000200/`. It is written beside, synced and renamed, so one that carries its name is
whole; `state.json` is written last and holds sizes and SHA-256 of the others, so one damaged later is told apart. The
newest KEEP stay, and the one with the best score. There is no random state in them: see trainer.py."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from data_prep import own_files
from data_prep.errors import KitError
from data_prep.own_files import DamagedFile

KEEP = 2  # the newest ones
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


def save(
    folder: Path, step: int, model: nn.Module, optimizer, extra: dict, score: float | None = None
) -> Path:
    """Write `folder/step-…/`, then delete all but the newest KEEP and the best. extra is JSON
    (scaler, seconds, …); score: what validation gave, more is better. Raises CheckpointError, with
    the folder as it was."""
    target = folder / f"step-{step:08d}"
    try:
        for left in folder.glob(".step-*.new"):  # of a run killed while it saved
            shutil.rmtree(left)
        with own_files.atomic_folder(target) as beside:
            weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(weights, beside / "model.safetensors")
            save_file(_optimizer_tensors(optimizer), beside / "optimizer.safetensors")
            sizes = {path.name: path.stat().st_size for path in beside.iterdir()}
            state = {"step": step, "sizes": sizes, "score": score, **extra}
            state["sha256"] = own_files.fingerprints(beside)
            own_files.write_json(beside / "state.json", own_files.sealed(state))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint of step {step} could not be written to {folder}: {_reason(error)}; earlier "
            "ones are untouched. Put that right, then go on with the same command and --resume"
        ) from error
    past = [path for path in list_folders(folder) if path.name <= target.name]  # later: damaged
    for old in set(past[:-KEEP]) - {find_best(folder)}:
        shutil.rmtree(old)
    return target


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
    return state["sha256"].get(name) or own_files.file_sha256(path / name)


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
            own_files.check_fingerprints(path, state["sha256"], PASSED_OVER)
            return path, state, skipped
        except DamagedFile as error:
            skipped.append(f"skipped {path.name}, which is damaged: {error}")
    raise CheckpointError("; ".join([f"{folder}: no whole checkpoint", *skipped]))


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Model and optimizer back to a checkpoint. Raises CheckpointError as `load_model` does."""
    load_model(path, model)
    state: dict[int, dict] = {}
    try:
        for key, tensor in load_file(path / "optimizer.safetensors").items():
            parameter, name = key.split(".")
            state.setdefault(int(parameter), {})[name] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} holds no optimizer of this kit: {error}") from None


def check_sizes(path: Path, model: nn.Module) -> None:
    """Raise CheckpointError if a tensor of the model, which may be on `meta`, has another size here."""
    with safe_open(path / "model.safetensors", "pt") as stored:
        for name, tensor in model.state_dict().items():
            theirs = stored.get_slice(name).get_shape() if name in stored.keys() else None  # noqa: SIM118
            if theirs != [*tensor.shape]:
                difference = f"{name} has the size {theirs}, not {[*tensor.shape]}"
                raise CheckpointError(
                    f"{path} was written with another configuration: {difference}"
                )


def load_model(path: Path, model: nn.Module) -> None:
    """Strictly load `model.safetensors`. Raises CheckpointError with the difference in words."""
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
    except RuntimeError as error:
        difference = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path} was written with another configuration: {difference}"
        ) from None


def _optimizer_tensors(optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for parameter, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"{parameter}.{name}"] = torch.as_tensor(value).contiguous()
    return tensors


def _read_state(path: Path) -> dict:
    """state.json of a checkpoint whose files are all there at their full sizes; raises DamagedFile."""
    state = own_files.read_model(path / "state.json", State, PASSED_OVER)
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


def _reason(error: Exception) -> str:
    """The system's own words; safetensors wraps its errors in Rust's."""
    code = re.search(r"code: (\d+)", str(error))
    return os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or str(error)
