"""E_v, the image encoder, and an image as patches. Not here: which patches are removed (masking.py), D_v (decoders.py).

The encoder is a timm vision transformer, weights and blocks; all we add is that it can be shown some patches only.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .config import ConfigError, MCRConfig


class ImageEncoder(nn.Module):
    """A timm ViT that encodes visible patches only (He et al. 2022). Output: local features f^v, one per patch."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        self.vit = VisionTransformer(
            img_size=config.img_size, patch_size=config.patch_size, in_chans=config.in_chans, num_classes=0,
            global_pool="", embed_dim=config.embed_dim, depth=config.depth, num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio, proj_drop_rate=config.dropout,
        )
        side = config.img_size // config.patch_size
        with torch.no_grad():  # start from where each patch is (He et al. 2022); still learned
            self.vit.pos_embed[:, 1:] = sincos_positions(side, config.embed_dim)

    def forward(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """images (N, C, H, W) normalised; ids_keep (N, L_keep) or None for all patches → (N, L_keep, D)."""
        x = self.vit._pos_embed(self.vit.patch_embed(images))  # N, C, H, W → N, 1+L, D
        if ids_keep is not None:
            cls_token, patches = x[:, :1], x[:, 1:]
            patches = patches.gather(1, ids_keep[:, :, None].expand(-1, -1, x.shape[2]))  # N, L, D → N, L_keep, D
            x = torch.cat([cls_token, patches], dim=1)
        x = self.vit.norm(self.vit.blocks(self.vit.norm_pre(x)))
        return x[:, 1:]  # the class token took part, but only patches are local features

    def load_weights(self, source: str) -> None:
        """Start from a timm model name, a folder with model.safetensors, or a .safetensors file.

        RGB patch embeddings are summed for one-channel input and position embeddings resized, by timm itself.
        Raises ConfigError when the weights cannot be had or do not fit.
        """
        path = Path(source)
        path = path / "model.safetensors" if path.is_dir() else path
        try:
            if path.suffix == ".safetensors" or path.exists():
                state = load_file(path)
            else:
                state = timm.create_model(source, pretrained=True, num_classes=0).state_dict()
        except Exception as error:
            raise ConfigError(f"image_weights: {source!r} cannot be loaded ({type(error).__name__}); give a local "
                              "folder with model.safetensors, or a timm model name with network") from error
        from timm.models.vision_transformer import checkpoint_filter_fn

        state = {k.removeprefix("module."): v for k, v in state.items() if not k.startswith(("head", "fc_norm"))}
        state = checkpoint_filter_fn(state, self.vit)
        weight = "patch_embed.proj.weight"
        if weight in state and state[weight].shape[1] == 3 and self.vit.patch_embed.proj.in_channels == 1:
            state[weight] = state[weight].sum(1, keepdim=True)
        try:
            self.vit.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigError(f"image_weights: {source!r} does not fit this image encoder: "
                              f"{' '.join(str(error).split())[:300]}") from None


def sincos_positions(side: int, dim: int) -> Tensor:
    """2-D sine–cosine positions of a side × side grid (He et al. 2022, MoCo v3): (side², dim), a quarter of `dim`
    each for the sine and cosine of row and column; what `dim` exceeds a multiple of four stays zero."""
    quarter = dim // 4
    frequency = 10_000 ** (-torch.arange(quarter) / quarter)
    angle = torch.arange(side)[:, None] * frequency  # side, quarter
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)  # side, dim / 2
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    positions = torch.cat([rows, columns], dim=2).flatten(0, 1)  # side², 4 · quarter
    return torch.nn.functional.pad(positions, (0, dim - 4 * quarter))


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(N, C, H, W) → (N, L, P·P·C), patches in reading order, pixels of a patch row by row, channels last."""
    N, C, H, W = images.shape
    P = patch_size
    x = images.reshape(N, C, H // P, P, W // P, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(N, (H // P) * (W // P), P * P * C)


def unpatchify(patches: Tensor, patch_size: int, in_chans: int = 1) -> Tensor:
    """(N, L, P·P·C) → (N, C, H, W) for square images; undoes `patchify`."""
    N, L, _ = patches.shape
    P, side = patch_size, int(L**0.5)
    x = patches.reshape(N, side, side, P, P, in_chans)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(N, in_chans, side * P, side * P)
