"""What goes in, and one pair's way through the model: reports as tokens, images as patches (notebooks 00 and 01).

Not here: how an image is shown masked (style.py), how a report is cut into tokens (mcr_lib/tokenizer.py).
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from torch import Tensor

from .marks import BROKEN, draw_box, draw_matrix, draw_pairs
from .style import COLOURS, OKABE_ITO, WIDTH, Picture, bare, new_picture, plain, show_image


def pairs(
    images, reports: list[str], titles: list[str], boxes: list[list] | None = None
) -> Picture:
    """Images (n, H, W) in [0, 1] side by side with their reports below.

    boxes[n]: (x0, y0, x1, y1, name) as fractions of width and height.
    """
    n = len(images)
    lines = [textwrap.fill(report, round(132 / n)) for report in reports]
    tall = max(text.count("\n") + 1 for text in lines) * 0.15
    aspects = [np.asarray(gray).shape[0] / np.asarray(gray).shape[1] for gray in images]
    high = WIDTH / n * max(aspects)
    alt = f"{n} radiographs with their reports below: " + "; ".join(titles)
    picture, axes = new_picture(high + tall + 0.3, 2, n, height_ratios=[high, tall], alt=alt)
    for column, (ax, below) in enumerate(axes.T):
        show_image(ax, images[column], plain(titles[column]), extent=(0, 1, 1, 0), aspect="auto")
        ax.set_box_aspect(aspects[column])
        ax.set_anchor("SW")
        for x0, y0, x1, y1, name in boxes[column] if boxes else []:
            draw_box(ax, x0, y0, x1, y1, name)
        place = dict(va="top", transform=below.transAxes, in_layout=False)
        below.text(0, 1, plain(lines[column]), fontsize=8.5, **place)
        bare(below)
    return picture


def draw_tokens(
    ax: Axes,
    words: list[str],
    colours: list[str],
    columns: int = 40,
    rows: int | None = None,
    fontsize: float = 8,
) -> None:
    """Tokens as a flowing strip of coloured boxes, `columns` characters wide; what does not fit in `rows` is cut."""
    x, y = 0.0, 0
    look = dict(fontsize=fontsize, family="monospace", va="center")
    for word, colour in zip(words, colours, strict=True):
        if x and x + len(word) > columns:
            x, y = 0.0, y + 1
        if rows is not None and y == rows:
            ax.text(0, -rows, "…", fontsize=fontsize, va="center")
            break
        box = dict(facecolor=colour, edgecolor="none", boxstyle="round,pad=0.18")
        ax.text(x + 0.3, -y, plain(word), bbox=box, **look)
        x += len(word) + 1.3
    ax.set(xlim=(0, columns + 2), ylim=(-(rows or y + 1) - 0.3, 0.8))
    bare(ax)


def token_colours(masked) -> list[str]:
    """Pale orange for a token that is seen, pale blue for one that is hidden."""
    return [COLOURS["masked"] if m else "#F7DCCB" for m in masked]


def walkthrough(
    masked_image, words: list[str], masked: list[bool], image_steps, report_steps
) -> Picture:
    """One pair's way through the model, the image above, the report below.

    masked_image (H, W, 3) in [0, 1]; words with masked flags; *_steps: local features f (L, D), the same mapped
    (L, common_dim), S (common_dim,).
    """
    alt = (
        "An image and its report on their way through the model: masked input, local "
        "features, the same mapped to the common space, and one vector for each"
    )
    picture, axes = new_picture(5.4, 2, 4, width_ratios=[1.25, 1.1, 1.1, 1.1], alt=alt)
    above, below = axes
    show_image(above[0], masked_image, "what $E_v$ sees of the image")
    draw_tokens(below[0], words, token_colours(masked), columns=31, rows=15, fontsize=6.5)
    below[0].set_title("what $E_r$ sees of the report", fontsize=10)
    _draw_steps(above[1:], image_steps, "v", "patch", COLOURS["image"])
    _draw_steps(below[1:], report_steps, "r", "token", COLOURS["text"])
    return picture


def _draw_steps(axes, steps, s: str, unit: str, colour: str) -> None:
    """Local features, the same mapped, and the vector of one side, on three axes."""
    f, common, S = (step.detach().float().cpu() for step in steps)
    draw_matrix(axes[0], f)
    axes[0].set(xlabel="channel of the encoder", ylabel=f"{unit} that is seen")
    axes[0].set_title(f"local features $f^{s}$", fontsize=10)
    draw_matrix(axes[1], common)
    axes[1].set(xlabel="channel of the common space")
    axes[1].set_title(f"mapped: $F(f^{s})$", fontsize=10)
    axes[2].bar(np.arange(len(S)), S, color=colour, width=1.0)
    axes[2].set(xlabel="channel of the common space")
    axes[2].set_title(f"mean, length 1: $S^{s}$", fontsize=10)
    for ax in axes:
        ax.tick_params(labelsize=8)


def similarity(matrix: Tensor, title: str) -> Picture:
    """Cosines of images (rows) and reports (columns), true pairs on the framed diagonal."""
    picture, axes = new_picture(3.9, width=4.6, alt=f"Cosine matrix: {title}")
    draw_pairs(axes[0, 0], matrix, float(matrix.abs().max()), label="cosine")
    axes[0, 0].set_title(title)
    return picture


def gallery(
    rows: list[list], titles: list[str], row_titles: list[str] | None = None, size: float = 0
) -> Picture:
    """Pictures (H, W) or (H, W, 3) in [0, 1] as a grid, titles above the first row, row_titles at the left."""
    size = size or WIDTH / len(titles)
    high, wide = size * len(rows) + 0.3, size * len(titles)
    alt = "Pictures in a grid; columns: " + ", ".join(titles).replace("\n", " ")
    picture, axes = new_picture(high, len(rows), len(titles), width=wide, alt=alt)
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
    alt = "Tokens of a report, hidden ones marked: " + ", ".join(strips)
    picture, axes = new_picture(2.0, len(strips), 1, alt=alt)
    high = 0.0
    for ax, (title, (words, hidden)) in zip(axes[:, 0], strips.items(), strict=True):
        draw_tokens(ax, words, token_colours(hidden), columns=columns, fontsize=7.5)
        ax.set_title(title, fontsize=9.5, fontweight="normal")
        high = max(high, -ax.get_ylim()[0])
    for ax in axes[:, 0]:
        ax.set_ylim(-high, 0.8)
    picture.set_figheight(len(strips) * (0.21 * high + 0.35))
    return picture


def relative_costs(panels: dict[str, tuple[list[float], dict[str, list[float]]]]) -> Picture:
    """Costs against the share that is hidden, all relative to hiding nothing: panels[title] = (shares, costs[name])."""
    alt = "Relative cost against the share hidden: " + ", ".join(panels)
    picture, axes = new_picture(3.3, 1, len(panels), sharey=True, alt=alt)
    colours = [OKABE_ITO[name] for name in ("black", "blue", "vermillion", "green")]
    for ax, (title, (shares, costs)) in zip(axes[0], panels.items(), strict=True):
        grey = dict(color=COLOURS["chance"], linewidth=1, linestyle=BROKEN, label="in proportion")
        ax.plot([0, 100], [1, 0], **grey)
        lines = pd.DataFrame(costs, index=100 * pd.Index(shares))
        sns.lineplot(
            lines / lines.iloc[0],
            ax=ax,
            palette=colours[: len(costs)],
            markers=["o", "s", "D", "^"][: len(costs)],
            markersize=6,
            markeredgewidth=0,
        )
        ax.set(title=title, xlabel="share hidden (%)")
        ax.set(xlim=(-3, 100 * max(shares) + 5))
        ax.legend().set_visible(ax is axes[0, 0])
    axes[0, 0].set_ylim(0, None)  # of all panels, once all lines are there
    axes[0, 0].set_ylabel("cost, hiding nothing = 1")
    axes[0, 0].legend(fontsize=8.5, loc="lower left")
    return picture
