"""Small things drawn onto axes: boxes, arrows, matrices, ticks.

Not here: whole pictures, and what benchmarks draw with too (style.py).
"""

from __future__ import annotations

import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator, ScalarFormatter
from torch import Tensor

from .style import COLOURS, OKABE_ITO, plain

BROKEN = (0, (5, 3))  # line style of what is to be beaten: chance, proportion, no difference


def draw_matrix(ax: Axes, values: Tensor, limit: float | None = None, **settings) -> None:
    """A matrix in a diverging map centred at zero (purple below, orange above), first and last index as ticks.

    limit: the value of the deepest colour, None: what 99 % stay below. settings: seaborn's.
    """
    values = torch.atleast_2d(values.detach().float().cpu())
    limit = limit or float(values.abs().quantile(0.99)) or 1.0
    rows, columns = values.shape
    look = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit, "cbar": False, "rasterized": True}
    sns.heatmap(
        values.numpy(),
        ax=ax,
        xticklabels=max(1, columns - 1),
        yticklabels=max(1, rows - 1),
        **{**look, **settings},
    )
    ax.tick_params(length=2, labelrotation=0)


def draw_pairs(ax: Axes, values: Tensor, limit: float, **colorbar) -> None:
    """A matrix of images (rows) and reports (columns), true pairs on the framed diagonal."""
    draw_matrix(ax, values, limit, square=True, cbar=True, cbar_kws={"shrink": 0.85, **colorbar})
    for i in range(len(values)):
        frame = Rectangle((i, i), 1, 1, fill=False, edgecolor=COLOURS["ink"], linewidth=1)
        ax.add_patch(frame)
    ax.set(xlabel="report", ylabel="image")


def draw_box(ax: Axes, x0, y0, x1, y1, name: str = "", colour: str = OKABE_ITO["yellow"]) -> None:
    """A named box on a picture, in the units of its axes."""
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.8))
    if name:
        label = dict(facecolor=colour, edgecolor="none", pad=1.2, alpha=0.9)
        ax.text(x0, y0, plain(name), fontsize=8, color="black", va="bottom", bbox=label)


def draw_arrow(ax: Axes, x0: float, y0: float, x1: float, y1: float) -> None:
    """An arrow from (x0, y0) to (x1, y1)."""
    line = dict(arrowstyle="-|>", color="#444444", linewidth=1.2, shrinkA=0, shrinkB=0)
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=line)


def set_log_ticks(ax: Axes, most: float) -> None:
    """Plain numbers on a logarithmic x axis of counts up to `most`."""
    ax.set_xticks([n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if n <= most])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
