"""MCR, the whole model: reads as the paper's Fig. 2. All arms of the study are this one class; an arm is two
config keys. Touches no file, device, clock or random state: the noise that masks comes in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import MCRConfig
from .decoders import ImageDecoder, ReportDecoder, take
from .heads import AlignmentHead
from .losses import at_least_float32, contrastive_loss, image_reconstruction_loss, text_reconstruction_loss
from .masking import mask_report, random_masking
from .text import ReportEncoder
from .vision import ImageEncoder, patchify


@dataclass
class Batch:
    """N image–report pairs, and the noise in [0, 1) that decides what of them is masked."""

    images: Tensor  # N, C, H, W, normalised
    input_ids: Tensor  # N, T
    attention_mask: Tensor  # N, T
    image_noise: Tensor  # N, L
    text_noise: Tensor  # N, T
    pairs: Tensor | None = None  # N, rows of the data set; the model does not read them
    text_lengths: tuple[int, ...] = ()  # T of each group of reports, see ReportEncoder


@dataclass
class MCROutput:
    """What one forward pass gives. Losses are already weighted: the total is the sum of the `*_loss` fields. A
    `*_count` says over how many things its loss is the mean, so that the losses of parts add up to the whole's."""

    image_features: Tensor  # S^v: N, common_dim, unit vectors
    text_features: Tensor  # S^r: N, common_dim, unit vectors
    logit_scale: Tensor  # 1 / temperature
    contrastive_loss: Tensor  # L_vrc
    image_reconstruction_loss: Tensor | None = None  # L_mim
    text_reconstruction_loss: Tensor | None = None  # L_mrm
    image_reconstruction_count: Tensor | None = None  # removed patches
    text_reconstruction_count: Tensor | None = None  # scored tokens


class MCR(nn.Module):
    """Masked Contrastive Reconstruction (Wei, Jin, Zhou 2023, Fig. 1b and 2) and the arms it is compared with."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        self.config = config
        # what all arms share is built first: with the same seed they start from the same weights
        self.image_encoder = ImageEncoder(config)  # E_v
        self.report_encoder = ReportEncoder(config)  # E_r
        self.image_head = AlignmentHead(config.embed_dim, config)  # F_{v→s} and aggregation
        self.report_head = AlignmentHead(config.text_embed_dim, config)  # F_{r→s} and aggregation
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))
        self.apply(_initialise)
        if config.reconstructs:
            self.image_decoder = ImageDecoder(config).apply(_initialise)  # D_v
            self.report_decoder = ReportDecoder(config).apply(_initialise)  # D_r

    def forward(self, batch: Batch) -> MCROutput:
        """One pass of whichever arm the config names."""
        config = self.config
        f_v = f_r = None
        if config.contrast_is_masked or config.reconstructs:
            ids_keep, ids_restore, mask = random_masking(batch.image_noise, config.mask_ratio)
            masked_ids, positions, labels = self.mask_report(batch)
            f_v = self.image_encoder(batch.images, ids_keep)  # N, L_keep, D
            f_r = self.report_encoder(masked_ids, batch.attention_mask, batch.text_lengths)  # N, T, D

        if config.contrast_is_masked:  # Fig. 1b: the masked features are the only input of every task
            image_features = self._to_common(self.image_head, f_v)
            text_features = self._to_common(self.report_head, f_r, batch.attention_mask)
        else:  # Fig. 1a: a second stream, of whole images and whole reports, for the contrastive task
            image_features = self.encode_image(batch.images)
            text_features = self.encode_text(batch.input_ids, batch.attention_mask, batch.text_lengths)
        output = MCROutput(image_features, text_features, self.logit_scale,
                           self.contrast(image_features, text_features))

        if config.reconstructs:
            # words before pixels: the backward pass frees the image decoder before it meets the vocabulary's gradient
            words = self.report_decoder(f_r, batch.attention_mask, positions)  # N, M, vocab
            text_loss = text_reconstruction_loss(words, labels)
            output.text_reconstruction_loss = config.text_reconstruction_weight * text_loss
            ids_removed = ids_restore.argsort(dim=1)[:, ids_keep.shape[1]:]  # N, L_removed
            predicted = self.image_decoder(f_v, ids_restore, ids_removed)  # N, L_removed, P·P·C
            patches = take(patchify(batch.images, config.patch_size), ids_removed)
            image_loss = image_reconstruction_loss(predicted, patches, mask.gather(1, ids_removed), config.norm_pix)
            output.image_reconstruction_loss = config.image_reconstruction_weight * image_loss
            output.image_reconstruction_count, output.text_reconstruction_count = mask.sum(), (labels != -100).sum()
        return output

    def contrast(self, image_features: Tensor, text_features: Tensor, rows: slice = slice(None)) -> Tensor:
        """L_vrc, weighted, of pairs that may come from several forward passes: features (N, common_dim) → a scalar.
        `rows` picks a share of it, see `contrastive_loss`."""
        return self.config.contrastive_weight * contrastive_loss(image_features, text_features, self.logit_scale, rows)

    @property
    def logit_scale(self) -> Tensor:
        """1 / temperature, learned, at most 100 (CLIP)."""
        return self.log_scale.exp().clamp(max=100)

    def encode_image(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """images (N, C, H, W) normalised, whole unless ids_keep (N, L_keep) is given → S^v (N, common_dim), unit."""
        return self._to_common(self.image_head, self.image_encoder(images, ids_keep))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor, lengths: tuple[int, ...] = ()) -> Tensor:
        """input_ids, attention_mask (N, T) → S^r (N, common_dim), unit vectors. lengths: see ReportEncoder."""
        return self._to_common(self.report_head, self.report_encoder(input_ids, attention_mask, lengths),
                               attention_mask)

    def mask_report(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The batch's reports with a share of their tokens masked; see `masking.mask_report`."""
        c = self.config
        return mask_report(batch.input_ids, batch.attention_mask, batch.text_noise, c.mlm_probability,
                           c.mask_token_id, c.special_token_ids)

    @staticmethod
    def _to_common(head: AlignmentHead, local_features: Tensor, present: Tensor | None = None) -> Tensor:
        return F.normalize(at_least_float32(head(local_features, present)), dim=-1)


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for linear maps (He et al. 2022): at any width the signal keeps its size,
    where the fixed 0.02 of ViT and BERT, made for a width of 768, lets narrow models learn next to nothing."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
