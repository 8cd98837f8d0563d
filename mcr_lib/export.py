"""A finished run for other people's code: the hub's layout, a model card filled from the run, ONNX of both encoders.

    config.json  model.safetensors                   what MCR.from_pretrained reads
    tokenizer files  preprocessor_config.json        what Encoder reads as well
    README.md                                        the model card
    image.onnx  text.onnx                            if asked for; they take what the model's encode_… take

Not here: reading it (encoder.py)."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from data_prep import own_files, run_files

from .encoder import NUMBERS, numbers
from .engine.checkpoint import weights_sha256
from .markup import render_text
from .model import MCR
from .paper import PAPER
from .run import load_run


class Side(nn.Module):
    """One side of a model as a module of its own, for torch.export: `encode` is its forward."""

    def __init__(self, model: MCR, encode: Callable):
        super().__init__()
        self.model, self.forward = model, encode


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
                how = {"dynamic_shapes": axes, "external_data": False, "verbose": False}
                file = beside / f"{name}.onnx"
                torch.onnx.export(side, f=file, kwargs=inputs, output_names=["features"], **how)


def sides(model: MCR) -> list[tuple[str, Side, dict, dict]]:
    """Both sides: name, module, inputs to trace it by, and the axes of these that may change."""
    config, N, T = model.config, torch.export.Dim("N"), torch.export.Dim("T")
    images = torch.zeros(2, config.in_chans, config.img_size, config.img_size)
    ids = torch.full((2, 8), config.mask_token_id)
    texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return [
        ("image", Side(model, model.encode_image).eval(), {"images": images}, {"images": {0: N}}),
        (
            "text",
            Side(model, model.encode_text).eval(),
            texts,
            {key: {0: N, 1: T} for key in texts},
        ),
    ]
