"""Evaluate a run: a split as its model sees it, measured under a named protocol, left as metrics.json.

Not here: the measurement itself (retrieval.py, modality_gap.py), training (run.py)."""

from __future__ import annotations

from pathlib import Path

import torch

from data_prep.errors import DataError
from data_prep.folder import describe_data, write_json
from data_prep.machine import without_home
from data_prep.provenance import provenance
from data_prep.run_files import Manifest, RunError, check_begun, count_seen, read_manifest
from data_prep.vectors import read_vectors

from . import retrieval
from .config import read_config
from .data import PairData
from .engine import checkpoint, distributed
from .features import encode_pairs, picture_hashes
from .modality_gap import modality_gap
from .model import MCR
from .run import load_run


def load_pairs(
    run: Path, data: Path, split: str, device: torch.device, *, best: bool = False
) -> tuple[MCR, PairData]:
    """A run's model, and the pairs of a split as it was trained to see them. Raises RunError,
    CheckpointError, DataError."""
    model, tokenizer = load_run(run, device, best=best)
    views = read_config(Path(run) / "config.yaml").train.views
    return model, PairData(data, split, tokenizer, model.config, views)


def evaluate_run(
    run: Path,
    data: Path,
    *,
    device: torch.device,
    split="test",
    protocol="text-identical",
    masked=False,
    best=False,
    command=None,
) -> dict:
    """Measure a run on a split: what `retrieval.evaluate` gives, the gap, and where it came from.
    Also left as the run folder's metrics.json. `notes` says in words what a reader of the numbers
    must know: pairs that were trained on, other data, other weights. Of several processes each
    encodes a share, the first one measures and writes. Raises RunError, CheckpointError, DataError."""
    run = Path(run)

    def prepare() -> tuple[MCR, PairData, Manifest]:
        if protocol not in retrieval.PROTOCOLS:
            raise RunError(f"unknown protocol {protocol!r}; there are: {retrieval.PROTOCOLS}")
        check_begun(run)
        manifest = read_manifest(run)  # an unfinished run is refused before anything is encoded
        return *load_pairs(run, data, split, device, best=best), manifest

    model, pairs, manifest = distributed.run_everywhere(prepare)
    images, texts = encode_pairs(model, pairs, device, masked=masked)

    def measure_and_write() -> dict:
        try:
            measured = retrieval.evaluate_pairs(images, texts, pairs.table, protocol=protocol)
        except ValueError as error:  # a protocol that these data cannot serve
            raise RunError(f"{data}, split {split}: {error}") from None
        result = {
            **measured,
            **compare_with_training(run, data, pairs, manifest, best),
            "run": run.name,
            "views": pairs.views,
            "modality_gap": modality_gap(images, texts),
            "training": manifest.of_training(),
            "split": split,
            "input": "masked" if masked else "unmasked",
            **provenance(command),
        }
        write_json(run / "metrics.json", result)
        return result

    return distributed.run_on_main(measure_and_write)


def evaluate_embeddings(path: Path, protocol: str = "text-identical") -> dict:
    """`retrieval.evaluate` of anyone's vectors in an .npz or Parquet file (data_prep/vectors.py says
    what is in it). Raises DataError, UsageError."""
    features, about = read_vectors(path)
    try:
        measured = retrieval.evaluate(*map(torch.from_numpy, features), **about, protocol=protocol)
        return measured | {"notes": []}
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def compare_with_training(
    run: Path, data: Path, pairs: PairData, manifest: Manifest, best: bool
) -> dict:
    """What is evaluated beside what was trained: data, weights, how many pictures were trained on
    (None: not known), and in `notes` what is not as one would expect. Raises RunError if the last
    weights of the training were exchanged."""
    now, seen = describe_data(data), count_seen(run, manifest, picture_hashes(pairs))
    path, state, skipped = checkpoint.find(run, best)
    label, weights, notes = "best" if best else "newest", checkpoint.weights_sha256(run, best), []
    if seen is None:
        notes.append(
            "this run is of an earlier version and keeps no hashes: it could not be checked whether "
            "these pairs were trained on, or the vocabulary changed"
        )
    elif seen:
        notes.append(f"seen in training: the pictures of {seen} of these {len(pairs)} pairs")
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
