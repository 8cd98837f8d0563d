"""The tokenizer: WordPiece trained on the training reports, or the one beside pretrained text weights.

Not here: the encoder. Training is deterministic (the same reports give the same vocabulary), and a loaded tokenizer is
checked to know its words: a wrong vocabulary otherwise turns every report into [UNK] in silence."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import BertWordPieceTokenizer
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast

from .config import ConfigError, RunConfig

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(
    reports: Iterable[str], vocab_size: int, folder: Path
) -> PreTrainedTokenizerFast:
    """Train a lower-case WordPiece vocabulary of at most vocab_size tokens and leave it as
    folder/vocab.txt. Handing the trainer the sorted continuation characters makes it deterministic
    (tokenizers issue 1794)."""
    reports = sorted(set(reports))
    characters = sorted({c for report in reports for c in report.lower() if not c.isspace()})
    wordpiece, special = BertWordPieceTokenizer(lowercase=True), [*SPECIAL_TOKENS]
    special += ["##" + character for character in characters]
    how = {"vocab_size": vocab_size, "special_tokens": special, "show_progress": False}
    wordpiece.train_from_iterator(reports, **how)
    words = sorted(wordpiece.get_vocab().items(), key=lambda item: item[1])
    folder.mkdir(parents=True, exist_ok=True)
    for older in folder.glob("*.json"):  # it would be read instead of vocab.txt
        older.unlink()
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if len(tokenizer) != len(words):
        counts = f"wrote {len(words)} tokens to {folder}, read back {len(tokenizer)}"
        raise ConfigError(f"tokenizer: {counts}")
    return tokenizer


def make_tokenizer(config: RunConfig, table: pd.DataFrame) -> PreTrainedTokenizerFast:
    """The tokenizer of `text_weights`, or one trained on the table's reports of split `train`."""
    if config.model.text_weights:
        return load_tokenizer(config.model.text_weights)
    reports = table.loc[table["split"] == "train", "report"]
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(reports, config.model.vocab_size, Path(folder))


def with_vocabulary(config: RunConfig, tokenizer: PreTrainedTokenizerFast) -> RunConfig:
    """The configuration with the tokenizer's vocabulary size and special tokens."""
    pad, special = tokenizer.pad_token_id, set(tokenizer.all_special_ids)
    vocabulary = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id}
    vocabulary["special_token_ids"] = (pad, *sorted(special - {pad}))
    return config.model_copy(update={"model": config.model.model_copy(update=vocabulary)})


def load_tokenizer(source: str | Path, local: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a run folder, a local transformers folder or a hub name. local: the source
    is a folder, and nothing is asked for over the network. No code from the source is run. Raises
    ConfigError if it cannot be had or knows next to no words."""
    advice = "give a local folder with vocab.txt or tokenizer.json, or a hub name with network"
    if local:
        advice = "restore it, or train again into another folder"
    try:
        if local and not Path(source).is_dir():
            raise FileNotFoundError(source)
        tokenizer = AutoTokenizer.from_pretrained(
            os.path.expanduser(source), trust_remote_code=False, local_files_only=local
        )
    except Exception as error:
        failed = f"tokenizer: {str(source)!r} cannot be loaded ({type(error).__name__})"
        raise ConfigError(f"{failed}; {advice}") from error
    fewest = len(SPECIAL_TOKENS) if local else 64  # a few reports have few words
    if tokenizer.mask_token_id is None or len(tokenizer) < fewest:
        has = f"{len(tokenizer)} tokens and mask token {tokenizer.mask_token!r}"
        raise ConfigError(f"tokenizer: {str(source)!r} has {has}; a BERT vocabulary is needed")
    return tokenizer


def vocabulary_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of the words in the order of their numbers."""
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256("\n".join(word for word, _ in words).encode()).hexdigest()


def tokenize(
    tokenizer, reports: list[str], max_length: int, most_unknown: float = 0.1
) -> list[np.ndarray]:
    """Reports → int64 id arrays with [CLS] and [SEP], cut to max_length. Raises ConfigError if more
    than a share of the tokens is unknown: it fits other reports."""
    encoded = tokenizer(reports, truncation=True, max_length=max_length)
    ids = [np.array(i, dtype=np.int64) for i in encoded["input_ids"]]
    total = sum(len(i) - 2 for i in ids)
    unknown = sum(int((i == tokenizer.unk_token_id).sum()) for i in ids)
    if unknown > most_unknown * total:
        counts = f"{unknown} of {total} tokens are unknown"
        raise ConfigError(f"tokenizer: {counts}; it does not fit these reports")
    return ids


def padded_length(lengths) -> int:
    """The longest of some reports, rounded up to a multiple of 8: what T becomes."""
    return -(-max(lengths) // 8) * 8


def pad(ids: list[np.ndarray], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Id arrays → input_ids, attention_mask (N, T), T the `padded_length` of the batch."""
    lengths = np.array([len(i) for i in ids])
    T = padded_length(lengths)
    input_ids = np.full((len(ids), T), pad_token_id, dtype=np.int64)
    for row, i in zip(input_ids, ids, strict=True):
        row[: len(i)] = i
    return input_ids, (np.arange(T) < lengths[:, None]).astype(np.int64)
