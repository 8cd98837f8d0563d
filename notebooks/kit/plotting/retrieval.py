"""Retrieval: recall, its interval and chance, the size of the gallery, what was found (notebooks 00 and 04).

Not here: how recall is measured (mcr_lib/retrieval.py).
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from .marks import draw_box, set_log_ticks
from .style import COLOURS, OKABE_ITO, WIDTH, Picture, bare, new_picture, plain, show_image

DOTTED = (0, (1, 1.5))  # line style of chance where lines of data are broken, too
KINDS = {  # of a report that was found: colour, sign and words
    "own": (COLOURS["mba"], "✓ its own"),
    "other": ("#BBBBBB", "of another study"),
    "related": (OKABE_ITO["sky"], "~ shares a finding"),
    "unrelated": ("#BBBBBB", "✗ shares none"),
}


def recalls(results: dict[str, dict], ks=(1, 5, 10)) -> Picture:
    """R@K with 95 % intervals and chance, both directions; results[name]: what `retrieval.evaluate` returns."""
    firsts = [
        f"{name} image to text R@1 {r['image_to_text_R@1']:.1f}" for name, r in results.items()
    ]
    alt = "Recall at K with intervals: " + ", ".join(firsts)
    picture, axes = new_picture(3.1, 1, 2, sharey=True, alt=alt)
    for ax, direction, title in (
        (axes[0, 0], "image_to_text", "image → report"),
        (axes[0, 1], "text_to_image", "report → image"),
    ):
        _draw_recalls(ax, results, [f"{direction}_R@{k}" for k in ks])
        ax.set(title=title, xticks=range(len(ks)), xticklabels=[f"R@{k}" for k in ks])
        ax.set(xlim=(-0.6, len(ks) - 0.4), ylim=(0, None))
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("queries whose match is\namong the first K (%)")
    axes[0, 0].legend(loc="upper left")
    axes[0, 0].set_ylim(0, min(105, 1.12 * axes[0, 0].get_ylim()[1]))
    return picture


def _draw_recalls(ax: Axes, results: dict[str, dict], keys: list[str]) -> None:
    """One direction: the results side by side at each of the measures `keys`."""
    colours = [COLOURS["mba"], COLOURS["abm"], OKABE_ITO["sky"], OKABE_ITO["purple"]]
    at, width = np.arange(len(keys)), 0.16
    looks = zip(results.items(), colours, "osD^", strict=False)
    for n, ((name, result), colour, marker) in enumerate(looks):
        x = at + (n - (len(results) - 1) / 2) * width
        if result["interval"]:
            low, high = np.array([result["interval"][key] for key in keys]).T
            ax.vlines(x, low, high, color=colour, linewidth=3, alpha=0.55)
        value = [result[key] for key in keys]
        look = dict(color=colour, marker=marker, s=49, linewidth=0, zorder=3)
        sns.scatterplot(x=x, y=value, ax=ax, label=name, legend=False, **look)
    chance = [next(iter(results.values()))["chance"][key] for key in keys]
    dashes = dict(color=COLOURS["chance"], linestyle=(0, (4, 2)), linewidth=1.5)
    ax.hlines(chance, at - 0.38, at + 0.38, label="chance", **dashes)


def cumulative(curves: dict, gallery: int) -> Picture:
    """R@K for every K: curves is {name: ranks (Q,) from 1}, among `gallery` items; dotted: a random order."""
    picture, axes = new_picture(3.4, width=6.4, alt="Recall at K for every K: " + ", ".join(curves))
    ax = axes[0, 0]
    for (name, ranks), style in zip(curves.items(), ("-", "--", ":"), strict=False):
        colour = COLOURS["image" if name.startswith("image") else "text"]
        ranks = np.asarray(ranks)
        sns.ecdfplot(x=ranks, stat="percent", ax=ax, color=colour, linestyle=style, label=name)
    ks = np.arange(1, gallery + 1)
    grey = dict(color=COLOURS["chance"], linestyle=DOTTED, linewidth=1.5)
    sns.lineplot(x=ks, y=100 * ks / gallery, ax=ax, label="chance", **grey)
    ax.set(xscale="log", xlim=(1, gallery), ylim=(0, 102))
    ax.set(xlabel="K, how far down the list one looks")
    ax.set(ylabel="queries with their\nmatch among the K (%)")
    set_log_ticks(ax, gallery)
    ax.legend(loc="best")
    return picture


def intervals(panels: dict, xlabel: str) -> Picture:
    """Values with their intervals and chance, a row each: panels is {title: table with value, low, high, chance}."""
    rows = next(iter(panels.values())).index
    alt = "Values with intervals and chance: " + ", ".join(panels)
    shared = {"sharex": True, "sharey": True}
    picture, axes = new_picture(0.34 * len(rows) + 1.4, 1, len(panels), alt=alt, **shared)
    reach = max(float(table[["high", "chance"]].max().max()) for table in panels.values())
    ink = COLOURS["image"]
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        y = [str(row) for row in rows]
        ax.hlines(y, table["low"], table["high"], color=ink, linewidth=3.5, alpha=0.5)
        dot = dict(color=ink, s=42, zorder=3, label="value, 95 % interval")
        sns.scatterplot(x=table["value"], y=y, ax=ax, legend=False, **dot)
        tick = dict(color=COLOURS["chance"], marker="|", s=170, linewidth=2.2, label="chance")
        sns.scatterplot(x=table["chance"], y=y, ax=ax, legend=False, **tick)
        ax.set(title=title, xlabel=xlabel, xlim=(-0.02 * reach, 1.05 * reach))
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    picture.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return picture


def gallery_sizes(sizes, curves: dict, own: int) -> Picture:
    """Recall at 1 against gallery size: curves is {name: percent per size}; `own` is the size of the real gallery."""
    picture, axes = new_picture(3.2, width=6.4, alt="Recall at 1 against the size of the gallery")
    ax = axes[0, 0]
    colours = {name: COLOURS["chance" if name == "chance" else "mba"] for name in curves}
    lines = pd.DataFrame(curves, index=pd.Index(np.asarray(sizes)))
    sns.lineplot(lines, ax=ax, palette=colours, dashes=["", (1, 1.5)])
    ax.axvline(own, color=COLOURS["faint"], zorder=0)
    beside = dict(xytext=(-4, -2), textcoords="offset points", va="top", ha="right", rotation=90)
    ax.annotate("our test split", (own, 100), fontsize=8, color="#555555", **beside)
    ax.set(xscale="log", ylim=(0, 102))
    ax.set(xlabel="reports in the gallery", ylabel="own report on top (%)")
    set_log_ticks(ax, own)
    ax.legend(loc="best")
    return picture


def by_depth(curves: dict[str, list[float]], ylabel: str) -> Picture:
    """A score of the first K found, K = 1, 2, …: a curve for a model, then one for chance."""
    picture, axes = new_picture(
        3.0, width=6.4, alt=f"{ylabel}, K = 1 to {len(next(iter(curves.values())))}"
    )
    ax, colours = axes[0, 0], [COLOURS["mba"], COLOURS["chance"]]
    for (name, values), colour, style in zip(curves.items(), colours, ("-", DOTTED), strict=True):
        ks = np.arange(1, len(values) + 1)
        sns.lineplot(x=ks, y=values, ax=ax, color=colour, linestyle=style, marker="o", label=name)
    ax.set(xlabel="K, how many of the found reports are read", ylabel=ylabel, ylim=(0, None))
    return picture


def films(sentence: str, found: list[dict]) -> Picture:
    """A sentence above the films it finds, the best at the left, each with its report below.

    found: lit (S, S, 3) uint8, score, report, and frames (n, 4), where the finding is, as fractions.
    """
    n = len(found)
    scores = ", ".join(f"{film['score']:.2f}" for film in found)
    alt = f"The {n} films found for “{sentence}”, with the patches lit that speak for it; scores {scores}"
    side, lines = WIDTH / n, 5
    picture, axes = new_picture(side + 1.5, 2, n, height_ratios=[side, 0.17 * lines], alt=alt)
    picture.suptitle(plain(f"“{sentence}”"), fontsize=14, fontweight="bold", x=0.005, ha="left")
    for rank, (film, (ax, below)) in enumerate(zip(found, axes.T, strict=True), start=1):
        ax.imshow(film["lit"])
        bare(ax)
        ax.set_title(f"{rank}.   score {film['score']:.2f}", fontsize=10, fontweight="normal")
        for corners in np.asarray(film["frames"]) * len(film["lit"]):
            draw_box(ax, *corners, colour=OKABE_ITO["sky"])
        bare(below)
        text = textwrap.wrap(film["report"], 126 // n, max_lines=lines, placeholder=" …")
        place = dict(va="top", transform=below.transAxes, in_layout=False)
        below.text(0, 1, plain("\n".join(text)), fontsize=9, **place)
    return picture


def top_reports(queries: list[dict]) -> Picture:
    """The first reports found for some images, beside their own.

    Each query: gray (H, W), own (its report), hits [(score, text, kind)], kind one of KINDS.
    """
    alt = "The first three reports found for some images, beside their own report"
    rows = len(queries)
    picture, axes = new_picture(3.0 * rows, rows, 2, width_ratios=[1, 2.9], alt=alt)
    for (image_ax, ax), query in zip(axes, queries, strict=True):
        show_image(image_ax, query["gray"])
        bare(ax)
        ax.set(xlim=(0, 1), ylim=(0, 1))
        y = _write_report(ax, 1.0, "its report", query["own"], "#222222")
        for number, (score, text, kind) in enumerate(query["hits"], start=1):
            colour, says = KINDS[kind]
            y = _write_report(ax, y, f"{number}.  {score:.3f}  {says}", text, colour)
    return picture


def _write_report(ax: Axes, y: float, head: str, text: str, colour: str) -> float:
    """A report of at most three lines under its head, at height y and below → where the next may begin."""
    lines = textwrap.wrap(text, 100)
    if len(lines) > 3:
        lines = [*lines[:2], lines[2][:96] + " …"]
    height = 0.055 * (len(lines) + 1)
    ax.add_patch(Rectangle((0, y - height), 0.008, height, color=colour))
    ax.text(0.022, y, plain(head), fontsize=9, fontweight="bold", va="top")
    ax.text(0.022, y - 0.055, plain("\n".join(lines)), fontsize=8.5, va="top", linespacing=1.15)
    return y - height - 0.03
