"""The model in other people's code: `Encoder(path)` makes unit vectors of pictures and sentences, in five lines.

The path is a run folder, or what `export` made of one; loading runs no code and no pickle. Not here: how pictures and
sentences become batches (features.py), writing an export (export.py)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from safetensors import SafetensorError

from data_prep import own_files
from data_prep.run_files import RunError

from .config import MCRConfig
from .data import IMAGE_MEAN, IMAGE_STD, store_size
from .engine.distributed import pick_device
from .features import encode_pictures, encode_texts
from .run import load_run, load_weights
from .tokenizer import load_tokenizer, vocabulary_sha256

CONFIG, NUMBERS = "config.json", "preprocessor_config.json"  # of an export
AGAIN = "restore it, or export the run again"


class Encoder:
    """A trained model as a function of pictures and of sentences.

    >>> encoder = mcr_lib.Encoder("runs/first")
    >>> images = encoder.encode_images(["a.png", "b.dcm"])  # (2, common_dim) unit vectors
    >>> texts = encoder.encode_texts(["left pleural effusion", "no acute disease"])
    >>> images @ texts.T  # cosines
    """

    def __init__(self, path: Path | str, device: str = "auto"):
        """Raises RunError, ConfigError, CheckpointError, DamagedFile, each in one line."""
        self.model, self.tokenizer = load(path, pick_device(str(device)))

    def encode_images(self, images: Iterable, *, batch_size: int = 64, as_tensor: bool = False):
        """Paths (PNG, JPEG, TIFF, DICOM), PIL images or uint8 arrays → (N, common_dim), float32; see
        `features.encode_pictures`. as_tensor: on the CPU, in place of a NumPy array."""
        features = encode_pictures(self.model, images, batch_size)
        return features if as_tensor else features.numpy()

    def encode_texts(self, texts: Iterable[str], *, batch_size: int = 64, as_tensor: bool = False):
        """Sentences or reports → as `encode_images`; see `features.encode_texts`."""
        features = encode_texts(self.model, self.tokenizer, texts, batch_size)
        return features if as_tensor else features.numpy()


def load(path: Path | str, device="cpu", *, best: bool = False):
    """A trained model in evaluation mode and its tokenizer, from a run folder (the newest
    checkpoint, or the best) or from an export. Raises what `Encoder` does."""
    path = Path(path)
    if (path / "config.yaml").is_file():
        return load_run(path, device, best=best)
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: neither a run folder (config.yaml) nor an export ({CONFIG})")
    config = own_files.read_model(path / CONFIG, MCRConfig, AGAIN)
    tokenizer = load_tokenizer(path, local=True)
    if own_files.read_text(path / NUMBERS, AGAIN) != numbers(config, tokenizer):
        differs = "this version prepares images otherwise, or the tokenizer is another"
        raise RunError(f"{path / NUMBERS}: {differs}: {AGAIN}")
    try:
        return load_weights(path, config).to(device).eval(), tokenizer
    except (OSError, SafetensorError) as error:
        raise own_files.DamagedFile(f"{path / 'model.safetensors'}: {error}: {AGAIN}") from None


def render_text(template: str, **values) -> str:
    """A text by a template of this package."""
    folder = FileSystemLoader(Path(__file__).with_name("templates"))
    return Environment(loader=folder).get_template(template).render(**values)


def numbers(config: MCRConfig, tokenizer) -> str:
    """How inputs are prepared, as JSON, for whoever does it in other code."""
    prepared = {"mean": IMAGE_MEAN, "std": IMAGE_STD, "square": store_size(config.img_size)}
    vocabulary = vocabulary_sha256(tokenizer)
    return render_text(NUMBERS, config=config, vocabulary=vocabulary, **prepared)
