"""A finished run for other people's code: the hub's layout, a model card filled from the run, ONNX of both encoders.

    config.json  model.safetensors     MCR.from_pretrained reads these
    tokenizer.json  tokenizer_config.json  preprocessor_config.json     and Encoder these as well
    README.md                          the model card
    image.onnx  text.onnx              if asked for: inputs as `encode_image` and `encode_text` take them

Not here: reading it (encoder.py)."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from data_prep import own_files, run_files
from data_prep.run_files import RunError

from .encoder import NUMBERS, numbers
from .engine import checkpoint
from .markup import TEMPLATES
from .model import MCR
from .paper import PAPER
from .run import load_run

ONNX_NEEDS = ("onnx", "onnxscript")


class Images(nn.Module):
    """The image side as a module of its own, for torch.export."""

    def __init__(self, model: MCR):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) normalised → unit vectors (N, common_dim)."""
        return self.model.encode_image(images)


class Texts(Images):
    """The text side as a module of its own."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask (N, T) → unit vectors (N, common_dim)."""
        return self.model.encode_text(input_ids, attention_mask)


def export_run(run: Path, out: Path, *, best: bool = False, onnx: bool = False) -> None:
    """Write the folder `out`, which is new, whole or not at all. Raises RunError, CheckpointError."""
    run, out = Path(run), Path(out)
    run_files.check_begun(run)
    manifest, metrics = run_files.read_manifest(run), run_files.read_metrics(run)
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out} holds other files: choose an empty or new folder for --out")
    missing = [name for name in ONNX_NEEDS if importlib.util.find_spec(name) is None]
    if onnx and missing:
        raise RunError(f"ONNX needs {', '.join(missing)}: pip install --editable '.[onnx]'")
    (model, tokenizer), weights = load_run(run, best=best), checkpoint.weights_sha256(run, best)
    if metrics and metrics.weights_sha256 != weights:
        metrics = None  # of another checkpoint
    with own_files.atomic_folder(out) as beside:
        card = TEMPLATES.overlay(autoescape=False).get_template("model_card.md")
        values = {"run": run.name, "weights": weights, "best": best, "onnx": onnx, "paper": PAPER}
        text = card.render(
            values, config=model.config, manifest=manifest, metrics=metrics, model=model
        )
        (beside / "README.md").write_text(text, encoding="utf-8")
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        own_files.write_json(beside / NUMBERS, numbers(model.config, tokenizer))
        if onnx:
            write_onnx(model, beside)


def example_inputs(model: MCR) -> dict[nn.Module, tuple[dict, dict]]:
    """Both sides with inputs to trace them by, and which axes of these may change."""
    config, N, T = model.config, torch.export.Dim("N"), torch.export.Dim("T")
    images = torch.zeros(2, config.in_chans, config.img_size, config.img_size)
    ids = torch.full((2, 8), config.special_token_ids[-1])
    by_length = {0: N, 1: T}
    return {
        Images(model).eval(): ({"images": images}, {"images": {0: N}}),
        Texts(model).eval(): (
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            {"input_ids": by_length, "attention_mask": by_length},
        ),
    }


def write_onnx(model: MCR, folder: Path) -> None:
    """image.onnx and text.onnx, of any batch size and length. Their output is unit vectors (N, common_dim)."""
    for side, (inputs, axes) in example_inputs(model).items():
        name = type(side).__name__.lower().removesuffix("s")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names for axes
            torch.onnx.export(
                side,
                kwargs=inputs,
                f=folder / f"{name}.onnx",
                dynamo=True,
                dynamic_shapes=axes,
                output_names=[f"{name}_features"],
                external_data=False,
                verbose=False,
            )
