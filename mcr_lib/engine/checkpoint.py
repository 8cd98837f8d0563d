"""Checkpoints: weights, optimizer and position of a run, as safetensors and JSON, never pickle.

A checkpoint is a folder `step-00000200/`. It is written beside, synced and renamed, so one that carries its name is
whole; `state.json` is written last and holds the sizes of the others, so one damaged later is told apart. The newest
KEEP stay, and the one with the best score. There is no random state in them: see trainer.py."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from data_prep.errors import KitError
from data_prep.folder import file_sha256, sync

KEEP = 2  # the newest ones


class CheckpointError(KitError):
    """No usable checkpoint; the message says which were tried and what is wrong with them."""


class Damaged(Exception):
    """A checkpoint that is not whole any more; the message says what is wrong."""


def save(
    folder: Path, step: int, model: nn.Module, optimizer, extra: dict, score: float | None = None
) -> Path:
    """Write `folder/step-…/`, then delete all but the newest KEEP and the best. extra is JSON
    (scaler, seconds, …); score: what validation gave, more is better. Raises CheckpointError, with
    the folder as it was."""
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}.partial"
    try:
        for left in folder.glob(".step-*.partial"):  # of a run killed while it saved
            shutil.rmtree(left)
        partial.mkdir(parents=True)
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, partial / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
        sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
        state = {"step": step, "sizes": sizes, "score": score, **extra}
        (partial / "state.json").write_text(json.dumps(state, indent=1))
        for path in [*partial.iterdir(), partial]:
            sync(path)
        if target.exists():  # damaged, or training would have gone on from it
            shutil.rmtree(target)
        partial.rename(target)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
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
    skipped = []
    for path in reversed(list_folders(folder)):
        try:
            return path, _read_state(path), skipped
        except Damaged as error:
            skipped.append(f"skipped {path.name}, which is damaged: {error}")
    raise CheckpointError("; ".join([f"{folder}: no whole checkpoint", *skipped]))


def find_best(folder: Path) -> Path | None:
    """The whole checkpoint with the highest score; None if none has one."""
    scores = {}
    for path in list_folders(folder):
        with suppress(Damaged):
            scores[path] = _read_state(path)["score"]
    scored = [path for path in scores if scores[path] is not None]
    return max(scored, key=scores.get, default=None)


def find(run: Path, best: bool = False) -> tuple[Path, list[str]]:
    """A run's newest whole checkpoint, or its best, and a line for each that was skipped."""
    folder = Path(run) / "checkpoints"
    if not best:
        path, _, skipped = find_newest(folder)
        return path, skipped
    path = find_best(folder)
    if path is None:
        raise CheckpointError(f"{folder}: no checkpoint was validated, so none is known to be best")
    return path, []


def weights_sha256(run: Path, best: bool = False) -> str:
    """SHA-256 of the newest (or best) checkpoint's weights: the model's name in result files."""
    path, _ = find(run, best)
    return file_sha256(path / "model.safetensors")


def list_folders(folder: Path) -> list[Path]:
    """All checkpoints, whole or not, oldest first."""
    return sorted(folder.glob("step-*"))


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Model and optimizer back to a checkpoint. Raises CheckpointError as `load_model` does."""
    load_model(path, model)
    state: dict[int, dict] = {}
    for key, tensor in load_file(path / "optimizer.safetensors").items():
        parameter, name = key.split(".")
        state.setdefault(int(parameter), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


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
    """state.json of a checkpoint whose files are all there at their full sizes; raises Damaged."""
    try:
        state = json.loads((path / "state.json").read_text())
        for name, size in state["sizes"].items():
            there = (path / name).stat().st_size
            if there != size:
                raise Damaged(f"{name} has {there} bytes, {size} were written")
            with safe_open(path / name, "pt") as tensors:
                tensors.keys()
        return state
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise Damaged(error) from error


def _reason(error: Exception) -> str:
    """The system's own words; safetensors wraps its errors in Rust's."""
    code = re.search(r"code: (\d+)", str(error))
    return os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or str(error)
