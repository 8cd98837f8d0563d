"""From a question (a sentence or an image) to an answer as HTML: hits, the words that match, the patches that light up.

It holds a gallery with its model. Not here: search (index.py), maps (grounding.py), masks (masking.py), how HTML is
made (markup.py), inputs to ask with (widgets.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from data_prep.images import letterbox, read_gray

from .data import prepare_images, store_size
from .features import QueryError, check_query
from .grounding import contributions, heat_map, split_words
from .index import Hit, Index
from .markup import marked_html, overlay, picture_html, render
from .masking import IMAGE_STREAM, TEXT_STREAM, counter_noise, mask_report, random_masking
from .model import MCR
from .ranking import normal_text

WHOLE = -1  # in place of a word's number: the whole text


@dataclass(frozen=True)
class SeenImage:
    """An image as the model sees it."""

    pixels: np.ndarray  # S, S, uint8
    feature: Tensor  # S^v (D,)
    patches: Tensor  # 1, L, D: what each gives to the image's vector
    ids_keep: Tensor | None  # 1, L: which patches these are; None: all


@dataclass(frozen=True)
class ReadText:
    """A text as the model sees it."""

    text: str
    spans: list[tuple[int, int]]  # where each of its W words stands
    word_of_token: list[int | None]  # T; None for special tokens
    covered: set[int]  # words that are masked
    vectors: Tensor  # T, D: what each gives, over their mean's length; with MbA their mean is S^r
    feature: Tensor  # S^r (D,)

    def towards(self, direction: Tensor) -> list[float]:
        """How much each word (W) speaks for direction (D,); nan where it is masked."""
        scores = [0.0] * len(self.spans)
        of_tokens = (self.vectors @ direction).tolist()
        for word, score in zip(self.word_of_token, of_tokens, strict=True):
            if word is not None:
                scores[word] += score
        for word in self.covered:
            scores[word] = float("nan")
        return scores

    def mark(self, direction: Tensor) -> Markup:
        """The text as HTML, the words marked that speak for direction (D,)."""
        return marked_html(self.text, self.spans, self.towards(direction))

    def word(self, number: int) -> Tensor:
        """The vector (D,) of one word."""
        own = [token for token, word in enumerate(self.word_of_token) if word == number]
        return self.vectors[own].mean(0)

    def names(self) -> list[str]:
        """The words (W)."""
        return [self.text[start:stop] for start, stop in self.spans]


@dataclass(frozen=True)
class Answer:
    """What a question gives: the hits, all of it as HTML, the words that may be lit one by one, and
    what to know about it (`check_query`)."""

    hits: list[Hit]
    html: str
    words: list[str]
    notes: tuple[str, ...] = ()


class Searcher:
    """One gallery, with the model and tokenizer that made its features. masked: queries are masked
    as in training. Without a model one can ask only with images of the gallery, and nothing lights
    up. What the model has seen of the gallery is remembered."""

    def __init__(self, index: Index, model: MCR | None = None, tokenizer=None, masked=False):
        self.index, self.model, self.tokenizer, self.masked = index, model, tokenizer, masked
        self.device = next(model.parameters()).device if model else torch.device("cpu")
        self.features = {side: x.float().cpu() for side, x in index.features.items()}  # N, D
        self.centre = {side: features.mean(0) for side, features in self.features.items()}
        self._images: dict[int, SeenImage] = {}
        self._reports: dict[int, ReadText] = {}

    def square(self, image: Image.Image) -> np.ndarray:
        """As the packed store keeps it: uint8 (S, S)."""
        return letterbox(image, store_size(self.model.config.img_size) if self.model else 256)

    def pixels(self, row: int) -> np.ndarray:
        """The image of a gallery row, uint8 (S, S)."""
        return self.square(read_gray(Path(self.index.table.at[row, "image_path"])))

    @torch.inference_mode()
    def look(self, pixels: np.ndarray, row: int = 0) -> SeenImage:
        """A uint8 image (S, S) as the model sees it; row decides what is masked, if anything is."""
        model, config = self.model, self.model.config
        x = torch.tensor(pixels, device=self.device)[None, None]  # 1, 1, S, S
        x, ids_keep = prepare_images(x, config.img_size, config.in_chans), None
        if self.masked:
            noise = self._noise(row, config.num_patches, IMAGE_STREAM)
            ids_keep, _ = random_masking(noise, config.mask_ratio)
        f_v = model.image_encoder(x, ids_keep)  # 1, L, D_encoder
        feature = model.to_common(model.image_head, f_v)[0].cpu()
        patches = contributions(model.image_head, f_v).cpu()
        return SeenImage(pixels, feature, patches, ids_keep)

    @torch.inference_mode()
    def read(self, text: str, row: int = 0) -> ReadText:
        """A text as the model sees it; row decides what is masked, if anything is."""
        model, config = self.model, self.model.config
        ids, spans, word_of_token = split_words(self.tokenizer, text, config.max_text_length)
        ids = seen = ids.to(self.device)  # 1, T
        present = torch.ones_like(ids)
        if self.masked:
            noise, share = self._noise(row, ids.shape[1], TEXT_STREAM), config.mlm_probability
            mask_id, special_ids = config.mask_token_id, config.special_token_ids
            seen, _, _ = mask_report(ids, present, noise, share, mask_id, special_ids)
        f_r = model.report_encoder(seen, present)  # 1, T, D_encoder
        feature = model.to_common(model.report_head, f_r, present)[0].cpu()
        given = contributions(model.report_head, f_r, present)[0].cpu()  # T, D
        covered = {word_of_token[token] for token in (seen != ids)[0].nonzero()[:, 0].tolist()}
        return ReadText(text, spans, word_of_token, covered, given / given.mean(0).norm(), feature)

    def image(self, row: int) -> SeenImage:
        """`look` for a gallery row."""
        if row not in self._images:
            self._images[row] = self.look(self.pixels(row), row)
        return self._images[row]

    def report(self, row: int) -> ReadText:
        """`read` for a gallery row."""
        if row not in self._reports:
            self._reports[row] = self.read(self.index.table.at[row, "report"], row)
        return self._reports[row]

    def light_up(self, image: SeenImage, vector: Tensor) -> np.ndarray:
        """The image, lit where it speaks for a text's vector (D,) rather than for any: (S, S, 3) uint8."""
        direction, num_patches = vector - self.centre["texts"], self.model.config.num_patches
        glow = heat_map(image.patches, direction, image.ids_keep, num_patches)
        return overlay(image.pixels / 255, glow[0])

    def _noise(self, row: int, length: int, stream: int) -> Tensor:
        pair = torch.tensor([row])
        return counter_noise(0, torch.zeros_like(pair), pair, length, stream).to(self.device)

    def for_text(self, text: str, k: int = 5, word: int = WHOLE) -> Answer:
        """The k images that fit a sentence best, lit for it or for one of its words. Raises
        QueryError as `check_query` does, or without a model to read the sentence."""
        if self.model is None:
            raise QueryError(
                "this search has no model to read a sentence: choose an image of the gallery"
            )
        notes = check_query(self.tokenizer, text, self.model.config.max_text_length)
        query = self.read(text)
        vector = query.feature if word == WHOLE else query.word(word)
        hits, cards = self.index.search(query.feature, k=k, among="images"), []
        for hit in hits:
            marked = self.report(hit.row).mark(query.feature - self.centre["texts"])
            cards.append(
                picture_html(
                    self.light_up(self.image(hit.row), vector),
                    f"image {hit.pair_id}: {hit.labels or 'no label'}",
                    render("hit.html", hit=hit, marked=marked),
                )
            )
        best = self.features["images"][hits[0].row]
        asked = query.mark(best - self.centre["images"])
        html = str(render("answer.html", asked=asked, parts=cards))
        return Answer(hits, html, query.names(), tuple(notes))

    def for_image(self, asked: int | np.ndarray, k: int = 5, word: int = WHOLE) -> Answer:
        """The k distinct reports that fit an image best: of a gallery row, or uint8 pixels (S, S).
        Lit are the patches that speak for the best report, or for one of its words. Raises
        QueryError for pixels where there is no model to look at them."""
        row = None if isinstance(asked, np.ndarray) else asked
        if self.model is None and row is None:
            raise QueryError(
                "this search has no model to look at an image: choose one of the gallery"
            )
        if self.model is None:
            hits = self._find_reports(self.features["images"][row], k)
            shown, words = overlay(self.pixels(row) / 255), []
            marks = [hit.report for hit in hits]
        else:
            image = self.look(asked) if row is None else self.image(row)
            hits = self._find_reports(image.feature, k)
            reports = [self.report(hit.row) for hit in hits]
            marks = [report.mark(image.feature - self.centre["images"]) for report in reports]
            best, words = self.features["texts"][hits[0].row], reports[0].names()
            shown = self.light_up(image, best if word == WHOLE else reports[0].word(word))
        title, own = "your image", None
        if row is not None:
            title = f"gallery image {self.index.table.at[row, 'pair_id']}"
            own = normal_text(self.index.table.at[row, "report"])
        is_own = [normal_text(hit.report) == own for hit in hits]
        items = render("reports.html", items=list(zip(hits, marks, is_own, strict=True)))
        picture = picture_html(shown, title, width=260)
        answer = render("answer.html", asked=title, parts=[picture, items])
        return Answer(hits, str(answer), words)

    def _find_reports(self, feature: Tensor, k: int) -> list[Hit]:
        return self.index.search(feature, k=k, among="texts", distinct=True)
