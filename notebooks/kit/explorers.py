"""What one plays with in a lesson: single words, masking, the gap, temperature.

Each is an Explorer of kit/widgets.py. Not here: the retrieval explorer, which is of use beyond the lessons.
"""

from __future__ import annotations

import ipywidgets as widgets
import numpy as np
import torch
from markupsafe import Markup, escape
from torch import Tensor

from kit.explore import Searcher
from kit.markup import marked_html, overlay, picture_html, render
from kit.patches import removed_mask
from kit.widgets import WIDE, Explorer, numbered
from mcr_lib.config import MCRConfig
from mcr_lib.masking import mask_report, random_masking
from mcr_lib.modality_gap import gap_distance
from mcr_lib.model import Batch
from mcr_lib.retrieval import query_ranks

from .plotting import clouds
from .plotting.style import png, to_gray

BESIDE = Markup('<div style="flex:1;min-width:280px">{}</div>')
HIDDEN = Markup('<span style="background:#A9CDE6;color:#222">[MASK]</span>')
TABLE = Markup(
    '<table style="font-size:13px"><tr><th>report (✓ its own)</th><th>cosine</th><th>probability</th><th></th></tr>'
    "{}</table>"
)
TABLE_ROW = Markup(
    '<tr><td>{}</td><td>{:.3f}</td><td>{:.1f} %</td><td style="width:300px">'
    '<div style="height:14px;width:{:.1f}%;background:{}"></div></td></tr>'
)


class WordExplorer(Explorer):
    """Go through the words of a gallery row's report with a slider: the patches that speak for each of them."""

    def __init__(self, searcher: Searcher, row: int):
        self.searcher = searcher
        self.report, self.image = searcher.report(row), searcher.image(row)
        words = numbered(self.report.names())
        super().__init__(
            "Word explorer",
            word=widgets.SelectionSlider(options=words, description="Word", layout=WIDE),
        )

    def draw(self, word) -> tuple[str, str]:
        """The image lit for one word, beside the report with the word marked → (html, note)."""
        name = self.report.names()[word]
        lit = self.searcher.light_up(self.image, self.report.word(word))
        picture = picture_html(lit, f"patches lit for the word {name}", width=260)
        here = [float(number == word) for number in range(len(self.report.spans))]
        text = BESIDE.format(marked_html(self.report.text, self.report.spans, here))
        return render("row.html", parts=[picture, text]), f"word: {name}"


class MaskingExplorer(Explorer):
    """One pair of a batch with any share of its patches and words hidden, by the noise that training would use."""

    def __init__(self, batch: Batch, tokenizer, config: MCRConfig):
        self.batch, self.tokenizer, self.config = batch, tokenizer, config
        image, report = round(100 * config.mask_ratio), round(100 * config.mlm_probability)
        super().__init__(
            "Masking explorer",
            pair=widgets.IntSlider(0, 0, len(batch.images) - 1, description="Pair"),
            image=widgets.IntSlider(image, 0, 95, 5, description="Image, % hidden"),
            report=widgets.IntSlider(report, 0, 95, 5, description="Report, % hidden"),
        )

    def draw(self, pair, image, report) -> tuple[str, str]:
        """The pair with these percentages hidden → (html, note)."""
        seen, picture = self._mask_image(pair, image)
        covered, tokens = self._mask_report(pair, report)
        text = escape(" ".join(tokens).replace(" ##", "")).replace("[MASK]", HIDDEN)
        patches = self.config.num_patches
        note = f"{seen} of {patches} patches seen, {covered} of {len(tokens)} tokens hidden"
        return render("row.html", parts=[picture, BESIDE.format(text)]), note

    def _mask_image(self, pair: int, percent: int) -> tuple[int, Markup]:
        """→ how many patches are seen, the picture."""
        noise, config = self.batch.image_noise[pair : pair + 1], self.config
        ids_keep, ids_removed = random_masking(noise, percent / 100)
        removed = removed_mask(ids_removed, config.num_patches)
        holes = torch.where(removed > 0, float("nan"), 0.0)
        holes = holes.reshape(config.img_size // config.patch_size, -1).cpu()
        shown = overlay(to_gray(self.batch.images[pair]), holes)
        alt = f"chest X-ray with {percent} % of its patches hidden"
        return ids_keep.shape[1], picture_html(shown, alt, width=260)

    def _mask_report(self, pair: int, percent: int) -> tuple[int, list[str]]:
        """→ how many tokens are hidden, all tokens."""
        batch, config, one = self.batch, self.config, slice(pair, pair + 1)
        masked_ids, _, _ = mask_report(
            batch.input_ids[one],
            batch.attention_mask[one],
            batch.text_noise[one],
            percent / 100,
            config.mask_token_id,
            config.special_token_ids,
        )
        present = batch.attention_mask[pair].bool()
        tokens = self.tokenizer.convert_ids_to_tokens(masked_ids[0][present])
        return int((masked_ids != batch.input_ids[one]).sum()), tokens


class GapExplorer(Explorer):
    """Move the two clouds along the gap and watch recall.

    shift(image_features, text_features, amount) moves them; the plane is that of the first two
    principal components before anything moved.
    """

    def __init__(self, image_features: Tensor, text_features: Tensor, table, shift):
        self.features, self.table, self.shift = (image_features, text_features), table, shift
        points = torch.cat(self.features)  # 2N, D
        self.origin = points.mean(0)
        self.plane = torch.linalg.svd(points - self.origin, full_matrices=False).Vh[:2]
        self.reach = 1.2 * float(((points - self.origin) @ self.plane.T).abs().max())
        what = "Share of the gap that is closed"
        super().__init__(
            "Gap explorer",
            amount=widgets.FloatSlider(
                0, min=-0.5, max=1.5, step=0.05, description=what, layout=WIDE
            ),
        )

    def draw(self, amount) -> tuple[str, str]:
        """The clouds after a share of the gap is closed → (html, note)."""
        images, texts = self.shift(*self.features, amount)
        reports, labels = self.table["report"].tolist(), self.table["labels"].tolist()
        ranks = query_ranks(images, texts, texts=reports, labels=labels)
        recall = {way: 100 * float((r.ranks <= 10).float().mean()) for way, r in ranks.items()}
        note = (
            f"gap {gap_distance(images, texts):.3f}; recall at 10: image to report "
            f"{recall['image_to_text']:.1f} %, report to image {recall['text_to_image']:.1f} %"
        )
        flat = [(x - self.origin) @ self.plane.T for x in (images, texts)]
        drawn = clouds({"in the plane of the unmoved features": flat}, width=4.6, reach=self.reach)
        alt = f"images and reports in the plane: {note}"
        return picture_html(png(drawn), alt, width=460), note


class TemperatureExplorer(Explorer):
    """What the contrastive loss makes of one image's similarities: softmax over the reports at a temperature."""

    def __init__(
        self,
        similarities: Tensor,
        own: int,
        labels: list[str],
        temperature: float = 0.07,
        most: int = 8,
    ):
        self.similarities, self.own = similarities.float(), own
        self.labels, self.most = labels, most
        super().__init__(
            "Temperature explorer",
            temperature=widgets.FloatLogSlider(
                temperature,
                base=10,
                min=-2.5,
                max=0.5,
                step=0.05,
                description="Temperature",
                readout_format=".3f",
                layout=WIDE,
            ),
        )

    def draw(self, temperature) -> tuple[str, str]:
        """The most probable reports and the image's own → (html, note)."""
        probability = (self.similarities / temperature).softmax(0)
        order = probability.argsort(descending=True, stable=True)[: self.most].tolist()
        if self.own not in order:
            order.append(self.own)
        rows = [self._row(report, 100 * float(probability[report])) for report in order]
        loss, chance = -float(probability[self.own].log()), np.log(len(probability))
        note = f"loss of this image: {loss:.2f}; chance: {chance:.2f}"
        return TABLE.format(Markup().join(rows)), note

    def _row(self, report: int, percent: float) -> Markup:
        own = report == self.own
        label = ("✓ " if own else "") + self.labels[report][:60]
        colour = "#009E73" if own else "#9A9A9A"
        cosine = float(self.similarities[report])
        return TABLE_ROW.format(label, cosine, percent, max(0.3, percent), colour)
