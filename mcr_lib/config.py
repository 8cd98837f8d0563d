"""Every number one may choose, with its unit and default: the model (MCRConfig) and its training (TrainConfig).

Not here: why a default was chosen (that stands in `paper.yaml`), and anything computed. Unknown keys and values out of
range are refused with one line. An arm of the study is data: a few keys, above all `framework`, `alignment`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_prep import own_files
from data_prep.errors import KitError
from data_prep.machine import without_home

Width = Annotated[int, Field(ge=8, le=2**14)]
Count = Annotated[int, Field(ge=1, le=2**10)]  # layers, heads
Share = Annotated[float, Field(ge=0, lt=1)]
Source = Annotated[str, AfterValidator(without_home)]  # so that a run folder names nobody

MULTIPLES = {  # sizes, and what they are multiples of
    "img_size": "patch_size",
    "embed_dim": "num_heads",
    "text_embed_dim": "text_num_heads",
    "decoder_embed_dim": "decoder_num_heads",
}
LINEAR = {"framework": "contrastive", "alignment": "mba", "pooling": "mean", "in_chans": 1}
LINEAR |= dict.fromkeys(("image_weights", "text_weights"))  # what encoders=linear can only be


class ConfigError(KitError):
    """A setting that is unknown, of the wrong type or out of range."""


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, protected_namespaces=(), allow_inf_nan=False
    )


class MCRConfig(_Strict):
    """The model: which arm, the two encoders, the common space, the decoders, the three losses."""

    # the arm
    framework: Literal["mcr", "two-stream", "contrastive", "contrastive-masked"] = "mcr"
    alignment: Literal["mba", "abm"] = "mba"  # map, then aggregate; or aggregate, then map
    encoders: Literal["transformer", "linear"] = "transformer"  # linear: fitted, see linear.py
    projection: Literal["mlp", "linear"] = "mlp"
    pooling: Literal["mean", "attention", "max"] = "mean"
    # masking
    mask_ratio: Share = 0.5  # share of image patches removed
    mlm_probability: Share = 0.25  # share of report tokens replaced by [MASK]
    # image encoder E_v (a timm vision transformer)
    img_size: int = Field(224, ge=16, le=2**12)
    patch_size: int = Field(16, ge=4, le=2**10)
    in_chans: Literal[1, 3] = 1
    embed_dim: Width = 768
    depth: Count = 12
    num_heads: Count = 12
    mlp_ratio: float = Field(4.0, ge=0.1, le=64)
    image_weights: Source | None = None  # timm name, folder or .safetensors file; None: random
    # report encoder E_r (a transformers BERT)
    vocab_size: int = Field(30522, ge=8, le=2**20)  # at most, where it is trained; then what it has
    text_embed_dim: Width = 768
    text_depth: Count = 12
    text_num_heads: Count = 12
    max_text_length: int = Field(128, ge=8, le=2**14)  # tokens, [CLS] and [SEP] among them
    text_weights: Source | None = None  # hub name or local folder; None: random
    special_token_ids: tuple[int, ...] = (0, 100, 101, 102, 103)  # [PAD] [UNK] [CLS] [SEP] [MASK]
    mask_token_id: int = Field(103, ge=0)
    dropout: Share = 0.0
    # common space
    common_dim: int = Field(512, ge=2, le=2**14)
    temperature: float = Field(0.07, ge=1e-4, le=1e4)  # at the start; it is learned
    # decoders D_v and D_r
    decoder_embed_dim: Width = 512
    decoder_depth: Count = 4
    decoder_num_heads: Count = 8
    text_decoder_depth: Count = 1
    norm_pix: bool = True  # targets of L_mim normalised patch by patch
    # weights of L_vrc, L_mim, L_mrm
    contrastive_weight: float = Field(1.0, ge=0)
    image_reconstruction_weight: float = Field(1.0, ge=0)
    text_reconstruction_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _sizes_fit(self):
        for size, by in MULTIPLES.items():
            whole, part = getattr(self, size), getattr(self, by)
            if whole % part:
                raise ValueError(f"{size}={whole} is not a multiple of {by}={part}")
        for key, value in LINEAR.items() if self.encoders == "linear" else ():
            if getattr(self, key) != value:
                raise ValueError(f"encoders=linear needs {key}={value}")
        return self

    @property
    def num_patches(self) -> int:
        return (self.img_size // self.patch_size) ** 2

    @property
    def reconstructs(self) -> bool:
        """Whether the arm has the two reconstruction tasks."""
        return self.framework in ("mcr", "two-stream")

    @property
    def sees_masked(self) -> bool:
        """Whether any task of the arm sees masked data."""
        return self.reconstructs or self.contrast_is_masked

    @property
    def contrast_is_masked(self) -> bool:
        """Whether the contrastive task sees masked data (Fig. 1b) or whole data (Fig. 1a)."""
        return self.framework in ("mcr", "contrastive-masked")


class TrainConfig(_Strict):
    """The training: data order, optimiser, schedule, precision, how often to log and to save."""

    seed: int = Field(0, ge=0, lt=2**31)
    batch_size: int = Field(256, ge=2, le=2**20)  # pairs per step, over all processes
    accumulation: int = Field(1, ge=1, le=2**20)  # parts of a process's share: less memory, slower
    epochs: float = Field(50, gt=0, le=1e9)
    steps: int | None = Field(None, ge=0, lt=2**31)  # overrides epochs; 0: fitted, not trained
    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[Share, Share] = (0.9, 0.95)
    warmup: Share = 0.05  # share of the steps
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up: to zero, or as it is
    clip_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"  # auto: bf16 where that is faster
    compile: bool = False
    augment: bool = True
    views: Literal["frontal", "all"] = "frontal"
    start_from: str | None = None  # a run folder whose model and vocabulary it goes on with
    log_every: int = Field(20, ge=1)  # steps
    checkpoint_every: int = Field(500, ge=1)  # steps


class RunConfig(_Strict):
    """What `config.yaml` of a run folder holds."""

    profile: str
    model: MCRConfig
    train: TrainConfig


PROFILES: dict[str, dict] = yaml.safe_load(Path(__file__).with_name("profiles.yaml").read_text())


def resolve(profile: str, settings: dict | None = None) -> RunConfig:
    """The full configuration of a run: defaults, a profile's numbers, `settings` by key name.
    Raises ConfigError for an unknown profile or key and for a value that does not fit."""
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}; there are: {', '.join(PROFILES)}")
    settings = dict(settings or {})
    if "epochs" in settings:
        settings.setdefault("steps", None)  # else the profile's steps would win
    content = {"profile": profile, "model": {}, "train": {}}
    for key, value in {**PROFILES[profile], **settings}.items():
        content[_part_of(key)][key] = value
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        fault = own_files.first_fault(error).removeprefix("model.").removeprefix("train.")
        raise ConfigError(fault) from None


def resolve_from(run: Path, profile: str, settings: dict) -> RunConfig:
    """`resolve`, but the model is that of a run folder, which training goes on with."""
    model = read_config(run / "config.yaml").model.model_dump()
    return resolve(profile, {**model, **settings, "start_from": str(run.resolve())})


def read_config(path: Path) -> RunConfig:
    """`config.yaml` of a run folder. Raises DamagedFile if it does not fit this version."""
    advice = "restore it, or train again into another folder"
    return own_files.validated(path, own_files.read_yaml(Path(path), advice), RunConfig, advice)


def parse_settings(pairs: list[str]) -> dict:
    """['key=value', …] → {'key': value}, values read as YAML. Raises ConfigError without '='."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, got {pair!r}")
        try:
            settings[key.strip()] = own_files.parse_yaml(value)
        except ValueError:
            settings[key.strip()] = value
    return settings  # pydantic turns '3e-4' (a string to YAML) into a number where a number is due


def _part_of(key: str) -> str:
    """Which part of the configuration a key is of: 'model' or 'train'."""
    for part, fields in (("model", MCRConfig.model_fields), ("train", TrainConfig.model_fields)):
        if key in fields:
            return part
    known = sorted([*MCRConfig.model_fields, *TrainConfig.model_fields])
    initials = {"".join(word[0] for word in name.split("_")): name for name in known}  # lr
    close = difflib.get_close_matches(initials.get(key, key), known, n=1)
    advice = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
    raise ConfigError(f"unknown config key {key!r}; {advice}")
