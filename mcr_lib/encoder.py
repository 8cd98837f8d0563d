"""The model in other people's code: `Encoder(path)` makes unit vectors of pictures and sentences, in five lines.

Nobody has to know of sizes, normalisation and padding. The path is a run folder, or what `export` made of one; loading
runs no code and no pickle. Not here: writing an export (export.py), the packed pairs of a data set (features.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from data_prep import own_files
from data_prep.images import letterbox, read_any
from data_prep.machine import progress
from data_prep.run_files import RunError

from .config import MCRConfig
from .data import IMAGE_MEAN, IMAGE_STD, prepare_images, store_size
from .engine.distributed import pick_device
from .features import QueryError, check_query
from .model import MCR
from .run import load_run, load_weights
from .tokenizer import load_tokenizer, pad, tokenize, vocabulary_sha256

CONFIG, NUMBERS = "config.json", "preprocessor_config.json"  # of an export
AGAIN = "restore it, or export the run again"


class Encoder:
    """A trained model as a function of pictures and of sentences.

    >>> encoder = mcr_lib.Encoder("runs/first")
    >>> images = encoder.encode_images(["a.png", "b.dcm"])     # (2, common_dim), numpy, unit vectors
    >>> texts = encoder.encode_texts(["left pleural effusion", "no acute disease"])
    >>> images @ texts.T                                       # cosines
    """

    def __init__(self, path: Path | str, device: str | torch.device = "auto"):
        """Raises RunError, ConfigError, CheckpointError, DamagedFile, each in one line."""
        self.model, self.tokenizer = load(path, pick_device(str(device)))

    @classmethod
    def of(cls, model: MCR, tokenizer) -> Encoder:
        """An encoder of a model that is in memory, where it is."""
        encoder = cls.__new__(cls)
        encoder.model, encoder.tokenizer = model.eval(), tokenizer
        return encoder

    def encode_images(
        self, images: Iterable, *, batch_size: int = 64, as_tensor: bool = False
    ) -> np.ndarray | Tensor:
        """Pictures → unit vectors (N, common_dim), float32, in their order; as_tensor: on the CPU.
        A picture is a path (PNG, JPEG, TIFF, DICOM), a PIL image, or an array: uint8 (H, W),
        (H, W, 1) or RGB (H, W, 3), 0 = black. Raises QueryError for what is no list, or an empty
        one, and ImageError for a picture that is missing, damaged, blank or of another type."""
        config, device = self.model.config, self._device()

        def encode(part: list) -> Tensor:
            squares = [letterbox(image, store_size(config.img_size)) for image in map(_read, part)]
            pixels = torch.from_numpy(np.stack(squares))[:, None].to(device)  # N, 1, S, S
            return self.model.encode_image(prepare_images(pixels, config.img_size, config.in_chans))

        numbered = list(enumerate(_as_list(images, "images")))
        return _in_batches(numbered, encode, batch_size, as_tensor)

    def encode_texts(
        self, texts: Iterable[str], *, batch_size: int = 64, as_tensor: bool = False
    ) -> np.ndarray | Tensor:
        """Sentences or reports → as `encode_images`. What exceeds max_text_length tokens is not
        read. Raises QueryError for what is no list of strings, for an empty list, and for a text
        that is empty or mostly of unknown words."""
        texts, longest = _as_list(texts, "texts"), self.model.config.max_text_length
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise QueryError(f"text {number} is a {type(text).__name__}: give strings")
            try:
                check_query(self.tokenizer, text, longest)
            except QueryError as error:
                raise QueryError(f"text {number}: {error}") from None
        device = self._device()

        def encode(part: list[str]) -> Tensor:
            ids = tokenize(self.tokenizer, part, longest, most_unknown=1)
            padded = pad(ids, self.tokenizer.pad_token_id)  # input_ids, attention_mask (N, T)
            return self.model.encode_text(*(torch.from_numpy(x).to(device) for x in padded))

        return _in_batches(texts, encode, batch_size, as_tensor)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def load(path: Path | str, device: torch.device | str = "cpu", *, best: bool = False):
    """A trained model in evaluation mode and its tokenizer, from a run folder (the newest
    checkpoint, or the best) or from an export. Raises RunError, ConfigError, CheckpointError,
    DamagedFile."""
    path = Path(path)
    if (path / CONFIG).is_file() and not best:
        return _load_export(path, device)
    if (path / "config.yaml").is_file():
        return load_run(path, device, best=best)
    raise RunError(f"{path}: neither a run folder (config.yaml) nor an export ({CONFIG})")


def numbers(config: MCRConfig, tokenizer) -> dict:
    """What an export says of how inputs are prepared, for whoever does it in other code."""
    return {
        "do_convert_grayscale": True,
        "letterbox": {"size": store_size(config.img_size), "fill": 0, "resample": "bicubic"},
        "size": {"height": config.img_size, "width": config.img_size, "resample": "bilinear"},
        "rescale_factor": 1 / 255,
        "image_mean": [IMAGE_MEAN] * config.in_chans,
        "image_std": [IMAGE_STD] * config.in_chans,
        "max_text_length": config.max_text_length,
        "vocabulary_sha256": vocabulary_sha256(tokenizer),
    }


def _load_export(path: Path, device):
    config = own_files.read_model(path / CONFIG, MCRConfig, AGAIN)
    tokenizer = load_tokenizer(path, local=True)
    if own_files.read_json(path / NUMBERS, AGAIN) != numbers(config, tokenizer):
        differs = "this version prepares images otherwise, or the tokenizer is another"
        raise RunError(f"{path / NUMBERS}: {differs}: {AGAIN}")
    try:
        model = load_weights(path, config)
    except (OSError, SafetensorError) as error:
        raise own_files.DamagedFile(f"{path / 'model.safetensors'}: {error}: {AGAIN}") from None
    return model.to(device).eval(), tokenizer


def _read(numbered: tuple) -> Image.Image:
    number, picture = numbered
    return read_any(picture, f"image {number}")


def _as_list(things: Iterable, what: str) -> list:
    alone = isinstance(things, str | bytes | PathLike | Image.Image)
    if alone or not isinstance(things, Iterable):
        raise QueryError(f"give a list of {what}, not one {type(things).__name__} alone")
    things = list(things)
    if not things:
        raise QueryError(f"the list of {what} is empty")
    return things


@torch.no_grad()  # not inference_mode: a classifier may be trained on the tensors
def _in_batches(things: list, encode: Callable, batch_size: int, as_tensor: bool):
    """`encode` of a batch at a time, with a progress bar if there are several."""
    starts, quiet = range(0, len(things), batch_size), len(things) <= batch_size
    features = []
    for start in progress(starts, desc="encode", unit="batch", leave=False, disable=quiet):
        features.append(encode(things[start : start + batch_size]).cpu())
    features = torch.cat(features)
    return features if as_tensor else features.numpy()
