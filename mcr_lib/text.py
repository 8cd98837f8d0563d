"""E_r, the report encoder, and D_r, the report decoder. Not here: which tokens are masked (masking.py), the
tokenizer (tokenizer.py), the loss on what D_r predicts (losses.py).

The encoder is a transformers BERT; we only make its features independent of where the padding stands.
"""

from __future__ import annotations

from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.utils import logging as transformers_logging

from .config import ConfigError, MCRConfig


class ReportEncoder(nn.Module):
    """A transformers BERT without pooler. Output: local features f^r, one per token."""

    def __init__(self, config: MCRConfig):
        super().__init__()
        self.bert = BertModel(
            BertConfig(
                vocab_size=config.vocab_size, hidden_size=config.text_embed_dim,
                num_hidden_layers=config.text_depth, num_attention_heads=config.text_num_heads,
                intermediate_size=4 * config.text_embed_dim, max_position_embeddings=max(512, config.max_text_length),
                hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout,
                pad_token_id=config.special_token_ids[0], attn_implementation="sdpa",
            ),
            add_pooling_layer=False,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask (N, T), padding on either side → (N, T, D); padded positions hold no meaning."""
        position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)  # counted from each report's first token
        return self.bert(
            input_ids, attention_mask=attention_keys(attention_mask), position_ids=position_ids
        ).last_hidden_state

    def load_weights(self, source: str) -> None:
        """Start from a local transformers folder or a hub name. Raises ConfigError when it fails or does not fit."""
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # its table of unused heads says nothing here: we check below
        try:
            loaded = BertModel.from_pretrained(source, add_pooling_layer=False).state_dict()
        except Exception as error:
            raise ConfigError(f"text_weights: {source!r} cannot be loaded ({type(error).__name__}); give a local "
                              "folder with config.json and model.safetensors, or a hub name with network") from error
        finally:
            transformers_logging.set_verbosity(level)
        try:
            self.bert.load_state_dict(loaded)
        except RuntimeError as error:
            raise ConfigError(f"text_weights: {source!r} does not fit this report encoder: "
                              f"{' '.join(str(error).split())[:300]}") from None


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
        """f_r (N, T, D), positions (N, M) → logits (N, M, vocab): only what is scored is predicted."""
        for block in self.blocks:
            f_r = block(f_r, attn_mask=attention_keys(attention_mask))
        scored = f_r.gather(1, positions[:, :, None].expand(-1, -1, f_r.shape[2]))  # N, T, D → N, M, D
        return self.predict(self.norm(scored))


def attention_keys(attention_mask: Tensor) -> Tensor:
    """(N, T) → (N, 1, 1, T) boolean, True where a key may be attended to: the form fused attention takes as it is."""
    return attention_mask.bool()[:, None, None, :]
