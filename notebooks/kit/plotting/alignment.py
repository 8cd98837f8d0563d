"""The two modalities in one space: clouds and the gap between them (notebook 05), the patches a text lights (06).

Not here: the plane in which clouds are drawn (kit/plane.py), maps and boxes (mcr_lib/grounding.py, kit/boxes.py).
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize

from kit.markup import GLOW, overlay

from .marks import draw_box
from .style import COLOURS, OKABE_ITO, WIDTH, Picture, bare, new_picture, plain


def clouds(
    panels: dict,
    *,
    width: float | None = None,
    reach: float | None = None,
    xlabel: str = "first component",
    ylabel: str = "second component",
    lines: int = 12,
) -> Picture:
    """Images and reports in a plane, a panel per title: {title: (images (n, 2), texts (n, 2))}.

    Images are dots, reports crosses; thin lines join the first true pairs; all panels show −reach to reach.
    """
    points = {
        title: np.stack([torch.as_tensor(x).float().cpu().numpy() for x in flat])
        for title, flat in panels.items()
    }  # 2, n, 2 each
    reach = reach or 1.08 * max(float(np.abs(flat).max()) for flat in points.values())
    width = width or min(WIDTH, 3.2 * len(panels))
    alt = "Images (dots) and reports (crosses) in a plane: " + ", ".join(panels)
    shared = {"sharex": True, "sharey": True}
    picture, axes = new_picture(
        width / len(panels) + 0.4, 1, len(panels), width=width, alt=alt, **shared
    )
    for ax, (title, (images, texts)) in zip(axes[0], points.items(), strict=True):
        joined = np.stack([images, texts], axis=1)[:lines]  # pairs, 2 ends, 2
        ax.add_collection(LineCollection(joined, colors="#9A9A9A", linewidths=0.7, zorder=1))
        for flat, name, marker, line in ((images, "image", "o", 0), (texts, "text", "x", 0.9)):
            sns.scatterplot(
                x=flat[:, 0],
                y=flat[:, 1],
                ax=ax,
                s=15,
                color=COLOURS[name],
                marker=marker,
                alpha=0.65,
                linewidth=line,
                label="images" if name == "image" else "reports",
                legend=False,
            )
        ax.set(title=title, xlabel=xlabel, aspect="equal")
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes[0, 0].set_ylabel(ylabel)
    axes[0, 0].legend(loc="best", handletextpad=0.1, borderpad=0.2)
    return picture


def shifting(amounts, gap, recalls: dict, losses: dict) -> Picture:
    """What moving the clouds along the gap does, against the share of it that is closed.

    The gap itself, recalls {direction: percent}, and contrastive losses {temperature: values} above
    their own lowest.
    """
    alt = "Gap, recall and loss against the share of the gap that is closed"
    picture, axes = new_picture(3.3, 1, 3, alt=alt)
    of_gap, of_recall, of_loss = axes[0]
    percent = pd.Index(100 * np.asarray(amounts))
    sns.lineplot(x=percent, y=np.asarray(gap), ax=of_gap, color=COLOURS["common"])
    of_gap.set(title="the gap", ylabel="length of the gap vector", ylim=(0, None))
    colours = {way: COLOURS["image" if way.startswith("image") else "text"] for way in recalls}
    sns.lineplot(pd.DataFrame(recalls, index=percent), ax=of_recall, palette=colours)
    of_recall.set(title="recall", ylabel="R@10 (%)", ylim=(0, None))
    of_recall.legend(loc="lower left")
    losses = pd.DataFrame(losses, index=percent)
    losses = losses - losses.min()
    shades = sns.dark_palette(COLOURS["loss"], losses.shape[1] + 1, reverse=True)[:-1]
    sns.lineplot(losses, ax=of_loss, palette=shades)
    for lowest, shade in zip(losses.idxmin(), shades, strict=True):
        of_loss.plot(lowest, 0, "v", color=shade, markersize=8, markeredgecolor=COLOURS["ink"])
    of_loss.set(title="contrastive loss", ylabel="above its lowest (▼ in its colour)")
    of_loss.legend(title="temperature", loc="best")
    for ax in axes[0]:
        ax.axvline(0, color=COLOURS["faint"], zorder=0)
        ax.set_xlabel("share of the gap closed (%)")
    return picture


def glows(
    grays, maps, titles: list[str], boxes=None, columns: int = 5, unit: str = "share in the score"
) -> Picture:
    """Images (N, H, W) in [0, 1] with maps (N, S, S) over them, and boxes (N, 4) as fractions of each.

    All maps have one scale, which the bar shows. It ends at the median of their hottest patches, so that a single one
    does not darken all others.
    """
    most = float(np.median([float(torch.as_tensor(heat).nan_to_num(0).max()) for heat in maps]))
    rows = -(-len(grays) // columns)
    alt = "Chest X-rays with the patches lit that a text speaks of: " + "; ".join(titles)
    picture, axes = new_picture(rows * (WIDTH / columns + 0.45), rows, columns, alt=alt)
    for ax in axes.flat:
        bare(ax)
    for n, (ax, gray, title) in enumerate(zip(axes.flat, grays, titles, strict=False)):
        shown = overlay(gray, maps[n], most=most)
        ax.imshow(shown)
        ax.set_title(plain("\n".join(textwrap.wrap(title, 26))), fontsize=9, fontweight="normal")
        if boxes is not None:
            x0, y0, x1, y1 = np.asarray(boxes[n]) * len(shown)
            draw_box(ax, x0, y0, x1, y1, colour=OKABE_ITO["sky"])
    scale = ScalarMappable(
        Normalize(0, most), LinearSegmentedColormap.from_list("glow", ["white", GLOW])
    )
    picture.colorbar(scale, ax=axes, shrink=0.8, aspect=30, pad=0.01, label=unit, extend="max")
    return picture


def grounding(tables: dict, measures: dict[str, str]) -> Picture:
    """One row per finding: where each model points, beside chance.

    tables: name → table with a row per box, the column `finding`, each of `measures` (column → axis
    label) in 0…1 and its `…_chance`; the first names the order.
    """
    means = {
        name: 100 * table.groupby("finding").mean(numeric_only=True)
        for name, table in tables.items()
    }
    first, lead = next(iter(means.values())), next(iter(measures))
    count = next(iter(tables.values()))["finding"].value_counts()
    order = (first[lead] - first[f"{lead}_chance"]).sort_values(ascending=False).index
    names = [f"{finding.replace('_', ' ')} ({count[finding]})" for finding in order]
    alt = "How often each finding is pointed at: " + ", ".join(tables)
    picture, axes = new_picture(0.24 * len(order) + 1.4, 1, len(measures), sharey=True, alt=alt)
    green, orange = COLOURS["mba"], COLOURS["abm"]
    looks = [  # marker, face, edge
        dict(marker="o", color=green, edgecolor=green),
        dict(marker="s", color=orange, edgecolor=orange),
        dict(marker="D", color="none", edgecolor=green),
    ]
    for ax, (measure, label) in zip(axes[0], measures.items(), strict=True):
        chance = first.loc[order, f"{measure}_chance"]
        tick = dict(marker="|", color=COLOURS["chance"], s=150, linewidth=2.2, label="chance")
        sns.scatterplot(x=chance, y=names, ax=ax, legend=False, **tick)
        for (name, table), look in zip(means.items(), looks, strict=False):
            found = table.loc[order, measure]
            sns.scatterplot(
                x=found, y=names, ax=ax, s=36, linewidth=1.2, label=name, legend=False, **look
            )
        ax.set(xlabel=label, xlim=(-3, 103 if measure == lead else None))
        ax.tick_params(axis="y", labelsize=9)
    picture.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return picture
