"""D_v, the image decoder, and D_r, the report decoder: from masked local features back to pixels and words.

Not here: what is masked (masking.py), the losses on what is predicted (losses.py). Both decode only what is scored:
the last block attends to everything, but is computed at the removed patches and the masked tokens alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from .config import MCRConfig
from .text import attention_keys
from .vision import sincos_positions


class ImageDecoder(nn.Module):
    """D_v: from the visible patches' f^v and mask tokens to the pixels of patches (He et al. 2022, Fig. 1)."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        D = config.decoder_embed_dim
        self.embed = nn.Linear(config.embed_dim, D)
        self.mask_token = nn.Parameter(torch.randn(1, 1, D) * 0.02)
        self.pos_embed = nn.Parameter(sincos_positions(config.img_size // config.patch_size, D)[None])
        self.blocks = nn.ModuleList(
            [Block(D, config.decoder_num_heads, config.mlp_ratio, qkv_bias=True) for _ in range(config.decoder_depth)]
        )
        self.norm = nn.LayerNorm(D)
        self.predict = nn.Linear(D, config.patch_size**2 * config.in_chans)

    def forward(self, f_v: Tensor, ids_restore: Tensor, ids: Tensor | None = None) -> Tensor:
        """f_v (N, L_keep, D_encoder), ids_restore (N, L) → predicted pixels of the patches ids (N, M), or of all when
        None: (N, M or L, P·P·C)."""
        x = self.embed(f_v)  # N, L_keep, D
        N, L_keep, _ = x.shape
        L = ids_restore.shape[1]
        removed = self.mask_token.to(x.dtype).expand(N, L - L_keep, -1)
        x = take(torch.cat([x, removed], dim=1), ids_restore) + self.pos_embed  # N, L, D
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x) if ids is None else block_at(self.blocks[-1], x, ids)  # N, M, D
        return self.predict(self.norm(x))


class ReportDecoder(nn.Module):
    """D_r: from the masked report's f^r to the words at the masked positions."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        D = config.text_embed_dim
        self.blocks = nn.ModuleList(
            [Block(D, config.text_num_heads, config.mlp_ratio, qkv_bias=True) for _ in range(config.text_decoder_depth)]
        )
        self.norm = nn.LayerNorm(D)
        self.predict = nn.Linear(D, config.vocab_size)

    def forward(self, f_r: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """f_r (N, T, D), attention_mask (N, T), positions (N, M) → logits (N, M, vocab)."""
        keys = attention_keys(attention_mask)
        for block in self.blocks[:-1]:
            f_r = block(f_r, attn_mask=keys)
        return self.predict(self.norm(block_at(self.blocks[-1], f_r, positions, keys)))


def take(x: Tensor, ids: Tensor) -> Tensor:
    """x (N, L, D), ids (N, M) → the local features at ids (N, M, D)."""
    return x.gather(1, ids[:, :, None].expand(-1, -1, x.shape[2]))


def block_at(block: Block, x: Tensor, ids: Tensor, keys: Tensor | None = None) -> Tensor:
    """What `take(block(x, attn_mask=keys), ids)` gives, computed at ids (N, M) only: x (N, L, D) → (N, M, D).

    Keys and values of all L, but queries, projection and MLP of M: for half the patches 7/12 of the block's cost.
    """
    attention, D = block.attn, x.shape[2]
    weight, bias = attention.qkv.weight, attention.qkv.bias
    normed = block.norm1(x)
    q = F.linear(take(normed, ids), weight[:D], bias[:D])  # N, M, D
    k, v = F.linear(normed, weight[D:], bias[D:]).chunk(2, dim=2)  # N, L, D each
    q, k, v = (t.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v))  # N, heads, M | L, D/heads
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(2)  # N, M, D
    x = take(x, ids) + attention.proj(seen)
    return x + block.mlp(block.norm2(x))
