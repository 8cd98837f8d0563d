"""What people would use instead, for `python -m benchmarks.cost`: open_clip with the same two encoders, and MCR and
the two-stream framework as a competent first version writes them. Not part of the kit: nothing in mcr_lib needs it.

open_clip comes with `make benchmark` (the extra `bench`). The plain models take the well-known pieces as they are:
MAE's shuffled patches and decoder over all of them, BERT's vocabulary logits for every token, reports padded to the
maximum. A batch is `mcr_lib.model.Batch`; an output has `*_loss` fields, so the kit's Trainer trains them all alike.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from transformers import BertConfig, BertModel


@dataclass
class Losses:
    """What the Trainer needs of an output."""

    contrastive_loss: Tensor
    image_reconstruction_loss: Tensor | None = None
    text_reconstruction_loss: Tensor | None = None


class OpenClip(nn.Module):
    """open_clip's ViT and its Hugging Face text tower, contrastive only; patch_dropout 0.5 is FLIP's masking."""

    def __init__(self, config, patch_dropout: float = 0.0):
        super().__init__()
        from open_clip.loss import ClipLoss
        from open_clip.model import CustomTextCLIP

        with (
            tempfile.TemporaryDirectory() as folder
        ):  # its text tower reads its sizes from a model folder
            bert_config(config).save_pretrained(folder)
            self.clip = CustomTextCLIP(
                config.common_dim,
                dict(
                    image_size=config.img_size,
                    patch_size=config.patch_size,
                    width=config.embed_dim,
                    layers=config.depth,
                    head_width=config.embed_dim // config.num_heads,
                    mlp_ratio=config.mlp_ratio,
                    patch_dropout=patch_dropout,
                ),
                dict(
                    hf_model_name=folder,
                    hf_model_pretrained=False,
                    hf_proj_type="mlp",
                    hf_pooler_type="mean_pooler",
                ),
            )
        self.loss = ClipLoss()

    def forward(self, batch) -> Losses:
        image_features, text_features, logit_scale = self.clip(
            batch.images.expand(-1, 3, -1, -1), batch.input_ids
        )[:3]
        return Losses(self.loss(image_features, text_features, logit_scale))


class Plain(nn.Module):
    """MCR (one masked stream) or two-stream (whole for the contrast, masked for the reconstruction), no trick used."""

    def __init__(self, config, two_stream: bool):
        super().__init__()
        c, self.config, self.two_stream = config, config, two_stream
        self.vit = VisionTransformer(
            img_size=c.img_size,
            patch_size=c.patch_size,
            in_chans=c.in_chans,
            num_classes=0,
            embed_dim=c.embed_dim,
            depth=c.depth,
            num_heads=c.num_heads,
            mlp_ratio=c.mlp_ratio,
        )
        self.bert = BertModel(bert_config(c), add_pooling_layer=False)
        self.image_head = nn.Sequential(
            nn.Linear(c.embed_dim, c.embed_dim), nn.GELU(), nn.Linear(c.embed_dim, c.common_dim)
        )
        self.text_head = nn.Sequential(
            nn.Linear(c.text_embed_dim, c.text_embed_dim),
            nn.GELU(),
            nn.Linear(c.text_embed_dim, c.common_dim),
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / c.temperature)))
        D = c.decoder_embed_dim
        self.decoder_embed = nn.Linear(c.embed_dim, D)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, D))
        self.decoder_positions = nn.Parameter(torch.randn(1, c.num_patches, D) * 0.02)
        self.decoder = nn.Sequential(
            *[
                Block(D, c.decoder_num_heads, c.mlp_ratio, qkv_bias=True)
                for _ in range(c.decoder_depth)
            ],
            nn.LayerNorm(D),
        )
        self.decoder_predict = nn.Linear(D, c.patch_size**2 * c.in_chans)
        self.text_decoder = nn.ModuleList(
            [
                Block(c.text_embed_dim, c.text_num_heads, c.mlp_ratio, qkv_bias=True)
                for _ in range(c.text_decoder_depth)
            ]
        )
        self.text_predict = nn.Sequential(
            nn.LayerNorm(c.text_embed_dim), nn.Linear(c.text_embed_dim, c.vocab_size)
        )

    def forward(self, batch) -> Losses:
        c, input_ids, present = self.config, batch.input_ids, batch.attention_mask
        order = batch.image_noise.argsort(dim=1)  # MAE's random masking
        num_keep = round(c.num_patches * (1 - c.mask_ratio))
        ids_keep, ids_restore = order[:, :num_keep], order.argsort(dim=1)
        removed = torch.ones_like(batch.image_noise)
        removed[:, :num_keep] = 0
        removed = removed.gather(1, ids_restore)
        hidden = (
            (batch.text_noise < c.mlm_probability)
            & present.bool()
            & (input_ids > max(c.special_token_ids))
        )
        f_v = self.encode_image(batch.images, ids_keep)
        f_r = self.encode_text(input_ids.masked_fill(hidden, c.mask_token_id), present)
        c_v, c_r = f_v, f_r
        if self.two_stream:
            c_v, c_r = self.encode_image(batch.images), self.encode_text(input_ids, present)

        weight = (present / present.sum(1, keepdim=True))[:, :, None]
        image_features = F.normalize(self.image_head(c_v).mean(1), dim=-1)
        text_features = F.normalize((self.text_head(c_r) * weight).sum(1), dim=-1)
        logits = self.log_scale.exp() * image_features @ text_features.T
        target = torch.arange(len(logits), device=logits.device)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

        x = self.decoder_embed(f_v)
        x = torch.cat(
            [x, self.mask_token.expand(len(x), c.num_patches - num_keep, -1).to(x.dtype)], 1
        )
        x = x.gather(1, ids_restore[:, :, None].expand(-1, -1, x.shape[2])) + self.decoder_positions
        predicted = self.decoder_predict(self.decoder(x))
        P, side = c.patch_size, c.img_size // c.patch_size
        patches = (
            batch.images.reshape(len(x), c.in_chans, side, P, side, P)
            .permute(0, 2, 4, 3, 5, 1)
            .flatten(3)
        )
        patches = F.layer_norm(patches.reshape(predicted.shape), patches.shape[-1:])
        error = (predicted - patches).square().mean(-1)

        for block in self.text_decoder:
            f_r = block(f_r, attn_mask=present.bool()[:, None, None, :])
        words = self.text_predict(f_r)
        text = F.cross_entropy(words.flatten(0, 1), input_ids.masked_fill(~hidden, -100).flatten())
        return Losses(contrast, (error * removed).sum() / removed.sum(), text)

    def encode_image(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """images (N, C, H, W) → local features of the kept patches (N, L_keep, D)."""
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        if ids_keep is not None:
            patches = x[:, 1:].gather(1, ids_keep[:, :, None].expand(-1, -1, x.shape[2]))
            x = torch.cat([x[:, :1], patches], dim=1)
        return self.vit.norm(self.vit.blocks(x))[:, 1:]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask (N, T) → local features (N, T, D)."""
        return self.bert(input_ids, attention_mask=attention_mask).last_hidden_state


def bert_config(c) -> BertConfig:
    """The kit's report encoder in transformers' words."""
    return BertConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.text_embed_dim,
        num_hidden_layers=c.text_depth,
        num_attention_heads=c.text_num_heads,
        intermediate_size=4 * c.text_embed_dim,
        max_position_embeddings=max(512, c.max_text_length),
        pad_token_id=c.special_token_ids[0],
        hidden_dropout_prob=c.dropout,
        attention_probs_dropout_prob=c.dropout,
    )


PEERS = {  # name → model of a configuration
    "open_clip": OpenClip,
    "open_clip, patch dropout 0.5": lambda config: OpenClip(config, patch_dropout=0.5),
    "plain mcr": lambda config: Plain(config, two_stream=False),
    "plain two-stream": lambda config: Plain(config, two_stream=True),
}
