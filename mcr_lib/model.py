"""MCR, the whole model: reads as the paper's Fig. 2. All arms of the study are this one class; an arm is two config
keys. Touches no file, device, clock or random state: the noise that masks comes in the batch."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from . import losses
from .config import MCRConfig
from .decoders import ImageDecoder, ReportDecoder
from .encoders import ImageEncoder, ReportEncoder, patchify, take
from .heads import AlignmentHead
from .linear import PatchHistograms, WeightedWords
from .masking import mask_report, random_masking


@dataclass
class Batch:
    """N image–report pairs, and the noise in [0, 1) that decides what of them is masked."""

    images: Tensor  # N, C, H, W, normalised
    input_ids: Tensor  # N, T
    attention_mask: Tensor  # N, T
    image_noise: Tensor  # N, L
    text_noise: Tensor  # N, T
    pairs: Tensor | None = None  # N, rows of the data set; the model does not read them
    places: Tensor | None = None  # tokens, which of N·T hold one; None: all, or not known


@dataclass
class MCROutput:
    """What one forward pass gives. Losses are already weighted: the total is the sum of `*_loss`. A
    `*_count` says over how many things its loss is the mean, so that the losses of a batch's parts
    add up to the whole's."""

    image_features: Tensor  # S^v: N, common_dim, unit vectors
    text_features: Tensor  # S^r: N, common_dim, unit vectors
    logit_scale: Tensor  # 1 / temperature
    contrastive_loss: Tensor  # L_vrc
    image_reconstruction_loss: Tensor | None = None  # L_mim
    text_reconstruction_loss: Tensor | None = None  # L_mrm
    image_reconstruction_count: int | None = None  # removed patches
    text_reconstruction_count: Tensor | None = None  # scored tokens


@dataclass
class Masked:
    """A masked batch, encoded: local features, and what was masked where."""

    f_v: Tensor  # N, L_keep, D
    f_r: Tensor  # N, T, D
    ids_keep: Tensor  # N, L_keep
    ids_removed: Tensor  # N, L_removed
    positions: Tensor  # N, M, of the masked tokens
    labels: Tensor  # N, M, the tokens that stood there, −100 = not scored


class MCR(
    nn.Module,
    PyTorchModelHubMixin,  # from_pretrained, save_pretrained, push_to_hub
    library_name="mcr_lib",
    coders={MCRConfig: (lambda config: config.model_dump(mode="json"), MCRConfig.model_validate)},
):
    """Masked Contrastive Reconstruction (Wei, Jin, Zhou 2023, Fig. 1b and 2), and its arms."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        self.config = config
        # what all arms share is built first: with the same seed they start from the same weights
        linear = config.encoders == "linear"
        self.image_encoder = (PatchHistograms if linear else ImageEncoder)(config)  # E_v
        self.report_encoder = (WeightedWords if linear else ReportEncoder)(config)  # E_r
        self.image_head = AlignmentHead(config.embed_dim, config)  # F_{v→s} and aggregation
        self.report_head = AlignmentHead(config.text_embed_dim, config)  # F_{r→s} and aggregation
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))
        self.apply(initialise)
        if config.reconstructs:
            self.image_decoder = ImageDecoder(config).apply(initialise)  # D_v
            self.report_decoder = ReportDecoder(config).apply(initialise)  # D_r

    def forward(self, batch: Batch) -> MCROutput:
        """One pass of whichever arm the config names."""
        masked = self.encode_masked(batch) if self.config.sees_masked else None

        if self.config.contrast_is_masked:  # Fig. 1b: masked data is the only input of every task
            image_features = self.to_common(self.image_head, masked.f_v)
            text_features = self.to_common(self.report_head, masked.f_r, batch.attention_mask)
        else:  # Fig. 1a: a second stream, of whole images and reports, for the contrastive task
            image_features = self.encode_image(batch.images)
            text_features = self.encode_text(batch.input_ids, batch.attention_mask, batch.places)
        loss = self.contrast(image_features, text_features)
        output = MCROutput(image_features, text_features, self.logit_scale, loss)

        if self.config.reconstructs:
            # words before pixels: the backward pass then frees the image decoder before it meets
            # the vocabulary's gradient
            self.reconstruct_report(batch, masked, output)
            self.reconstruct_image(batch, masked, output)
        return output

    def encode_masked(self, batch: Batch) -> Masked:
        """Mask half of each image and a quarter of each report (Fig. 2), then encode what is left."""
        ids_keep, ids_removed = random_masking(batch.image_noise, self.config.mask_ratio)
        masked_ids, positions, labels = self.mask_report(batch)
        f_v = self.image_encoder(batch.images, ids_keep)  # N, L_keep, D
        f_r = self.report_encoder(masked_ids, batch.attention_mask, batch.places)  # N, T, D
        return Masked(f_v, f_r, ids_keep, ids_removed, positions, labels)

    def reconstruct_image(self, batch: Batch, masked: Masked, output: MCROutput) -> None:
        """D_v predicts the removed patches: fills in L_mim."""
        config, ids = self.config, masked.ids_removed
        predicted = self.image_decoder(masked.f_v, masked.ids_keep, ids)  # N, L_removed, P·P·C
        patches = take(patchify(batch.images, config.patch_size), ids)  # N, L_removed, P·P·C
        loss = losses.image_reconstruction_loss(predicted, patches, config.norm_pix)
        output.image_reconstruction_loss = config.image_reconstruction_weight * loss
        output.image_reconstruction_count = ids.numel()

    def reconstruct_report(self, batch: Batch, masked: Masked, output: MCROutput) -> None:
        """D_r predicts the masked tokens: fills in L_mrm."""
        words = self.report_decoder(masked.f_r, batch.attention_mask, masked.positions)
        loss = losses.text_reconstruction_loss(words, masked.labels)  # of N, M, vocab and N, M
        output.text_reconstruction_loss = self.config.text_reconstruction_weight * loss
        output.text_reconstruction_count = (masked.labels != -100).sum()

    def contrast(
        self, image_features: Tensor, text_features: Tensor, rows: slice = slice(None)
    ) -> Tensor:
        """L_vrc, weighted, of pairs that may come from several forward passes. image_features,
        text_features (N, common_dim) → a scalar. rows: see `contrastive_loss`."""
        loss = losses.contrastive_loss(image_features, text_features, self.logit_scale, rows)
        return self.config.contrastive_weight * loss

    @property
    def logit_scale(self) -> Tensor:
        """1 / temperature, learned, at most 100: as in CLIP the parameter is cut, and can come back."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(100))
        return self.log_scale.exp()

    def encode_image(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """images (N, C, H, W) normalised → S^v (N, common_dim), unit vectors. Whole images, unless
        ids_keep (N, L_keep) says which patches are shown."""
        return self.to_common(self.image_head, self.image_encoder(images, ids_keep))

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """input_ids, attention_mask (N, T) → S^r (N, common_dim), unit vectors. places: `ReportEncoder`."""
        f_r = self.report_encoder(input_ids, attention_mask, places)
        return self.to_common(self.report_head, f_r, attention_mask)

    @classmethod
    def _from_pretrained(cls, **how):
        """Of the hub's mixin: whole or not at all."""
        return super()._from_pretrained(**how | {"strict": True})

    @classmethod
    def _load_as_pickle(cls, *_):
        raise ValueError("there is no model.safetensors, and nothing else is read")

    def mask_report(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The batch's reports with a share of their tokens masked; see `masking.mask_report`."""
        c, ids = self.config, batch.input_ids
        special = c.mask_token_id, c.special_token_ids
        return mask_report(ids, batch.attention_mask, batch.text_noise, c.mlm_probability, *special)

    @staticmethod
    def to_common(
        head: AlignmentHead, local_features: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """f (N, L, D), present (N, L) or None → S (N, common_dim), brought to length 1. In float32
        whatever autocast says: in bf16 the two orders, MbA and AbM, would round differently."""
        with torch.autocast(local_features.device.type, enabled=False):
            f = losses.at_least_float32(local_features)
            return F.normalize(head(f, present), dim=-1)


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for linear maps (He et al. 2022). At any width the
    signal keeps its size, where the fixed 0.02 of ViT and BERT, made for a width of 768, lets
    narrow models learn next to nothing."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
