"""E_v and E_r, the two encoders, and an image as patches.

Both are other people's: a timm vision transformer and a transformers BERT. What we add: the image encoder can be shown
some patches only, and a report's features do not depend on where its padding stands. Not here: what is masked
(masking.py), the decoders (decoders.py), starting from other people's weights (engine/pretrained.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import AttentionInterface, BertConfig, BertModel

from .config import MCRConfig


class ImageEncoder(nn.Module):
    """E_v: a ViT that encodes visible patches only (He et al. 2022). Output: f^v, one per patch."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        names = "img_size patch_size in_chans embed_dim depth num_heads mlp_ratio".split()
        sizes = {name: getattr(config, name) for name in names}  # our keys are timm's
        no_classifier = {"num_classes": 0, "global_pool": ""}
        self.vit = VisionTransformer(**sizes, **no_classifier, proj_drop_rate=config.dropout)
        side = config.img_size // config.patch_size
        with torch.no_grad():  # start from where each patch is (He et al. 2022); still learned
            self.vit.pos_embed[:, 1:] = sincos_positions(side, config.embed_dim)

    def forward(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """images (N, C, H, W) normalised; ids_keep (N, L_keep), None: all → (N, L_keep, D)."""
        x = self.vit._pos_embed(self.vit.patch_embed(images))  # N, C, H, W → N, 1+L, D
        if ids_keep is not None:
            cls_token, patches = x[:, :1], x[:, 1:]
            x = torch.cat([cls_token, take(patches, ids_keep)], dim=1)  # N, 1+L_keep, D
        x = self.vit.norm(self.vit.blocks(self.vit.norm_pre(x)))
        return x[:, 1:]  # the class token took part, but only patches are local features


class ReportEncoder(nn.Module):
    """E_r: a BERT without pooler. Output: f^r, one per token."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        bert = BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.text_embed_dim,
            num_hidden_layers=config.text_depth,
            num_attention_heads=config.text_num_heads,
            intermediate_size=4 * config.text_embed_dim,
            max_position_embeddings=max(512, config.max_text_length),
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            pad_token_id=config.special_token_ids[0],
            attn_implementation="packed",  # `attend`, below
        )
        self.bert = BertModel(bert, add_pooling_layer=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """input_ids, attention_mask (N, T), padding on either side → (N, T, D). What stands at a
        padded position means nothing. places (tokens,): which of the N·T places hold a token, to
        encode these alone; the features at them are the same, and short reports cost less."""
        position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)  # from the first token
        keys = attention_keys(attention_mask)
        if places is None:
            return self.bert(input_ids, attention_mask=keys, position_ids=position_ids)[0]
        ids, positions = (x.flatten()[places][None] for x in (input_ids, position_ids))  # 1, tokens
        f_r = self.bert(ids, attention_mask=keys, position_ids=positions, places=places)[0]
        return put(f_r[0], places, keys)  # N, T, D


def attend(module, query, key, value, keys, *, dropout=0.0, places=None, **_):
    """BERT's attention, as transformers calls it. query, key, value (N, heads, T, d) → (N, T, heads,
    d); with places they are (1, heads, tokens, d), and get their padding back for the attention
    alone: it is a small part of a layer, and no token sees another report's."""
    if places is not None:
        packed = (x[0].transpose(0, 1) for x in (query, key, value))  # tokens, heads, d
        query, key, value = (put(x, places, keys).transpose(1, 2) for x in packed)
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, dropout_p=dropout)
    seen = seen.transpose(1, 2)  # N, T, heads, d
    return seen if places is None else seen.flatten(0, 1)[places][None], None


AttentionInterface.register("packed", attend)


def put(x: Tensor, places: Tensor, keys: Tensor) -> Tensor:
    """x (tokens, …), places (tokens,), keys (N, 1, 1, T) → (N, T, …), zero where no token stands."""
    N, _, _, T = keys.shape
    return x.new_zeros(N * T, *x.shape[1:]).index_copy(0, places, x).unflatten(0, (N, T))


def attention_keys(attention_mask: Tensor) -> Tensor:
    """(N, T) → (N, 1, 1, T) boolean, True where a key may be attended to, as fused attention takes it."""
    return attention_mask.bool()[:, None, None, :]


def take(x: Tensor, ids: Tensor) -> Tensor:
    """x (N, L, D), ids (N, M) → the local features at ids (N, M, D)."""
    return x.gather(1, ids[:, :, None].expand(-1, -1, x.shape[2]))


def sincos_positions(side: int, dim: int) -> Tensor:
    """2-D sine–cosine positions of a side × side grid (He et al. 2022, MoCo v3): (side², dim). A
    quarter of `dim` each for the sine and cosine of row and column; what `dim` exceeds a multiple
    of four stays zero."""
    quarter = dim // 4
    frequency = 10_000 ** (-torch.arange(quarter) / quarter)
    angle = torch.arange(side)[:, None] * frequency  # side, quarter
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)  # side, dim / 2
    rows = waves[:, None].expand(-1, side, -1)
    columns = waves[None].expand(side, -1, -1)
    positions = torch.cat([rows, columns], dim=2).flatten(0, 1)  # side², 4 · quarter
    return F.pad(positions, (0, dim - 4 * quarter))


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(N, C, H, W) → (N, L, P·P·C), patches in reading order, pixels row by row, channels last."""
    N, C, H, W = images.shape
    P = patch_size
    x = images.reshape(N, C, H // P, P, W // P, P)
    x = x.permute(0, 2, 4, 3, 5, 1)  # N, H/P, W/P, P, P, C
    return x.reshape(N, (H // P) * (W // P), P * P * C)
