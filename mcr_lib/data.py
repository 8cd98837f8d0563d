"""From a data set folder to batches on the device: rows in memory, pixels in a memory-mapped uint8 store.

Not here: how the folder came about (data_prep), what is masked (masking.py makes the noise, the model uses it). Which
pairs make up step s follows from (seed, s) alone, so any process can make any part of any batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from data_prep import folder, pack

from .config import ConfigError, MCRConfig, TrainConfig
from .engine import distributed
from .masking import AUGMENT_STREAM, IMAGE_STREAM, ORDER_STREAM, TEXT_STREAM, counter_noise
from .model import Batch
from .tokenizer import pad, tokenize

IMAGE_MEAN, IMAGE_STD = 0.5, 0.25  # of pixels in [0, 1]; the same for all data, so a model travels
FEW = 20_000  # images that one process packs in seconds, without the start-up cost of others


def store_size(img_size: int) -> int:
    """Side of the packed images for a model of this input size: as 256 is to 224."""
    return round(img_size * 8 / 7)


def usable_rows(table: pd.DataFrame, split: str, views: str) -> np.ndarray:
    """Which rows of the manifest are of the split (all: any) and views; an unknown view is frontal."""
    wanted_view = (views == "all") | (table["view"] != "lateral")
    return np.flatnonzero(((table["split"] == split) | (split == "all")) & wanted_view)


class PairData:
    """The pairs of one split, ready to be cut into batches."""

    def __init__(self, data, split: str, tokenizer, model: MCRConfig, views="frontal", least=2):
        """Raises DataError if the folder is not whole or has fewer than `least` usable pairs."""
        self.path, self.model, self.views = Path(data), model, views
        table = folder.read(self.path)
        self.rows = usable_rows(table, split, views)  # of the manifest, and so of the store
        if len(self.rows) < least:
            there = table["split"].value_counts().to_dict()
            advice = f"python -m data_prep check {self.path} shows what was left out"
            raise folder.DataError(
                f"{self.path}: split {split!r} has {len(self.rows)} usable pairs, "
                f"at least {least} are needed; it has: {there}; {advice}"
            )
        self.pad_token_id = tokenizer.pad_token_id
        self.choose(self.rows, table.iloc[self.rows], tokenizer)
        size = store_size(model.img_size)
        pack.pack(self.path, size, 1 if len(table) < FEW else None, table=table)  # if not there yet
        self.pixels = pack.open_store(self.path, size, table=table)

    def choose(self, rows: np.ndarray, table: pd.DataFrame, tokenizer) -> None:
        """Be these rows (N,) of the manifest, with what the table (N rows) says of them."""
        self.rows, self.table = rows, table.reset_index(drop=True)
        self.ids = tokenize(tokenizer, self.table["report"].tolist(), self.model.max_text_length)
        self.lengths = np.array([len(ids) for ids in self.ids])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: np.ndarray, *, epochs=None, seed=0, augment=False) -> tuple:
        """The pairs at `index` (N,), on the CPU. epochs (N,): in which each is seen, None: the
        first. → a Batch whose images are still pixels (N, 1, S, S) uint8, and the noise (N, 6) that
        augments them, or None."""
        pixels = torch.from_numpy(self.pixels[self.rows[index]])[:, None]  # N, 1, S, S
        ids, present = pad([self.ids[i] for i in index], self.pad_token_id)  # N, T each
        pairs = torch.from_numpy(np.array(index))
        epochs = torch.zeros_like(pairs) if epochs is None else torch.from_numpy(epochs)

        def noise(length: int, stream: int) -> Tensor:  # N, length
            return counter_noise(seed, epochs, pairs, length, stream)

        places = None if present.all() else torch.from_numpy(np.flatnonzero(present))
        batch = Batch(
            images=pixels,
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(present),
            image_noise=noise(self.model.num_patches, IMAGE_STREAM),
            text_noise=noise(ids.shape[1], TEXT_STREAM),
            pairs=pairs,
            places=places,
        )
        return batch, noise(6, AUGMENT_STREAM) if augment else None

    def batch(self, index: np.ndarray, device: torch.device, **seen) -> Batch:
        """The pairs at `index` (N,) as a Batch on the device; seen: see `read`."""
        return self.to_device(*self.read(index, **seen), device)

    def to_device(self, batch: Batch, augment_noise: Tensor | None, device: torch.device) -> Batch:
        """What `read` gives, on the device, its images prepared there. On a CPU this is not the
        reader's work: its threads would take the cores from the step."""

        def send(x):
            on_gpu = device.type == "cuda" and isinstance(x, Tensor)
            return x.pin_memory().to(device, non_blocking=True) if on_gpu else x

        sent = Batch(*[send(value) for value in vars(batch).values()])
        size, in_chans = self.model.img_size, self.model.in_chans
        sent.images = prepare_images(sent.images, size, in_chans, send(augment_noise))
        return sent


def prepare_images(
    pixels: Tensor, img_size: int, in_chans: int, noise: Tensor | None = None
) -> Tensor:
    """uint8 (N, 1, S, S) → normalised float (N, in_chans, img_size, img_size), the batch at once.
    noise: see `augment`; None: the images are only scaled, in whole grey levels."""
    if noise is None:
        x = resize(pixels, [img_size, img_size], antialias=True).float()
    else:
        x = augment(pixels, img_size, noise)
    x = x.div_(255 * IMAGE_STD).sub_(IMAGE_MEAN / IMAGE_STD)
    return x.expand(-1, in_chans, -1, -1)


def augment(pixels: Tensor, img_size: int, noise: Tensor) -> Tensor:
    """uint8 (N, 1, S, S), noise (N, 6) in [0, 1) → float (N, 1, img_size, img_size), 0 to 255. Zoom
    into 80–100 % of the side, shift within it, turn by up to 5°, contrast ±20 %, brightness ±10 %.
    Never a flip: left and right are findings."""
    zoom = 0.8 + 0.2 * noise[:, 0]
    shift = (2 * noise[:, 1:3] - 1) * (1 - zoom)[:, None]  # N, 2, of half the side
    angle = (2 * noise[:, 3] - 1) * (5 / 180 * torch.pi)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, (len(pixels), 1, img_size, img_size), align_corners=False)
    x = F.grid_sample(pixels.float(), grid, align_corners=False)
    contrast = (0.8 + 0.4 * noise[:, 4]).view(-1, 1, 1, 1)
    brightness = (0.2 * noise[:, 5] - 0.1).view(-1, 1, 1, 1)
    return ((x - 127.5) * contrast + 127.5 + 255 * brightness).clamp(0, 255)


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order (n,) in which epoch `epoch` visits n pairs: a hash of (seed, epoch, pair), sorted."""
    pairs = torch.arange(n)
    noise = counter_noise(seed, torch.full_like(pairs, epoch), pairs, 1, ORDER_STREAM)[:, 0]
    return noise.argsort(stable=True).numpy()


class TrainBatches:
    """The training batches of a run, addressed by step. Epochs follow each other without a gap:
    every pair is seen exactly once per epoch, and a batch may end one epoch and begin the next.
    Step s is the same set of pairs for any number of processes; each reads its share of them only.
    """

    def __init__(self, data: PairData, config: TrainConfig, device: torch.device):
        """Raises ConfigError if there is not a pair for every part."""
        processes = distributed.world_size()
        if config.batch_size < processes * config.accumulation:
            raise ConfigError(
                f"batch_size={config.batch_size} pairs cannot be cut into {processes} processes × "
                f"accumulation={config.accumulation}: raise batch_size, or lower the others"
            )
        self.data, self.config, self.device = data, config, device
        self._order = lru_cache(2)(partial(epoch_order, config.seed, n=len(data)))

    @property
    def total_steps(self) -> int:
        c = self.config
        if c.steps is not None:
            return c.steps
        return max(1, round(c.epochs * len(self.data) / c.batch_size))

    def epoch(self, step: int) -> float:
        """How many times every pair has been seen after `step` steps."""
        return step * self.config.batch_size / len(self.data)

    def index(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Which pairs (N,) step `step` sees, and in which epoch each of them is seen (N,)."""
        n, batch_size = len(self.data), self.config.batch_size
        position = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs = position // n
        pairs = np.empty_like(position)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            pairs[here] = self._order(int(epoch))[position[here] % n]
        return pairs, epochs

    def pair_ids(self, step: int) -> list[str]:
        """The names (N) of the pairs of a step, over all processes."""
        return self.data.table["pair_id"].iloc[self.index(step)[0]].tolist()

    def __call__(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """This process's share of steps start … stop − 1, each as `accumulation` parts."""
        for parts in read_ahead(self._read_steps(start, stop)):
            yield [self.data.to_device(*part, self.device) for part in parts]

    def _read_steps(self, start: int, stop: int) -> Iterator[list[tuple]]:
        config = self.config
        for step in range(start, stop):
            index, epochs = self.index(step)
            own = distributed.own_share(len(index))
            parts = []
            for part in np.array_split(np.arange(len(index))[own], config.accumulation):
                seen = {"epochs": epochs[part], "seed": config.seed, "augment": config.augment}
                parts.append(self.data.read(index[part], **seen))
            yield parts


def read_ahead(source: Iterator, depth: int = 2) -> Iterator:
    """Run `source` in a thread, `depth` items ahead; an error there is raised here."""
    end = object()
    with ThreadPoolExecutor(1, "reader") as reader:
        ready = deque(reader.submit(next, source, end) for _ in range(depth))
        try:
            while (item := ready.popleft().result()) is not end:
                ready.append(reader.submit(next, source, end))
                yield item
        finally:
            reader.shutdown(cancel_futures=True)  # what is being read is waited for
