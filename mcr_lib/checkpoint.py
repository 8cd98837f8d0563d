"""Checkpoints: weights, optimizer and position of a run, as safetensors and JSON, never pickle.

A checkpoint is a folder `step-00000200/`. It is written beside, synced and renamed, so one that carries its name
is whole; `state.json` is written last and holds the sizes of the others, so a damaged one is told apart.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

KEEP = 2  # the newest ones


class CheckpointError(RuntimeError):
    """No usable checkpoint; the message says which were tried and what is wrong with them."""


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict) -> Path:
    """Write `folder/step-…/`, then delete all but the newest KEEP. `extra` is JSON (scaler, seconds, …)."""
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial / "model.safetensors")
        save_file(_optimizer_tensors(optimizer) | _random_state(), partial / "optimizer.safetensors")
        for path in partial.iterdir():
            _sync(path)
        sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
        (partial / "state.json").write_text(json.dumps({"step": step, "sizes": sizes, **extra}, indent=1))
        _sync(partial / "state.json")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"checkpoint of step {step} could not be written to {folder}: {error.strerror or error}; "
                              "the last whole one is untouched") from error
    for old in _folders(folder)[:-KEEP]:
        shutil.rmtree(old)
    return target


def newest(folder: Path) -> tuple[Path, dict, list[str]]:
    """The newest whole checkpoint, its state, and a line for each newer one that was skipped.

    Raises CheckpointError if there is none.
    """
    skipped = []
    for path in reversed(_folders(folder)):
        try:
            state = json.loads((path / "state.json").read_text())
            for name, size in state["sizes"].items():
                if (path / name).stat().st_size != size:
                    raise ValueError(f"{name} has {(path / name).stat().st_size} bytes, {size} were written")
                with safe_open(path / name, "pt") as tensors:
                    tensors.keys()
            return path, state, skipped
        except Exception as error:
            skipped.append(f"skipped {path.name}: {error}")
    raise CheckpointError("; ".join([f"{folder}: no whole checkpoint", *skipped]))


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


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimizer and the random state of torch."""
    tensors = load_file(path / "optimizer.safetensors")
    torch.set_rng_state(tensors.pop("random.cpu"))
    cuda = tensors.pop("random.cuda", None)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    state: dict[int, dict] = {}
    for key, tensor in tensors.items():
        parameter, name = key.split(".")
        state.setdefault(int(parameter), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizer_tensors(optimizer) -> dict[str, torch.Tensor]:
    return {f"{parameter}.{name}": torch.as_tensor(value).contiguous()
            for parameter, values in optimizer.state_dict()["state"].items() for name, value in values.items()}


def _random_state() -> dict[str, torch.Tensor]:
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
