"""The method drawn: one stream or two (the paper's Fig. 1), mapping before or after aggregation (notebook 02).

Not here: the model (mcr_lib/model.py, mcr_lib/heads.py); what is drawn are tensors it gave.
"""

from __future__ import annotations

import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor
from torch.nn import functional

from .inputs import token_colours
from .marks import BROKEN, draw_arrow, draw_matrix
from .style import COLOURS, Picture, bare, new_picture, plain, show_image

ENCODER = {"v": COLOURS["image"], "r": COLOURS["text"]}
RECONSTRUCTION = {"v": "$L_{mim}$", "r": "$L_{mrm}$"}


def frameworks(whole, masked, words: list[str], hidden_words: list[str]) -> Picture:
    """The paper's Fig. 1, drawn by us: two streams (a) beside one masked stream (b).

    whole (H, W), masked (H, W, 3) in [0, 1]: an image; words, hidden_words: the first tokens of its report, as they
    are and with [MASK] for what is hidden.
    """
    alt = (
        "Left: the two-stream framework, whole pairs for the contrastive task "
        "and masked ones for reconstruction. Right: MCR, masked pairs for all three tasks"
    )
    picture, axes = new_picture(4.9, 1, 2, alt=alt)
    for ax, title in zip(axes[0], ("(a) two streams", "(b) MCR: one masked stream"), strict=True):
        bare(ax)
        ax.set(xlim=(0, 10.4), ylim=(0, 11))
        ax.set_title(title)
    _draw_two_streams(axes[0, 0], whole, masked, words, hidden_words)
    _draw_one_stream(axes[0, 1], masked, hidden_words)
    return picture


def _draw_two_streams(ax: Axes, whole, masked, words: list[str], hidden_words: list[str]) -> None:
    for y, code, source in ((9.7, "v", whole), (7.1, "r", words)):  # whole pairs
        _draw_encoder(ax, y, code, source)
        up = 1 if code == "v" else -1
        draw_arrow(ax, 4.35, y, 5.05, y)
        _draw_block(ax, 5.95, y, f"$F_{code}$\naggregate", COLOURS["common"], width=1.8)
        draw_arrow(ax, 6.85, y, 8.6, 8.4 + 0.3 * up)
        _name_vector(ax, 7.5, y, code)
    _draw_block(ax, 9.4, 8.4, "$L_{vrc}$", COLOURS["loss"])
    for y, code, source in ((4.1, "v", masked), (1.5, "r", hidden_words)):  # masked pairs
        _draw_encoder(ax, y, code, source)
        draw_arrow(ax, 4.35, y, 5.2, y)
        _draw_block(ax, 5.95, y, f"$D_{code}$", COLOURS["decoder"])
        draw_arrow(ax, 6.7, y, 8.6, y)
        _draw_block(ax, 9.4, y, RECONSTRUCTION[code], COLOURS["loss"])
    ax.axhline(5.62, color="#999999", linewidth=1, linestyle=(0, (4, 3)))
    ax.text(10.3, 5.75, "whole", ha="right", va="bottom", fontsize=9, style="italic")
    ax.text(10.3, 5.5, "masked", ha="right", va="top", fontsize=9, style="italic")


def _draw_one_stream(ax: Axes, masked, hidden_words: list[str]) -> None:
    for y, code, source in ((8.0, "v", masked), (3.0, "r", hidden_words)):
        _draw_encoder(ax, y, code, source)
        outer, inner = (y + 1.4, y - 1.4) if code == "v" else (y - 1.4, y + 1.4)
        ax.text(4.75, y + 0.12, f"$f^{code}$", ha="center", va="bottom", fontsize=10)
        ax.plot([4.35, 5.05], [y, y], color="#444444", linewidth=1.2)
        draw_arrow(ax, 5.05, y, 5.7, outer)
        draw_arrow(ax, 5.05, y, 5.6, inner)
        _draw_block(ax, 6.5, outer, f"$D_{code}$", COLOURS["decoder"])
        draw_arrow(ax, 7.25, outer, 8.6, outer)
        _draw_block(ax, 9.4, outer, RECONSTRUCTION[code], COLOURS["loss"])
        _draw_block(ax, 6.5, inner, f"$F_{code}$\naggregate", COLOURS["common"], width=1.8)
        draw_arrow(ax, 7.4, inner, 8.6, 5.5 + (0.3 if code == "v" else -0.3))
        _name_vector(ax, 7.75, inner, code)
    _draw_block(ax, 9.4, 5.5, "$L_{vrc}$", COLOURS["loss"])
    ax.text(10.3, 0.1, "all masked", ha="right", va="bottom", fontsize=9, style="italic")


def _draw_encoder(ax: Axes, y: float, code: str, source) -> None:
    """The left end of a stream at height y: its input (an image, or the first tokens of a report), its encoder."""
    if code == "v":
        show_image(ax.inset_axes((0.0, y - 1.0, 2.0, 2.0), transform=ax.transData), source)
    else:
        colours = token_colours([word == "[MASK]" for word in source[:4]])
        place = dict(ha="center", va="center", fontsize=7, family="monospace")
        for row, (word, colour) in enumerate(zip(source[:4], colours, strict=True)):
            box = dict(facecolor=colour, edgecolor="none", boxstyle="round,pad=0.15")
            ax.text(1.0, y + 0.78 - 0.52 * row, plain(word), bbox=box, **place)
    draw_arrow(ax, 2.1, y, 2.85, y)
    _draw_block(ax, 3.6, y, f"$E_{code}$", ENCODER[code])


def _draw_block(ax: Axes, x: float, y: float, text: str, colour: str, width: float = 1.5) -> None:
    """A rounded box centred at (x, y)."""
    corner, round_ = (x - width / 2, y - 1.15 / 2), "round,pad=0,rounding_size=0.18"
    look = dict(boxstyle=round_, facecolor=colour, edgecolor="none")
    ax.add_patch(FancyBboxPatch(corner, width, 1.15, **look))
    dark = colour in (COLOURS["image"], COLOURS["text"], COLOURS["common"])
    ink = "white" if dark else "black"
    ax.text(x, y, text, ha="center", va="center", color=ink, fontsize=9.5)


def _name_vector(ax: Axes, x: float, y: float, code: str) -> None:
    """S^v above the arrow that starts at height y, S^r below it."""
    above = code == "v"
    place = dict(ha="center", va="bottom" if above else "top", fontsize=10)
    ax.text(x, y + (0.05 if above else -0.05), f"$S^{code}$", **place)


def mba_abm(f: Tensor, mapped: Tensor, S_mba: Tensor, pooled: Tensor, S_abm: Tensor) -> Picture:
    """The two orders with real numbers.

    Local features f (L, D); above F(f) (L, C) and its mean S_mba (C,); below the mean `pooled` (D,) and F of it,
    S_abm (C,); under both their difference. Colours are scaled block by block, the last column to one scale.
    """
    alt = "Above: map every local feature, then average. Below: average, then map; last their difference"
    picture, axes = new_picture(5.4, alt=alt)
    ax = axes[0, 0]
    bare(ax)
    ax.set(xlim=(0, 12.2), ylim=(-1.1, 7.8))
    last = float(torch.cat([S_mba, S_abm]).detach().abs().max())
    rows, mean_of_rows = "F, row\nby row", "mean of\nthe rows"
    ax.text(0, 7.35, "MbA: mapping before aggregation", fontsize=11, fontweight="bold", va="bottom")
    ax.add_patch(Rectangle((0, 7.24), 12.1, 0.06, facecolor=COLOURS["mba"], edgecolor="none"))
    _draw_tensor(ax, 0, 6.0, f, "$f$")
    _draw_tensor(ax, 4.6, 6.0, mapped, "$F(f)$", before=rows)
    _draw_tensor(ax, 9.2, 6.0, S_mba, "mean of $F(f)$", before=mean_of_rows, limit=last)
    ax.text(0, 3.25, "AbM: aggregation before mapping", fontsize=11, fontweight="bold", va="bottom")
    ax.add_patch(Rectangle((0, 3.14), 12.1, 0.06, facecolor=COLOURS["abm"], edgecolor="none"))
    _draw_tensor(ax, 0, 1.9, f, "$f$")
    _draw_tensor(ax, 4.6, 1.9, pooled, "mean of $f$", before=mean_of_rows)
    _draw_tensor(ax, 9.2, 1.9, S_abm, "$F($mean of $f)$", before="F, once", limit=last)
    _draw_tensor(ax, 9.2, -0.1, S_mba - S_abm, "difference", limit=last)
    return picture


def _draw_tensor(
    ax: Axes, x: float, y: float, values: Tensor, name: str, before: str = "", limit=None
) -> None:
    """A vector or matrix as colours at (x, y), its name and size below it, an arrow with `before` left of it."""
    values = torch.atleast_2d(values)
    height = 2.3 if len(values) > 1 else 0.42
    inset = ax.inset_axes((x, y - height / 2, 2.9, height), transform=ax.transData)
    draw_matrix(inset, values, limit)
    bare(inset)
    size = f"{name}: {len(values)} × {values.shape[1]}"
    ax.text(x + 1.45, y - height / 2 - 0.12, size, ha="center", va="top", fontsize=9)
    if before:
        draw_arrow(ax, x - 1.55, y, x - 0.15, y)
        ax.text(x - 0.87, y + 0.12, before, ha="center", va="bottom", fontsize=9)


def gelu_gap(inputs: Tensor, unit: int) -> Picture:
    """Why a curve between mapping and averaging makes a difference.

    inputs (L, H): what enters the H units of F for L local features. Left: one unit on the curve; right: all
    units.
    """
    inputs = inputs.detach().float().cpu()
    alt = (
        "Left: on the curve of GELU the mean of the values lies above the value "
        "of the mean. Right: the same for all units"
    )
    picture, axes = new_picture(3.6, 1, 2, alt=alt)
    _draw_one_unit(axes[0, 0], inputs[:, unit])
    ax = axes[0, 1]
    of_mean, mean_of = functional.gelu(inputs.mean(0)), functional.gelu(inputs).mean(0)
    dots = dict(color=COLOURS["common"], s=16, alpha=0.6, linewidth=0)
    sns.scatterplot(x=of_mean, y=mean_of, ax=ax, **dots)
    both = torch.cat([of_mean, mean_of])
    ends = [float(both.min()), float(both.max())]
    grey = dict(color=COLOURS["chance"], linewidth=1.2, linestyle=BROKEN)
    sns.lineplot(x=ends, y=ends, ax=ax, label="no difference", **grey)
    ax.set(xlabel="AbM: GELU of the mean", ylabel="MbA: mean of the GELUs")
    ax.set_title("all units", fontsize=10.5)
    for ax in axes[0]:
        ax.legend(fontsize=8.5)
    return picture


def _draw_one_unit(ax: Axes, x: Tensor) -> None:
    """The curve, the local features' inputs x (L,) on it, and what either order makes of them."""
    reach = max(1.0, float(x.abs().max()) * 1.15)
    line = torch.linspace(-reach, reach, 200)
    curve = dict(color=COLOURS["ink"], linewidth=1.5, label="GELU")
    sns.lineplot(x=line, y=functional.gelu(line), ax=ax, **curve)
    dots = dict(color=COLOURS["image"], s=25, alpha=0.7, linewidth=0, zorder=2)
    sns.scatterplot(x=x, y=functional.gelu(x), ax=ax, label="the local features", **dots)
    mean = float(x.mean())
    mba, abm = float(functional.gelu(x).mean()), float(functional.gelu(x.mean()))
    ax.plot(mean, mba, "D", color=COLOURS["mba"], markersize=10, label="MbA: mean of the GELUs")
    ax.plot(mean, abm, "s", color=COLOURS["abm"], markersize=10, label="AbM: GELU of the mean")
    ax.set(xlabel="input of one unit of F", ylabel="its output")
    ax.set_title("one unit", fontsize=10.5)


def two_orders(found: dict) -> Picture:
    """R@1 of heads of both orders, a mark per seed; found: what `one_patch.compare` returns."""
    alt = (
        "Own report on top for MbA and AbM, by way to aggregate; the finding is seen by: "
        + ", ".join(found)
    )
    picture, axes = new_picture(3.1, 1, len(found), sharey=True, alt=alt)
    for ax, (seen_by, poolings) in zip(axes[0], found.items(), strict=True):
        for order, name, marker, offset in (("mba", "MbA", "o", -0.08), ("abm", "AbM", "s", 0.08)):
            recall = pd.DataFrame({pooling: orders[order] for pooling, orders in poolings.items()})
            long = recall.melt()
            x = recall.columns.get_indexer(long["variable"]) + offset
            look = dict(marker=marker, color=COLOURS[order], s=49, alpha=0.7, linewidth=0)
            sns.scatterplot(x=x, y=long["value"], ax=ax, label=name, legend=False, **look)
        ax.set(title=f"seen by {seen_by}", xlabel="aggregation", ylim=(-3, 103))
        ax.set(xticks=range(len(poolings)), xticklabels=list(poolings))
        ax.set_xlim(-0.5, len(poolings) - 0.5)
    axes[0, 0].set_ylabel("own report on top\nof 500 (%)")
    axes[0, 0].legend(loc="center left")
    return picture
