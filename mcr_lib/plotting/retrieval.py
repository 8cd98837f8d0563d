"""Retrieval: recall, its interval and chance, the size of the gallery, what was found (notebook 04)."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.patches import Rectangle

from .style import COLOURS, OKABE_ITO, Picture, bare, log_ticks, new_picture, show_image


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


def intervals(panels: dict, xlabel: str) -> Picture:
    """Values with their intervals and chance, a row each: panels is {title: table with value, low, high, chance}."""
    rows = next(iter(panels.values())).index
    picture, axes = new_picture(0.34 * len(rows) + 1.4, 1, len(panels), sharex=True, sharey=True,
                                alt="Values with intervals and chance: " + ", ".join(panels))
    reach = max(float(table[["high", "chance"]].max().max()) for table in panels.values())
    y = np.arange(len(rows))[::-1]
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        ink = COLOURS["image"]
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
