"""From a question (a sentence or an image) to an answer as HTML: hits, the words that match, the patches that light up.

It holds a gallery with its model. Not here: search (mcr_lib/index.py), maps (mcr_lib/grounding.py), masks
(mcr_lib/masking.py), how HTML is made (markup.py), inputs to ask with (widgets.py)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from data_prep.images import letterbox, read_gray
from data_prep.tables_out import guarded
from mcr_lib.data import prepare_images, store_size
from mcr_lib.features import QueryError, check_query
from mcr_lib.index import Hit, Index
from mcr_lib.masking import IMAGE_STREAM, TEXT_STREAM, counter_noise, mask_report, random_masking
from mcr_lib.model import MCR
from mcr_lib.question import WITHOUT, as_row, combine, name_duplicates, thin
from mcr_lib.ranking import normal_text

from .grounding import contributions, heat_map, split_words
from .markup import marked_html, overlay, picture_html, render

WHOLE = -1  # in place of a word's number: the whole text
STRANGE = 1000  # gallery images that say how like its nearest one an image usually is


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
        self._usual: float | None = None  # cosine of an image's nearest one, rarely less
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
        return overlay(image.pixels / 255, self.heat(image, vector)[0])

    def heat(self, image: SeenImage, vector: Tensor) -> Tensor:
        """How much each patch speaks for a text's vector (D,) rather than for any: (1, side, side)."""
        direction, num_patches = vector - self.centre["texts"], self.model.config.num_patches
        return heat_map(image.patches, direction, image.ids_keep, num_patches)

    def _noise(self, row: int, length: int, stream: int) -> Tensor:
        pair = torch.tensor([row])
        return counter_noise(0, torch.zeros_like(pair), pair, length, stream).to(self.device)

    def for_text(
        self, text: str, k: int = 5, word: int = WHOLE, *, image=None, without: str = "", **how
    ) -> Answer:
        """The k images that fit a sentence best, lit for it or for one of its words. image: a gallery
        row or pixels (S, S) that hits should be like as well; without: a sentence that they should
        not be like; how: `where` and `per` of Index.search, and glow=False for plain images. Raises
        QueryError as `check_query` does, or without a model to read the sentence."""
        if self.model is None:
            raise QueryError(
                "this search has no model to read a sentence: choose an image of the gallery"
            )
        glow, longest = how.pop("glow", True), self.model.config.max_text_length
        notes, query = check_query(self.tokenizer, text, longest), self.read(text)
        parts = [(query.feature, 1.0)]
        if without.strip():
            notes += check_query(self.tokenizer, without, longest)
            parts.append((self.read(without).feature, WITHOUT))
        if image is not None:
            parts.append((self._seen(image).feature, 1.0))
        vector = combine(parts, self.features["images"])
        hits = name_duplicates(self.index.search(vector, k=k, among="images", **how))
        lit = query.feature if word == WHOLE else query.word(word)
        cards = []
        for hit in hits:
            marked = self.report(hit.row).mark(query.feature - self.centre["texts"])
            seen = self.image(hit.row)
            shown = self.light_up(seen, lit) if glow else overlay(seen.pixels / 255)
            caption = render(
                "hit.html", hit=hit, marked=marked, above=self._above("images", vector, hit)
            )
            cards.append(
                picture_html(
                    shown, f"image {hit.pair_id}: {hit.labels or 'no label'}", caption, 220
                )
            )
        best = self.features["images"][hits[0].row]
        asked = query.mark(best - self.centre["images"])
        return Answer(hits, _page(asked, cards, hits), query.names(), tuple(notes))

    def for_image(self, asked: int | np.ndarray, k: int = 5, word: int = WHOLE, **how) -> Answer:
        """The k distinct reports that fit an image best: of a gallery row, or uint8 pixels (S, S).
        Lit are the patches that speak for the best report, or for one of its words; how: as in
        `for_text`. Raises QueryError for pixels where there is no model to look at them."""
        row = None if isinstance(asked, np.ndarray) else asked
        if self.model is None and row is None:
            raise QueryError(
                "this search has no model to look at an image: choose one of the gallery"
            )
        glow, how["per"] = how.pop("glow", True), how.get("per") or "report"
        notes, words = [], []
        if self.model is None:
            vector, shown = self.features["images"][row], overlay(self.pixels(row) / 255)
            hits = self.index.search(vector, k=k, among="texts", **how)
            marks = [hit.report for hit in hits]
        else:
            image = self._seen(asked)
            vector, notes = image.feature, self._strange(image.feature, row)
            hits = self.index.search(vector, k=k, among="texts", **how)
            reports = [self.report(hit.row) for hit in hits]
            marks = [report.mark(vector - self.centre["images"]) for report in reports]
            best, words = self.features["texts"][hits[0].row], reports[0].names()
            lit = best if word == WHOLE else reports[0].word(word)
            shown = self.light_up(image, lit) if glow else overlay(image.pixels / 255)
        title, own = "your image", None
        if row is not None:
            title = f"gallery image {self.index.table.at[row, 'pair_id']}"
            own = normal_text(self.index.table.at[row, "report"])
        items = []
        for hit, mark in zip(hits, marks, strict=True):
            film = picture_html(
                overlay(self.pixels(hit.row) / 255), f"image {hit.pair_id}", width=110
            )
            above = self._above("texts", vector, hit)
            items.append((hit, mark, normal_text(hit.report) == own, above, film))
        parts = [picture_html(shown, title, width=320), render("reports.html", items=items)]
        return Answer(hits, _page(title, parts, hits), words, tuple(notes))

    def _seen(self, asked: int | np.ndarray) -> SeenImage:
        return self.look(asked) if isinstance(asked, np.ndarray) else self.image(asked)

    def _above(self, side: str, query: Tensor, hit: Hit) -> float:
        """Above which share of the gallery, 0 to 1, a hit's score lies; a score alone says little."""
        scores = thin(self.features[side]) @ F.normalize(query, dim=0)
        return float((scores < hit.score).float().mean())

    def _strange(self, feature: Tensor, row: int | None) -> list[str]:
        """A note where an image is less like any of the gallery than 99 of 100 of those are."""
        if row is not None:
            return []
        images = self.features["images"]
        if self._usual is None:
            some = thin(images, STRANGE)  # n, D
            nearest = (
                (some @ thin(images).T).topk(min(2, len(some))).values[:, -1]
            )  # the first is itself
            self._usual = float(nearest.quantile(0.01))
        if float((images @ feature).max()) >= self._usual:
            return []
        return ["this image is unlike those of the gallery: trust no hit"]


def _page(asked, parts: list[Markup], hits: list[Hit]) -> str:
    """The answer as HTML, with its hits as a CSV to save."""
    table = guarded(pd.DataFrame([as_row(hit) for hit in hits])).to_csv(index=False)
    csv = base64.b64encode(table.encode()).decode()
    return str(render("answer.html", asked=asked, parts=parts, csv=csv))
