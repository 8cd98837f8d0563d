"""Other methods as arms of the study: the same encoders, heads, batches and retrieval as MCR, another objective.

Each class changes the loss alone, so a run of one is encoded, ranked and judged as any other. CLIP is
`contrastive-abm`, FLIP `contrastive-masked-abm` without its last unmasked epochs; MaCo-like is a matter of keys
(arms.py). Not here: methods that rank by more than one vector a side (FILIP), and MGCA's prototypes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcr_lib.losses import at_least_float32
from mcr_lib.model import MCR, Batch, MCROutput


class SigLIP(MCR):
    """Every pair of a batch is a yes-or-no question of its own (Zhai et al. 2023, Algorithm 1). The temperature's start
    is a config key, that of the bias the paper's."""

    def __init__(self, config):
        super().__init__(config)
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def contrast(
        self, image_features: Tensor, text_features: Tensor, rows: slice = slice(None)
    ) -> Tensor:
        """image_features, text_features (N, D) unit vectors → the weighted loss; `rows`: only these images' share."""
        loss = sigmoid_loss(image_features, text_features, self.logit_scale, self.bias, rows)
        return self.config.contrastive_weight * loss


class NoFalseNegatives(MCR):
    """Pairs of a batch that have the same report are no wrong answers to each other (false negative elimination, Huynh
    et al. 2022). To share the target evenly among them instead would change nothing: their texts have one vector, and
    the shared loss is then InfoNCE."""

    def forward(self, batch: Batch) -> MCROutput:
        output = super().forward(batch)
        same = (batch.input_ids[:, None] == batch.input_ids[None]).all(dim=2)  # N, N
        features = output.image_features, output.text_features
        loss = contrast_without(same, *features, output.logit_scale)
        output.contrastive_loss = self.config.contrastive_weight * loss
        return output


class GLoRIA(MCR):
    """Contrast of whole images and reports, and of words with the patches they attend to (Huang et al. 2021). Here each
    is found by the vectors of wholes alone."""

    def forward(self, batch: Batch) -> MCROutput:
        f_v = self.image_encoder(batch.images, None)  # N, L, D
        f_r = self.report_encoder(batch.input_ids, batch.attention_mask, batch.places)  # N, T, D
        image_features = self.to_common(self.image_head, f_v)
        text_features = self.to_common(self.report_head, f_r, batch.attention_mask)
        patches = F.normalize(at_least_float32(self.image_head.map(f_v)), dim=2)  # N, L, common_dim
        words = F.normalize(at_least_float32(self.report_head.map(f_r)), dim=2)  # N, T, common_dim
        loss = self.contrast(image_features, text_features)
        loss = loss + local_contrastive_loss(patches, words, batch.attention_mask.bool())
        return MCROutput(image_features, text_features, self.logit_scale, loss)


def sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    bias: Tensor,
    rows: slice = slice(None),
) -> Tensor:
    """−log σ(±(scale · cosine + bias)), + for own pairs, summed over all pairs of a batch, over N (Zhai et al. 2023).

    image_features, text_features (N, D) unit vectors → a scalar ≥ 0; `rows`: only these images' share of it.
    """
    with torch.autocast(image_features.device.type, enabled=False):
        logits = logit_scale * image_features[rows] @ text_features.T + bias  # n, N
    own = torch.eye(len(text_features), device=logits.device, dtype=logits.dtype)[rows]
    total = F.binary_cross_entropy_with_logits(logits, own, reduction="sum")
    return total / len(text_features)


def contrast_without(
    same: Tensor, image_features: Tensor, text_features: Tensor, logit_scale: Tensor
) -> Tensor:
    """Symmetric InfoNCE in which no pair is the wrong answer to one with the same report.

    same (N, N), true where two pairs have one report; image_features, text_features (N, D) unit vectors → a scalar ≥ 0.
    """
    own = torch.arange(len(same), device=same.device)
    others = same & (own[:, None] != own)
    with torch.autocast(image_features.device.type, enabled=False):
        logits = logit_scale * image_features @ text_features.T  # N, N
    logits = logits.masked_fill(others, -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


# GLoRIA's inverse temperatures, as its authors' code has them
ATTENTION, MATCHING, CONTRAST = 4.0, 5.0, 10.0


def local_contrastive_loss(patches: Tensor, words: Tensor, present: Tensor) -> Tensor:
    """GLoRIA's local term: symmetric InfoNCE of how well the words of a report match what they attend to in an image.

    patches (N, L, D), words (N, T, D) unit vectors; present (N, T), true where there is a word → a scalar. A word's
    context in an image is the mean of its patches, weighted by softmax of their cosines; an image and a report match by
    log Σ exp of the cosines of words and contexts. Memory grows with N·N·T·L.
    """
    with torch.autocast(patches.device.type, enabled=False):
        weight = torch.einsum("nld,mtd->nmtl", ATTENTION * patches, words).softmax(dim=3)
        context = torch.einsum("nmtl,nld->nmtd", weight, patches)  # image n, report m, word t
        cosine = F.cosine_similarity(context, words[None], dim=3)  # N, N, T
        cosine = (MATCHING * cosine).masked_fill(~present[None], -torch.inf)
        logits = CONTRAST * cosine.logsumexp(dim=2)  # N, N
    own = torch.arange(len(patches), device=patches.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
