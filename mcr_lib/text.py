"""E_r, the report encoder. Not here: which tokens are masked (masking.py), the tokenizer (tokenizer.py), D_r
(decoders.py).

The encoder is a transformers BERT; we only make its features independent of where the padding stands.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import torch
import torch.nn.functional as F
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

    @torch.compiler.disable(recursive=False)  # each new tuple of lengths would compile the whole model again
    def forward(self, input_ids: Tensor, attention_mask: Tensor, lengths: tuple[int, ...] = ()) -> Tensor:
        """input_ids, attention_mask (N, T), padding on either side → (N, T, D); padded positions hold no meaning.

        lengths: the batch is cut into so many groups of rows (`torch.tensor_split`), each padded on the right and
        encoded to its own length only, neighbours of one length together. The features are the same; in a batch
        sorted by length the cost is not.
        """
        if len(set(lengths)) > 1:
            features, groups = [], zip(input_ids.tensor_split(len(lengths)),
                                       attention_mask.tensor_split(len(lengths)), lengths, strict=True)
            for t, alike in groupby(groups, key=itemgetter(2)):
                ids, mask, _ = zip(*alike, strict=True)
                f_r = self(torch.cat(ids)[:, :t], torch.cat(mask)[:, :t])  # n, t, D
                features.append(F.pad(f_r, (0, 0, 0, input_ids.shape[1] - t)))
            return torch.cat(features)  # N, T, D
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


def attention_keys(attention_mask: Tensor) -> Tensor:
    """(N, T) → (N, 1, 1, T) boolean, True where a key may be attended to: the form fused attention takes as it is."""
    return attention_mask.bool()[:, None, None, :]
