"""The two modalities in one space: clouds and the gap between them (notebook 05), the patches a text lights (06)."""

from __future__ import annotations

import textwrap

import numpy as np
import torch

from .style import COLOURS, OKABE_ITO, WIDTH, Picture, bare, draw_box, new_picture, overlay


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
