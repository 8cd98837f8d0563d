"""Starting from other people's weights: timm's for E_v, transformers' for E_r. All of an encoder or nothing.

Every tensor of the encoder comes from the source, or the source is refused in one line; nothing is filled in with
random numbers, and no code of the source is run. Not here: a run's own weights (checkpoint.py)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from transformers import AutoConfig, BertModel
from transformers.utils import logging

from data_prep import own_files

from ..config import ConfigError

MUST_AGREE = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "is_decoder")


def load_vit(vit: VisionTransformer, source: str) -> dict:
    """Load a timm model name, a folder with model.safetensors, or a .safetensors file into `vit`; →
    what the manifest says of it. RGB patch embeddings are summed for one-channel input; for another
    patch size or resolution they and the positions are resized, as timm does it. Raises ConfigError
    when the weights cannot be had or do not fit."""
    with _reading("image_weights", source, "model.safetensors, or a timm model name with network"):
        state, theirs = _read_image_weights(source)
    weight = "patch_embed.proj.weight"
    try:
        state = checkpoint_filter_fn(state, vit)
        if state[weight].shape[1] == 3 and vit.patch_embed.proj.in_channels == 1:
            state[weight] = state[weight].sum(1, keepdim=True)
        vit.load_state_dict(state)
    except (RuntimeError, KeyError, AssertionError) as error:
        raise _does_not_fit("image_weights", source, _difference(vit, state) or error) from None
    if theirs is not None and _unseen(theirs) != _unseen(vit):
        reason = f"it has {_unseen(theirs)}; the encoder {_unseen(vit)}"
        raise _does_not_fit("image_weights", source, reason)
    return _describe("image_weights", vit, source)


def load_bert(bert: BertModel, source: str) -> dict:
    """Load a local transformers folder or a hub name into `bert`; → as `load_vit`. Raises ConfigError when the
    weights cannot be had, are another architecture's, or do not fit."""
    place, key = os.path.expanduser(source), "text_weights"
    what = "config.json and model.safetensors, or a hub name with network"
    with _reading(key, source, what):
        theirs = AutoConfig.from_pretrained(place, trust_remote_code=False)
    for name in MUST_AGREE:
        given, own = getattr(theirs, name, None), getattr(bert.config, name)
        if given != own:
            only = "only BERT models of the same shape can be loaded"
            reason = f"has {name}={given!r}, this report encoder {own!r}"
            raise ConfigError(f"{key}: {source!r} {reason}; {only}")
    with _reading(key, source, what):
        how = {"add_pooling_layer": False, "output_loading_info": True}
        loaded, report = BertModel.from_pretrained(place, **how)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"text_weights: {source!r} lacks {len(missing)} of the encoder's tensors, first "
            f"{missing[0]}; save the bare BERT model there with save_pretrained"
        )
    more = [name for name in report["unexpected_keys"] if ".attention." in name]  # not a head
    try:
        bert.load_state_dict(loaded.state_dict() | dict.fromkeys(more))
    except RuntimeError as error:
        raise _does_not_fit(key, source, error) from None
    return _describe(key, bert, source)


@contextmanager
def _reading(key: str, source: str, what: str) -> Iterator[None]:
    """What goes wrong in the block is a ConfigError. What transformers would tell is checked later."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # the libraries have many kinds
        reason = f"cannot be loaded ({type(error).__name__}); give a local folder with {what}"
        raise ConfigError(f"{key}: {source!r} {reason}") from error
    finally:
        logging.set_verbosity(verbosity)


def _describe(key: str, encoder: nn.Module, source: str) -> dict:
    """Where an encoder's tensors come from, how many they are, SHA-256 of their names and values."""
    digest, tensors = hashlib.sha256(), encoder.state_dict()
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise _does_not_fit(key, source, f"not every number of {name} is finite")
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return {"source": source, "tensors": len(tensors), "sha256": digest.hexdigest()}


def _read_image_weights(source: str) -> tuple[dict[str, Tensor], nn.Module | None]:
    """A ViT's tensors by timm's names, without its classifier; and the model they are of, if the
    config.json that timm leaves beside them names it."""
    path, theirs = Path(source).expanduser(), None
    path = path / "model.safetensors" if path.is_dir() else path
    if path.suffix == ".safetensors" or path.exists():
        state, about = load_file(path), path.with_name("config.json")
        made = own_files.read_json(about, "restore it") if about.exists() else {}
        if timm.is_model(made.get("architecture", "")):
            with torch.device("meta"):
                theirs = timm.create_model(made["architecture"], **made.get("model_args", {}))
    else:
        theirs = timm.create_model(source, pretrained=True, num_classes=0)
        state = theirs.state_dict()
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    kept = [name for name in state if not name.startswith(("head", "fc_norm"))]
    return {name: state[name] for name in kept}, theirs


def _unseen(vit: VisionTransformer) -> str:
    """What the tensors of a ViT do not show."""
    attention, mlp, norm = vit.blocks[0].attn, vit.blocks[0].mlp, vit.blocks[0].norm1
    return f"{attention.num_heads} heads, {type(mlp.act).__name__}, eps {norm.eps}"


def _difference(vit: VisionTransformer, state: dict[str, Tensor]) -> str:
    """In words what one ViT has and the other lacks, such as register or distillation tokens."""
    own = vit.state_dict().keys()
    more, less = sorted(state.keys() - own), sorted(own - state.keys())
    told = f"it has {len(more)} tensors more {more[:3]} and {len(less)} fewer {less[:3]}"
    return told if more or less else ""


def _does_not_fit(key: str, source: str, error: Exception | str) -> ConfigError:
    reason = " ".join(str(error).split())[:300]
    return ConfigError(f"{key}: {source!r} does not fit this encoder: {reason}")
