"""The method drawn: one stream or two (the paper's Fig. 1), mapping before or after aggregation (notebook 02)."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor
from torch.nn import functional

from .inputs import token_colours
from .style import COLOURS, Picture, arrow, bare, new_picture, show_image


def _block(ax: Axes, x: float, y: float, text: str, colour: str, w: float = 1.5, h: float = 1.15) -> None:
    """A rounded box centred at (x, y)."""
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.18",
                                facecolor=colour, edgecolor="none"))
    dark = colour in (COLOURS["image"], COLOURS["text"], COLOURS["common"])
    ax.text(x, y, text, ha="center", va="center", color="white" if dark else "black", fontsize=9.5)


def _inputs(ax: Axes, y: float, picture=None, words=None, colours=None) -> None:
    """A thumbnail or a few tokens at the left end of a stream."""
    if picture is not None:
        inset = ax.inset_axes((0.0, y - 1.0, 2.0, 2.0), transform=ax.transData)
        show_image(inset, picture)
        return
    for row, (word, colour) in enumerate(zip(words[:4], colours[:4], strict=True)):
        ax.text(1.0, y + 0.78 - 0.52 * row, word, ha="center", va="center", fontsize=7, family="monospace",
                bbox=dict(facecolor=colour, edgecolor="none", boxstyle="round,pad=0.15"))


def frameworks(whole, masked, words: list[str], hidden_words: list[str]) -> Picture:
    """The paper's Fig. 1, drawn by us: two streams (a) beside one masked stream (b).

    whole (H, W), masked (H, W, 3) in [0, 1]: an image; words, hidden_words: the first tokens of its report, as they
    are and with [MASK] for what is hidden.
    """
    picture, axes = new_picture(4.9, 1, 2, alt="Left: the two-stream framework, whole pairs for the contrastive task "
                                "and masked ones for reconstruction. Right: MCR, masked pairs for all three tasks")
    seen, hidden = token_colours([False] * 4), token_colours([w == "[MASK]" for w in hidden_words[:4]])
    for ax, title in zip(axes[0], ("(a) two streams", "(b) MCR: one masked stream"), strict=True):
        bare(ax)
        ax.set(xlim=(0, 10.4), ylim=(0, 11))
        ax.set_title(title)
    image, text, common, decoder, loss = (COLOURS[k] for k in ("image", "text", "common", "decoder", "loss"))

    a = axes[0, 0]
    for y, code, source in ((9.7, "v", dict(picture=whole)), (7.1, "r", dict(words=words, colours=seen)),
                            (4.1, "v", dict(picture=masked)), (1.5, "r", dict(words=hidden_words, colours=hidden))):
        _inputs(a, y, **source)
        arrow(a, 2.1, y, 2.85, y)
        _block(a, 3.6, y, f"$E_{code}$", image if code == "v" else text)
        arrow(a, 4.35, y, 5.05 if y > 5 else 5.2, y)
        if y > 5:
            _block(a, 5.95, y, f"$F_{code}$, pool", common, w=1.8)
            arrow(a, 6.85, y, 8.6, 8.4 + 0.3 * (1 if y > 8.4 else -1))
            a.text(7.5, y + (0.05 if y > 8.4 else -0.05), f"$S^{code}$", ha="center",
                   va="bottom" if y > 8.4 else "top", fontsize=10)
        else:
            _block(a, 5.95, y, f"$D_{code}$", decoder)
            arrow(a, 6.7, y, 8.6, y)
            _block(a, 9.4, y, "$L_{mim}$" if code == "v" else "$L_{mrm}$", loss)
    _block(a, 9.4, 8.4, "$L_{vrc}$", loss)
    a.axhline(5.62, color="#999999", linewidth=1, linestyle=(0, (4, 3)))
    a.text(10.3, 5.75, "whole", ha="right", va="bottom", fontsize=9, style="italic")
    a.text(10.3, 5.5, "masked", ha="right", va="top", fontsize=9, style="italic")

    b = axes[0, 1]
    for y, code, source in ((8.0, "v", dict(picture=masked)), (3.0, "r", dict(words=hidden_words, colours=hidden))):
        up = 1 if y > 5 else -1
        _inputs(b, y, **source)
        arrow(b, 2.1, y, 2.85, y)
        _block(b, 3.6, y, f"$E_{code}$", image if code == "v" else text)
        b.text(4.75, y + 0.12, f"$f^{code}$", ha="center", va="bottom", fontsize=10)
        b.plot([4.35, 5.05], [y, y], color="#444444", linewidth=1.2)
        arrow(b, 5.05, y, 5.7, y + 1.4 * up)
        arrow(b, 5.05, y, 5.6, y - 1.4 * up)
        _block(b, 6.5, y + 1.4 * up, f"$D_{code}$", decoder)
        arrow(b, 7.25, y + 1.4 * up, 8.6, y + 1.4 * up)
        _block(b, 9.4, y + 1.4 * up, "$L_{mim}$" if code == "v" else "$L_{mrm}$", loss)
        _block(b, 6.5, y - 1.4 * up, f"$F_{code}$, pool", common, w=1.8)
        arrow(b, 7.4, y - 1.4 * up, 8.6, 5.5 + 0.3 * up)
        b.text(7.75, y - 1.4 * up + (0.05 if up > 0 else -0.05), f"$S^{code}$", ha="center",
               va="bottom" if up > 0 else "top", fontsize=10)
    _block(b, 9.4, 5.5, "$L_{vrc}$", loss)
    b.text(10.3, 0.1, "all masked", ha="right", va="bottom", fontsize=9, style="italic")
    return picture


def mba_abm(f: Tensor, mapped: Tensor, S_mba: Tensor, pooled: Tensor, S_abm: Tensor) -> Picture:
    """The two orders with real numbers: local features f (L, D); above F(f) (L, C) and its mean S_mba (C,); below the
    mean `pooled` (D,) and F of it, S_abm (C,). Colours are scaled block by block, the last column to one scale."""
    picture, axes = new_picture(4.6, alt="Above: map every local feature, then average. Below: average, then map")
    ax = axes[0, 0]
    bare(ax)
    ax.set(xlim=(0, 12.2), ylim=(0.2, 7.8))
    last = float(torch.cat([S_mba, S_abm]).detach().abs().max())

    def block(x, y, values, name, limit=None):
        values = values.detach().float().cpu()
        values = values[None] if values.ndim == 1 else values
        height = 2.3 if len(values) > 1 else 0.42
        inset = ax.inset_axes((x, y - height / 2, 2.9, height), transform=ax.transData)
        limit = limit or float(values.abs().quantile(0.99))
        inset.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
        bare(inset)
        ax.text(x + 1.45, y - height / 2 - 0.12, f"{name}: {len(values)} × {values.shape[1]}", ha="center", va="top",
                fontsize=9)

    for y, title, colour, middle, end, verbs in (
            (6.0, "MbA: mapping before aggregation", COLOURS["mba"], (mapped, "$F(f)$"), (S_mba, "mean of $F(f)$"),
             ("F, row\nby row", "mean of\nthe rows")),
            (1.9, "AbM: aggregation before mapping", COLOURS["abm"], (pooled, "mean of $f$"),
             (S_abm, "$F($mean of $f)$"), ("mean of\nthe rows", "F, once"))):
        ax.text(0, y + 1.35, title, fontsize=11, fontweight="bold", va="bottom")
        ax.add_patch(Rectangle((0, y + 1.24), 12.1, 0.06, facecolor=colour, edgecolor="none"))
        block(0, y, f, "$f$")
        block(4.6, y, *middle)
        block(9.2, y, *end, limit=last)
        for x, verb in zip((2.95, 7.55), verbs, strict=True):
            arrow(ax, x + 0.1, y, x + 1.5, y)
            ax.text(x + 0.78, y + 0.12, verb, ha="center", va="bottom", fontsize=9)
    return picture


def gelu_gap(inputs: Tensor, unit: int) -> Picture:
    """Why a curve between mapping and averaging makes a difference. inputs (L, H): what enters the H hidden units of F
    for L local features. Left: one unit on the curve; right: all units."""
    inputs = inputs.detach().float().cpu()
    picture, axes = new_picture(3.6, 1, 2, alt="Left: on the curve of GELU the mean of the values lies above the value "
                                "of the mean. Right: the same for all hidden units")
    x, ax = inputs[:, unit], axes[0, 0]
    lim = max(1.0, float(x.abs().max()) * 1.15)
    line = torch.linspace(-lim, lim, 200)
    ax.plot(line, functional.gelu(line), color=COLOURS["ink"], linewidth=1.5, label="GELU")
    ax.plot(x, functional.gelu(x), "o", color=COLOURS["image"], markersize=5, alpha=0.7, label="the local features")
    for marker, key, value, name in (("D", "mba", functional.gelu(x).mean(), "MbA: mean of the GELUs"),
                                     ("s", "abm", functional.gelu(x.mean()), "AbM: GELU of the mean")):
        ax.plot(x.mean(), value, marker, color=COLOURS[key], markersize=10, label=name)
    ax.set(xlabel="input of one hidden unit of F", ylabel="its output")
    ax.set_title("one unit", fontsize=10.5)
    ax.legend(fontsize=8.5)
    ax = axes[0, 1]
    of_mean, mean_of = functional.gelu(inputs.mean(0)), functional.gelu(inputs).mean(0)
    ax.plot(of_mean, mean_of, "o", color=COLOURS["common"], markersize=4, alpha=0.6)
    ends = [float(min(of_mean.min(), mean_of.min())), float(max(of_mean.max(), mean_of.max()))]
    ax.plot(ends, ends, color=COLOURS["chance"], linewidth=1.2, linestyle=(0, (5, 3)), label="no difference")
    ax.set(xlabel="AbM: GELU of the mean", ylabel="MbA: mean of the GELUs")
    ax.set_title("all hidden units", fontsize=10.5)
    ax.legend(fontsize=8.5)
    return picture


def two_orders(found: dict) -> Picture:
    """R@1 of heads of both orders, a mark per seed; found: what `one_patch.compare` returns."""
    picture, axes = new_picture(3.1, 1, len(found), sharey=True, alt="Own report on top for MbA and AbM, by pooling; "
                                "the finding is seen by: " + ", ".join(found))
    for ax, (seen_by, poolings) in zip(axes[0], found.items(), strict=True):
        for order, marker, name, offset in (("mba", "o", "MbA", -0.08), ("abm", "s", "AbM", 0.08)):
            for x, orders in enumerate(poolings.values()):
                ax.plot([x + offset] * len(orders[order]), orders[order], marker, color=COLOURS[order], markersize=7,
                        alpha=0.7, label=name if x == 0 else None)
        ax.set(title=f"seen by {seen_by}", xticks=range(len(poolings)), xticklabels=list(poolings), ylim=(-3, 103),
               xlim=(-0.5, len(poolings) - 0.5), xlabel="aggregation")
    axes[0, 0].set_ylabel("own report on top\nof 500 (%)")
    axes[0, 0].legend(loc="center left")
    return picture
