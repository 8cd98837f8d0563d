"""D_v, the image decoder, and D_r, the report decoder: from masked local features back to pixels and words.

Not here: what is masked (masking.py), the losses on what is predicted (losses.py). Both decode only what is scored: the
last block attends to everything, but is computed at the removed patches and the masked tokens alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from .config import MCRConfig
from .encoders import attention_keys, sincos_positions, take


class ImageDecoder(nn.Module):
    """D_v: from the visible patches' f^v and mask tokens to pixels (He et al. 2022, Fig. 1)."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        D, side = config.decoder_embed_dim, config.img_size // config.patch_size
        self.embed = nn.Linear(config.embed_dim, D)
        self.mask_token = nn.Parameter(torch.randn(1, 1, D) * 0.02)
        self.pos_embed = nn.Parameter(sincos_positions(side, D)[None])
        self.blocks = make_blocks(
            D, config.decoder_num_heads, config.mlp_ratio, config.decoder_depth
        )
        self.norm = nn.LayerNorm(D)
        self.predict = nn.Linear(D, config.patch_size**2 * config.in_chans)

    def forward(self, f_v: Tensor, ids_keep: Tensor, ids_removed: Tensor) -> Tensor:
        """f_v (N, L_keep, D_encoder) at ids_keep → pixels predicted at ids_removed. ids_keep (N,
        L_keep) and ids_removed (N, L_removed) are all L patches; → (N, L_removed, P·P·C)."""
        seen = self.embed(f_v)  # N, L_keep, D
        hidden = self.mask_token.to(seen.dtype).expand(*ids_removed.shape, -1)  # N, L_removed, D
        reading_order = torch.cat([ids_keep, ids_removed], dim=1).argsort(dim=1)  # N, L
        x = take(torch.cat([seen, hidden], dim=1), reading_order) + self.pos_embed  # N, L, D
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, ids_removed)  # N, L, D → N, L_removed, D
        return self.predict(self.norm(x))


class ReportDecoder(nn.Module):
    """D_r: from the masked report's f^r to the words at the masked positions."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        D, depth = config.text_embed_dim, config.text_decoder_depth
        self.blocks = make_blocks(D, config.text_num_heads, config.mlp_ratio, depth)
        self.norm = nn.LayerNorm(D)
        self.predict = nn.Linear(D, config.vocab_size)

    def forward(self, f_r: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """f_r (N, T, D), attention_mask (N, T), positions (N, M) → logits (N, M, vocab)."""
        keys = attention_keys(attention_mask)
        for block in self.blocks[:-1]:
            f_r = block(f_r, attn_mask=keys)
        x = self.blocks[-1](f_r, positions, keys)  # N, T, D → N, M, D
        return self.predict(self.norm(x))


class BlockAt(Block):
    """A transformer block as ViT has them, computed at some positions only."""

    def forward(self, x: Tensor, ids: Tensor, keys: Tensor | None = None) -> Tensor:
        """What `take(Block.forward(self, x, keys), ids)` gives. x (N, L, D), ids (N, M) → (N, M, D).
        Keys and values of all L, but queries, projection and MLP of M: for half the patches 7/12
        of the block's cost."""
        D, weight, bias = x.shape[2], self.attn.qkv.weight, self.attn.qkv.bias
        normed = self.norm1(x)
        q = F.linear(take(normed, ids), weight[:D], bias[:D])  # N, M, D
        k, v = F.linear(normed, weight[D:], bias[D:]).chunk(2, dim=2)  # N, L, D each
        q, k, v = (split_heads(t, self.attn.num_heads) for t in (q, k, v))
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)  # N, heads, M, D/heads
        seen = seen.transpose(1, 2).flatten(2)  # N, M, D
        x = take(x, ids) + self.attn.proj(seen)
        return x + self.mlp(self.norm2(x))


def make_blocks(dim: int, num_heads: int, mlp_ratio: float, depth: int) -> nn.ModuleList:
    """`depth` transformer blocks as ViT has them, the last one a BlockAt."""
    kinds = [Block] * (depth - 1) + [BlockAt]
    return nn.ModuleList([kind(dim, num_heads, mlp_ratio, qkv_bias=True) for kind in kinds])


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(N, L, D) → (N, heads, L, D/heads)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)
