"""Every picture of the kit: functions from tensors, dicts and tables to a matplotlib figure. The only module that
imports matplotlib. Not here: any measuring (what is drawn was computed elsewhere), any file (Lesson.figure keeps it).

Conventions: a function takes what it draws and returns a `Picture`, WIDTH inches wide unless there is a reason; axes
have units; colour is never the only sign (labels, line styles or hatches repeat it); one colour per meaning, COLOURS.
No pyplot, so no global state: a cell shows a picture by ending in it or by `display(picture)`.
"""

from __future__ import annotations

import io
import textwrap

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .data import IMAGE_MEAN, IMAGE_STD

WIDTH = 9.0  # inches: the text width of a notebook

# Okabe & Ito's palette: told apart by readers with any kind of colour vision
OKABE_ITO = {"black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442",
             "blue": "#0072B2", "vermillion": "#D55E00", "purple": "#CC79A7"}
COLOURS = {  # one colour per meaning, in all figures
    "image": OKABE_ITO["blue"], "text": OKABE_ITO["vermillion"], "common": OKABE_ITO["green"],
    "decoder": OKABE_ITO["purple"], "loss": OKABE_ITO["orange"], "masked": "#9A9A9A", "chance": "#6E6E6E",
    "ink": "#222222", "faint": "#D9D9D9", "paper": "#FFFFFF",
    "mcr": OKABE_ITO["green"], "two-stream": OKABE_ITO["orange"], "contrastive": OKABE_ITO["sky"],
    "contrastive-masked": OKABE_ITO["purple"], "mba": OKABE_ITO["green"], "abm": OKABE_ITO["orange"],
}
STYLE = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222", "xtick.color": "#444444", "ytick.color": "#444444", "text.color": "#222222",
    "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.8, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 2, "image.cmap": "gray",
    "image.interpolation": "nearest", "figure.facecolor": "white", "savefig.facecolor": "white",
    "mathtext.fontset": "dejavusans",
}


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook, whatever the backend. `alt` describes it in words."""

    alt = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return {"image/png": buffer.getvalue(), "text/plain": self.alt or "figure"}, {"image/png": {"alt": self.alt}}


def new_picture(height: float, rows: int = 1, cols: int = 1, *, width: float = WIDTH, alt: str = "", **subplots):
    """An empty picture in the kit's style → (Picture, axes as a rows × cols array); sizes in inches."""
    matplotlib.rcParams.update(STYLE)
    picture = Picture(figsize=(width, height), layout="constrained")
    picture.alt = alt
    return picture, picture.subplots(rows, cols, squeeze=False, **subplots)


def to_gray(images: Tensor) -> np.ndarray:
    """Normalised images (..., C, H, W) → gray levels (..., H, W) in [0, 1], as they are looked at."""
    x = images.detach().float().cpu()[..., 0, :, :] * IMAGE_STD + IMAGE_MEAN
    return x.clamp(0, 1).numpy()


def show_image(ax: Axes, gray, title: str = "", **settings) -> None:
    """One gray picture (H, W) in [0, 1], without axes."""
    ax.imshow(torch.as_tensor(gray).numpy(), **{"vmin": 0, "vmax": 1, "cmap": "gray", **settings})
    ax.set_title(title, fontsize=10)
    bare(ax)


def bare(ax: Axes) -> None:
    """Take ticks, grid and frame away."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def label_bars(ax: Axes, bars, texts, horizontal: bool = True) -> None:
    """Write a text at the end of each bar, and leave room for it."""
    for bar, text in zip(bars, texts, strict=True):
        if horizontal:
            at, where = (bar.get_width(), bar.get_y() + bar.get_height() / 2), dict(ha="left", va="center")
            offset = (4, 0)
        else:
            at, where = (bar.get_x() + bar.get_width() / 2, bar.get_height()), dict(ha="center", va="bottom")
            offset = (0, 3)
        ax.annotate(text, at, xytext=offset, textcoords="offset points", fontsize=9, **where)
    ax.margins(**{"x" if horizontal else "y": 0.18})


# --- data and one pair's way through the model (00)

def pairs(images, reports: list[str], titles: list[str], boxes: list[list] | None = None) -> Picture:
    """Images (n, H, W) in [0, 1] side by side with their reports below; boxes[n]: (x0, y0, x1, y1, name) as fractions
    of width and height, numbered in the picture and named in the title line."""
    n = len(images)
    lines = [textwrap.fill(report, round(150 / n)) for report in reports]
    tall = max(text.count("\n") + 1 for text in lines) * 0.155
    picture, axes = new_picture(WIDTH / n + tall + 0.4, 2, n, height_ratios=[WIDTH / n, tall],
                                alt=f"{n} radiographs with their reports below: " + "; ".join(titles))
    for column, (gray, text, title) in enumerate(zip(images, lines, titles, strict=True)):
        show_image(axes[0, column], gray, title, extent=(0, 1, 1, 0), aspect="auto")
        axes[0, column].set_box_aspect(np.asarray(gray).shape[0] / np.asarray(gray).shape[1])
        for x0, y0, x1, y1, name in (boxes or [[]] * n)[column]:
            draw_box(axes[0, column], x0, y0, x1, y1, name)
        axes[1, column].text(0, 1, text, va="top", fontsize=8.5, transform=axes[1, column].transAxes)
        bare(axes[1, column])
    return picture


def draw_box(ax: Axes, x0, y0, x1, y1, name: str = "", colour: str = OKABE_ITO["yellow"]) -> None:
    """A named box on a picture, in the units of its axes."""
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.8))
    ax.text(x0, y0, name, fontsize=8, color="black", va="bottom",
            bbox=dict(facecolor=colour, edgecolor="none", pad=1.2, alpha=0.9))


def tokens(ax: Axes, words: list[str], colours: list[str], columns: int = 40, rows: int | None = None,
           fontsize: float = 8) -> None:
    """Tokens as a flowing strip of coloured boxes, `columns` characters wide; what does not fit in `rows` is cut."""
    x, y = 0.0, 0
    for word, colour in zip(words, colours, strict=True):
        if x and x + len(word) > columns:
            x, y = 0.0, y + 1
        if rows is not None and y == rows:
            ax.text(0, -rows, "…", fontsize=fontsize, va="center")
            break
        ax.text(x + 0.3, -y, word, fontsize=fontsize, family="monospace", va="center",
                bbox=dict(facecolor=colour, edgecolor="none", boxstyle="round,pad=0.18"))
        x += len(word) + 1.3
    ax.set(xlim=(0, columns + 2), ylim=(-(rows or y + 1) - 0.3, 0.8))
    bare(ax)


def token_colours(masked) -> list[str]:
    """Pale orange for a token that is seen, gray for one that was replaced by [MASK]."""
    return [COLOURS["masked"] if m else "#F7DCCB" for m in masked]


def heat(ax: Axes, values: Tensor, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """A matrix in a diverging map centred at zero (purple below, orange above)."""
    values = values.detach().float().cpu()
    limit = float(values.abs().quantile(0.99)) or 1.0
    ax.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.set_title(title, fontsize=10)
    ax.set(xlabel=xlabel, ylabel=ylabel, xticks=[0, values.shape[1] - 1], yticks=[0, values.shape[0] - 1])
    ax.tick_params(labelsize=8, length=2)
    ax.grid(False)


def walkthrough(masked_image, words: list[str], masked: list[bool], image_steps, report_steps) -> Picture:
    """One pair's way through the model, the image above, the report below.

    masked_image (H, W) in [0, 1]; words with masked flags; *_steps: local features f (L, D), the same mapped
    (L, common_dim), S (common_dim,).
    """
    picture, axes = new_picture(5.4, 2, 4, width_ratios=[1.25, 1.1, 1.1, 1.1],
                                alt="An image and its report on their way through the model: masked input, local "
                                    "features, the same mapped to the common space, and one vector for each")
    show_image(axes[0, 0], masked_image, "what $E_v$ sees of the image")
    tokens(axes[1, 0], words, token_colours(masked), columns=31, rows=15, fontsize=6.5)
    axes[1, 0].set_title("what $E_r$ sees of the report", fontsize=10)
    for row, steps, s, unit, colour in ((axes[0], image_steps, "v", "patch", COLOURS["image"]),
                                        (axes[1], report_steps, "r", "token", COLOURS["text"])):
        f, common, S = (step.detach().float().cpu() for step in steps)
        heat(row[1], f, f"local features $f^{s}$", "channel of the encoder", f"{unit} that is seen")
        heat(row[2], common, f"mapped: $F(f^{s})$", "channel of the common space")
        row[3].bar(np.arange(len(S)), S, color=colour, width=1.0)
        row[3].set_title(f"mean, length 1: $S^{s}$", fontsize=10)
        row[3].set(xlabel="channel of the common space")
        row[3].tick_params(labelsize=8)
    return picture


def similarity(matrix: Tensor, title: str, *, other: Tensor | None = None, other_title: str = "") -> Picture:
    """Cosines of images (rows) and reports (columns), true pairs on the framed diagonal; two matrices side by side."""
    matrices = [(matrix, title)] + ([(other, other_title)] if other is not None else [])
    limit = max(float(m.abs().max()) for m, _ in matrices)
    picture, axes = new_picture(3.9, 1, len(matrices), width=4.6 * len(matrices), alt=f"Cosine matrix: {title}")
    for ax, (values, name) in zip(axes[0], matrices, strict=True):
        drawn = ax.imshow(values.detach().float().cpu(), cmap="PuOr_r", vmin=-limit, vmax=limit)
        for i in range(len(values)):
            ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=COLOURS["ink"], linewidth=1))
        ax.set(xlabel="report", ylabel="image", xticks=[0, len(values) - 1], yticks=[0, len(values) - 1])
        ax.set_title(name)
        ax.grid(False)
    picture.colorbar(drawn, ax=list(axes[0]), label="cosine", shrink=0.85)
    return picture
