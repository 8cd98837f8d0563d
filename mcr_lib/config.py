"""Every number one may choose, with its unit and default: the model (MCRConfig) and its training (TrainConfig).

Not here: why a default was chosen (that stands in `paper.py`), and anything computed. Unknown keys and values
out of range are refused with one line. An arm of the study is data: two keys, `framework` and `alignment`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type or out of range; the message is one readable line."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


class MCRConfig(_Strict):
    """The model: which arm, the two encoders, the common space, the decoders, the three losses."""

    # the arm
    framework: Literal["mcr", "two-stream", "contrastive", "contrastive-masked"] = "mcr"
    alignment: Literal["mba", "abm"] = "mba"  # Mapping before Aggregation, or Aggregation before Mapping
    projection: Literal["mlp", "linear"] = "mlp"
    pooling: Literal["mean", "attention", "max"] = "mean"
    # masking
    mask_ratio: float = Field(0.5, ge=0, lt=1)  # share of image patches removed
    mlm_probability: float = Field(0.25, ge=0, lt=1)  # share of report tokens replaced by [MASK]
    # image encoder E_v (a timm vision transformer)
    img_size: int = Field(224, ge=16)
    patch_size: int = Field(16, ge=4)
    in_chans: Literal[1, 3] = 1
    embed_dim: int = Field(768, ge=8)
    depth: int = Field(12, ge=1)
    num_heads: int = Field(12, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    image_weights: str | None = None  # timm model name or local folder / .safetensors file; None: random
    # report encoder E_r (a transformers BERT)
    vocab_size: int = Field(30522, ge=64)  # the most a tokenizer trained on the data may have; then what it has
    text_embed_dim: int = Field(768, ge=8)
    text_depth: int = Field(12, ge=1)
    text_num_heads: int = Field(12, ge=1)
    max_text_length: int = Field(128, ge=8)  # tokens, [CLS] and [SEP] among them
    text_weights: str | None = None  # hub name or local folder; None: random
    special_token_ids: tuple[int, ...] = (0, 100, 101, 102, 103)  # [PAD] [UNK] [CLS] [SEP] [MASK]
    mask_token_id: int = 103
    dropout: float = Field(0.0, ge=0, lt=1)
    # common space
    common_dim: int = Field(512, ge=2)
    temperature: float = Field(0.07, gt=0)  # at the start; it is learned
    # decoders D_v and D_r
    decoder_embed_dim: int = Field(512, ge=8)
    decoder_depth: int = Field(4, ge=1)
    decoder_num_heads: int = Field(8, ge=1)
    text_decoder_depth: int = Field(1, ge=1)
    norm_pix: bool = True  # targets of L_mim normalised patch by patch
    # weights of L_vrc, L_mim, L_mrm
    contrastive_weight: float = Field(1.0, ge=0)
    image_reconstruction_weight: float = Field(1.0, ge=0)
    text_reconstruction_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _sizes_fit(self):
        for size, by in (("img_size", "patch_size"), ("embed_dim", "num_heads"),
                         ("text_embed_dim", "text_num_heads"), ("decoder_embed_dim", "decoder_num_heads")):
            if getattr(self, size) % getattr(self, by):
                raise ValueError(f"{size}={getattr(self, size)} is not a multiple of {by}={getattr(self, by)}")
        return self

    @property
    def num_patches(self) -> int:
        return (self.img_size // self.patch_size) ** 2

    @property
    def reconstructs(self) -> bool:
        """Whether the arm has the two reconstruction tasks."""
        return self.framework in ("mcr", "two-stream")

    @property
    def contrast_is_masked(self) -> bool:
        """Whether the contrastive task sees masked data (MCR, Fig. 1b) or whole data (two-stream, Fig. 1a)."""
        return self.framework in ("mcr", "contrastive-masked")


class TrainConfig(_Strict):
    """The training: data order, optimiser, schedule, precision, how often to log and to save."""

    seed: int = Field(0, ge=0, lt=2**31)
    batch_size: int = Field(256, ge=2)  # pairs per step, over all processes
    accumulation: int = Field(1, ge=1)  # parts each process cuts its pairs into: less memory, same gradient, slower
    epochs: float = Field(50, gt=0)
    steps: int | None = Field(None, ge=1)  # overrides epochs
    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = Field(0.05, ge=0, lt=1)  # share of the steps
    clip_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"  # auto: bf16 where it is faster than float32
    compile: bool = False
    augment: bool = True
    views: Literal["frontal", "all"] = "frontal"
    log_every: int = Field(20, ge=1)  # steps
    checkpoint_every: int = Field(500, ge=1)  # steps


class RunConfig(_Strict):
    """What `config.yaml` of a run folder holds."""

    profile: str
    model: MCRConfig
    train: TrainConfig


_SMALL = dict(in_chans=1, common_dim=128, temperature=0.07)
PROFILES: dict[str, dict] = {
    # seconds: does everything run?
    "smoke": dict(_SMALL, img_size=64, patch_size=16, embed_dim=48, depth=2, num_heads=3, text_embed_dim=48,
                  text_depth=1, text_num_heads=3, max_text_length=96, common_dim=32, decoder_embed_dim=48,
                  decoder_depth=1, decoder_num_heads=3, batch_size=32, steps=30, learning_rate=1e-3,
                  vocab_size=512, log_every=5, checkpoint_every=15),
    # two CPU cores, minutes: a model that retrieves
    "demo": dict(_SMALL, img_size=128, patch_size=16, embed_dim=128, depth=4, num_heads=4, text_embed_dim=128,
                 text_depth=1, text_num_heads=4, max_text_length=64, decoder_embed_dim=64, decoder_depth=1,
                 decoder_num_heads=2, pooling="max", batch_size=64, steps=1500, learning_rate=1e-3, augment=False,
                 vocab_size=1024, log_every=10, checkpoint_every=200),
    # one H200 or several GPUs: ViT-B/16 at 224 and BERT-base, the defaults above
    "base": dict(compile=True),
}


def resolve(profile: str, settings: dict | None = None) -> RunConfig:
    """The full configuration of a run: a profile's numbers, then `settings` by key name, on top of the defaults.

    Raises ConfigError for an unknown profile or key and for a value that does not fit.
    """
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}; there are: {', '.join(PROFILES)}")
    chosen = {**PROFILES[profile], **(settings or {})}
    if "epochs" in (settings or {}) and "steps" not in settings:
        chosen["steps"] = None  # the profile's steps would win
    known = {**TrainConfig.model_fields, **MCRConfig.model_fields}
    for key in chosen:
        if key not in known:
            raise ConfigError(f"unknown config key {key!r}{_did_you_mean(key, known)}")
    train = {k: v for k, v in chosen.items() if k in TrainConfig.model_fields}
    model = {k: v for k, v in chosen.items() if k in MCRConfig.model_fields}
    return _validated({"profile": profile, "model": model, "train": train})


def read_config(path: Path) -> RunConfig:
    """`config.yaml` of a run folder. Raises ConfigError if it does not fit this version."""
    return _validated(yaml.safe_load(Path(path).read_text()))


def parse_settings(pairs: list[str]) -> dict:
    """['key=value', …] → {'key': value}, values read as YAML with 3e-4 a number. Raises ConfigError without '='."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, got {pair!r}")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            settings[key.strip()] = value
    return settings  # pydantic turns '3e-4' (a string to YAML) into a number where a number is due


def _validated(content: dict) -> RunConfig:
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        got = first.get("input")
        shown = "" if isinstance(got, dict) else f", got {got!r}"
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}{shown}") from None


def _did_you_mean(key: str, known) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(known))}"
