"""mcr_lib: Masked Contrastive Reconstruction (arXiv 2312.15840), the model and what one does with it.

This file only names the front door. Importing it is cheap: torch, timm and transformers are loaded when
one of the names below is first used.
"""

import importlib

_HOME = {
    "MCRConfig": "config", "TrainConfig": "config", "MCR": "model", "MCROutput": "model", "Batch": "model",
    "Trainer": "trainer", "load": "run_folder", "Index": "retrieval",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mcr_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mcr_lib.{_HOME[name]}"), name)
