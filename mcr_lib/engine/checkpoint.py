"""Checkpoints: weights, optimizer and position of a run, as safetensors and JSON, never pickle.

A checkpoint is a folder `step-00000200/`. It is written beside, synced and renamed, so one that carries its name is
whole; `state.json` is written last and holds sizes and SHA-256 of the others, so one damaged later is told apart (how:
data_prep/checkpoint_files.py). The newest KEEP stay, and the one with the best score. There is no random state in them:
see trainer.py."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from data_prep import own_files
from data_prep.checkpoint_files import (  # noqa: F401 (part of this module for who loads a run)
    CheckpointError,
    find,
    find_best,
    find_newest,
    list_folders,
    weights_sha256,
)

KEEP = 2  # the newest ones


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


def _reason(error: Exception) -> str:
    """The system's own words; safetensors wraps its errors in Rust's."""
    code = re.search(r"code: (\d+)", str(error))
    return os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or str(error)
