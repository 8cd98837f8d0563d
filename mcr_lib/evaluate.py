"""Evaluate a run: a split as its model sees it, measured under a named protocol, left as metrics.json.

Not here: the measurement itself (retrieval.py, modality_gap.py), training (run.py)."""

from __future__ import annotations

from pathlib import Path

import torch

from data_prep.errors import DataError
from data_prep.folder import write_json
from data_prep.provenance import provenance
from data_prep.run_files import Manifest, RunError, check_begun, read_manifest
from data_prep.trained_on import compare_with_training
from data_prep.vectors import read_vectors

from . import retrieval
from .config import read_config
from .data import PairData
from .engine import distributed
from .features import encode_pairs, picture_hashes
from .modality_gap import modality_gap
from .model import MCR
from .run import load_run


def load_pairs(
    run: Path, data: Path, split: str, device: torch.device, *, best=False, only_findings=False
) -> tuple[MCR, PairData]:
    """A run's model, and a split's pairs as it was trained to see them; only_findings: those with a
    findings section, as their report, in lower case. Raises RunError, CheckpointError, DataError."""
    model, tokenizer = load_run(run, device, best=best)
    views = read_config(Path(run) / "config.yaml").train.views
    pairs = PairData(data, split, tokenizer, model.config, views)
    if only_findings:
        has = (pairs.table["findings"].str.strip() != "").to_numpy()
        if not has.any():
            raise RunError(f"{data}, split {split}: no report has a findings section")
        sections = pairs.table["findings"][has].str.lower()
        pairs.choose(pairs.rows[has], pairs.table[has].assign(report=sections), tokenizer)
    return model, pairs


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
        how = {"best": best, "only_findings": protocol == "findings"}
        return *load_pairs(run, data, split, device, **how), manifest

    model, pairs, manifest = distributed.run_everywhere(prepare)
    images, texts = encode_pairs(model, pairs, device, masked=masked)

    def measure_and_write() -> dict:
        try:
            measured = retrieval.evaluate_pairs(images, texts, pairs.table, protocol=protocol)
        except ValueError as error:  # a protocol that these data cannot serve
            raise RunError(f"{data}, split {split}: {error}") from None
        result = {
            **measured,
            **compare_with_training(run, data, picture_hashes(pairs), manifest, best),
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
    """`retrieval.evaluate` of a file of vectors, see data_prep/vectors.py. Raises DataError, UsageError."""
    features, about = read_vectors(path)
    try:
        if protocol == "findings":
            raise ValueError("findings sections have to be encoded alone: that takes --run")
        measured = retrieval.evaluate(*map(torch.from_numpy, features), **about, protocol=protocol)
        return measured | {"notes": []}
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
