"""What all pictures share: size, colours, fonts, a figure that shows itself, and small things drawn onto axes. Not
here: any picture of its own.
"""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator, ScalarFormatter
from torch import Tensor
from torch.nn import functional

from ..data import IMAGE_MEAN, IMAGE_STD

WIDTH = 9.0  # inches: the text width of a notebook
# Okabe & Ito's palette: told apart by readers with any kind of colour vision
OKABE_ITO = {"black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442",
             "blue": "#0072B2", "vermillion": "#D55E00", "purple": "#CC79A7"}
COLOURS = {  # one colour per meaning, in all figures
    "image": OKABE_ITO["blue"], "text": OKABE_ITO["vermillion"], "common": OKABE_ITO["green"],
    "decoder": OKABE_ITO["purple"], "loss": OKABE_ITO["orange"], "masked": "#A9CDE6", "chance": "#6E6E6E",
    "ink": "#222222", "faint": "#D9D9D9", "paper": "#FFFFFF",
    "mcr": OKABE_ITO["green"], "two-stream": OKABE_ITO["orange"], "contrastive": OKABE_ITO["sky"],
    "contrastive-masked": OKABE_ITO["purple"], "mba": OKABE_ITO["green"], "abm": OKABE_ITO["orange"],
}
STYLE = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222", "xtick.color": "#444444", "ytick.color": "#444444", "text.color": "#222222",
    "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.8, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 2, "image.cmap": "gray",
    "image.interpolation": "nearest", "figure.facecolor": "white", "savefig.facecolor": "white",
    "mathtext.fontset": "dejavusans",
}


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook, whatever the backend. `alt` describes it in words."""

    alt = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return {"image/png": buffer.getvalue(), "text/plain": self.alt or "figure"}, {"image/png": {"alt": self.alt}}


def new_picture(height: float, rows: int = 1, cols: int = 1, *, width: float = WIDTH, alt: str = "", **subplots):
    """An empty picture in the kit's style → (Picture, axes as a rows × cols array); sizes in inches."""
    matplotlib.rcParams.update(STYLE)
    picture = Picture(figsize=(width, height), layout="constrained")
    picture.alt = alt
    return picture, picture.subplots(rows, cols, squeeze=False, **subplots)


def png(picture: Picture, dpi: int = 80) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def to_gray(images: Tensor) -> np.ndarray:
    """Normalised images (..., C, H, W) → gray levels (..., H, W) in [0, 1], as they are looked at."""
    x = images.detach().float().cpu()[..., 0, :, :] * IMAGE_STD + IMAGE_MEAN
    return x.clamp(0, 1).numpy()


def show_image(ax: Axes, gray, title: str = "", **settings) -> None:
    """One gray picture (H, W) in [0, 1], without axes."""
    ax.imshow(torch.as_tensor(gray).numpy(), **{"vmin": 0, "vmax": 1, "cmap": "gray", **settings})
    ax.set_title(title, fontsize=10)
    bare(ax)


def hide(images: Tensor, mask: Tensor, patch_size: int) -> np.ndarray:
    """Normalised images (N, C, H, W) as RGB (N, H, W, 3) in [0, 1], the removed patches (mask (N, L) = 1) pale blue."""
    gray = to_gray(images)
    side = gray.shape[-1] // patch_size
    covered = mask.cpu().reshape(-1, side, side).numpy().repeat(patch_size, 1).repeat(patch_size, 2)[..., None]
    return np.where(covered == 1, matplotlib.colors.to_rgb(COLOURS["masked"]), gray[..., None])


def overlay(gray, glow=None, size: int = 224, strength: float = 0.72) -> np.ndarray:
    """gray (H, W) in [0, 1] with a map (S, S) laid over it → (size, size, 3) uint8.

    Only what is positive in the map glows, against its own maximum, in the colour of texts; nan (masked) is gray.
    """
    def enlarge(x, mode):  # (h, w) → (size, size, 1)
        return functional.interpolate(x[None, None].float(), size=(size, size), mode=mode)[0, 0, :, :, None]

    ground = enlarge(torch.as_tensor(gray), "bicubic").clamp(0, 1).expand(-1, -1, 3)
    if glow is not None:
        glow = torch.as_tensor(glow).float()
        shown = glow.nan_to_num(0).clamp(min=0)
        alpha = strength * enlarge(shown / shown.max().clamp(min=1e-12), "bilinear")
        ground = (1 - alpha) * ground + alpha * torch.tensor(matplotlib.colors.to_rgb(COLOURS["text"]))
        ground = torch.where(enlarge(glow.isnan(), "nearest") > 0, torch.full_like(ground, 0.6), ground)
    return (255 * ground).round().byte().numpy()


def bare(ax: Axes) -> None:
    """Take ticks, grid and frame away."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def label_bars(ax: Axes, bars, texts) -> None:
    """Write a text at the end of each horizontal bar, and leave room for it."""
    for bar, text in zip(bars, texts, strict=True):
        ax.annotate(text, (bar.get_width(), bar.get_y() + bar.get_height() / 2), xytext=(4, 0), fontsize=9, va="center",
                    textcoords="offset points")
    ax.margins(x=0.18)


def log_ticks(ax: Axes, most: float) -> None:
    """Plain numbers on a logarithmic x axis of counts up to `most`."""
    ax.set_xticks([n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if n <= most])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def draw_box(ax: Axes, x0, y0, x1, y1, name: str = "", colour: str = OKABE_ITO["yellow"]) -> None:
    """A named box on a picture, in the units of its axes."""
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.8))
    ax.text(x0, y0, name, fontsize=8, color="black", va="bottom",
            bbox=dict(facecolor=colour, edgecolor="none", pad=1.2, alpha=0.9))


def arrow(ax: Axes, x0: float, y0: float, x1: float, y1: float) -> None:
    """An arrow from (x0, y0) to (x1, y1)."""
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=dict(arrowstyle="-|>", color="#444444", linewidth=1.2,
                                                        shrinkA=0, shrinkB=0))
