"""Marked words and lit patches, as HTML by the templates beside this file: they escape what reports say, and every
picture has alt text. Not here: what is shown (explore.py), a page or a widget."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from mcr_lib import paper

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True
)


GLOW = (213 / 255, 94 / 255, 0.0)  # RGB, the colour of texts (Okabe & Ito's vermillion)
HIDDEN = (169 / 255, 205 / 255, 230 / 255)  # RGB, of all that is masked: pale blue


def readable_labels(labels: str) -> str:
    """Labels of the manifest (`a_b|c`), for reading."""
    return labels.replace("|", ", ").replace("_", " ") or "no label"


TEMPLATES.filters["labels"] = readable_labels


def render(template: str, **values) -> Markup:
    """HTML by a template of this package; all values but Markup are escaped."""
    return Markup(TEMPLATES.get_template(template).render(**values))


def picture_html(pixels, alt: str, caption: str = "", width: int = 160) -> Markup:
    """uint8 pixels (H, W) or (H, W, 3), or the bytes of a PNG → a figure that carries its picture."""
    if not isinstance(pixels, bytes):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        pixels = buffer.getvalue()
    png = base64.b64encode(pixels).decode()
    return render("picture.html", png=png, alt=alt, caption=caption, width=width)


def marked_html(text: str, spans: list[tuple[int, int]], weights: list[float]) -> Markup:
    """The text; each word [start, stop) shaded by its positive weight, covered where that is nan."""
    words = [text[start:stop] for start, stop in spans]
    weights = np.array(weights, dtype=float)
    no_words = np.array([not any(map(str.isalnum, word)) for word in words], dtype=bool)
    weights[no_words & ~np.isnan(weights)] = 0  # a full stop
    strongest = max(np.nanmax(weights, initial=0), 1e-12)
    pieces, end = [], 0
    for (start, stop), word, weight in zip(spans, words, weights, strict=True):
        pieces.append((text[end:start], 0))
        pieces.append((word, None if np.isnan(weight) else weight / strongest))
        end = stop
    return render("marked.html", pieces=[*pieces, (text[end:], 0)])


def overlay(
    gray, glow=None, size: int = 224, strength: float = 0.72, most: float | None = None
) -> np.ndarray:
    """gray (H, W) in [0, 1] with a map (S, S) laid over it → (size, size, 3) uint8. Only what is
    positive in the map glows, against `most` (None: its own maximum); nan (masked) is pale blue."""
    ground = _enlarge(torch.as_tensor(gray), size, "bicubic").clamp(0, 1).expand(-1, -1, 3)
    if glow is not None:
        glow = torch.as_tensor(glow).float()
        shown = glow.nan_to_num(0).clamp(min=0)
        scale = max(float(shown.max()) if most is None else most, 1e-12)
        alpha = strength * _enlarge(shown / scale, size, "bilinear").clamp(max=1)
        ground = (1 - alpha) * ground + alpha * torch.tensor(GLOW)
        masked = _enlarge(glow.isnan(), size, "nearest") > 0
        ground = torch.where(masked, torch.tensor(HIDDEN), ground)
    return (255 * ground).round().byte().numpy()


def _enlarge(x: Tensor, size: int, mode: str) -> Tensor:
    """(h, w) → (size, size, 1)."""
    return interpolate(x[None, None].float(), size=(size, size), mode=mode)[0, 0, :, :, None]


def paper_tables() -> str:
    """Both lists as Markdown tables, as the lessons show them."""
    lines = [f"**What the paper says** ({paper.PAPER})", "", "| fact | where |", "|---|---|"]
    lines += [f"| {fact.what} | {fact.where} |" for fact in paper.FACTS]
    lines += ["", "**What we chose, where we could not read the paper**", ""]
    lines += ["| setting | value | reason |", "|---|---|---|"]
    for choice in paper.CHOICES:
        names = ", ".join(key if " " in key else f"`{key}`" for key in choice.keys)
        lines.append(f"| {names} | {choice.value} | {choice.reason} |")
    return "\n".join(lines)
