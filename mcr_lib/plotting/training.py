"""Training: what a step costs part by part, how the losses fall, what the decoders rebuild (notebook 03), and the
result of `python -m mcr_lib benchmark`.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from ..vision import patchify, unpatchify
from .inputs import token_colours, tokens
from .style import COLOURS, OKABE_ITO, Picture, hide, label_bars, new_picture, show_image, to_gray

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
