"""A finished run for other people's code: config.json and model.safetensors, as the hub has them, tokenizer, numbers of
the preparation, a model card, ONNX of both encoders. Not here: reading it (encoder.py)."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from data_prep import own_files, run_files

from .encoder import NUMBERS, numbers, render_text
from .engine.checkpoint import weights_sha256
from .model import MCR
from .paper import PAPER
from .run import load_run


def export_run(run: Path, out: Path, *, best: bool = False, onnx: bool = False) -> None:
    """Write the folder `out`, which is new, whole or not at all. Raises RunError, CheckpointError."""
    run, out = Path(run), Path(out)
    manifest, metrics = run_files.read_manifest(run), run_files.read_metrics(run)
    if out.exists() and any(out.iterdir()):
        raise run_files.RunError(f"{out} holds other files: choose a new folder for --out")
    if onnx and not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        raise run_files.RunError("ONNX needs two packages: pip install --editable '.[onnx]'")
    (model, tokenizer), weights = load_run(run, best=best), weights_sha256(run, best)
    about = {"run": run.name, "weights": weights, "best": best, "onnx": onnx, "paper": PAPER}
    about |= {"config": model.config, "manifest": manifest}
    if metrics and metrics.weights_sha256 == weights:  # else they are another checkpoint's
        about["metrics"] = metrics
    with own_files.atomic_folder(out) as beside:
        (beside / "README.md").write_text(render_text("model_card.md", **about), encoding="utf-8")
        (beside / NUMBERS).write_text(numbers(model.config, tokenizer), encoding="utf-8")
        tokenizer.save_pretrained(beside)
        model.save_pretrained(beside)
        for name, side, inputs, axes in sides(model) if onnx else ():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the names of axes
                large = sum(x.nbytes for x in side.parameters()) > 2**30  # a file holds 2 GB
                how = {"dynamic_shapes": axes, "external_data": large, "verbose": False}
                file = beside / f"{name}.onnx"
                torch.onnx.export(side, f=file, kwargs=inputs, output_names=["features"], **how)


def sides(model: MCR) -> Iterator[tuple[str, nn.Module, dict, dict]]:
    """Both sides for torch.export: name, a module of its own, inputs to trace it by, and the axes of
    these that may change."""
    config, N, T = model.config, torch.export.Dim("N"), torch.export.Dim("T")
    images = torch.zeros(2, config.in_chans, config.img_size, config.img_size)
    ids = torch.full((2, 8), config.mask_token_id)
    texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    by_length = {key: {0: N, 1: T} for key in texts}
    for name, encode, inputs, axes in (
        ("image", model.encode_image, {"images": images}, {"images": {0: N}}),
        ("text", model.encode_text, texts, by_length),
    ):
        side = nn.Module()
        side.model, side.forward = model, encode
        yield name, side.eval(), inputs, axes
