"""Every picture of the kit: functions from tensors, dicts and tables to a matplotlib figure. The only module that
imports matplotlib. Not here: any measuring (what is drawn was computed elsewhere), any file (Lesson.figure keeps it).

Conventions: a function takes what it draws and returns a `Picture`, WIDTH inches wide unless there is a reason; axes
have units; colour is never the only sign (labels, line styles or hatches repeat it); one colour per meaning, COLOURS.
No pyplot, so no global state: a cell shows a picture by ending in it or by `display(picture)`.
"""

from __future__ import annotations

import io
import re
import textwrap

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import NullLocator, ScalarFormatter
from torch import Tensor
from torch.nn import functional

from .data import IMAGE_MEAN, IMAGE_STD
from .vision import patchify, unpatchify

WIDTH = 9.0  # inches: the text width of a notebook

# Okabe & Ito's palette: told apart by readers with any kind of colour vision
OKABE_ITO = {"black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442",
             "blue": "#0072B2", "vermillion": "#D55E00", "purple": "#CC79A7"}
COLOURS = {  # one colour per meaning, in all figures
    "image": OKABE_ITO["blue"], "text": OKABE_ITO["vermillion"], "common": OKABE_ITO["green"],
    "decoder": OKABE_ITO["purple"], "loss": OKABE_ITO["orange"], "masked": "#A9CDE6", "chance": "#6E6E6E",
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


def hide(images: Tensor, mask: Tensor, patch_size: int) -> np.ndarray:
    """Normalised images (N, C, H, W) as RGB (N, H, W, 3) in [0, 1], the removed patches (mask (N, L) = 1) pale blue."""
    gray = to_gray(images)
    side = gray.shape[-1] // patch_size
    covered = mask.cpu().reshape(-1, side, side).numpy().repeat(patch_size, 1).repeat(patch_size, 2)[..., None]
    return np.where(covered == 1, matplotlib.colors.to_rgb(COLOURS["masked"]), gray[..., None])


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
    lines = [textwrap.fill(report, round(132 / n)) for report in reports]
    tall = max(text.count("\n") + 1 for text in lines) * 0.15
    high = WIDTH / n * max(np.asarray(gray).shape[0] / np.asarray(gray).shape[1] for gray in images)
    picture, axes = new_picture(high + tall + 0.3, 2, n, height_ratios=[high, tall],
                                alt=f"{n} radiographs with their reports below: " + "; ".join(titles))
    for column, (gray, text, title) in enumerate(zip(images, lines, titles, strict=True)):
        show_image(axes[0, column], gray, title, extent=(0, 1, 1, 0), aspect="auto")
        axes[0, column].set_box_aspect(np.asarray(gray).shape[0] / np.asarray(gray).shape[1])
        axes[0, column].set_anchor("SW")
        for x0, y0, x1, y1, name in (boxes or [[]] * n)[column]:
            draw_box(axes[0, column], x0, y0, x1, y1, name)
        axes[1, column].text(0, 1, text, va="top", fontsize=8.5, transform=axes[1, column].transAxes, in_layout=False)
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
    """Pale orange for a token that is seen, pale blue for one that is hidden."""
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

    masked_image (H, W, 3) in [0, 1]; words with masked flags; *_steps: local features f (L, D), the same mapped
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


# --- masking (01)

def gallery(rows: list[list], titles: list[str], row_titles: list[str] | None = None, size: float = 0) -> Picture:
    """Pictures (H, W) or (H, W, 3) in [0, 1] as a grid, titles above the first row, row_titles at the left."""
    size = size or WIDTH / len(titles)
    picture, axes = new_picture(size * len(rows) + 0.3, len(rows), len(titles), width=size * len(titles),
                                alt="Pictures in a grid; columns: " + ", ".join(titles).replace("\n", " "))
    for n, (line, drawn) in enumerate(zip(axes, rows, strict=True)):
        for ax, pixels, title in zip(line, drawn, titles, strict=True):
            show_image(ax, pixels)
            if n == 0:
                ax.set_title(title, fontsize=9.5, fontweight="normal")
        if row_titles:
            line[0].set_ylabel(row_titles[n], fontsize=9.5)
    return picture


def token_strips(strips: dict[str, tuple[list[str], list[bool]]], columns: int = 112) -> Picture:
    """Reports as strips of tokens, hidden ones pale blue: strips[title] = (words, hidden)."""
    picture, axes = new_picture(2.0, len(strips), 1, alt="Tokens of a report, hidden ones marked: " + ", ".join(strips))
    high = 0.0
    for ax, (title, (words, hidden)) in zip(axes[:, 0], strips.items(), strict=True):
        tokens(ax, words, token_colours(hidden), columns=columns, fontsize=7.5)
        ax.set_title(title, fontsize=9.5, fontweight="normal")
        high = max(high, -ax.get_ylim()[0])
    for ax in axes[:, 0]:
        ax.set_ylim(-high, 0.8)
    picture.set_figheight(len(strips) * (0.21 * high + 0.35))
    return picture


def relative_costs(panels: dict[str, tuple[list[float], dict[str, list[float]]]]) -> Picture:
    """Costs against the share that is hidden, all relative to hiding nothing: panels[title] = (shares, costs[name])."""
    picture, axes = new_picture(3.3, 1, len(panels), sharey=True, alt="Relative cost against the share hidden: "
                                + ", ".join(panels))
    for ax, (title, (shares, costs)) in zip(axes[0], panels.items(), strict=True):
        ax.plot([0, 100], [1, 0], color=COLOURS["chance"], linewidth=1, linestyle=(0, (5, 3)), label="in proportion")
        for (name, values), colour, style in zip(
                costs.items(), (OKABE_ITO["black"], OKABE_ITO["blue"], OKABE_ITO["vermillion"], OKABE_ITO["green"]),
                ("o-", "s--", "D-.", "^:"), strict=False):
            ax.plot([100 * share for share in shares], np.array(values) / values[0], style, color=colour, label=name,
                    markersize=6)
        ax.set(xlabel="share hidden (%)", ylim=(0, 1.25), xlim=(-3, 100 * max(shares) + 5))
        ax.set_title(title)
    axes[0, 0].set_ylabel("cost, hiding nothing = 1")
    axes[0, 0].legend(fontsize=8.5, loc="lower left")
    return picture


# --- mapping before or after aggregation (02)

def mba_abm(f: Tensor, mapped: Tensor, S_mba: Tensor, pooled: Tensor, S_abm: Tensor) -> Picture:
    """The two orders with real numbers: local features f (L, D); above F(f) (L, C) and its mean S_mba (C,); below the
    mean `pooled` (D,) and F of it, S_abm (C,). Colours are scaled block by block, the last column to one scale."""
    picture, axes = new_picture(4.6, alt="Above: map every local feature, then average. Below: average, then map")
    ax = axes[0, 0]
    bare(ax)
    ax.set(xlim=(0, 12.2), ylim=(0.2, 7.8))
    last = float(torch.cat([S_mba, S_abm]).detach().abs().max())

    def block(x, y, values, name, limit=None):
        values = values.detach().float().cpu()
        values = values[None] if values.ndim == 1 else values
        height = 2.3 if len(values) > 1 else 0.42
        inset = ax.inset_axes((x, y - height / 2, 2.9, height), transform=ax.transData)
        limit = limit or float(values.abs().quantile(0.99))
        inset.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
        bare(inset)
        ax.text(x + 1.45, y - height / 2 - 0.12, f"{name}: {len(values)} × {values.shape[1]}", ha="center", va="top",
                fontsize=9)

    for y, title, colour, middle, end, verbs in (
            (6.0, "MbA: mapping before aggregation", COLOURS["mba"], (mapped, "$F(f)$"), (S_mba, "mean of $F(f)$"),
             ("F, row\nby row", "mean of\nthe rows")),
            (1.9, "AbM: aggregation before mapping", COLOURS["abm"], (pooled, "mean of $f$"),
             (S_abm, "$F($mean of $f)$"), ("mean of\nthe rows", "F, once"))):
        ax.text(0, y + 1.35, title, fontsize=11, fontweight="bold", va="bottom")
        ax.add_patch(Rectangle((0, y + 1.24), 12.1, 0.06, facecolor=colour, edgecolor="none"))
        block(0, y, f, "$f$")
        block(4.6, y, *middle)
        block(9.2, y, *end, limit=last)
        for x, verb in zip((2.95, 7.55), verbs, strict=True):
            _arrow(ax, x + 0.1, y, x + 1.5, y)
            ax.text(x + 0.78, y + 0.12, verb, ha="center", va="bottom", fontsize=9)
    return picture


def gelu_gap(inputs: Tensor, unit: int) -> Picture:
    """Why a curve between mapping and averaging makes a difference. inputs (L, H): what enters the H hidden units of F
    for L local features. Left: one unit on the curve; right: all units."""
    inputs = inputs.detach().float().cpu()
    picture, axes = new_picture(3.6, 1, 2, alt="Left: on the curve of GELU the mean of the values lies above the value "
                                "of the mean. Right: the same for all hidden units")
    x, ax = inputs[:, unit], axes[0, 0]
    lim = max(1.0, float(x.abs().max()) * 1.15)
    line = torch.linspace(-lim, lim, 200)
    ax.plot(line, functional.gelu(line), color=COLOURS["ink"], linewidth=1.5, label="GELU")
    ax.plot(x, functional.gelu(x), "o", color=COLOURS["image"], markersize=5, alpha=0.7, label="the local features")
    for marker, key, value, name in (("D", "mba", functional.gelu(x).mean(), "MbA: mean of the GELUs"),
                                     ("s", "abm", functional.gelu(x.mean()), "AbM: GELU of the mean")):
        ax.plot(x.mean(), value, marker, color=COLOURS[key], markersize=10, label=name)
    ax.set(xlabel="input of one hidden unit of F", ylabel="its output")
    ax.set_title("one unit", fontsize=10.5)
    ax.legend(fontsize=8.5)
    ax = axes[0, 1]
    of_mean, mean_of = functional.gelu(inputs.mean(0)), functional.gelu(inputs).mean(0)
    ax.plot(of_mean, mean_of, "o", color=COLOURS["common"], markersize=4, alpha=0.6)
    ends = [float(min(of_mean.min(), mean_of.min())), float(max(of_mean.max(), mean_of.max()))]
    ax.plot(ends, ends, color=COLOURS["chance"], linewidth=1.2, linestyle=(0, (5, 3)), label="no difference")
    ax.set(xlabel="AbM: GELU of the mean", ylabel="MbA: mean of the GELUs")
    ax.set_title("all hidden units", fontsize=10.5)
    ax.legend(fontsize=8.5)
    return picture


def two_orders(found: dict) -> Picture:
    """R@1 of heads of both orders, a mark per seed; found: what `one_patch.compare` returns."""
    picture, axes = new_picture(3.1, 1, len(found), sharey=True, alt="Own report on top for MbA and AbM, by pooling; "
                                "the finding is seen by: " + ", ".join(found))
    for ax, (seen_by, poolings) in zip(axes[0], found.items(), strict=True):
        for order, marker, name, offset in (("mba", "o", "MbA", -0.08), ("abm", "s", "AbM", 0.08)):
            for x, orders in enumerate(poolings.values()):
                ax.plot([x + offset] * len(orders[order]), orders[order], marker, color=COLOURS[order], markersize=7,
                        alpha=0.7, label=name if x == 0 else None)
        ax.set(title=f"seen by {seen_by}", xticks=range(len(poolings)), xticklabels=list(poolings), ylim=(-3, 103),
               xlim=(-0.5, len(poolings) - 0.5), xlabel="aggregation")
    axes[0, 0].set_ylabel("own report on top\nof 500 (%)")
    axes[0, 0].legend(loc="center left")
    return picture


# --- the two frameworks, what they cost, and training (03)

def _block(ax: Axes, x: float, y: float, text: str, colour: str, w: float = 1.5, h: float = 1.15) -> None:
    """A rounded box centred at (x, y)."""
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.18",
                                facecolor=colour, edgecolor="none"))
    dark = colour in (COLOURS["image"], COLOURS["text"], COLOURS["common"])
    ax.text(x, y, text, ha="center", va="center", color="white" if dark else "black", fontsize=9.5)


def _arrow(ax: Axes, x0: float, y0: float, x1: float, y1: float) -> None:
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=dict(arrowstyle="-|>", color="#444444", linewidth=1.2,
                                                        shrinkA=0, shrinkB=0))


def _inputs(ax: Axes, y: float, picture=None, words=None, colours=None) -> None:
    """A thumbnail or a few tokens at the left end of a stream."""
    if picture is not None:
        inset = ax.inset_axes((0.0, y - 1.0, 2.0, 2.0), transform=ax.transData)
        show_image(inset, picture)
        return
    for row, (word, colour) in enumerate(zip(words[:4], colours[:4], strict=True)):
        ax.text(1.0, y + 0.78 - 0.52 * row, word, ha="center", va="center", fontsize=7, family="monospace",
                bbox=dict(facecolor=colour, edgecolor="none", boxstyle="round,pad=0.15"))


def frameworks(whole, masked, words: list[str], hidden_words: list[str]) -> Picture:
    """The paper's Fig. 1, drawn by us: two streams (a) beside one masked stream (b).

    whole (H, W), masked (H, W, 3) in [0, 1]: an image; words, hidden_words: the first tokens of its report, as they
    are and with [MASK] for what is hidden.
    """
    picture, axes = new_picture(4.9, 1, 2, alt="Left: the two-stream framework, whole pairs for the contrastive task "
                                "and masked ones for reconstruction. Right: MCR, masked pairs for all three tasks")
    seen, hidden = token_colours([False] * 4), token_colours([w == "[MASK]" for w in hidden_words[:4]])
    for ax, title in zip(axes[0], ("(a) two streams", "(b) MCR: one masked stream"), strict=True):
        bare(ax)
        ax.set(xlim=(0, 10.4), ylim=(0, 11))
        ax.set_title(title)
    image, text, common, decoder, loss = (COLOURS[k] for k in ("image", "text", "common", "decoder", "loss"))

    a = axes[0, 0]
    for y, code, source in ((9.7, "v", dict(picture=whole)), (7.1, "r", dict(words=words, colours=seen)),
                            (4.1, "v", dict(picture=masked)), (1.5, "r", dict(words=hidden_words, colours=hidden))):
        _inputs(a, y, **source)
        _arrow(a, 2.1, y, 2.85, y)
        _block(a, 3.6, y, f"$E_{code}$", image if code == "v" else text)
        _arrow(a, 4.35, y, 5.05 if y > 5 else 5.2, y)
        if y > 5:
            _block(a, 5.95, y, f"$F_{code}$, pool", common, w=1.8)
            _arrow(a, 6.85, y, 8.6, 8.4 + 0.3 * (1 if y > 8.4 else -1))
            a.text(7.5, y + (0.05 if y > 8.4 else -0.05), f"$S^{code}$", ha="center",
                   va="bottom" if y > 8.4 else "top", fontsize=10)
        else:
            _block(a, 5.95, y, f"$D_{code}$", decoder)
            _arrow(a, 6.7, y, 8.6, y)
            _block(a, 9.4, y, "$L_{mim}$" if code == "v" else "$L_{mrm}$", loss)
    _block(a, 9.4, 8.4, "$L_{vrc}$", loss)
    a.axhline(5.62, color="#999999", linewidth=1, linestyle=(0, (4, 3)))
    a.text(10.3, 5.75, "whole", ha="right", va="bottom", fontsize=9, style="italic")
    a.text(10.3, 5.5, "masked", ha="right", va="top", fontsize=9, style="italic")

    b = axes[0, 1]
    for y, code, source in ((8.0, "v", dict(picture=masked)), (3.0, "r", dict(words=hidden_words, colours=hidden))):
        up = 1 if y > 5 else -1
        _inputs(b, y, **source)
        _arrow(b, 2.1, y, 2.85, y)
        _block(b, 3.6, y, f"$E_{code}$", image if code == "v" else text)
        b.text(4.75, y + 0.12, f"$f^{code}$", ha="center", va="bottom", fontsize=10)
        b.plot([4.35, 5.05], [y, y], color="#444444", linewidth=1.2)
        _arrow(b, 5.05, y, 5.7, y + 1.4 * up)
        _arrow(b, 5.05, y, 5.6, y - 1.4 * up)
        _block(b, 6.5, y + 1.4 * up, f"$D_{code}$", decoder)
        _arrow(b, 7.25, y + 1.4 * up, 8.6, y + 1.4 * up)
        _block(b, 9.4, y + 1.4 * up, "$L_{mim}$" if code == "v" else "$L_{mrm}$", loss)
        _block(b, 6.5, y - 1.4 * up, f"$F_{code}$, pool", common, w=1.8)
        _arrow(b, 7.4, y - 1.4 * up, 8.6, 5.5 + 0.3 * up)
        b.text(7.75, y - 1.4 * up + (0.05 if up > 0 else -0.05), f"$S^{code}$", ha="center",
               va="bottom" if up > 0 else "top", fontsize=10)
    _block(b, 9.4, 5.5, "$L_{vrc}$", loss)
    b.text(10.3, 0.1, "all masked", ha="right", va="bottom", fontsize=9, style="italic")
    return picture


ARMS = {"mcr": "MCR: one masked stream", "two-stream": "two streams", "contrastive": "contrastive, whole",
        "contrastive-masked": "contrastive, masked"}
PARTS = {  # the parts of a step, in the order in which bars stack: colour, hatch
    "E_v, whole": (COLOURS["image"], ""), "E_v, masked": (COLOURS["image"], "///"), "D_v": (COLOURS["decoder"], ""),
    "E_r, whole": (COLOURS["text"], ""), "E_r, masked": (COLOURS["text"], "///"), "D_r": ("#E9C7DA", ".."),
    "heads": (COLOURS["common"], ""),
}


def stacked_costs(costs: dict[str, dict[str, float]], xlabel: str, title: str = "") -> Picture:
    """Cost of a step by part, one horizontal bar per arm: costs[arm][part], parts named as in PARTS."""
    picture, axes = new_picture(0.5 * len(costs) + 1.6, alt=f"{xlabel} by part: " + ", ".join(
        f"{arm} {sum(parts.values()):.3g}" for arm, parts in costs.items()))
    ax = axes[0, 0]
    for part, (colour, hatch) in PARTS.items():
        values = np.array([parts.get(part, 0.0) for parts in costs.values()])
        if not values.any():
            continue
        before = np.array([sum(parts.get(p, 0.0) for p in list(PARTS)[:list(PARTS).index(part)])
                           for parts in costs.values()])
        ax.barh([ARMS.get(arm, arm) for arm in costs], values, left=before, color=colour, hatch=hatch,
                edgecolor="white", linewidth=0.6,
                label=re.sub(r"([ED]_[vr])", r"$\1$", part))
    for row, parts in enumerate(costs.values()):
        ax.annotate(f"{sum(parts.values()):.3g}", (sum(parts.values()), row), xytext=(5, 0),
                    textcoords="offset points", va="center", fontsize=9, fontweight="bold")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.08)
    ax.set(xlabel=xlabel)
    ax.set_title(title)
    picture.legend(ncols=6, loc="outside lower center", columnspacing=1.2, handlelength=1.5)
    return picture


def forces(cosines: Tensor, gradient: Tensor) -> Picture:
    """Cosines of images (rows) and reports (columns), and the gradient of the contrastive loss on each of them.

    The colours of the gradient are scaled to the wrong pairs; the diagonal is stronger than they can show.
    """
    cosines, gradient = cosines.detach().float().cpu(), gradient.detach().float().cpu()
    wrong = gradient[~torch.eye(len(gradient), dtype=torch.bool)]
    picture, axes = new_picture(3.9, 1, 2, alt="Left: cosine of each image with each report. Right: what training "
                                "would do to it; true pairs are raised, similar wrong pairs pushed down most")
    for ax, values, limit, title, label, extend in (
            (axes[0, 0], cosines, float(cosines.abs().max()), "cosines", "cosine", "neither"),
            (axes[0, 1], gradient, float(wrong.abs().max()), "forces", "gradient: below 0 raised, above 0 pushed down",
             "min")):
        drawn = ax.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit)
        for i in range(len(values)):
            ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=COLOURS["ink"], linewidth=1))
        ax.set(xlabel="report", ylabel="image", xticks=[0, len(values) - 1], yticks=[0, len(values) - 1])
        ax.set_title(title)
        ax.grid(False)
        picture.colorbar(drawn, ax=ax, label=label, shrink=0.85, extend=extend)
    return picture


LOSSES = {"contrastive_loss": "$L_{vrc}$, contrastive", "image_reconstruction_loss": "$L_{mim}$, hidden patches",
          "text_reconstruction_loss": "$L_{mrm}$, hidden words"}


def loss_curves(runs: dict[str, list[dict]], guessing: dict[str, float] | None = None) -> Picture:
    """The three losses over the steps, one panel each; runs[name]: the records of metrics.jsonl; guessing: a level
    per loss, drawn dashed."""
    picture, axes = new_picture(2.9, 1, 3, alt="The three losses over the training steps for " + ", ".join(runs))
    cycle = [COLOURS["mcr"], OKABE_ITO["orange"], OKABE_ITO["sky"], OKABE_ITO["purple"], OKABE_ITO["black"]]
    for ax, (key, name) in zip(axes[0], LOSSES.items(), strict=True):
        for (run, records), colour, style in zip(runs.items(), cycle, ("-", "--", "-.", ":", "-"), strict=False):
            points = [(r["step"], r[key]) for r in records if key in r]
            if points:
                ax.plot(*zip(*points, strict=True), style, color=colour, label=run, marker="o" if len(points) < 15
                        else None, markersize=4)
        if guessing:
            ax.axhline(guessing[key], color=COLOURS["chance"], linewidth=1.2, linestyle=(0, (5, 3)), label="guessing")
        ax.set(xlabel="training step", ylabel="loss (variances of a patch)" if "image" in key else "loss (nats)")
        ax.set_title(name, fontsize=10.5)
        levels = [r[key] for records in runs.values() for r in records if key in r]
        ax.set_ylim(0, 1.08 * max([*levels, (guessing or {}).get(key, 0), 1e-9]))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if len(labels) > 1:
        axes[0, 0].legend(handles, labels, fontsize=8)
    return picture


def reconstruction(images: Tensor, mask: Tensor, predicted: Tensor, patch_size: int, norm_pix: bool) -> Picture:
    """What D_v makes of the hidden patches, image by image: original, seen, predicted, pasted.

    images (N, C, H, W) normalised, mask (N, L) with 1 = removed, predicted (N, L, P·P·C). With norm_pix the model
    predicts patches of mean 0 and variance 1: the third column shows that; the fourth lends each patch the mean and
    variance of the original, which the model did not know, and says so.
    """
    patches = patchify(images, patch_size)
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    lent = predicted * (variance + 1e-6).sqrt() + mean if norm_pix else predicted
    pasted = torch.where(mask[:, :, None] == 1, lent, patches)
    raw = torch.where(mask[:, :, None] == 1, predicted, torch.full_like(predicted, 2.0))  # seen patches: white
    chans = images.shape[1]
    columns = [(to_gray(images), "original"), (hide(images, mask, patch_size), "what $E_v$ sees"),
               (to_gray(unpatchify(raw, patch_size, chans)), "what $D_v$ predicts" + (
                   "\n(each patch: mean 0, variance 1)" if norm_pix else "")),
               (to_gray(unpatchify(pasted, patch_size, chans)), "pasted into what was seen" + (
                   "\n(lent the original's mean, variance)" if norm_pix else ""))]
    picture, axes = new_picture(2.3 * len(images) + 0.5, len(images), len(columns),
                                alt="Original, masked, predicted and pasted images, one row per image")
    for n, row in enumerate(axes):
        for ax, (drawn, title) in zip(row, columns, strict=True):
            show_image(ax, drawn[n])
            if n == 0:
                ax.set_title(title, fontsize=9, fontweight="normal")
    return picture


def guesses(words: list[str], guessed: dict[int, str], columns: int = 105) -> Picture:
    """A report in which the hidden tokens show what D_r put there: guessed[position]; wrong guesses keep the truth."""
    texts, colours = [], []
    for position, word in enumerate(words):
        if position not in guessed:
            texts.append(word)
            colours.append(token_colours([False])[0])
        elif guessed[position] == word:
            texts.append(f"✓{word}")
            colours.append("#8FD3BC")
        else:
            texts.append(f"✗{guessed[position]}←{word}")
            colours.append("#F2D58B")
    picture, axes = new_picture(2.4, alt="A report with the words that the model put in the hidden places")
    tokens(axes[0, 0], texts, colours, columns=columns, fontsize=8)
    rows = -axes[0, 0].get_ylim()[0]
    picture.set_figheight(0.24 * rows + 0.3)
    axes[0, 0].set_title("pale: seen · green ✓: guessed right · yellow ✗: guess ← truth", fontsize=9.5)
    return picture


def recalls(results: dict[str, dict], ks=(1, 5, 10)) -> Picture:
    """R@K with 95 % intervals and chance, both directions; results[name]: what `retrieval.evaluate` returns."""
    picture, axes = new_picture(3.1, 1, 2, sharey=True, alt="Recall at K with intervals: " + ", ".join(
        f"{name} image to text R@1 {r['image_to_text_R@1']:.1f}" for name, r in results.items()))
    cycle = [COLOURS["mba"], COLOURS["abm"], OKABE_ITO["sky"], OKABE_ITO["purple"]]
    width = 0.16
    for ax, direction, title in ((axes[0, 0], "image_to_text", "image → report"),
                                 (axes[0, 1], "text_to_image", "report → image")):
        for n, ((name, result), colour, marker) in enumerate(zip(results.items(), cycle, "osD^", strict=False)):
            x = np.arange(len(ks)) + (n - (len(results) - 1) / 2) * width
            keys = [f"{direction}_R@{k}" for k in ks]
            value = np.array([result[key] for key in keys])
            if result["interval"]:
                low, high = np.array([result["interval"][key] for key in keys]).T
                ax.vlines(x, low, high, color=colour, linewidth=3, alpha=0.55)
            ax.plot(x, value, marker, color=colour, markersize=7, label=name)
        chance = [next(iter(results.values()))["chance"][f"{direction}_R@{k}"] for k in ks]
        ax.hlines(chance, np.arange(len(ks)) - 0.38, np.arange(len(ks)) + 0.38, color=COLOURS["chance"],
                  linestyle=(0, (4, 2)), linewidth=1.5, label="chance")
        ax.set(xticks=range(len(ks)), xticklabels=[f"R@{k}" for k in ks], xlim=(-0.6, len(ks) - 0.4), ylim=(0, None))
        ax.set_title(title)
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("queries whose match is\namong the first K (%)")
    axes[0, 0].legend(loc="upper left")
    axes[0, 0].set_ylim(0, min(105, 1.12 * axes[0, 0].get_ylim()[1]))
    return picture


# ------------------------------------------------------------------------------------- where a text lies in an image
def overlay(gray, glow=None, size: int = 224, strength: float = 0.72) -> np.ndarray:
    """gray (H, W) in [0, 1] with a map (S, S) laid over it → (size, size, 3) uint8.

    Only what is positive in the map glows, against its own maximum, in the colour of texts; nan (masked) is gray.
    """
    def enlarge(x, mode):  # (h, w) → (size, size, 1)
        return functional.interpolate(x[None, None].float(), size=(size, size), mode=mode)[0, 0, :, :, None]

    ground = enlarge(torch.as_tensor(gray), "bicubic").clamp(0, 1).expand(-1, -1, 3)
    if glow is not None:
        glow = torch.as_tensor(glow).float()
        shown = glow.nan_to_num(0).clamp(min=0)
        alpha = strength * enlarge(shown / shown.max().clamp(min=1e-12), "bilinear")
        ground = (1 - alpha) * ground + alpha * torch.tensor(matplotlib.colors.to_rgb(COLOURS["text"]))
        ground = torch.where(enlarge(glow.isnan(), "nearest") > 0, torch.full_like(ground, 0.6), ground)
    return (255 * ground).round().byte().numpy()


def png(picture: Picture, dpi: int = 80) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def benchmark(result: dict) -> Picture:
    """A result of `python -m mcr_lib benchmark`: seconds per step (median, range over rounds, floor) and peak memory of
    everyone at the largest batch size; both against the batch size where there are several."""
    sizes = sorted({row["batch_size"] for row in result["steps"]})
    rows = [row for row in result["steps"] if row["batch_size"] == sizes[-1]]
    names = [row["name"] + ("" if row["lengths"] == "full" else ", short reports") for row in rows]
    more = len(sizes) > 1
    picture, axes = new_picture(0.34 * len(rows) + 1.5 + 3 * more, 1 + more, 2,
                                alt="time per step: " + ", ".join(
                                    f"{n} {r['median']:.3g} s" for n, r in zip(names, rows, strict=True)))
    time, memory = axes[0]
    medians, most = (np.array([f(row["seconds"]) for row in rows]) for f in (np.median, max))
    colours = [COLOURS.get(row["name"], COLOURS["faint"]) for row in rows]
    time.barh(names, medians, color=colours)
    time.hlines(names, [min(row["seconds"]) for row in rows], most, color=COLOURS["ink"], lw=1.2)
    time.plot([row["floor_seconds"] for row in rows], names, linestyle="none", marker="|", markersize=15,
              markeredgewidth=2.5, color=COLOURS["ink"], label="floor: counted FLOPs at the rate of a large product")
    measured = [row for row in rows if "peak_bytes" in row]
    memory.set_yticks(range(len(rows)), [])
    bars = memory.barh([rows.index(row) for row in measured], [row["peak_bytes"] / 1e9 for row in measured],
                       color=[COLOURS.get(row["name"], COLOURS["faint"]) for row in measured])
    label_bars(memory, bars, [f"{row['peak_bytes'] / 1e9:.2f}" for row in measured])
    for y, (at, median) in enumerate(zip(most, medians, strict=True)):
        time.annotate(f"{median:.3g}", (at, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    time.margins(x=0.15)
    time.set(xlabel=f"seconds per step of {sizes[-1]} pairs, {rows[0]['precision']}; range over rounds", title="Time")
    memory.set(xlabel="GB above weights and optimizer", title="Peak memory")
    for ax in (time, memory):
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
    handles = time.get_legend_handles_labels()
    if more:
        for ax, key, unit, label in zip(axes[1], ("pairs_per_second", "peak_bytes"), (1, 1e9),
                                        ("pairs per second", "GB above weights and optimizer"), strict=True):
            for marker, name in zip("osD^ovD^", dict.fromkeys(row["name"] for row in rows), strict=False):
                own = [row for row in result["steps"] if row["name"] == name and row["lengths"] == "full"]
                ax.plot([row["batch_size"] for row in own], [row[key] / unit for row in own], marker=marker, lw=1.5,
                        color=COLOURS.get(name, COLOURS["chance"]), ls="-" if name in COLOURS else ":", label=name)
            ax.set_xscale("log", base=2)
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.set(xlabel="pairs per step", ylabel=label)
        handles = [first + second for first, second in zip(handles, axes[1, 0].get_legend_handles_labels(),
                                                           strict=True)]
    picture.legend(*handles, loc="outside lower center", ncols=3)
    return picture


# ------------------------------------------------------------------------------------------------- the modality gap
def clouds(panels: dict, *, width: float | None = None, reach: float | None = None, xlabel: str = "first component",
           ylabel: str = "second component", lines: int = 12) -> Picture:
    """Images and reports in a plane, a panel per title: {title: (images (n, 2), texts (n, 2))}.

    Images are dots, reports crosses; thin lines join the first true pairs; all panels show −reach to reach.
    """
    reach = reach or 1.08 * max(float(torch.as_tensor(p).abs().max()) for flat in panels.values() for p in flat)
    width = width or min(WIDTH, 3.2 * len(panels))
    picture, axes = new_picture(width / len(panels) + 0.4, 1, len(panels), width=width, sharex=True, sharey=True,
                                alt="Images (dots) and reports (crosses) in a plane: " + ", ".join(panels))
    for ax, (title, flat) in zip(axes[0], panels.items(), strict=True):
        images, texts = (torch.as_tensor(points).float().cpu().numpy() for points in flat)
        for n in range(min(lines, len(images))):
            ax.plot(*zip(images[n], texts[n], strict=True), color="#9A9A9A", linewidth=0.7, zorder=1)
        ax.scatter(*images.T, s=13, color=COLOURS["image"], alpha=0.55, linewidths=0, label="images")
        ax.scatter(*texts.T, s=15, color=COLOURS["text"], alpha=0.7, marker="x", linewidths=0.9, label="reports")
        ax.set(title=title, xlabel=xlabel, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes[0, 0].set_ylabel(ylabel)
    axes[0, 0].legend(loc="best", handletextpad=0.1, borderpad=0.2)
    return picture


# ----------------------------------------------------------------------------------------------- patches and words
def glows(grays, maps, titles: list[str], boxes=None, columns: int = 5) -> Picture:
    """Images (N, H, W) in [0, 1] with maps (N, S, S) over them (None: bare), and boxes (N, 4) as fractions of each."""
    rows = -(-len(grays) // columns)
    picture, axes = new_picture(rows * (WIDTH / columns + 0.45), rows, columns,
                                alt="Chest X-rays with the patches lit that a text speaks of: " + "; ".join(titles))
    for ax in axes.flat:
        bare(ax)
    for n, (ax, gray, title) in enumerate(zip(axes.flat, grays, titles, strict=False)):
        shown = overlay(gray, None if maps is None or maps[n] is None else maps[n])
        ax.imshow(shown)
        ax.set_title("\n".join(textwrap.wrap(title, 26)), fontsize=9, fontweight="normal")
        if boxes is not None:
            x0, y0, x1, y1 = np.asarray(boxes[n]) * len(shown)
            draw_box(ax, x0, y0, x1, y1, colour=OKABE_ITO["sky"])
    return picture


def grounding(tables: dict, measures: dict[str, str]) -> Picture:
    """One row per finding: where each model points, beside chance. tables: name → table with a row per box, the column
    `finding`, each of `measures` (column → axis label) in 0…1 and its `…_chance`; the first names the order."""
    mean = {name: table.groupby("finding").mean(numeric_only=True) for name, table in tables.items()}
    first, count = next(iter(mean.values())), next(iter(tables.values()))["finding"].value_counts()
    lead = next(iter(measures))
    order = (first[lead] - first[f"{lead}_chance"]).sort_values().index
    picture, axes = new_picture(0.24 * len(order) + 1.4, 1, len(measures), sharey=True,
                                alt="How often each finding is pointed at: " + ", ".join(tables))
    y = np.arange(len(order))
    for ax, (measure, label) in zip(axes[0], measures.items(), strict=True):
        ax.plot(100 * first.loc[order, f"{measure}_chance"], y, "|", color=COLOURS["chance"], markersize=12,
                markeredgewidth=2.2, label="chance")
        looks = [dict(marker="o", color=COLOURS["mba"]), dict(marker="s", color=COLOURS["abm"]),
                 dict(marker="D", color=COLOURS["mba"], markerfacecolor="none", markersize=5)]
        for (name, table), look in zip(mean.items(), looks, strict=False):
            ax.plot(100 * table.loc[order, measure], y, linestyle="", label=name, **{"markersize": 6, **look})
        ax.set(xlabel=label, xlim=(-3, 103 if measure == lead else None), yticks=y)
        ax.set_yticklabels([f"{name.replace('_', ' ')} ({count[name]})" for name in order], fontsize=9)
    picture.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return picture


# ------------------------------------------------------------------------------------------------------- retrieval
def cumulative(curves: dict, gallery: int) -> Picture:
    """R@K for every K: curves is {name: ranks (Q,) from 1}, among `gallery` items; dashed: a random order."""
    picture, axes = new_picture(3.4, width=6.4, alt="Recall at K for every K: " + ", ".join(curves))
    ax, ks = axes[0, 0], np.arange(1, gallery + 1)
    for (name, ranks), style in zip(curves.items(), ("-", "--", ":"), strict=False):
        share = 100 * np.searchsorted(np.sort(np.asarray(ranks)), ks, side="right") / len(ranks)
        ax.plot(ks, share, style, color=COLOURS["image"] if name.startswith("image") else COLOURS["text"], label=name)
    ax.plot(ks, 100 * ks / gallery, color=COLOURS["chance"], linestyle=(0, (1, 1.5)), linewidth=1.5, label="chance")
    ax.set(xscale="log", ylim=(0, 102), xlim=(1, gallery), xlabel="K, how far down the list one looks",
           ylabel="queries with their\nmatch among the K (%)")
    log_ticks(ax, gallery)
    ax.legend(loc="best")
    return picture


def intervals(panels: dict, xlabel: str, colours: dict | None = None) -> Picture:
    """Values with their intervals and chance, a row each: panels is {title: table with value, low, high, chance}."""
    rows = next(iter(panels.values())).index
    picture, axes = new_picture(0.34 * len(rows) + 1.4, 1, len(panels), sharex=True, sharey=True,
                                alt="Values with intervals and chance: " + ", ".join(panels))
    reach = max(float(table[["high", "chance"]].max().max()) for table in panels.values())
    y = np.arange(len(rows))[::-1]
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        ink = [(colours or {}).get(row, COLOURS["image"]) for row in rows]
        ax.hlines(y, table["low"], table["high"], color=ink, linewidth=3.5, alpha=0.5)
        ax.scatter(table["value"], y, color=ink, s=42, zorder=3, label="value, 95 % interval")
        ax.plot(table["chance"], y, "|", color=COLOURS["chance"], markersize=13, markeredgewidth=2.2, label="chance")
        ax.set(title=title, xlabel=xlabel, yticks=y, yticklabels=rows, xlim=(-0.02 * reach, 1.05 * reach),
               ylim=(-0.6, len(rows) - 0.4))
        ax.grid(axis="y", visible=False)
    picture.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return picture


def gallery_sizes(sizes, curves: dict, own: int) -> Picture:
    """Recall at 1 against gallery size: curves is {name: percent per size}; `own` is the size of the real gallery."""
    picture, axes = new_picture(3.2, width=6.4, alt="Recall at 1 against the size of the gallery")
    ax = axes[0, 0]
    for name, percent in curves.items():
        chance = name == "chance"
        ax.plot(sizes, percent, linestyle=(0, (1, 1.5)) if chance else "-", label=name,
                color=COLOURS["chance"] if chance else COLOURS["mba"])
    ax.axvline(own, color=COLOURS["faint"], zorder=0)
    ax.annotate("our test split", (own, 100), xytext=(-4, -2), textcoords="offset points", rotation=90, va="top",
                ha="right", fontsize=8, color="#555555")
    ax.set(xscale="log", xlabel="reports in the gallery", ylabel="own report on top (%)", ylim=(0, 102))
    log_ticks(ax, own)
    ax.legend(loc="best")
    return picture


def log_ticks(ax: Axes, most: float) -> None:
    """Plain numbers on a logarithmic x axis of counts up to `most`."""
    ax.set_xticks([n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if n <= most])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def top_reports(queries: list[dict]) -> Picture:
    """The first reports found for some images. Each query: gray (H, W), own (its report), hits [(score, text, kind)],
    kind one of own, related, unrelated."""
    kinds = {"own": (COLOURS["mba"], "✓ its own"), "related": (OKABE_ITO["sky"], "~ shares a finding"),
             "unrelated": ("#BBBBBB", "✗ shares none")}
    picture, axes = new_picture(3.0 * len(queries), len(queries), 2, width_ratios=[1, 2.9],
                                alt="The first three reports found for some images, beside their own report")
    for (image_ax, ax), query in zip(axes, queries, strict=True):
        show_image(image_ax, query["gray"])
        bare(ax)
        ax.set(xlim=(0, 1), ylim=(0, 1))
        y = 1.0
        blocks = [(None, query["own"], ("#222222", "its report"))]
        blocks += [(score, text, kinds[kind]) for score, text, kind in query["hits"]]
        for number, (score, text, (colour, says)) in enumerate(blocks):
            lines = textwrap.wrap(text, 100)
            lines = lines if len(lines) <= 3 else [*lines[:2], lines[2][:96] + " …"]
            head = says if score is None else f"{number}.  {score:.3f}  {says}"
            height = 0.055 * (len(lines) + 1)
            ax.add_patch(Rectangle((0, y - height), 0.008, height, color=colour))
            ax.text(0.022, y, head, fontsize=9, fontweight="bold", va="top")
            ax.text(0.022, y - 0.055, "\n".join(lines), fontsize=8.5, va="top", linespacing=1.15)
            y -= height + 0.03
    return picture


def shifting(amounts, gap, recalls: dict, losses: dict) -> Picture:
    """What moving the clouds along the gap does, against the share of it that is closed: the gap itself, recalls
    {direction: percent} and contrastive losses {temperature: values} above their own lowest."""
    picture, axes = new_picture(3.3, 1, 3, alt="Gap, recall and loss against the share of the gap that is closed")
    percent = 100 * np.asarray(amounts)
    axes[0, 0].plot(percent, gap, color=COLOURS["common"])
    axes[0, 0].set(title="the gap", ylabel="length of the gap vector", ylim=(0, None))
    for (name, values), style in zip(recalls.items(), ("-", "--"), strict=False):
        axes[0, 1].plot(percent, values, style, label=name,
                        color=COLOURS["image"] if name.startswith("image") else COLOURS["text"])
    axes[0, 1].set(title="recall", ylabel="R@10 (%)", ylim=(0, None))
    axes[0, 1].legend(loc="lower left")
    for (name, values), style in zip(losses.items(), ("-", "--", ":", "-."), strict=False):
        values = np.asarray(values)
        axes[0, 2].plot(percent, values - values.min(), style, color=COLOURS["loss"], label=name)
        axes[0, 2].plot(percent[values.argmin()], 0, "v", color=COLOURS["ink"], markersize=6)
    axes[0, 2].set(title="contrastive loss", ylabel="above its lowest (▼)")
    axes[0, 2].legend(title="temperature", loc="best")
    for ax in axes[0]:
        ax.axvline(0, color=COLOURS["faint"], zorder=0)
        ax.set_xlabel("share of the gap closed (%)")
    return picture


# ------------------------------------------------------------------------------------------------------- the study
LINES = {"mcr": "o", "two-stream": "s", "contrastive": "D", "contrastive-masked": "^"}  # a marker for each framework


def study_spread(arms: dict, chance: float, measure: str = "rsum") -> Picture:
    """Every run of a study, not only means: a row per arm, a mark per seed, a bar at the mean. arms: those of
    study.json; `measure`: of whole test input, beside the same of masked input (hollow)."""
    names = list(arms)
    means = [f"{n} {np.mean(arms[n]['metrics']['test, unmasked'][measure]):.0f}" for n in names]
    picture, axes = new_picture(0.34 * len(names) + 1.3, alt=f"{measure} of every seed of the arms; means: "
                                + ", ".join(means))
    ax = axes[0, 0]
    for y, name in enumerate(names):
        colour = COLOURS.get(arms[name]["settings"]["framework"], COLOURS["chance"])
        marker = "o" if arms[name]["settings"]["alignment"] == "mba" else "s"
        for where, fill, label in (("test, unmasked", colour, "whole input"), ("test, masked", "none", "masked input")):
            values = arms[name]["metrics"][where][measure]
            ax.plot(values, np.full(len(values), y), marker, color=colour, markerfacecolor=fill, markersize=6,
                    alpha=0.85, label=label if y == 0 else None)
            ax.plot([np.mean(values)] * 2, [y - 0.32, y + 0.32], color=colour, linewidth=2.2,
                    linestyle="-" if fill != "none" else (0, (1, 1)))
    ax.axvline(chance, color=COLOURS["chance"], linestyle=(0, (5, 3)), linewidth=1.3, label="chance")
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6),
           xlabel="RSum on the test split (six recalls added, 0–600); a mark per seed, a bar at the mean")
    ax.grid(axis="y", visible=False)
    picture.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return picture


def mask_rates(arms: list[dict], measure: str = "rsum") -> Picture:
    """What each pair of mask rates gives on whole test input: the mean over seeds in each field, its range below.
    arms: those of study.json that are of the group `mask`."""
    images, texts = (sorted({arm["settings"][key] for arm in arms}) for key in ("mask_ratio", "mlm_probability"))
    found = {(arm["settings"]["mlm_probability"], arm["settings"]["mask_ratio"]):
             arm["metrics"]["test, unmasked"][measure] for arm in arms}
    grid = np.array([[np.mean(found.get((text, image), np.nan)) for image in images] for text in texts])
    picture, axes = new_picture(0.85 * len(texts) + 1.3, alt=f"{measure} by share of the image and the report that is "
                                "masked; means " + ", ".join(f"{i:.0%}/{t:.0%}: {np.mean(v):.0f}"
                                                             for (t, i), v in found.items()))
    ax = axes[0, 0]
    shown = ax.imshow(grid, cmap="cividis", aspect="auto")
    for (text, image), values in found.items():
        light = np.mean(values) < (np.nanmin(grid) + np.nanmax(grid)) / 2
        ax.text(images.index(image), texts.index(text), f"{np.mean(values):.0f}\n{min(values):.0f}–{max(values):.0f}",
                ha="center", va="center", color="#FFFFFF" if light else COLOURS["ink"],
                weight="bold" if (text, image) == (0.25, 0.5) else "normal")
    ax.set(xticks=range(len(images)), xticklabels=[f"{rate:.0%}" for rate in images], yticks=range(len(texts)),
           yticklabels=[f"{rate:.0%}" for rate in texts], ylabel="words of the report masked",
           xlabel="patches of the image removed; bold: the paper’s rates")
    ax.grid(False)
    picture.colorbar(shown, ax=ax, label="RSum (0–600), mean over seeds")
    return picture


def retrieved_scores(arms: dict, alignment: str = "mba") -> Picture:
    """The paper's Fig. 3: the scores of what is retrieved against K, a colour and mark per framework, dashed for
    image→report and solid for report→image as in its caption; means over seeds. arms: those of study.json."""
    shown = {name: arm for name, arm in arms.items() if name == f"{arm['settings']['framework']}-{alignment}"}
    metrics = list(next(iter(shown.values()))["nlg"]["image_to_text"])
    picture, axes = new_picture(5.6, 2, 2, sharex=True, alt=f"{', '.join(metrics)} of the first K reports retrieved by "
                                + ", ".join(shown))
    for ax, metric in zip(axes.flat, metrics, strict=True):
        for arm in shown.values():
            framework = arm["settings"]["framework"]
            for way, style in (("image_to_text", "--"), ("text_to_image", "-")):
                curve = arm["nlg"][way][metric]
                if curve is None:
                    continue
                ax.plot(range(1, len(curve) + 1), curve, style, marker=LINES[framework], markersize=4, linewidth=1.6,
                        color=COLOURS[framework], label=ARMS[framework] if way == "text_to_image" else None)
        if not ax.lines:
            ax.text(0.5, 0.5, "needs Java, which was not there", ha="center", transform=ax.transAxes)
        ax.set(title=metric, xticks=range(1, 11))
    for ax in axes[1]:
        ax.set_xlabel("K: the first K reports retrieved")
    handles, labels = next(ax for ax in axes.flat if ax.lines).get_legend_handles_labels()
    for style, label in (("--", "image → report"), ("-", "report → image")):
        handles.append(axes[0, 0].plot([], [], style, color=COLOURS["ink"])[0])
        labels.append(label)
    picture.legend(handles, labels, loc="outside upper center", ncols=3)
    return picture


GAPS = {"gap_distance": "gap (0–2)", "relative_modality_gap": "relative gap", "alignment": "distance of\ntrue pairs²",
        "uniformity": "uniformity", "true_pair_cosine": "cosine of\ntrue pairs"}


def gap_stages(arms: dict, names: list[str]) -> Picture:
    """The measures of Fig. 4 before, during and after training on the validation split: a line per seed, mapped first
    (solid, dots) or aggregated first (dashed, squares). arms: those of study.json, of which `names` are shown."""
    stages = [stage for stage in ("start", "middle", "end") if all(stage in arms[name]["gap"] for name in names)]
    picture, axes = new_picture(2.9, 1, len(GAPS), alt="Gap measures at the start, middle and end of training: "
                                + ", ".join(names))
    for ax, (key, title) in zip(axes[0], GAPS.items(), strict=True):
        for name in names:
            order = arms[name]["settings"]["alignment"]
            lines = np.array([arms[name]["gap"][stage][key] for stage in stages])  # stages, seeds
            drawn = ax.plot(range(len(stages)), lines, "o-" if order == "mba" else "s--", color=COLOURS[order],
                            linewidth=1.2, markersize=4, alpha=0.8)
            drawn[0].set_label(name)
        ax.set_title(title, fontsize=9.5)
        ax.set_xticks(range(len(stages)), stages)
        ax.tick_params(labelsize=8.5)
    picture.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return picture
