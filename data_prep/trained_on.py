"""What a run is evaluated on beside what it was trained on. Not here: the run folder's files (run_files.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .checkpoint_files import find, weights_sha256
from .folder import describe_data
from .machine import without_home
from .run_files import Manifest, RunError, count_seen


def compare_with_training(
    run: Path, data: Path, pictures: np.ndarray, manifest: Manifest, best: bool
) -> dict:
    """What is evaluated beside what was trained: data, weights, how many of the pictures (N,), given
    by their hashes, were trained on (None: not known), and in `notes` what is not as one would
    expect. Raises RunError if the last weights of the training were exchanged."""
    now, seen = describe_data(data), count_seen(run, manifest, pictures)
    path, state, skipped = find(run, best)
    label, weights, notes = "best" if best else "newest", weights_sha256(run, best), []
    if seen is None:
        notes.append(
            "this run is of an earlier version and keeps no hashes: it could not be checked whether "
            "these pairs were trained on, or the vocabulary changed"
        )
    elif seen:
        notes.append(f"seen in training: the pictures of {seen} of these {len(pictures)} pairs")
    if now["sha256"] != manifest.data.sha256:
        notes.append(f"other data than trained on: {now['name']}, not {manifest.data.name}")
    if not best and weights != manifest.weights_sha256:
        if state["step"] == manifest.steps:
            raise RunError(
                f"{path / 'model.safetensors'} holds other weights than training left there "
                "(SHA-256): restore it, or train again"
            )
        label = f"step {state['step']}"
        notes.append(f"not the last weights of the training, but those of step {state['step']}")
    return {
        "data": now,
        "trained_on": manifest.data.model_dump(exclude={"tokenizer"}),
        "seen_in_training": seen,
        "checkpoint": label,
        "weights_sha256": weights,
        "notes": [*notes, *map(without_home, skipped)],
    }
