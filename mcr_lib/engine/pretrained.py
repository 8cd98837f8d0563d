"""Starting from other people's weights: timm's for E_v, transformers' for E_r. All of an encoder or nothing.

Every tensor of the encoder comes from the source, or the source is refused in one line; nothing is filled in with
random numbers, and no code of the source is run. Not here: a run's own weights (checkpoint.py)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import timm
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from transformers import AutoConfig, BertModel
from transformers.utils import logging as transformers_logging

from ..config import ConfigError

MUST_AGREE = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps")


def load_vit(vit: VisionTransformer, source: str) -> dict:
    """Load a timm model name, a folder with model.safetensors, or a .safetensors file into `vit`; →
    what the manifest says of it. RGB patch embeddings are summed for one-channel input, and
    position embeddings resized, as timm does it. Raises ConfigError when the weights cannot be had or do not fit."""
    try:
        state = _read_image_weights(source)
    except Exception as error:
        raise ConfigError(
            f"image_weights: {source!r} cannot be loaded ({type(error).__name__}); give a local "
            "folder with model.safetensors, or a timm model name with network"
        ) from error
    weight = "patch_embed.proj.weight"
    try:
        state = checkpoint_filter_fn(state, vit)
        if state[weight].shape[1] == 3 and vit.patch_embed.proj.in_channels == 1:
            state[weight] = state[weight].sum(1, keepdim=True)
        vit.load_state_dict(state)
    except (RuntimeError, KeyError, AssertionError) as error:
        raise _does_not_fit("image_weights", source, error) from None
    return _describe(vit, source)


def load_bert(bert: BertModel, source: str) -> dict:
    """Load a local transformers folder or a hub name into `bert`; → as `load_vit`. Raises ConfigError when the
    weights cannot be had, are another architecture's, or do not fit."""
    verbosity = transformers_logging.get_verbosity()
    try:
        place = os.path.expanduser(source)
        theirs = AutoConfig.from_pretrained(place, trust_remote_code=False)
        transformers_logging.set_verbosity_error()  # what it would tell is checked below
        loaded, report = BertModel.from_pretrained(
            place, add_pooling_layer=False, output_loading_info=True
        )
    except Exception as error:
        raise ConfigError(
            f"text_weights: {source!r} cannot be loaded ({type(error).__name__}); give a local "
            "folder with config.json and model.safetensors, or a hub name with network"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    for name in MUST_AGREE:
        given, own = getattr(theirs, name, None), getattr(bert.config, name)
        if given != own:
            raise ConfigError(
                f"text_weights: {source!r} has {name}={given!r}, this report encoder {own!r}; only "
                "BERT models of the same shape can be loaded"
            )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"text_weights: {source!r} lacks {len(missing)} of the encoder's tensors, first "
            f"{missing[0]}; save the bare BERT model there with save_pretrained"
        )
    try:
        bert.load_state_dict(loaded.state_dict())
    except RuntimeError as error:
        raise _does_not_fit("text_weights", source, error) from None
    return _describe(bert, source)


def _describe(encoder: nn.Module, source: str) -> dict:
    """Where an encoder's tensors come from, how many they are, SHA-256 of their names and values."""
    digest, tensors = hashlib.sha256(), encoder.state_dict()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return {"source": source, "tensors": len(tensors), "sha256": digest.hexdigest()}


def _read_image_weights(source: str) -> dict[str, Tensor]:
    """A ViT's tensors by timm's names, without its classifier."""
    path = Path(source).expanduser()
    path = path / "model.safetensors" if path.is_dir() else path
    if path.suffix == ".safetensors" or path.exists():
        state = load_file(path)
    else:
        state = timm.create_model(source, pretrained=True, num_classes=0).state_dict()
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {name: state[name] for name in state if not name.startswith(("head", "fc_norm"))}


def _does_not_fit(key: str, source: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:300]
    return ConfigError(f"{key}: {source!r} does not fit this encoder: {reason}")
