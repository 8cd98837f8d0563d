"""From a data set folder to batches on the device: rows in memory, pixels in a memory-mapped uint8 store.

Not here: how the folder came about (data_prep), what is masked (masking.py makes the noise, the model uses it).
Which pairs make up step s follows from (seed, s) alone, so any process can make any part of any batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep import folder, pack

from . import distributed
from .config import ConfigError, MCRConfig, TrainConfig
from .masking import AUGMENT_STREAM, IMAGE_STREAM, ORDER_STREAM, TEXT_STREAM, counter_noise
from .model import Batch
from .tokenizer import pad, padded_length, tokenize

TEXT_GROUPS = 4  # parts in which the reports of a batch, sorted by length, are encoded
IMAGE_MEAN, IMAGE_STD = 0.5, 0.25  # of pixels in [0, 1]; the same for every data set, so a model travels


def store_size(img_size: int) -> int:
    """Side of the packed images for a model of this input size: as 256 is to 224."""
    return round(img_size * 8 / 7)


def usable_rows(table: pd.DataFrame, split: str, views: str) -> np.ndarray:
    """Which rows of the manifest are of the split and of the views; where no view is known, a row counts as frontal."""
    return np.flatnonzero((table["split"] == split) & ((views == "all") | (table["view"] != "lateral")))


class PairData:
    """The pairs of one split, ready to be cut into batches."""

    def __init__(self, data: Path, split: str, tokenizer, model: MCRConfig, views: str = "frontal", least: int = 2):
        """Raises data_prep.folder.DataError when the folder is not whole or the split has fewer than `least` usable
        pairs."""
        self.path, self.model, self.views = Path(data), model, views
        table = folder.read(self.path)
        rows = usable_rows(table, split, views)
        if len(rows) < least:
            raise folder.DataError(f"{self.path}: split {split!r} has {len(rows)} usable pairs; it has: "
                                   f"{table['split'].value_counts().to_dict()}")
        self.rows = rows  # manifest rows, which are also rows of the store
        self.table = table.iloc[rows].reset_index(drop=True)
        self.pad_token_id = tokenizer.pad_token_id
        self.ids = tokenize(tokenizer, self.table["report"].tolist(), model.max_text_length)
        self.lengths = np.array([len(ids) for ids in self.ids])
        size = store_size(model.img_size)
        few = len(table) < 20_000  # some seconds for one process, and no start-up cost or guard in the user's script
        pack.pack(self.path, size, processes=1 if few else None)  # returns at once if it is there
        self.pixels = pack.open_store(self.path, size)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: np.ndarray, *, epochs: np.ndarray | None = None, seed: int = 0,
             augment: bool = False) -> tuple[list[Tensor], tuple[int, ...]]:
        """Rows of this split, on the CPU: pixels (N, 1, S, S) uint8, what a Batch holds from input_ids to pairs, and if
        asked for the noise (N, 6) that augments; beside these the padded length of each of the groups of reports that
        are encoded together. epochs (N,): in which epoch each is seen."""
        pixels = torch.from_numpy(self.pixels[self.rows[index]])[:, None]
        input_ids, attention_mask = map(torch.from_numpy, pad([self.ids[i] for i in index], self.pad_token_id))
        groups = np.array_split(self.lengths[index], min(TEXT_GROUPS, len(index)))
        pairs = torch.from_numpy(np.array(index))
        epoch = torch.zeros_like(pairs) if epochs is None else torch.from_numpy(epochs)
        streams = [(self.model.num_patches, IMAGE_STREAM), (input_ids.shape[1], TEXT_STREAM), (6, AUGMENT_STREAM)]
        image, text, *augmenting = (counter_noise(seed, epoch, pairs, *s) for s in streams[:2 + augment])
        return ([pixels, input_ids, attention_mask, image, text, pairs, *augmenting],
                tuple(int(padded_length(group)) for group in groups))

    def batch(self, index: np.ndarray, device: torch.device, **seen) -> Batch:
        """The pairs at `index` (N,) as a Batch on the device; seen: see `read`."""
        return self.to_device(self.read(index, **seen), device)

    def to_device(self, read: tuple[list[Tensor], tuple[int, ...]], device: torch.device) -> Batch:
        """What `read` gives, as a Batch on the device. On a CPU this is not the reader's work: its threads would take
        the cores from the step."""
        tensors, text_lengths = read
        pixels, *others = ((t.pin_memory() if device.type == "cuda" else t).to(device, non_blocking=True)
                           for t in tensors)
        images = prepare_images(pixels, self.model.img_size, self.model.in_chans, *others[5:])
        return Batch(images, *others[:5], text_lengths)


def prepare_images(pixels: Tensor, img_size: int, in_chans: int, noise: Tensor | None = None) -> Tensor:
    """uint8 (N, 1, S, S) → normalised float (N, in_chans, img_size, img_size), the whole batch at once.

    noise (N, 6) in [0, 1) augments: zoom into 80–100 % of the side, shift within it, turn by up to 5°, contrast
    ±20 %, brightness ±10 %. Never a flip: left and right are findings.
    """
    if noise is None:
        x = _scale(pixels, img_size).float()
    else:
        x = pixels.float()
        zoom = 0.8 + 0.2 * noise[:, 0]
        shift = (2 * noise[:, 1:3] - 1) * (1 - zoom)[:, None]  # N, 2, of half the side
        angle = (2 * noise[:, 3] - 1) * (5 / 180 * torch.pi)
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, (len(x), 1, img_size, img_size), align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        contrast, brightness = (0.8 + 0.4 * noise[:, 4]).view(-1, 1, 1, 1), (0.2 * noise[:, 5] - 0.1).view(-1, 1, 1, 1)
        x = ((x - 127.5) * contrast + 127.5 + 255 * brightness).clamp(0, 255)
    return x.div_(255 * IMAGE_STD).sub_(IMAGE_MEAN / IMAGE_STD).expand(-1, in_chans, -1, -1)


def _scale(pixels: Tensor, size: int) -> Tensor:
    """Grey levels (N, 1, S, S) → (N, 1, size, size), bilinear with antialiasing, each image alone.

    On a CPU in whole grey levels, four images at a time as the channels of one: that is what torch's vectorised kernel
    takes (several times faster than in float, and at most one grey level of 255 away from it).
    """
    N, _, S, _ = pixels.shape
    if pixels.device.type == "cpu":
        pixels = (F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, -N % 4)) if N % 4 else pixels).view(-1, 4, S, S)
    else:
        pixels = pixels.float()
    x = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return x.view(-1, 1, size, size)[:N]


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order (n,) in which epoch `epoch` visits n pairs: a hash of (seed, epoch, pair), sorted."""
    pairs = torch.arange(n)
    noise = counter_noise(seed, torch.full_like(pairs, epoch), pairs, 1, ORDER_STREAM)[:, 0]
    return noise.argsort(stable=True).numpy()


class TrainBatches:
    """The training batches of a run, addressed by step. Epochs follow each other without a gap: every pair is seen
    exactly once per epoch, and a batch may end one epoch and begin the next. Step s is the same set of pairs for any
    number of processes; each reads its share of them only. Raises ConfigError if there is not a pair for every part."""

    def __init__(self, data: PairData, config: TrainConfig, device: torch.device):
        parts = distributed.world() * config.accumulation
        if config.batch_size < parts:
            raise ConfigError(f"batch_size={config.batch_size} pairs cannot be cut into {distributed.world()} "
                              f"processes × accumulation={config.accumulation}: raise batch_size, or lower the others")
        self.data, self.config, self.device = data, config, device
        self._orders: dict[int, np.ndarray] = {}

    @property
    def total_steps(self) -> int:
        c = self.config
        return c.steps if c.steps is not None else max(1, round(c.epochs * len(self.data) / c.batch_size))

    def epoch(self, step: int) -> float:
        """How many times every pair has been seen after `step` steps."""
        return step * self.config.batch_size / len(self.data)

    def index(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Which pairs (N,) step `step` sees, and in which epoch each of them is seen (N,)."""
        n = len(self.data)
        position = np.arange(step * self.config.batch_size, (step + 1) * self.config.batch_size)
        epochs = position // n
        self._orders = {e: self._orders[e] if e in self._orders else epoch_order(self.config.seed, int(e), n)
                        for e in np.unique(epochs)}
        pairs = np.array([self._orders[e][p] for e, p in zip(epochs, position % n, strict=True)])
        return pairs, epochs

    def pair_ids(self, step: int) -> list[str]:
        """The names (N) of the pairs of a step, over all processes."""
        return self.data.table["pair_id"].iloc[self.index(step)[0]].tolist()

    def __call__(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """This process's share of steps start … stop − 1, each as `accumulation` parts, read ahead by a thread."""
        for reads in _read_ahead(self._reads(start, stop)):
            yield [self.data.to_device(read, self.device) for read in reads]

    def _reads(self, start: int, stop: int):
        config = self.config
        for step in range(start, stop):
            index, epochs = (x[distributed.share(len(x))] for x in self.index(step))
            pieces = zip(np.array_split(index, config.accumulation), np.array_split(epochs, config.accumulation),
                         strict=True)
            orders = [(i, e, np.argsort(self.data.lengths[i], kind="stable")) for i, e in pieces]
            yield [self.data.read(i[o], epochs=e[o], seed=config.seed, augment=config.augment)
                   for i, e, o in orders]  # short reports beside short ones


def _read_ahead(source: Iterator, depth: int = 2) -> Iterator:
    """Run `source` in a thread, `depth` items ahead; an error there is raised here."""
    end = object()
    with ThreadPoolExecutor(1, "reader") as reader:
        ready = deque(reader.submit(next, source, end) for _ in range(depth))
        try:
            while (item := ready.popleft().result()) is not end:
                ready.append(reader.submit(next, source, end))
                yield item
        finally:
            reader.shutdown(cancel_futures=True)  # what is being read is waited for, what is not begun is dropped


def table_of(data: PairData) -> pd.DataFrame:
    """The manifest rows of the split, image paths made absolute: what a search shows."""
    return data.table.assign(image_path=[str(data.path / p) for p in data.table["image_path"]])
