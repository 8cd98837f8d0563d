"""Masking: which patches and which tokens are removed, and the noise that decides it.

The noise is a hash of (seed, epoch, pair, position), not the state of a random generator: one pair gets the same mask
on 1 or 4 processes, on CPU or GPU, stopped and resumed anywhere. Nothing here knows a model."""

from __future__ import annotations

import torch
from torch import Tensor

_32 = 0xFFFFFFFF
IMAGE_STREAM, TEXT_STREAM, AUGMENT_STREAM, ORDER_STREAM = range(4)


def _mix(x: Tensor) -> Tensor:
    """A 32-bit integer hash (C. Wellons' `lowbias32`), on int64: exact on every device."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _32
    return x ^ (x >> 16)


def counter_noise(seed: int, epochs: Tensor, pairs: Tensor, length: int, stream: int) -> Tensor:
    """Uniform noise in [0, 1), a pure function of its arguments. epochs (N,), pairs (N,) int64: the
    epoch in which and the row as which each pair is seen; stream: one of the *_STREAM constants, so
    that image and report masks are independent. Returns (N, length) float32 with 24 bits."""
    key = _mix((torch.full_like(pairs, seed) * 4 + stream) & _32)
    key = _mix(key ^ (epochs & _32))
    key = _mix(key ^ (pairs & _32))  # N
    position = torch.arange(length, device=pairs.device)
    bits = _mix(_mix(key[:, None] + position * 0x9E3779B9 & _32))  # N → N, length
    return (bits >> 8).float() * 2.0**-24


def random_masking(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Which patches stay and which go, per image (He et al. 2022; the paper: 50 %). noise (N, L) →
    ids_keep (N, L_keep), ids_removed (N, L_removed), both ascending. Exactly round(L · mask_ratio)
    patches are removed from every image, always leaving one."""
    L = noise.shape[1]
    num_keep = max(1, L - round(L * mask_ratio))
    order = noise.argsort(dim=1, stable=True)  # the patches with the least noise stay
    ids_keep = order[:, :num_keep].sort(dim=1).values
    ids_removed = order[:, num_keep:].sort(dim=1).values
    return ids_keep, ids_removed


def mask_report(
    input_ids, attention_mask, noise, mlm_probability: float, mask_token_id: int, special_token_ids
) -> tuple[Tensor, Tensor, Tensor]:
    """Replace a share of each report's tokens by [MASK] (the paper: 25 %). input_ids,
    attention_mask, noise (N, T) → masked_ids (N, T); positions (N, M) of the masked tokens; and
    their labels (N, M), −100 where a report shorter than the longest needs fewer. Of every report
    exactly round(n · mlm_probability) of its n ordinary tokens are masked; special and padding
    tokens never. M = round((T − 2) · mlm_probability), at least 1, follows from the shape: nothing
    is read back from the device."""
    T = input_ids.shape[1]
    ordinary = attention_mask.bool()
    for token in special_token_ids:  # as numbers: sending a tensor to the device would wait for it
        ordinary = ordinary & (input_ids != token)
    num_masked = (ordinary.sum(1) * mlm_probability).round().long()  # N
    M = max(1, round((T - 2) * mlm_probability))
    noise = noise.masked_fill(~ordinary, 2.0)  # never chosen
    positions = noise.argsort(dim=1, stable=True)[:, :M]  # N, M
    chosen = torch.arange(M, device=noise.device) < num_masked[:, None]  # N, M
    labels = input_ids.gather(1, positions).masked_fill(~chosen, -100)
    masked_here = torch.zeros_like(ordinary).scatter(1, positions, chosen)  # N, T
    return input_ids.masked_fill(masked_here, mask_token_id), positions, labels
