"""What goes in, and one pair's way through the model: reports as tokens, images as patches (notebooks 00 and 01)."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .style import COLOURS, OKABE_ITO, WIDTH, Picture, bare, draw_box, new_picture, show_image


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


def similarity(matrix: Tensor, title: str) -> Picture:
    """Cosines of images (rows) and reports (columns), true pairs on the framed diagonal."""
    values, last = matrix.detach().float().cpu(), len(matrix) - 1
    picture, axes = new_picture(3.9, width=4.6, alt=f"Cosine matrix: {title}")
    ax, limit = axes[0, 0], float(values.abs().max())
    drawn = ax.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit)
    for i in range(len(values)):
        ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=COLOURS["ink"], linewidth=1))
    ax.set(xlabel="report", ylabel="image", xticks=[0, last], yticks=[0, last], title=title)
    ax.grid(False)
    picture.colorbar(drawn, ax=ax, label="cosine", shrink=0.85)
    return picture


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
