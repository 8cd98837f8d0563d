"""Checkpoints: weights, optimizer and position of a run, as safetensors and JSON, never pickle.

A checkpoint is a folder `step-00000200/`. It is written beside, synced and renamed, so one that carries its name
is whole; `state.json` is written last and holds the sizes of the others, so one damaged later is told apart. The newest
KEEP stay, and the one with the best score. There is no random state in them: see trainer.py.
"""

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

KEEP = 2  # the newest ones


class CheckpointError(RuntimeError):
    """No usable checkpoint; the message says which were tried and what is wrong with them."""


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict,
         score: float | None = None) -> Path:
    """Write `folder/step-…/`, then delete all but the newest KEEP and the best. `extra` is JSON (scaler, seconds, …);
    score: what validation gave, more is better. Raises CheckpointError, with the folder as it was."""
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}.partial"
    try:
        for left in folder.glob(".step-*.partial"):  # of a run killed while it saved
            shutil.rmtree(left)
        partial.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
        sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
        state = {"step": step, "sizes": sizes, "score": score, **extra}
        (partial / "state.json").write_text(json.dumps(state, indent=1))
        for path in [*partial.iterdir(), partial]:
            _sync(path)
        if target.exists():  # damaged, or training would have gone on from it
            shutil.rmtree(target)
        partial.rename(target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        code = re.search(r"code: (\d+)", str(error))  # safetensors speaks of the system's errors in Rust
        reason = os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or error
        raise CheckpointError(f"checkpoint of step {step} could not be written to {folder}: {reason}; earlier ones "
                              "are untouched. Put that right, then go on with the same command and --resume") from error
    past = [path for path in folders(folder) if path.name <= target.name]  # later ones are damaged, see `newest`
    for old in set(past[:-KEEP]) - {best(folder)}:
        shutil.rmtree(old)
    return target


def newest(folder: Path) -> tuple[Path, dict, list[str]]:
    """The newest whole checkpoint, its state, and a line for each newer one that was skipped.

    Raises CheckpointError if there is none.
    """
    skipped = []
    for path in reversed(folders(folder)):
        try:
            return path, _state(path), skipped
        except _Damaged as error:
            skipped.append(f"skipped {path.name}, which is damaged: {error}")
    raise CheckpointError("; ".join([f"{folder}: no whole checkpoint", *skipped]))


def best(folder: Path) -> Path | None:
    """The whole checkpoint with the highest score; None if none has one."""
    scores = {}
    for path in folders(folder):
        with suppress(_Damaged):
            scores[path] = _state(path)["score"]
    return max((path for path in scores if scores[path] is not None), key=scores.get, default=None)


def folders(folder: Path) -> list[Path]:
    """All checkpoints, whole or not, oldest first."""
    return sorted(folder.glob("step-*"))


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Model and optimizer back to a checkpoint. Raises CheckpointError as `load_model` does."""
    load_model(path, model)
    state: dict[int, dict] = {}
    for key, tensor in load_file(path / "optimizer.safetensors").items():
        parameter, name = key.split(".")
        state.setdefault(int(parameter), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_model(path: Path, model: nn.Module) -> None:
    """Strictly load `model.safetensors`. Raises CheckpointError with the difference in words."""
    stored = load_file(path / "model.safetensors")
    own = model.state_dict()
    problems = [f"missing {k}" for k in own.keys() - stored.keys()]
    problems += [f"unknown {k}" for k in stored.keys() - own.keys()]
    problems += [f"{k}: {tuple(stored[k].shape)} stored, {tuple(own[k].shape)} expected"
                 for k in own.keys() & stored.keys() if own[k].shape != stored[k].shape]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise CheckpointError(f"{path} was written with another configuration: {shown}"
                              + (f"; and {len(problems) - 5} more" if len(problems) > 5 else ""))
    model.load_state_dict(stored)


def _optimizer_tensors(optimizer) -> dict[str, torch.Tensor]:
    return {f"{parameter}.{name}": torch.as_tensor(value).contiguous()
            for parameter, values in optimizer.state_dict()["state"].items() for name, value in values.items()}


class _Damaged(Exception):
    pass


def _state(path: Path) -> dict:
    """state.json of a checkpoint whose files are all there at their full sizes; raises _Damaged."""
    try:
        state = json.loads((path / "state.json").read_text())
        for name, size in state["sizes"].items():
            if (path / name).stat().st_size != size:
                raise _Damaged(f"{name} has {(path / name).stat().st_size} bytes, {size} were written")
            with safe_open(path / name, "pt") as tensors:
                tensors.keys()
        return state
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _Damaged(error) from error


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
