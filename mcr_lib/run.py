"""A run: from a data set folder and a configuration to a run folder, begun or gone on with; and loaded again.

Not here: the model, the loop (trainer.py), the folder's files (engine/run_folder.py, engine/checkpoint.py)."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_prep import folder as data_folder
from data_prep import run_files
from data_prep.folder import describe_data, write_json
from data_prep.machine import without_home
from data_prep.provenance import commit, peak_memory, provenance
from data_prep.run_files import RunError

from . import linear, retrieval
from .config import MCRConfig, RunConfig, read_config
from .data import PairData, TrainBatches, usable_rows
from .engine import checkpoint, distributed, pretrained, run_folder
from .engine.precision import precision_name
from .features import encode_pairs, picture_hashes
from .model import MCR
from .tokenizer import load_tokenizer, make_tokenizer, vocabulary_sha256, with_vocabulary
from .trainer import Trainer

VALIDATED = 1024  # pairs looked at when a checkpoint is written: seconds, so that the best is kept


def train_run(
    data, run, config: RunConfig, *, device, resume=False, callbacks=(), command=None, kind=MCR
) -> Trainer:
    """Train a model on the `train` split of a data set folder and leave a run folder. With
    `resume`, go on from the newest whole checkpoint; the configuration must be the one of the run.
    At each checkpoint the rsum of VALIDATED pairs of the split `validate` is measured, and the best
    one kept. Started by torchrun, all processes call this alike; the first one writes. `kind`: MCR
    or a subclass with another loss. Raises RunError, ConfigError, DataError, CheckpointError, TrainingStopped."""
    commit()  # before the hours in which the checkout may move on
    data, run = Path(data), Path(run)
    config, tokenizer, trainer = distributed.run_everywhere(
        lambda: _prepare(data, run, config, resume, device, callbacks, kind)
    )

    def begin() -> None:
        held.enter_context(run_files.hold_folder(run))
        if not resume:
            run_folder.begin(run, data, config, tokenizer)

    def write_manifest() -> None:
        content = provenance(command) | describe_training(trainer, config, data)
        content["vocabulary_sha256"] = vocabulary_sha256(tokenizer)
        content["weights_sha256"] = checkpoint.weights_sha256(run)
        seen = picture_hashes(trainer.batches.data)
        if config.train.start_from:
            older = Path(config.train.start_from)
            seen = np.union1d(seen, run_files.read_pictures(older, run_files.read_manifest(older)))
        content["files"] = run_files.keep_pictures(run, seen)
        write_json(run / "manifest.json", content)

    with ExitStack() as held:
        distributed.run_on_main(begin)
        if resume:
            for line in [*trainer.resume(), f"resumed at step {trainer.step}"]:
                distributed.notice_once(line)
            done = trainer.step == trainer.batches.total_steps
            if done and distributed.run_on_main((run / "manifest.json").exists):
                return trainer  # its manifest says when and by what it was trained
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.fit()
        distributed.run_on_main(write_manifest)
    return trainer


def load_run(run: Path | str, device: torch.device | str = "cpu", *, best=False, kind=MCR):
    """A trained model in evaluation mode and its tokenizer, from a run folder. The newest
    checkpoint, or the one with the best validation. Raises RunError, CheckpointError."""
    run = Path(run)
    run_files.check_begun(run)
    config = read_config(run / "config.yaml")
    tokenizer = _own_tokenizer(run, config)
    path, _, skipped = checkpoint.find(run, best)
    for line in skipped:
        distributed.notice_once(line)
    return load_weights(path, config.model, kind).to(device).eval(), tokenizer


def load_weights(folder: Path, config: MCRConfig, kind=MCR) -> MCR:
    """The model of a folder's model.safetensors, whole. Raises CheckpointError if it does not fit."""
    with torch.device("meta"):  # no memory for sizes that the file does not have
        checkpoint.check_sizes(folder, kind(config))
    model = kind(config)
    checkpoint.load_model(folder, model)
    return model


def _own_tokenizer(run: Path, config: RunConfig):
    """The run's tokenizer, as it was when the run began. Raises RunError, ConfigError, DataError."""
    run_files.check_tokenizer(run)
    tokenizer = load_tokenizer(run / "tokenizer", local=True)
    if with_vocabulary(config, tokenizer) != config:
        raise RunError(f"{run}: config.yaml and tokenizer/ name other vocabularies: restore them")
    return tokenizer


def _start_tokenizer(config: RunConfig, table):
    """The tokenizer of the finished run that training starts from, else a new one."""
    if config.train.start_from is None:
        return make_tokenizer(config, table)
    older = Path(config.train.start_from)
    run_files.read_manifest(older)
    return _own_tokenizer(older, read_config(older / "config.yaml"))


def build_model(config: RunConfig, kind=MCR) -> MCR:
    """The model as training finds it: a function of the seed and of the weights to start from."""
    torch.manual_seed(config.train.seed)
    model, images, texts = kind(config.model), config.model.image_weights, config.model.text_weights
    model.pretrained = {}  # what came from where, for the manifest
    if config.train.start_from:
        older = Path(config.train.start_from)
        model = load_weights(checkpoint.find(older, best=False)[0], config.model, kind)
        model.pretrained = {"start_from": checkpoint.weights_sha256(older)}
        return model
    if images:
        model.pretrained["image"] = pretrained.load_vit(model.image_encoder.vit, images)
    if texts:
        model.pretrained["text"] = pretrained.load_bert(model.report_encoder.bert, texts)
    return model


def describe_training(trainer: Trainer, config: RunConfig, data: Path) -> dict:
    """What the manifest says of a finished training."""
    return {
        "profile": config.profile,
        "seed": config.train.seed,
        "data": describe_data(data),
        "data_folder": without_home(str(data.resolve())),
        "pretrained": trainer.model.pretrained,
        "training_pairs": len(trainer.batches.data),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.step,
        "processes": distributed.world_size(),
        "training_seconds": round(trainer.seconds, 3),
        "peak_memory_bytes": peak_memory(trainer.device),
        "precision": precision_name(trainer.autocast_dtype),
    }


def _prepare(data: Path, run: Path, config: RunConfig, resume: bool, device, callbacks, kind):
    """→ resolved configuration, tokenizer, trainer at step 0. Writes nothing to the run folder."""
    table, begun = data_folder.read(data), (run / "config.yaml").exists()
    if resume and not begun:
        raise RunError(f"{run}: nothing to resume (no config.yaml); train without --resume first")
    if resume:
        config = run_folder.check_resumable(run, data, config)
        tokenizer = _own_tokenizer(run, config)
    else:
        run_files.check_new(run)
        tokenizer = _start_tokenizer(config, table)
        config = with_vocabulary(config, tokenizer)
    model = build_model(config, kind)
    pairs = PairData(data, "train", tokenizer, config.model, config.train.views)
    if config.model.encoders == "linear" and not resume:  # --from: anew, in the older words
        linear.fit(model, pairs, config.train.seed)
    batches = TrainBatches(pairs, config.train, device)
    _warn(pairs, table, config)
    validate = None
    if len(usable_rows(table, "validate", config.train.views)) >= 2:
        watched = PairData(data, "validate", tokenizer, config.model, config.train.views)
        validate = partial(_validate, model, watched, device)
    else:
        distributed.notice_once(f"{data}: no pairs to validate with, so no checkpoint is the best")
    how = {"run": run, "device": device, "callbacks": callbacks, "validate": validate}
    return config, tokenizer, Trainer(model, batches, config.train, **how)


def _warn(pairs: PairData, table, config: RunConfig) -> None:
    """Say what makes a run worse than it need be."""
    batch_size, longest = config.train.batch_size, config.model.max_text_length
    if len(pairs) < batch_size and config.train.steps != 0:  # 0: fitted to all at once
        why = "a pair stands in a step several times and counts as its own wrong answer"
        few = f"{len(pairs)} pairs to train on, fewer than batch_size={batch_size}"
        distributed.notice_once(f"{few}: {why}; give --set batch_size={len(pairs)}, or less")
    if others := len(usable_rows(table, "train", "all")) - len(pairs):
        distributed.notice_once(f"{others} lateral pairs left out; --set views=all takes them")
    if (full := (pairs.lengths == longest).mean()) >= 0.01:
        cut = f"{full:.0%} of the reports fill {longest} tokens and end there"
        distributed.notice_once(f"{cut}; --set max_text_length=… keeps more")


def _validate(model: MCR, pairs: PairData, device: torch.device) -> float:
    """rsum, 0–600, of the first VALIDATED pairs, whole input; NaN where the features are."""
    images, texts = encode_pairs(model, pairs, device, rows=np.arange(min(len(pairs), VALIDATED)))
    if not (images.isfinite().all() and texts.isfinite().all()):
        return float("nan")
    table = pairs.table[:VALIDATED]
    return distributed.run_on_main(
        lambda: retrieval.evaluate_pairs(images, texts, table, n_bootstrap=0)["rsum"]
    )
