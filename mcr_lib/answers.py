"""From a question (a sentence or an image) to an answer as HTML: hits, the words that match, the patches that light up.

Pure functions and one class that holds a gallery with its model: what the widgets show, usable without any. Reports
are escaped, images carry alt text, nothing is loaded from elsewhere. Not here: search, maps and masks themselves.
"""

from __future__ import annotations

import base64
import html
import io
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_prep.images import ImageError, letterbox, read_gray

from . import plotting
from .data import prepare_images, store_size
from .grounding import heat_map, patch_features, split_words, word_features
from .masking import IMAGE_STREAM, TEXT_STREAM, counter_noise, mask_report, random_masking
from .ranking import normal_text
from .retrieval import Hit, Index
from .tokenizer import pad

WHOLE = -1  # in place of a word's number: the whole text


class QueryError(ValueError):
    """A query that cannot be answered; the message says what to do."""


def picture_html(pixels, alt: str, caption: str = "", width: int = 160) -> str:
    """uint8 pixels (H, W) or (H, W, 3), or the bytes of a PNG → a figure that carries its picture; caption is HTML."""
    if not isinstance(pixels, bytes):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        pixels = buffer.getvalue()
    return (f'<figure style="margin:0;width:{width}px"><img alt="{html.escape(alt)}" style="width:100%" '
            f'src="data:image/png;base64,{base64.b64encode(pixels).decode()}">'
            f'<figcaption style="font-size:13px;line-height:1.4">{caption}</figcaption></figure>')


def row_html(parts: list[str]) -> str:
    """Things side by side, wrapping where the page is narrow."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start">{"".join(parts)}</div>'


def marked_html(text: str, spans: list[tuple[int, int]], weights) -> str:
    """The text, escaped; each word [start, stop) shaded by its positive weight, covered where that is nan."""
    weights = np.array([0.0 if weight == weight and not any(map(str.isalnum, text[start:stop])) else weight
                        for (start, stop), weight in zip(spans, weights, strict=True)])  # a full stop is no word
    most = max(np.nanmax(weights, initial=0), 1e-12)
    parts, at = [], 0
    for (start, stop), weight in zip(spans, weights / most, strict=True):
        word = html.escape(text[start:stop])
        if np.isnan(weight):
            word = f'<span title="masked" style="background:#999;color:#999">{word}</span>'
        elif weight > 0.2:
            word = f'<mark style="background:rgba(213,94,0,{0.55 * weight:.2f});color:inherit">{word}</mark>'
        parts += [html.escape(text[at:start]), word]
        at = stop
    return "".join(parts) + html.escape(text[at:])


def read_upload(name: str, content: bytes) -> Image.Image:
    """An uploaded PNG, JPEG or DICOM file as a grayscale image. Raises QueryError with the reason."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            return read_gray(path)
        except ImageError as error:
            raise QueryError(f"{name} cannot be used as an image: give a PNG, JPEG or DICOM file") from error


@dataclass(frozen=True)
class ReadText:
    """A text as the model sees it."""

    text: str
    spans: list[tuple[int, int]]  # where each of its W words stands
    word_of_token: list[int | None]  # T; None for special tokens
    covered: set[int]  # words that are masked
    vectors: Tensor  # T, D: what each token gives, over the length of their mean; with MbA their mean is S^r
    feature: Tensor | None  # S^r (D,), if it was asked for

    def towards(self, direction: Tensor) -> list[float]:
        """How much each word (W) speaks for direction (D,); nan where it is masked."""
        scores = [0.0] * len(self.spans)
        for word, score in zip(self.word_of_token, (self.vectors @ direction).tolist(), strict=True):
            if word is not None:
                scores[word] += score
        return [float("nan") if word in self.covered else score for word, score in enumerate(scores)]

    def word(self, number: int) -> Tensor:
        """The vector (D,) of one word."""
        return self.vectors[[token for token, word in enumerate(self.word_of_token) if word == number]].mean(0)

    def names(self) -> list[str]:
        return [self.text[start:stop] for start, stop in self.spans]


@dataclass(frozen=True)
class Answer:
    """What a question gives: the hits, all of it as HTML, and the words that may be lit one by one."""

    hits: list[Hit]
    html: str
    words: list[str]


@dataclass
class Searcher:
    """One gallery, with the model and tokenizer that made its features; masked: queries are masked as in training.

    Without a model one can ask only with images of the gallery, and nothing lights up. What was read and looked at
    once is remembered.
    """

    index: Index
    model: torch.nn.Module | None = None
    tokenizer: object = None
    masked: bool = False
    _pixels: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _patches: dict[int, tuple] = field(default_factory=dict, repr=False)
    _reports: dict[int, ReadText] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        self.centre = {name: features.float().mean(0).cpu() for name, features in self.index.features.items()}
        self.device = next(self.model.parameters()).device if self.model else torch.device("cpu")

    # ------------------------------------------------------------------------------------------- what the model sees
    def square(self, image: Image.Image) -> np.ndarray:
        """As the packed store keeps it: uint8 (S, S)."""
        return letterbox(image, store_size(self.model.config.img_size) if self.model else 256)

    def pixels(self, row: int) -> np.ndarray:
        """The image of a gallery row, uint8 (S, S)."""
        if row not in self._pixels:
            self._pixels[row] = self.square(read_gray(Path(self.index.table.at[row, "image_path"])))
        return self._pixels[row]

    @torch.inference_mode()
    def look(self, images: list[np.ndarray], rows: list[int], pooled: bool = False) -> list[tuple]:
        """uint8 images (S, S) → for each: what its patches give (1, L, D), the kept ones (1, L_keep) or None, S^v (D,)
        or None if not asked for. rows decide what is masked, if anything is."""
        config = self.model.config
        x = torch.from_numpy(np.stack(images))[:, None].to(self.device)
        x, kept = prepare_images(x, config.img_size, config.in_chans), None
        if self.masked:
            kept = random_masking(self._noise(rows, config.num_patches, IMAGE_STREAM), config.mask_ratio)[0]
        patches = patch_features(self.model, x, kept).cpu()
        features = self.model.encode_image(x, kept).cpu() if pooled else [None] * len(x)
        kept = [None] * len(x) if kept is None else kept.cpu().split(1)
        return list(zip(patches.split(1), kept, features, strict=True))

    @torch.inference_mode()
    def read(self, texts: list[str], rows: list[int], pooled: bool = False) -> list[ReadText]:
        """Texts as the model sees them; rows decide what is masked, if anything is."""
        config = self.model.config
        split = [split_words(self.tokenizer, text, config.max_text_length) for text in texts]
        ids, present = (torch.from_numpy(x).to(self.device)
                        for x in pad([ids[0].numpy() for ids, _, _ in split], self.tokenizer.pad_token_id))
        seen = ids
        if self.masked:
            seen, _, _ = mask_report(ids, present, self._noise(rows, ids.shape[1], TEXT_STREAM),
                                     config.mlm_probability, config.mask_token_id, config.special_token_ids)
        vectors = word_features(self.model, seen, present).cpu()  # N, T, D
        features = self.model.encode_text(seen, present).cpu() if pooled else [None] * len(texts)
        masked, result = (seen != ids).tolist(), []
        for n, (text, (_, spans, word_of_token)) in enumerate(zip(texts, split, strict=True)):
            own = vectors[n, :len(word_of_token)]
            covered = {word for word, gone in zip(word_of_token, masked[n], strict=False) if gone}
            result.append(ReadText(text, spans, word_of_token, covered, own / own.mean(0).norm(), features[n]))
        return result

    def patches(self, rows: list[int]) -> list[tuple]:
        """`look` for gallery rows, remembered."""
        missing = [row for row in dict.fromkeys(rows) if row not in self._patches]
        for some in (missing[start:start + 64] for start in range(0, len(missing), 64)):
            self._patches |= zip(some, self.look([self.pixels(row) for row in some], some), strict=True)
        return [self._patches[row] for row in rows]

    def reports(self, rows: list[int]) -> list[ReadText]:
        """`read` for gallery rows, remembered."""
        if missing := [row for row in dict.fromkeys(rows) if row not in self._reports]:
            texts = self.index.table["report"].iloc[missing].tolist()
            self._reports |= zip(missing, self.read(texts, missing), strict=True)
        return [self._reports[row] for row in rows]

    def lit(self, pixels: np.ndarray, seen: tuple, direction: Tensor) -> np.ndarray:
        """The image with the patches lit that speak for direction (D,): (size, size, 3) uint8."""
        patches, kept, _ = seen
        return plotting.overlay(pixels / 255, heat_map(patches, direction, kept, self.model.config.num_patches)[0])

    def _noise(self, rows: list[int], length: int, stream: int) -> Tensor:
        pairs = torch.tensor(rows)
        return counter_noise(0, torch.zeros_like(pairs), pairs, length, stream).to(self.device)

    # ------------------------------------------------------------------------------------------------------- answers
    def for_text(self, text: str, k: int = 5, word: int = WHOLE) -> Answer:
        """The k images that fit a sentence best, the patches lit that speak for it, or for one of its words.

        Raises QueryError for an empty sentence, or without a model to read it.
        """
        if not text.strip():
            raise QueryError("the sentence is empty: write a few words of a report")
        if self.model is None:
            raise QueryError("this search has no model to read a sentence: choose an image of the gallery")
        query = self.read([text], [0], pooled=True)[0]
        feature = query.feature
        hits = self.index.search(feature, k=k, among="images")
        rows = [hit.row for hit in hits]
        direction = (feature if word == WHOLE else query.word(word)) - self.centre["texts"]
        cards = []
        for hit, seen, report in zip(hits, self.patches(rows), self.reports(rows), strict=True):
            marked = marked_html(hit.report, report.spans, report.towards(feature - self.centre["texts"]))
            cards.append(picture_html(self.lit(self.pixels(hit.row), seen, direction),
                                      f"image {hit.pair_id}: {hit.labels or 'no label'}",
                                      f"<b>{hit.rank}. {hit.score:.3f}</b> · {labels_html(hit)}<br>{marked}"))
        best = self.index.features["images"][rows[0]].float().cpu()
        asked = marked_html(text, query.spans, query.towards(best - self.centre["images"]))
        return Answer(hits, f"<p><b>Query:</b> {asked}</p>{row_html(cards)}", query.names())

    def for_image(self, pixels: np.ndarray, k: int = 5, word: int = WHOLE, row: int | None = None) -> Answer:
        """The k distinct reports that fit an image best; row: its place, if it is one of the gallery's. Lit are the
        patches that speak for the best report, or for one of its words."""
        if self.model is None:
            if row is None:
                raise QueryError("this search has no model to look at an image: choose one of the gallery")
            seen, feature = None, self.index.features["images"][row]
        else:
            seen = self.look([pixels], [row or 0], pooled=True)[0]
            feature = seen[2]
        hits = self.index.search(feature, k=k, among="texts", distinct=True)
        reports = self.reports([hit.row for hit in hits]) if self.model else []
        same = normal_text(self.index.table.at[row, "report"]) if row is not None else None
        items = []
        for number, hit in enumerate(hits):
            marked = html.escape(hit.report)
            if reports:
                report = reports[number]
                marked = marked_html(hit.report, report.spans, report.towards(feature - self.centre["images"]))
            own = " <b>✓ its own report</b>" if normal_text(hit.report) == same else ""
            items.append('<li style="margin-bottom:8px">'
                         f"<b>{hit.score:.3f}</b> · {labels_html(hit)}{own}<br>{marked}</li>")
        shown = plotting.overlay(pixels / 255)
        if reports:
            whole = self.index.features["texts"][hits[0].row].float().cpu()
            shown = self.lit(pixels, seen, (whole if word == WHOLE else reports[0].word(word)) - self.centre["texts"])
        title = f"gallery image {self.index.table.at[row, 'pair_id']}" if row is not None else "your image"
        picture = picture_html(shown, title, f"<b>Query:</b> {html.escape(title)}", width=260)
        listed = f'<ol style="flex:1;min-width:280px;margin:0;font-size:14px;line-height:1.4">{"".join(items)}</ol>'
        return Answer(hits, row_html([picture, listed]), reports[0].names() if reports else [])


def labels_html(hit: Hit) -> str:
    """The labels of a hit, for reading."""
    return html.escape(hit.labels.replace("|", ", ").replace("_", " ")) or "no label"
