"""Two encoders that are fitted in closed form instead of trained: for archives of a few thousand studies.

An image is, patch by patch, a histogram of learned small windows; a report is its weighted words and pairs of words.
Ridge CCA maps each patch and each word into the common space, where the mean aggregates them: MbA without a network.
Not of the paper, no arm of the study: it is what MCR must beat. Not here: the fits (data_prep/closed_form.py)."""

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
MOST_PAIRS = 20_000  # that are fitted on: their histograms take 0.7 GB
AXES = 400, 200  # principal components of images and of reports
RIDGE, POWER = (0.3, 0.3), 1.5  # these and AXES: chosen on Open-i, by folds of train and validate


class PatchHistograms(nn.Module):
    """In place of E_v: for each patch, how much the windows in it look like each learned one."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        self.side = config.img_size // config.patch_size
        patches, words = config.num_patches, config.embed_dim
        self.register_buffer("whiten", torch.zeros(WINDOW**2, WINDOW**2))
        self.register_buffer("middle", torch.zeros(WINDOW**2))
        self.register_buffer("windows", torch.zeros(words, WINDOW**2))
        self.register_buffer("centre", torch.zeros(patches, words))
        self.map = nn.Parameter(torch.zeros(patches, words, config.common_dim))

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
        x = self.histograms(images) - self.centre
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
        token = attention_mask.bool() & ~torch.isin(input_ids, input_ids.new_tensor(self.special))
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
def fit(model, pairs, seed: int) -> None:
    """Fit both encoders of `model`, an MCR, to the training pairs, a PairData."""
    from sklearn.decomposition import PCA, TruncatedSVD  # only here: a GPU node may lack it

    from data_prep.closed_form import learn_windows, ridge_cca, weigh_words

    images, words, device = model.image_encoder, model.report_encoder, model.log_scale.device
    centre, random = images.centre, np.random.default_rng(seed)
    tensor = partial(torch.tensor, dtype=torch.float32, device=device)
    rows = np.sort(random.permutation(len(pairs))[:MOST_PAIRS])
    parts = np.array_split(rows, -(-len(rows) // 64))
    batches = [pairs.batch(part, device) for part in progress(parts, desc="read", unit="batch")]
    pixels = torch.cat([batch.images[:, 0] for batch in batches]).cpu().numpy()
    learned = learn_windows(pixels, WINDOW, len(images.windows), FLOOR, random)
    for own, value in zip((images.whiten, images.middle, images.windows), learned, strict=True):
        own.copy_(tensor(value))

    histograms, reports = [], []
    for batch in progress(batches, desc="fit", unit="batch"):
        histograms.append(images.histograms(batch.images).flatten(1).cpu())
        found = zip(*words.words(batch.input_ids, batch.attention_mask), strict=True)
        reports += [number[stands].cpu().numpy() for number, stands in found]
    weighted, known, rarity = weigh_words(reports)
    image_axes = PCA(min(AXES[0], len(rows) - 1), random_state=seed)
    text_axes = TruncatedSVD(min(AXES[1], len(rows) - 1, len(known) - 1), random_state=seed)
    x = image_axes.fit_transform(torch.cat(histograms).numpy())
    y = text_axes.fit_transform(weighted)
    maps = ridge_cca(x, y - y.mean(0), RIDGE, POWER)
    k = min(maps[0].shape[1], model.config.common_dim)  # what is left of it stays zero
    image_map, text_map = (side[:, :k] for side in maps)
    images.map[:, :, :k] = tensor(image_axes.components_.T @ image_map).view(*centre.shape, k)
    centre.copy_(tensor(image_axes.mean_).view_as(centre))
    words.rarity[known] = tensor(rarity)
    words.map[known, :k] = tensor(text_axes.components_.T @ text_map)
    words.bias[:k] = tensor(-y.mean(0) @ text_map)
