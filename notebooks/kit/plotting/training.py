"""Training: what a step costs part by part, how the losses fall, what the decoders rebuild (notebook 03).

Not here: measuring the cost (kit/cost.py), the picture of the cost benchmark (benchmarks/cost/figure.py).
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from torch import Tensor

from kit.patches import unpatchify
from mcr_lib.encoders import patchify

from .inputs import draw_tokens, token_colours
from .marks import BROKEN, draw_pairs
from .style import COLOURS, OKABE_ITO, Picture, hide, new_picture, show_image, to_gray

ARMS = {
    "mcr": "MCR: one masked stream",
    "two-stream": "two streams",
    "contrastive": "contrastive, whole",
    "contrastive-masked": "contrastive, masked",
}
MARKERS = {"mcr": "o", "two-stream": "s", "contrastive": "D", "contrastive-masked": "^"}
PARTS = {  # the parts of a step, in the order in which bars stack: colour, hatch
    "E_v, whole": (COLOURS["image"], ""),
    "E_v, masked": (COLOURS["image"], "///"),
    "D_v": (COLOURS["decoder"], ""),
    "E_r, whole": (COLOURS["text"], ""),
    "E_r, masked": (COLOURS["text"], "///"),
    "D_r": ("#E9C7DA", ".."),
    "heads": (COLOURS["common"], ""),
}
LOSSES = {
    "contrastive_loss": "$L_{vrc}$, contrastive",
    "image_reconstruction_loss": "$L_{mim}$, hidden patches",
    "text_reconstruction_loss": "$L_{mrm}$, hidden words",
}
RUNS = [COLOURS["mcr"], *(OKABE_ITO[name] for name in ("orange", "sky", "purple", "black"))]


def stacked_costs(costs: dict[str, dict[str, float]], xlabel: str, title: str = "") -> Picture:
    """Cost of a step by part, one horizontal bar per arm: costs[arm][part], parts named as in PARTS."""
    totals = {arm: sum(parts.values()) for arm, parts in costs.items()}
    alt = f"{xlabel} by part: " + ", ".join(f"{arm} {total:.3g}" for arm, total in totals.items())
    picture, axes = new_picture(0.5 * len(costs) + 1.6, alt=alt)
    ax, names = axes[0, 0], [ARMS.get(arm, arm) for arm in costs]
    before = np.zeros(len(costs))
    for part, (colour, hatch) in PARTS.items():
        values = np.array([parts.get(part, 0.0) for parts in costs.values()])
        if values.any():
            look = dict(color=colour, hatch=hatch, edgecolor="white", linewidth=0.6)
            label = re.sub(r"([ED]_[vr])", r"$\1$", part)
            ax.barh(names, values, left=before, label=label, **look)
        before += values
    beside = dict(xytext=(5, 0), textcoords="offset points", va="center", fontweight="bold")
    for row, total in enumerate(totals.values()):
        ax.annotate(f"{total:.3g}", (total, row), fontsize=9, **beside)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.08)
    ax.set(xlabel=xlabel, title=title)
    picture.legend(ncols=6, loc="outside lower center", columnspacing=1.2, handlelength=1.5)
    return picture


def forces(cosines: Tensor, gradient: Tensor) -> Picture:
    """Cosines of images (rows) and reports (columns), and the gradient of the contrastive loss on each of them.

    The colours of the gradient are scaled to the wrong pairs; the diagonal, much stronger, is written in.
    """
    alt = (
        "Left: cosine of each image with each report. Right: what training "
        "would do to it; true pairs are raised, similar wrong pairs pushed down most"
    )
    picture, axes = new_picture(3.9, 1, 2, alt=alt)
    wrong = gradient[~torch.eye(len(gradient), dtype=torch.bool, device=gradient.device)]
    draw_pairs(axes[0, 0], cosines, float(cosines.abs().max()), label="cosine")
    axes[0, 0].set_title("cosines")
    says = "gradient: below 0 raised, above 0 pushed down"
    draw_pairs(axes[0, 1], gradient, float(wrong.abs().max()), label=says, extend="min")
    for pair, force in enumerate(gradient.diagonal().tolist()):  # too strong for the colours
        place = dict(ha="center", va="center", fontsize=5, color="white")
        axes[0, 1].text(pair + 0.5, pair + 0.5, f"{100 * force:.0f}", **place)
    axes[0, 1].set_title("forces (true pairs: written in, × 100)")
    return picture


def recall_over_cost(
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    looks: dict[str, dict],
    levels: dict[str, float],
    still: dict[str, int] | None = None,
) -> Picture:
    """RSum on `validate` over the operations spent so far: the mean over seeds, the range of the seeds around it.

    curves: arm → TFLOP at each checkpoint (N,), RSum there (N, seeds), as of found.learning_curves; looks: arm → its
    line, as of line_of; levels: name → RSum of what needs no training, drawn across; still: arm → the checkpoint from
    which on it stands still, a ring.
    """
    ends = [f"{arm} {rsums[-1].mean():.0f}" for arm, (_, rsums) in curves.items()]
    picture, axes = new_picture(
        4.2, alt="RSum on validate over operations; at the end: " + ", ".join(ends)
    )
    ax = axes[0, 0]
    for arm, (spent, rsums) in curves.items():
        ax.plot(spent, rsums.mean(axis=1), label=arm, markevery=[-1], **looks[arm])
        band = dict(color=looks[arm]["color"], alpha=0.18, linewidth=0)
        ax.fill_between(spent, rsums.min(axis=1), rsums.max(axis=1), **band)
    for beside, (name, rsum) in enumerate(levels.items()):
        ax.axhline(rsum, color=COLOURS["chance"], linestyle=BROKEN, linewidth=1.1)
        at_right = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        ax.annotate(name, (1 - beside / 10, rsum), (-2, 3), ha="right", fontsize=8, **at_right)
    if still:
        points = [(curves[arm][0][at], curves[arm][1][at].mean()) for arm, at in still.items()]
        ring = dict(facecolor="none", edgecolor=COLOURS["ink"], s=140, zorder=3)
        ax.scatter(*zip(*points, strict=True), label="from here on a doubling adds < 1 %", **ring)
    ax.set(xlabel="operations of the training so far (TFLOP)", ylabel="RSum on validate (0–600)")
    ax.set(xlim=(0, None), ylim=(0, None))
    picture.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return picture


def line_of(settings: dict) -> dict:
    """How recall_over_cost draws an arm of these settings: colour and marker are its framework's, AbM is dashed."""
    framework = settings["framework"]
    dashes = "-" if settings["alignment"] == "mba" else (0, (4, 2))
    return dict(color=COLOURS[framework], linestyle=dashes, marker=MARKERS[framework])


def schedule(rates: list[float]) -> Picture:
    """The learning rate of every step."""
    alt = f"The learning rate over {len(rates)} steps: it grows, then falls to zero along half a cosine"
    picture, axes = new_picture(2.4, width=5.6, alt=alt)
    ax, steps = axes[0, 0], np.arange(1, len(rates) + 1)
    sns.lineplot(x=steps, y=rates, ax=ax, color=COLOURS["loss"], marker="o")
    ax.set(xlabel="training step", ylabel="learning rate", ylim=(0, None))
    return picture


def loss_curves(runs: dict[str, list[dict]], guessing: dict[str, float] | None = None) -> Picture:
    """The three losses over the steps, one panel each.

    runs[name]: the records of metrics.jsonl; guessing: a level per loss, drawn dashed.
    """
    alt = "The three losses over the training steps for " + ", ".join(runs)
    picture, axes = new_picture(2.9, 1, 3, alt=alt)
    named = [pd.DataFrame(records).assign(run=name) for name, records in runs.items()]
    table = pd.concat(named, ignore_index=True)
    colours = dict(zip(runs, RUNS, strict=False))
    for ax, (key, title) in zip(axes[0], LOSSES.items(), strict=True):
        levels = [1e-9]
        if key in table:
            points = table.dropna(subset=[key])
            few = points["run"].value_counts().max() < 15
            look = dict(hue="run", style="run", palette=colours, markers=bool(few))
            sns.lineplot(points, x="step", y=key, ax=ax, errorbar=None, **look)
            levels.extend(points[key])
        if guessing:
            grey = dict(color=COLOURS["chance"], linewidth=1.2, linestyle=BROKEN)
            ax.axhline(guessing[key], label="guessing", **grey)
            levels.append(guessing[key])
        unit = "loss (variances of a patch)" if "image" in key else "loss (nats)"
        ax.set(xlabel="training step", ylabel=unit, ylim=(0, 1.08 * max(levels)))
        ax.set_title(title, fontsize=10.5)
        if ax.get_legend():
            ax.get_legend().remove()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if len(labels) > 1:
        axes[0, 0].legend(handles, labels, fontsize=8)
    return picture


def reconstruction(
    images: Tensor, mask: Tensor, predicted: Tensor, patch_size: int, norm_pix: bool
) -> Picture:
    """What D_v makes of the hidden patches, image by image: original, seen, predicted, pasted.

    images (N, C, H, W) normalised, mask (N, L) with 1 = removed, predicted (N, L_removed, P·P·C)
    where the mask is 1, in reading order. With norm_pix the model predicts patches of mean 0 and
    variance 1: the third column shows that; the fourth lends each patch the mean and variance of
    the original, which the model did not know, and says so.
    """
    patches, removed = patchify(images, patch_size), mask == 1
    predicted = predicted.flatten(0, 1).to(patches.dtype)  # N·L_removed, P·P·C
    raw, pasted = torch.full_like(patches, 2.0), patches.clone()  # seen patches: white
    raw[removed] = predicted
    variance, mean = torch.var_mean(patches[removed], dim=-1, keepdim=True)
    pasted[removed] = predicted * (variance + 1e-6).sqrt() + mean if norm_pix else predicted
    of_raw = "\n(each patch: mean 0, variance 1)" if norm_pix else ""
    of_pasted = "\n(lent the original's mean, variance)" if norm_pix else ""

    def as_gray(patches: Tensor) -> np.ndarray:  # N, L, P·P·C → N, H, W
        return to_gray(unpatchify(patches, patch_size, images.shape[1]))

    columns = [
        (to_gray(images), "original"),
        (hide(images, mask, patch_size), "what $E_v$ sees"),
        (as_gray(raw), "what $D_v$ predicts" + of_raw),
        (as_gray(pasted), "pasted into what was seen" + of_pasted),
    ]
    alt = "Original, masked, predicted and pasted images, one row per image"
    high, rows = 2.3 * len(images) + 0.5, len(images)
    picture, axes = new_picture(high, rows, len(columns), alt=alt)
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
    alt = "A report with the words that the model put in the hidden places"
    picture, axes = new_picture(2.4, alt=alt)
    draw_tokens(axes[0, 0], texts, colours, columns=columns, fontsize=8)
    rows = -axes[0, 0].get_ylim()[0]
    picture.set_figheight(0.24 * rows + 0.3)
    legend = "pale: seen · green ✓: guessed right · yellow ✗: guess ← truth"
    axes[0, 0].set_title(legend, fontsize=9.5)
    return picture
