"""The three losses: L_vrc (contrastive), L_mim (image reconstruction), L_mrm (report reconstruction).

Pure functions of tensors. We could not read the paper's equations; what is assumed here is listed in paper.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, rows: slice = slice(None)
) -> Tensor:
    """L_vrc: symmetric InfoNCE (van den Oord 2018; CLIP). Report n is the only match of image n.
    image_features, text_features (N, D) unit vectors; logit_scale a scalar, 1 / temperature.
    Returns a scalar ≥ 0; log N is what a model that knows nothing gets. `rows`: only these n pairs'
    share of it, n × N similarities at a time; the shares of disjoint rows that cover all pairs add
    up to the loss. Computed in the features' own precision, whatever autocast says around it."""
    N = len(image_features)
    target = torch.arange(N, device=image_features.device)[rows]
    with torch.autocast(image_features.device.type, enabled=False):
        per_image = logit_scale * image_features[rows] @ text_features.T  # n, N
        per_text = logit_scale * text_features[rows] @ image_features.T  # n, N
    image_loss = F.cross_entropy(per_image, target, reduction="sum")
    text_loss = F.cross_entropy(per_text, target, reduction="sum")
    return (image_loss + text_loss) / (2 * N)


def image_reconstruction_loss(predicted: Tensor, patches: Tensor, norm_pix: bool = True) -> Tensor:
    """L_mim: mean squared error over the removed patches (He et al. 2022). predicted, patches (N,
    L_removed, P·P·C). With norm_pix each target patch is brought to mean 0 and variance 1 first, so
    predicting a flat patch costs 1. Returns a scalar ≥ 0; 0 if nothing is removed."""
    if predicted.shape[1] == 0:
        return at_least_float32(predicted).sum()
    patches = at_least_float32(patches)
    target = normalise_patches(patches) if norm_pix else patches
    error = (at_least_float32(predicted) - target).square().mean(dim=2)  # N, L_removed
    return error.mean()


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch (last axis) to mean 0 and variance 1, with He et al.'s 1e-6 under the root."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def text_reconstruction_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L_mrm: cross-entropy of the masked words. logits (N, M, vocab), labels (N, M), −100 = not
    scored. Returns a scalar ≥ 0, the mean over scored tokens; 0 if there is none."""
    logits = at_least_float32(logits).flatten(0, 1)  # N, M, vocab → N·M, vocab
    total = F.cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Autocast hands over bf16: losses are summed in float32, or float64 where the input is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
