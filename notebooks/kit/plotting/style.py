"""What all pictures share: size, colours, fonts, a figure that shows itself, images as they are looked at.

Not here: any picture of its own; patches that light up (kit/markup.py).
"""

from __future__ import annotations

import base64
import io
from html import escape

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from kit.markup import HIDDEN
from mcr_lib.data import IMAGE_MEAN, IMAGE_STD

WIDTH = 9.0  # inches: the text width of a notebook
# Okabe & Ito's palette: told apart by readers with any kind of colour vision
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
COLOURS = {  # one colour per meaning, in all figures
    "image": OKABE_ITO["blue"],
    "text": OKABE_ITO["vermillion"],
    "common": OKABE_ITO["green"],
    "decoder": OKABE_ITO["purple"],
    "loss": OKABE_ITO["orange"],
    "masked": HIDDEN,
    "chance": "#6E6E6E",
    "ink": "#222222",
    "faint": "#D9D9D9",
    "paper": "#FFFFFF",
    "mcr": OKABE_ITO["green"],
    "two-stream": OKABE_ITO["orange"],
    "contrastive": OKABE_ITO["sky"],
    "contrastive-masked": OKABE_ITO["purple"],
    "mba": OKABE_ITO["green"],
    "abm": OKABE_ITO["orange"],
}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.color": "#222222",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "mathtext.fontset": "dejavusans",
}


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook, whatever the backend. `alt` describes it in words."""

    alt = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        drawn = base64.b64encode(png(self, dpi=110, bbox_inches="tight")).decode()
        # JupyterLab gives an image/png no alt text, and prefers HTML to it
        html = f'<img alt="{escape(self.alt)}" src="data:image/png;base64,{drawn}">'
        return {"text/html": html, "text/plain": self.alt or "figure"}


def new_picture(
    height: float, rows: int = 1, cols: int = 1, *, width: float = WIDTH, alt: str = "", **subplots
):
    """An empty picture in the kit's style → (Picture, axes as a rows × cols array); sizes in inches."""
    matplotlib.rcParams.update(STYLE)
    picture = Picture(figsize=(width, height), layout="constrained")
    picture.alt = alt
    return picture, picture.subplots(rows, cols, squeeze=False, **subplots)


def png(picture: Picture, dpi: int = 80, **settings) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=dpi, **settings)
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
    gray = to_gray(images)  # N, H, W
    side = gray.shape[-1] // patch_size
    covered = mask.cpu().reshape(-1, side, side).numpy() == 1
    covered = covered.repeat(patch_size, axis=1).repeat(patch_size, axis=2)  # N, H, W
    return np.where(covered[..., None], to_rgb(COLOURS["masked"]), gray[..., None])


def plain(text: str) -> str:
    """Text from outside (a report, a label, a name) as matplotlib shows it: what stands between two $ is no formula."""
    return text.replace("$", r"\$")


def bare(ax: Axes) -> None:
    """Take ticks, grid and frame away."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
