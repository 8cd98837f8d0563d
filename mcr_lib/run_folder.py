"""A run from data set folder to run folder: train, load, encode, evaluate. The command line and the notebooks call
these few functions. Not here: the model, the loop, the measurement, the search index of a run (index_build.py).
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from data_prep import folder as data_folder
from data_prep import images
from data_prep.folder import write_json

from . import checkpoint, distributed, retrieval
from .config import ConfigError, RunConfig, read_config
from .data import PairData, TrainBatches, prepare_images, store_size, usable_rows
from .masking import random_masking
from .modality_gap import modality_gap
from .model import MCR
from .precision import cpu_name
from .progress import progress
from .tokenizer import load_tokenizer, tokenize, train_tokenizer, vocabulary_sha256
from .trainer import Trainer

VALIDATE = 1024  # pairs looked at when a checkpoint is written: seconds, so that the best one can be kept


class RunError(RuntimeError):
    """A run folder that is missing, taken, or does not fit; the message is one readable line."""


def pick_device(name: str = "auto") -> torch.device:
    """'auto' is CUDA where there is one, else the CPU; of several processes on a machine each takes a GPU of its own.
    Raises RunError for a device this machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and distributed.world() > 1:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        gpus = torch.cuda.device_count()
        if int(os.environ["LOCAL_RANK"]) >= gpus:
            raise RunError(f"{os.environ['LOCAL_WORLD_SIZE']} processes on this machine, but {gpus} GPUs: "
                           f"use --nproc-per-node {gpus}, or --device cpu")
    try:
        device = torch.empty(1, device=name).device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what is measured is measured there
        return device
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"device {name!r} is not to be had here: {str(error).splitlines()[0]}") from None


def train(data: Path, run: Path, config: RunConfig, *, resume: bool = False, device: torch.device,
          callbacks: Iterable[Callable] = (), command: str | None = None) -> Trainer:
    """Train a model on the `train` split of a data set folder and leave a run folder (contract: README, "Run folder").

    With `resume`, go on from the newest whole checkpoint; the configuration must be the one of the run. At each
    checkpoint the rsum of VALIDATE pairs of the split `validate` is measured, and the best one kept. Started by
    torchrun, all processes call this alike; the first one writes.
    """
    commit()  # before the hours in which the checkout may move on
    data, run = Path(data), Path(run)
    trainer, config, tokenizer = distributed.together(
        lambda: _prepare(data, run, config, resume=resume, device=device, callbacks=callbacks))
    distributed.main_does(lambda: _open(run, data, config, tokenizer, resume))
    if resume:
        for line in [*trainer.resume(), f"resumed at step {trainer.step}"]:
            if distributed.rank() == 0:
                print(line)
        if trainer.step == trainer.batches.total_steps and distributed.main_does((run / "manifest.json").exists):
            return trainer  # its manifest says when and by what it was trained
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.fit()
    manifest = {
        "profile": config.profile, "seed": config.train.seed, "data": describe_data(data),
        "data_folder": str(Path(data).resolve()), "training_pairs": len(trainer.batches.data),
        "vocabulary_sha256": vocabulary_sha256(tokenizer),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.step, "processes": distributed.world(),
        "training_seconds": round(trainer.seconds, 3), "peak_memory_bytes": peak_memory(device),
        "precision": str(trainer.autocast_dtype or torch.float32).removeprefix("torch."),
    }
    distributed.main_does(lambda: write_json(
        run / "manifest.json", provenance(command) | manifest | {"weights_sha256": weights_sha256(run)}))
    return trainer


def _prepare(data: Path, run: Path, config: RunConfig, *, resume: bool, device: torch.device, callbacks):
    """→ trainer at step 0, resolved configuration, tokenizer. Writes nothing to the run folder."""
    table = data_folder.read(data)
    if resume:
        if not (run / "config.yaml").exists():
            raise RunError(f"{run}: nothing to resume, there is no config.yaml; train without --resume first")
        config = begun(run, data, config)
        tokenizer = load_tokenizer(run / "tokenizer")
    else:
        if (run / "config.yaml").exists():
            raise RunError(f"{run}: holds a run already; add --resume to go on with it, or name another --run")
        tokenizer = make_tokenizer(config, table)
        config = with_vocabulary(config, tokenizer)
    torch.manual_seed(config.train.seed)
    model = MCR(config.model)
    if not checkpoint.folders(run / "checkpoints"):
        if config.model.image_weights:
            model.image_encoder.load_weights(config.model.image_weights)
        if config.model.text_weights:
            model.report_encoder.load_weights(config.model.text_weights)
    pairs = PairData(data, "train", tokenizer, config.model, config.train.views)
    batches = TrainBatches(pairs, config.train, device)
    if distributed.rank() == 0 and len(pairs) < config.train.batch_size:
        print(f"{len(pairs)} pairs to train on, fewer than batch_size={config.train.batch_size}: a pair stands in a "
              f"step several times and counts as its own wrong answer; give --set batch_size={len(pairs)}, or less")
    longest = config.model.max_text_length
    if distributed.rank() == 0 and (full := (pairs.lengths == longest).mean()) >= 0.01:
        print(f"{full:.0%} of the reports fill {longest} tokens and end there; --set max_text_length=… keeps more")
    validate = None
    if len(usable_rows(table, "validate", config.train.views)) >= 2:
        watched = PairData(data, "validate", tokenizer, config.model, config.train.views)
        validate = partial(_validate, model, watched, device)
    elif distributed.rank() == 0:
        print(f"{data}: no pairs to validate with, so no checkpoint is known to be the best")
    return Trainer(model, batches, config.train, run=run, device=device, callbacks=callbacks,
                   validate=validate), config, tokenizer


def _validate(model: MCR, pairs: PairData, device: torch.device) -> float:
    """rsum, 0–600, of the first VALIDATE pairs, whole images and reports; NaN where the features are."""
    image_features, text_features = encode(model, pairs, device, rows=np.arange(len(pairs))[:VALIDATE])
    if not (image_features.isfinite().all() and text_features.isfinite().all()):
        return float("nan")
    shown = pairs.table[:VALIDATE]
    return distributed.main_does(lambda: retrieval.evaluate(
        image_features, text_features, texts=shown["report"].tolist(), labels=shown["labels"].tolist(),
        clusters=shown["patient_id"].tolist(), n_bootstrap=0)["rsum"])


def _open(run: Path, data: Path, config: RunConfig, tokenizer, resume: bool) -> None:
    """Make the run folder, or see that it can be written to. config.yaml comes last: with it there is a run."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not os.access(run, os.W_OK):
            raise OSError("it is read-only")
        if not resume:
            tokenizer.save_pretrained(run / "tokenizer")
            write_json(run / "data.json", describe_data(data))
            partial_file = run / ".config.yaml.partial"
            partial_file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
            partial_file.replace(run / "config.yaml")
    except Exception as error:  # tokenizers reports a full disk as a bare Exception
        raise RunError(f"{run} cannot be written: {getattr(error, 'strerror', None) or error}; "
                       "put that right, or name another --run") from error


def load(run: Path | str, device: torch.device | str = "cpu", *, best: bool = False):
    """A trained model in evaluation mode and its tokenizer, from a run folder: the newest checkpoint, or the one with
    the best validation. Raises RunError, CheckpointError."""
    run = Path(run)
    if not (run / "config.yaml").exists():
        raise RunError(f"{run}: no run here (no config.yaml): python -m mcr_lib train --data DIR --run {run}")
    config = read_config(run / "config.yaml")
    tokenizer = load_tokenizer(run / "tokenizer")
    path = _checkpoint(run, best)
    model = MCR(config.model)
    checkpoint.load_model(path, model)
    return model.to(device).eval(), tokenizer


def _checkpoint(run: Path, best: bool = False) -> Path:
    folder = Path(run) / "checkpoints"
    if best:
        path = checkpoint.best(folder)
        if path is None:
            raise RunError(f"{folder}: no checkpoint was validated, so none is known to be the best")
        return path
    path, _, skipped = checkpoint.newest(folder)
    if distributed.rank() == 0:
        for line in skipped:
            print(line)
    return path


@torch.inference_mode()
def encode(model: MCR, pairs: PairData, device: torch.device, *, masked: bool = False, batch_size: int = 128,
           rows: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Both features of every pair of a split, or of its `rows` (N,): unit vectors (N, common_dim), in their order, on
    the CPU. Of several processes each encodes a share; all get the whole.

    masked: encode what training would have seen (the same mask rates, epoch 0) instead of whole images and reports.
    """
    model.eval()
    rows = np.arange(len(pairs)) if rows is None else rows
    rows = rows[distributed.share(len(rows))]
    none = torch.empty(0, model.config.common_dim)  # a share may be empty
    image_features, text_features = [none], [none]
    starts = range(0, len(rows), batch_size)
    for start in progress(starts, desc="encode", unit="batch", leave=False, disable=distributed.rank() > 0):
        index = rows[start:start + batch_size]
        batch = pairs.batch(index, device)
        ids_keep, input_ids = None, batch.input_ids
        if masked:
            ids_keep, _, _ = random_masking(batch.image_noise, model.config.mask_ratio)
            input_ids, _, _ = model.mask_report(batch)
        image_features.append(model.encode_image(batch.images, ids_keep).cpu())
        text_features.append(model.encode_text(input_ids, batch.attention_mask).cpu())
    return distributed.gather(torch.cat(image_features))[0], distributed.gather(torch.cat(text_features))[0]


def evaluate(run: Path, data: Path, *, split: str = "test", protocol: str = "text-identical", masked: bool = False,
             best: bool = False, device: torch.device, command: str | None = None) -> dict:
    """Measure a run on a split under a named protocol: the result of `retrieval.evaluate`, the modality gap and where
    it all came from, also left as the run folder's metrics.json. Of several processes each encodes a share, the first
    one measures and writes."""
    model, pairs = distributed.together(lambda: _to_measure(Path(run), data, split, protocol, best, device))
    image_features, text_features = encode(model, pairs, device, masked=masked)
    return distributed.main_does(lambda: _measure(
        Path(run), data, pairs, image_features, text_features, protocol,
        {"split": split, "input": "masked" if masked else "unmasked", "checkpoint": "best" if best else "newest",
         "weights_sha256": weights_sha256(run, best)} | provenance(command)))


def _to_measure(run: Path, data: Path, split: str, protocol: str, best: bool, device) -> tuple[MCR, PairData]:
    if protocol not in retrieval.PROTOCOLS:
        raise RunError(f"unknown protocol {protocol!r}; there are: {', '.join(retrieval.PROTOCOLS)}")
    model, tokenizer = load(run, device, best=best)
    _manifest(run)  # an unfinished run is refused before anything is encoded
    return model, PairData(data, split, tokenizer, model.config, read_config(run / "config.yaml").train.views)


def _measure(run: Path, data: Path, pairs: PairData, image_features: Tensor, text_features: Tensor, protocol: str,
             about: dict) -> dict:
    try:
        measured = retrieval.evaluate(
            image_features, text_features, texts=pairs.table["report"].tolist(), labels=pairs.table["labels"].tolist(),
            clusters=pairs.table["patient_id"].tolist(), protocol=protocol)
    except ValueError as error:  # a protocol that these data cannot serve
        raise RunError(f"{data}, split {about['split']}: {error}") from None
    result = measured | {
        "run": run.name, "views": pairs.views, "modality_gap": modality_gap(image_features, text_features),
        "data": describe_data(data), "training": read_manifest(run)} | about
    write_json(run / "metrics.json", result)
    return result


def data_of(run: Path) -> Path:
    """The data set folder a run was trained on. Raises RunError if it is no longer there."""
    data = Path(_manifest(run)["data_folder"])
    if not data.is_dir():
        raise RunError(f"{run} was trained on {data}, which is not there any more: give the data set with --data DIR")
    return data


def _manifest(run: Path) -> dict:
    path = Path(run) / "manifest.json"
    if not path.exists():
        raise RunError(f"{run}: no finished run here (no manifest.json); an interrupted one goes on with the same "
                       "train command and --resume")
    return json.loads(path.read_text())


def read_manifest(run: Path) -> dict:
    """What a run's manifest says of its training: profile, seed, steps, seconds, parameters, precision, memory."""
    manifest = _manifest(run)
    keys = ("profile", "seed", "steps", "training_seconds", "training_pairs", "parameters", "precision",
            "peak_memory_bytes", "command")
    return {key: manifest[key] for key in keys}


@torch.inference_mode()
def encode_query(model: MCR, tokenizer, *, text: str | None = None, image: Path | None = None) -> Tensor:
    """One sentence or one image file → a unit vector (common_dim,). Raises RunError for a query that is none."""
    device = next(model.parameters()).device
    if image is not None:
        try:
            pixels = images.letterbox(images.read_gray(Path(image)), store_size(model.config.img_size))
        except images.ImageError as error:
            raise RunError(f"{image}: {error}") from None
        pixels = torch.tensor(pixels)[None, None].to(device)  # scaled there, as the index's images are
        x = prepare_images(pixels, model.config.img_size, model.config.in_chans)
        return model.encode_image(x)[0].cpu()
    if not text or not text.strip():
        raise RunError("the query is empty; write a few words of a report")
    input_ids = torch.from_numpy(tokenize(tokenizer, [text], model.config.max_text_length, 0.5)[0])[None].to(device)
    return model.encode_text(input_ids, torch.ones_like(input_ids))[0].cpu()


def weights_sha256(run: Path, best: bool = False) -> str:
    """SHA-256 of the newest (or best) checkpoint's weights: the model's name in indexes and result files."""
    path = checkpoint.best(Path(run) / "checkpoints") if best else checkpoint.newest(Path(run) / "checkpoints")[0]
    return data_folder.file_sha256(path / "model.safetensors")


def describe_data(data: Path) -> dict:
    """Name, whether it is synthetic, and SHA-256 of a data set folder: what a result file says of its data."""
    about = data_folder.read_json(Path(data) / "dataset.json")
    return {key: about[key] for key in ("name", "synthetic", "text_policy", "sha256")}


@cache
def commit() -> str | None:
    """The commit this code is of, `-dirty` if it differs: as it was at the first call, since what a process has loaded
    stays what it was when the checkout moves on. None outside git."""
    git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=Path(__file__).parent.parent,
                         capture_output=True, text=True)
    return git.stdout.strip() or None


def provenance(command: str | None = None) -> dict:
    """What a result file must say about where it came from: command, commit, versions, hardware, time."""
    packages = ("torch", "torchvision", "timm", "transformers", "tokenizers", "numpy")
    return {
        "command": command, "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "hardware": {"cpus": images.cores(), "machine": platform.machine(), "cpu": cpu_name(),
                     "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: CUDA's allocator peak, or on the CPU the most this process was ever resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def make_tokenizer(config: RunConfig, table):
    """The tokenizer of `text_weights`, or one trained on the reports of the table's split `train`."""
    if config.model.text_weights:
        return load_tokenizer(config.model.text_weights)
    reports = table.loc[table["split"] == "train", "report"]
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(reports, config.model.vocab_size, Path(folder))


def with_vocabulary(config: RunConfig, tokenizer) -> RunConfig:
    """The configuration with the tokenizer's vocabulary size and special tokens."""
    special = tuple(sorted(set(tokenizer.all_special_ids), key=lambda i: (i != tokenizer.pad_token_id, i)))
    model = config.model.model_copy(update={
        "vocab_size": len(tokenizer), "special_token_ids": special, "mask_token_id": tokenizer.mask_token_id})
    return config.model_copy(update={"model": model})


def begun(run: Path, data: Path, asked: RunConfig) -> RunConfig:
    """The configuration of a run that was begun. Raises RunError if that was on other data, ConfigError if what is
    asked for differs in anything but the vocabulary. Into how many parts a step is cut may change: its gradient stays
    the same."""
    stored, before, now = read_config(run / "config.yaml"), run / "data.json", describe_data(data)
    if before.exists() and (other := data_folder.read_json(before))["sha256"] != now["sha256"]:
        raise RunError(f"{run} was begun on other data than {data} is now ({other['name']}, SHA-256 "
                       f"{other['sha256'][:12]}, now {now['sha256'][:12]}): name another folder for a new run")
    for part in ("model", "train"):
        a, b = getattr(stored, part).model_dump(), getattr(asked, part).model_dump()
        for key in a.keys() - {"vocab_size", "special_token_ids", "mask_token_id", "accumulation"}:
            if a[key] != b[key]:
                raise ConfigError(f"{run} was started with {key}={a[key]!r}, now it is {b[key]!r}; "
                                  "resume with the same settings, or start another run")
    train = stored.train.model_copy(update={"accumulation": asked.train.accumulation})
    return stored.model_copy(update={"train": train})
