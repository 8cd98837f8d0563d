"""Two encoders that are fitted in closed form instead of trained: for archives of a few thousand studies.

An image is, patch by patch, a histogram of learned small windows, once as it came and once settled: moved to where most
chests lie. A report is its weighted words and pairs of words. Ridge CCA maps each patch and each word into the common
space, where the mean aggregates them: MbA without a network. Not of the paper, no arm of the study: it is what MCR must
beat. Not here: the fits (data_prep/closed_form.py)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.machine import progress

from .config import MCRConfig
from .encoders import take

WINDOW, STRIDE = 8, 2  # pixels of the image as the model sees it
FLOOR = 0.0025  # added to a window's variance: what differs by less than noise is flat
WORD_PAIRS = 2**14  # places that pairs of neighbouring tokens share by their hash
MOST_PAIRS = 10_000  # that are fitted on: their histograms take 0.7 GB
ROUNDS = 4  # of settling an image


def move(images: Tensor, by: Tensor) -> Tensor:
    """images (N, 1, H, W); by (N, 5): logarithms of the zoom across and down, shifts across and down
    in halves of the side, turn in radians (small) → images of the same shape."""
    (across, down), (right, below), turn = by[:, :2].exp().T, by[:, 2:4].T, by[:, 4]
    theta = torch.stack([across, -turn, right, turn, down, below], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def look(small: Tensor, by: Tensor) -> Tensor:
    """small (N, 1, h, w), by (N, 5): see `move` → its even pixels and a one, (N, h·w + 1)."""
    pixels = move(small, by).flatten(1)
    return F.pad(F.layer_norm(pixels, pixels.shape[1:]), (0, 1), value=1.0)


class PatchHistograms(nn.Module):
    """In place of E_v: for each patch, how much the windows in it look like each learned one."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        self.side = config.img_size // config.patch_size
        patches, words = config.num_patches, config.embed_dim
        self.register_buffer("whiten", torch.zeros(WINDOW**2, WINDOW**2))
        self.register_buffer("middle", torch.zeros(WINDOW**2))
        self.register_buffer("windows", torch.zeros(words, WINDOW**2))
        self.register_buffer("moves", torch.zeros(ROUNDS, (config.img_size // 2) ** 2 + 1, 5))
        self.register_buffer("centre", torch.zeros(patches, 2 * words))
        self.map = nn.Parameter(torch.zeros(patches, 2 * words, config.common_dim))

    def how_far_off(self, images: Tensor) -> Tensor:
        """What a linear map of its pixels takes each image to be off, (N, 5), found in ROUNDS steps."""
        small, by = F.avg_pool2d(images, 2), images.new_zeros(images.shape[0], 5)
        for weights in self.moves:
            by = by - look(small, by) @ weights
        return by

    def settle(self, images: Tensor) -> Tensor:
        return move(images, self.how_far_off(images))

    def describe(self, images: Tensor) -> Tensor:
        """images (N, 1, H, W) normalised → histograms of both, as it came and settled: (N, L, 2·words)."""
        both = images, self.settle(images)
        return torch.cat([self.histograms(one) for one in both], dim=2)

    def histograms(self, images: Tensor) -> Tensor:
        """images (N, 1, H, W) normalised → (N, L, words), at least 0."""
        mean, square = (F.avg_pool2d(x, WINDOW, STRIDE) for x in (images, images.square()))
        spread = ((square - mean.square()).clamp(min=0) + FLOOR).sqrt()  # N, 1, n, n
        kernels = self.whiten - self.whiten.mean(1, keepdim=True)
        x = F.conv2d(images, kernels.view(-1, 1, WINDOW, WINDOW), stride=STRIDE) / spread
        x = x.flatten(2).transpose(1, 2) - self.middle  # N, n·n, pixels
        distance = torch.cdist(x, self.windows)  # N, n·n, words
        near = (distance.mean(2, keepdim=True) - distance).relu().transpose(1, 2)
        near = near.unflatten(2, mean.shape[2:])  # N, words, n, n
        return F.adaptive_avg_pool2d(near, self.side).flatten(2).transpose(1, 2).sqrt()

    def forward(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """images (N, 1, H, W) normalised; ids_keep (N, L_keep), None: all → (N, L_keep, D)."""
        x = self.describe(images) - self.centre
        mapped = len(self.centre) * torch.einsum("nlw,lwd->nld", x, self.map)
        return mapped if ids_keep is None else take(mapped, ids_keep)


class WeightedWords(nn.Module):
    """In place of E_r: every token, and the pair that it ends, by how rare they are."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        words = config.vocab_size + WORD_PAIRS
        self.first_pair, self.special = config.vocab_size, config.special_token_ids
        self.register_buffer("rarity", torch.zeros(words))  # 0: not known
        self.map = nn.Parameter(torch.zeros(words, config.common_dim))
        self.bias = nn.Parameter(torch.zeros(config.common_dim))

    def words(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """input_ids, attention_mask (N, T) → numbers of words, and whether they stand there, both
        (N, 2·T): first the tokens, then the pairs that end in them."""
        special = (input_ids[:, :, None] == input_ids.new_tensor(self.special)).any(2)
        token = attention_mask.bool() & ~special
        before, follows = input_ids.roll(1, 1), token & token.roll(1, 1)  # the first is special
        pair = self.first_pair + (before * 7919 + input_ids * 104_729) % WORD_PAIRS
        return torch.cat([input_ids, pair], dim=1), torch.cat([token, follows], dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, places=None) -> Tensor:
        """input_ids, attention_mask (N, T), padding on either side → (N, T, D)."""
        number, stands = self.words(input_ids, attention_mask)
        times = self.rarity.new_zeros(number.shape[0], len(self.rarity))
        times.scatter_add_(1, number, stands.to(times.dtype))  # N, words
        share = F.normalize((1 + times.clamp(min=1).log()) * self.rarity * (times > 0))  # TF-IDF
        weight = (share / times.clamp(min=1)).gather(1, number) * stands  # N, 2·T, of each one
        mapped = (weight[:, :, None] * self.map[number]).unflatten(1, (2, -1)).sum(1)  # N, T, D
        return attention_mask.sum(1)[:, None, None] * mapped + self.bias


@torch.no_grad()
def learn_images(encoder: PatchHistograms, images: Tensor, random: np.random.Generator) -> None:
    """What the images (N, 1, H, W) teach without their reports: how to settle one, and windows."""
    from data_prep.closed_form import learn_moves, learn_windows  # here: a GPU node may lack it

    tensor, small = partial(torch.tensor, dtype=torch.float32), F.avg_pool2d(images, 2)
    learned = [learn_moves(lambda by: look(small, tensor(by)).numpy(), len(images), ROUNDS, random)]
    learned += learn_windows(images[:, 0].numpy(), WINDOW, len(encoder.windows), FLOOR, random)
    own = encoder.moves, encoder.whiten, encoder.middle, encoder.windows
    for buffer, value in zip(own, learned, strict=True):
        buffer.copy_(tensor(value))


@torch.no_grad()
def fit(model, pairs, seed: int) -> None:
    """Fit both encoders of `model`, an MCR, to the training pairs, a PairData."""
    from data_prep.closed_form import correlate, report_components

    images, words, device = model.image_encoder, model.report_encoder, model.log_scale.device
    random = np.random.default_rng(seed)
    tensor = partial(torch.tensor, dtype=torch.float32, device=device)
    rows = np.sort(random.permutation(len(pairs))[:MOST_PAIRS])
    parts = np.array_split(rows, -(-len(rows) // 64))
    batches = [pairs.batch(part, device) for part in progress(parts, desc="read", unit="batch")]
    learn_images(images, torch.cat([batch.images.cpu() for batch in batches]), random)

    histograms, reports = [], []
    for batch in progress(batches, desc="fit", unit="batch"):
        histograms.append(images.describe(batch.images).flatten(1).cpu())
        found = zip(*words.words(batch.input_ids, batch.attention_mask), strict=True)
        reports += [number[stands].cpu().numpy() for number, stands in found]
    components, most = report_components(reports, seed), model.config.common_dim
    x, y = correlate(torch.cat(histograms).numpy(), components, most, seed)
    k = x.map.shape[1]  # what is left of the common space stays zero
    images.map[:, :, :k] = tensor(x.map).view(*images.centre.shape, k)
    images.centre.copy_(tensor(x.centre).view_as(images.centre))
    words.rarity[y.known] = tensor(y.rarity)
    words.map[y.known, :k], words.bias[:k] = tensor(y.map), tensor(y.bias)
