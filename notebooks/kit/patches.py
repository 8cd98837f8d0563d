"""Back from what the model works with to a picture: patches as an image, removed patches as a mask. Not here: the way
there (`patchify` in mcr_lib/encoders.py, `random_masking` in mcr_lib/masking.py)."""

import torch
from torch import Tensor


def unpatchify(patches: Tensor, patch_size: int, in_chans: int = 1) -> Tensor:
    """(N, L, P·P·C) → (N, C, H, W) for square images; undoes `patchify`."""
    N, L, _ = patches.shape
    P, side = patch_size, int(L**0.5)
    x = patches.reshape(N, side, side, P, P, in_chans)
    x = x.permute(0, 5, 1, 3, 2, 4)  # N, C, side, P, side, P
    return x.reshape(N, in_chans, side * P, side * P)


def removed_mask(ids_removed: Tensor, num_patches: int) -> Tensor:
    """ids_removed (N, L_removed) → mask (N, L) float: 0 = keep, 1 = removed."""
    mask = torch.zeros(len(ids_removed), num_patches, device=ids_removed.device)
    return mask.scatter(1, ids_removed, 1.0)
