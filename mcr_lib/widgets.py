"""What one plays with in a notebook: retrieval, masking, single words, the gap, temperature. The only module that
imports ipywidgets.

A widget only binds inputs to a `draw` method from their values to HTML, which tests call without a browser. Every
input has a label, and what goes wrong is said in a status line, for exceptions in callbacks are seen by nobody. Where
no kernel answers (papermill, exported HTML, a page on the web) the same picture stands as plain HTML.
Not here: how a question is answered (answers.py), how a picture is drawn (plotting).
"""

from __future__ import annotations

import html
import time

import ipywidgets as widgets
import numpy as np
import torch
from torch import Tensor

from . import plotting
from .answers import WHOLE, QueryError, Searcher, marked_html, picture_html, read_upload, row_html
from .config import MCRConfig
from .masking import mask_report, random_masking
from .modality_gap import gap_distance
from .model import Batch
from .retrieval import Index, query_ranks

IMAGE_FILES = ".png,.jpg,.jpeg,.dcm,.dicom"
MAX_CHOICES = 500  # a longer list cannot be read
WIDE = widgets.Layout(width="100%", max_width="860px")


class Explorer(widgets.VBox):
    """Inputs, a status line, a picture. A subclass names its inputs and has `draw(**values) -> (html, note)`."""

    def __init__(self, title: str, **inputs: widgets.Widget):
        self.title, self.inputs = title, inputs
        self.status, self.picture = widgets.HTML(), widgets.HTML(layout=widgets.Layout(width="100%"))
        for control in inputs.values():
            if control.style.has_trait("description_width"):
                control.style.description_width = "initial"  # else long labels are cut
        rows = [widgets.HBox(list(inputs.values()), layout=widgets.Layout(flex_flow="row wrap"))]
        super().__init__([*rows, self.status, self.picture])
        for control in inputs.values():
            control.observe(self.refresh, "value")
        self.refresh()

    def refresh(self, change=None) -> None:
        """Draw again; whatever goes wrong is shown, and the last picture stays."""
        start = time.perf_counter()
        try:
            self.picture.value, note = self.draw(**{name: control.value for name, control in self.inputs.items()})
            self._say(f"{note} ({1000 * (time.perf_counter() - start):.0f} ms)")
        except Exception as error:
            known = isinstance(error, QueryError)
            self._say(f"⚠ {error}" if known else f"⚠ {type(error).__name__}: {error}", "#b00020")

    def _say(self, text: str, colour: str = "inherit") -> None:
        self.status.value = f'<div role="status" style="color:{colour}">{html.escape(text)}</div>'

    def _repr_mimebundle_(self, **kwargs):
        """Beside the live view a static one, for wherever no kernel answers."""
        bundle = super()._repr_mimebundle_(**kwargs)
        chosen = "; ".join(f"{c.description}: {getattr(c, 'label', None) or c.value}"
                           for c in self.inputs.values() if not isinstance(c, widgets.FileUpload))
        bundle["text/plain"] = f"{self.title} ({chosen})"
        bundle["text/html"] = (f"<div><p><b>{html.escape(self.title)}</b>, as it stood: {html.escape(chosen)}</p>"
                               f"{self.status.value}{self.picture.value}</div>")
        return bundle


def numbered(words: list[str]) -> list[tuple[str, int]]:
    """Options to choose from, told apart where a word comes twice."""
    return [(f"{number}. {word}", number - 1) for number, word in enumerate(words, start=1)]


class RetrievalExplorer(Explorer):
    """Type a sentence, or choose or upload an image: the best K, their scores, the words and patches that match.

    `RetrievalExplorer(index, model, tokenizer)` for one model, or several by name to switch between:
    `RetrievalExplorer({"MbA": Searcher(index, model, tokenizer), "MbA, masked": …})`.
    """

    def __init__(self, search: Index | dict[str, Searcher], model=None, tokenizer=None, *, sentence: str = "",
                 k: int = 5):
        self.searchers = search if isinstance(search, dict) else {"model": Searcher(search, model, tokenizer)}
        table = next(iter(self.searchers.values())).index.table.head(MAX_CHOICES)
        images = [(f"{pair} · {labels.replace('|', ', ').replace('_', ' ')[:50] or 'no label'}", row)
                  for row, (pair, labels) in enumerate(zip(table["pair_id"], table["labels"], strict=True))]
        self.asked = "sentence" if sentence else "image"
        self.words, self._quiet = [], False
        super().__init__(
            "Retrieval explorer",
            sentence=widgets.Text(sentence, description="Sentence", placeholder="a finding, then Enter",
                                  continuous_update=False, layout=WIDE),
            image=widgets.Dropdown(options=images, description="or gallery image"),
            upload=widgets.FileUpload(accept=IMAGE_FILES, description="or upload an image",
                                      layout=widgets.Layout(width="auto")),
            k=widgets.IntSlider(k, 1, 10, description="K"),
            model=widgets.ToggleButtons(options=list(self.searchers), description="Model",
                                        style={"button_width": "auto"}, layout=widgets.Layout(width="max-content")),
            word=widgets.Dropdown(options=[("the whole text", WHOLE)], description="Light up"),
        )

    def refresh(self, change=None) -> None:
        """Answer what was asked last: the sentence, the chosen image or the uploaded one."""
        if self._quiet:
            return
        owner = change.owner if change else None
        self.asked = next((name for name in ("sentence", "image", "upload") if owner is self.inputs[name]), self.asked)
        other_words = owner not in (self.inputs["k"], self.inputs["word"])
        if other_words:
            self._offer([])
        super().refresh(change)
        if other_words:
            self._offer(self.words)

    def _offer(self, words: list[str]) -> None:
        self._quiet, self.words = True, words
        self.inputs["word"].options = [("the whole text", WHOLE), *numbered(words)]
        self._quiet = False

    def draw(self, sentence, image, upload, k, model, word) -> tuple[str, str]:
        searcher = self.searchers[model]
        if self.asked == "sentence":
            answer = searcher.for_text(sentence, k, word)
        elif self.asked == "upload" and upload:
            file = upload[0]
            answer = searcher.for_image(searcher.square(read_upload(file["name"], bytes(file["content"]))), k, word)
        else:
            answer = searcher.for_image(searcher.pixels(image), k, word, image)
        self.words = answer.words
        return answer.html, f"the best {len(answer.hits)} of {len(searcher.index)} pairs"


class WordExplorer(Explorer):
    """Go through the words of a gallery row's report with a slider: the patches that speak for each of them."""

    def __init__(self, searcher: Searcher, row: int):
        self.searcher, self.row = searcher, row
        self.report, self.seen = searcher.reports([row])[0], searcher.patches([row])[0]
        super().__init__("Word explorer", word=widgets.SelectionSlider(options=numbered(self.report.names()),
                                                                       description="Word", layout=WIDE))

    def draw(self, word) -> tuple[str, str]:
        name = self.report.names()[word]
        picture = self.searcher.lit(self.searcher.pixels(self.row), self.seen,
                                    self.report.word(word) - self.searcher.centre["texts"])
        here = [float(number == word) for number in range(len(self.report.spans))]
        text = f'<div style="flex:1;min-width:280px">{marked_html(self.report.text, self.report.spans, here)}</div>'
        return row_html([picture_html(picture, f"patches lit for the word {name}", width=260), text]), f"word: {name}"


class MaskingExplorer(Explorer):
    """One pair of a batch with any share of its patches and words masked, by the noise that training would use."""

    def __init__(self, batch: Batch, tokenizer, config: MCRConfig):
        self.batch, self.tokenizer, self.config = batch, tokenizer, config
        super().__init__(
            "Masking explorer",
            pair=widgets.IntSlider(0, 0, len(batch.images) - 1, description="Pair"),
            image=widgets.IntSlider(round(100 * config.mask_ratio), 0, 95, 5, description="Image, % masked"),
            report=widgets.IntSlider(round(100 * config.mlm_probability), 0, 95, 5, description="Report, % masked"))

    def draw(self, pair, image, report) -> tuple[str, str]:
        b, c, one = self.batch, self.config, slice(pair, pair + 1)
        kept, _, mask = random_masking(b.image_noise[one], image / 100)
        masked_ids, _, _ = mask_report(b.input_ids[one], b.attention_mask[one], b.text_noise[one], report / 100,
                                       c.mask_token_id, c.special_token_ids)
        holes = torch.where(mask > 0, float("nan"), 0.0).reshape(c.img_size // c.patch_size, -1)
        present = b.attention_mask[pair].bool()
        tokens = self.tokenizer.convert_ids_to_tokens(masked_ids[0][present])
        covered = int((masked_ids != b.input_ids[one]).sum())
        picture = picture_html(plotting.overlay(plotting.to_gray(b.images[pair]), holes.cpu()),
                               f"chest X-ray with {image} % of its patches masked", width=260)
        text = " ".join(tokens).replace(" ##", "")
        text = html.escape(text).replace("[MASK]", '<span style="background:#999;color:#fff">[MASK]</span>')
        note = f"{kept.shape[1]} of {c.num_patches} patches seen, {covered} of {len(tokens)} tokens masked"
        return row_html([picture, f'<div style="flex:1;min-width:280px">{text}</div>']), note


class GapExplorer(Explorer):
    """Move the two clouds along the gap and watch recall. shift(image_features, text_features, amount) moves them; the
    plane is that of the first two principal components before anything moved."""

    def __init__(self, image_features: Tensor, text_features: Tensor, table, shift):
        self.features, self.table, self.shift = (image_features, text_features), table, shift
        points = torch.cat(self.features)
        self.origin, self.plane = points.mean(0), torch.linalg.svd(points - points.mean(0), full_matrices=False).Vh[:2]
        self.reach = 1.2 * float(((points - self.origin) @ self.plane.T).abs().max())
        super().__init__("Gap explorer", amount=widgets.FloatSlider(
            0, min=-0.5, max=1.5, step=0.05, description="Share of the gap that is closed", layout=WIDE))

    def draw(self, amount) -> tuple[str, str]:
        images, texts = self.shift(*self.features, amount)
        ranks = query_ranks(images, texts, texts=self.table["report"].tolist(), labels=self.table["labels"].tolist())
        recall = {name: 100 * float((result.ranks <= 10).float().mean()) for name, result in ranks.items()}
        note = (f"gap {gap_distance(images, texts):.3f}; recall at 10: image to report "
                f"{recall['image_to_text']:.1f} %, report to image {recall['text_to_image']:.1f} %")
        flat = [(x - self.origin) @ self.plane.T for x in (images, texts)]
        drawn = plotting.clouds({"in the plane of the unmoved features": flat}, width=4.6, reach=self.reach)
        return picture_html(plotting.png(drawn), f"images and reports in the plane: {note}", width=460), note


class TemperatureExplorer(Explorer):
    """What the contrastive loss makes of one image's similarities: softmax over the reports at a temperature."""

    def __init__(self, similarities: Tensor, own: int, labels: list[str], temperature: float = 0.07, most: int = 8):
        self.similarities, self.own, self.labels, self.most = similarities.float(), own, labels, most
        super().__init__("Temperature explorer", temperature=widgets.FloatLogSlider(
            temperature, base=10, min=-2.5, max=0.5, step=0.05, description="Temperature", readout_format=".3f",
            layout=WIDE))

    def draw(self, temperature) -> tuple[str, str]:
        probability = (self.similarities / temperature).softmax(0)
        order = probability.argsort(descending=True, stable=True)[:self.most].tolist()
        rows = []
        for i in order + [self.own] * (self.own not in order):
            own = i == self.own
            bar = f'<div style="height:14px;width:{max(0.3, 100 * float(probability[i])):.1f}%;background:'
            rows.append(f"<tr><td>{'✓ ' if own else ''}{html.escape(self.labels[i][:60])}</td>"
                        f"<td>{float(self.similarities[i]):.3f}</td><td>{100 * float(probability[i]):.1f} %</td>"
                        f'<td style="width:300px">{bar}{"#009E73" if own else "#9A9A9A"}"></div></td></tr>')
        head = "<tr><th>report (✓ its own)</th><th>cosine</th><th>probability</th><th></th></tr>"
        note = f"loss of this image: {-float(probability[self.own].log()):.2f}; chance: {np.log(len(probability)):.2f}"
        return f'<table style="font-size:13px">{head}{"".join(rows)}</table>', note
