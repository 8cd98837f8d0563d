"""mcr_lib: Masked Contrastive Reconstruction (arXiv 2312.15840), the model and what one does with it.

The method in reading order: config, masking, encoders, heads, decoders, losses, model, tokenizer, data, trainer,
features, run. This file only names the front door. Importing it is cheap: torch, timm and transformers are loaded
when one of the names below is first used."""

import importlib

_HOME = {
    "MCRConfig": "config.MCRConfig",
    "TrainConfig": "config.TrainConfig",
    "MCR": "model.MCR",
    "MCROutput": "model.MCROutput",
    "Batch": "model.Batch",
    "Trainer": "trainer.Trainer",
    "load": "encoder.load",
    "Encoder": "encoder.Encoder",
    "Index": "index.Index",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mcr_lib' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(".")
    return getattr(importlib.import_module(f"mcr_lib.{module}"), attribute)
