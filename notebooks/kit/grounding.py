"""Patch ↔ word maps: where in an image the meaning of a text lies.

MbA maps every patch and every word into the common space and then aggregates, so the score of a pair is exactly the
mean of its patch × word table. AbM trains only the map of the pooled feature: its tables can be computed too, but do
not add up to the score. It is not a detector (nothing is trained on boxes) and draws nothing.

Axes: N images, L patches, T tokens, D common_dim, S patches along a side (L = S·S)."""

from __future__ import annotations

import torch
from torch import Tensor

from mcr_lib.heads import AlignmentHead


@torch.inference_mode()
def patch_features(model, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
    """images (N, C, H, W) normalised → what every (kept) patch gives to the image's vector: (N, L, D)."""
    return contributions(model.image_head, model.image_encoder(images, ids_keep))


@torch.inference_mode()
def word_features(model, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """input_ids, attention_mask (N, T) → what every token gives to the report's vector: (N, T, D)."""
    local_features = model.report_encoder(input_ids, attention_mask)
    return contributions(model.report_head, local_features, attention_mask.bool())


def contributions(
    head: AlignmentHead, local_features: Tensor, present: Tensor | None = None
) -> Tensor:
    """f (N, L, ·), present (N, L) or None → what every local feature gives to the vector: (N, L,
    D). With MbA their mean is the vector before it is brought to length 1; with the mean as
    aggregation they are simply F of every local feature."""
    mapped = head.map(local_features).float()  # N, L, D
    return mapped if head.alignment == "abm" else head.aggregate.contributions(mapped, present)


def heat_map(
    patches: Tensor, direction: Tensor, ids_keep: Tensor | None = None, num_patches: int = 0
) -> Tensor:
    """patches (N, L, D), direction (D,) or (N, D) → (N, S, S): what each patch adds along
    `direction`. Inner products divided by the length of the mean patch. With MbA the mean of the
    map is the cosine of the image with a unit `direction`. With direction = text − mean of all
    texts, a positive patch speaks for this text rather than for any. Of `num_patches` only ids_keep
    (N, L) are given where the image was masked: the others are nan."""
    scale = patches.mean(dim=1).norm(dim=-1, keepdim=True)  # N, 1
    direction = direction.expand(len(patches), -1)[:, :, None]  # N, D, 1
    heat = (patches @ direction).squeeze(2) / scale  # N, L, D @ N, D, 1 → N, L
    if ids_keep is not None:
        whole = heat.new_full((len(heat), num_patches), float("nan"))
        heat = whole.scatter(1, ids_keep.to(heat.device), heat)
    side = round(heat.shape[1] ** 0.5)
    return heat.reshape(len(heat), side, side)


def split_words(
    tokenizer, text: str, max_length: int
) -> tuple[Tensor, list[tuple[int, int]], list[int | None]]:
    """input_ids (1, T); each word's place in the text, [start, stop); each token's word (None: special)."""
    encoded = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)
    words, spans = encoded.word_ids(), {}
    for word, (start, stop) in zip(words, encoded["offset_mapping"], strict=True):
        if word is not None:
            first, _ = spans.get(word, (start, stop))
            spans[word] = (first, stop)
    return torch.tensor([encoded["input_ids"]]), [spans[word] for word in sorted(spans)], words
