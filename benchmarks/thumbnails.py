"""A figure of each lesson on one sheet, for readers who look at the notebooks where they have no outputs.

    python -m benchmarks.thumbnails --run runs/demo --out benchmarks/results/lessons.png

The figures are those that `make reproduce` left in the run. Not here: drawing them (kit.plotting), the page with all of
them (page.py).
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from data_prep.commands import QUIET, run_app
from data_prep.errors import KitError

SHOWN = {
    "00_start_here": "walkthrough",
    "01_masking": "mask_ratios",
    "02_mba_vs_abm": "one_patch",
    "03_training": "reconstruction",
    "04_retrieval_evaluation": "cumulative",
    "05_modality_gap": "pca",
    "06_explore": "maps",
}
WIDTH, COLUMNS, GAP, TITLE = 560, 2, 24, 26  # pixels
app = typer.Typer(help="A figure of each lesson on one sheet.", **QUIET)


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="what make reproduce left: runs/demo")],
    out: Annotated[Path, typer.Option(help="the sheet, FILE.png")],
):
    """Put the figures of the lessons on a sheet."""
    tiles = [draw_tile(lesson, find_figure(run, lesson, name)) for lesson, name in SHOWN.items()]
    draw_sheet(tiles).quantize(256).save(out, optimize=True)


def find_figure(run: Path, lesson: str, name: str) -> Image.Image:
    """A figure that a lesson left. Raises KitError where it left none."""
    path = run / "lessons" / lesson / f"{name}.png"
    if not path.exists():
        raise KitError(f"{run} has no figure {name} of {lesson}: run make reproduce first")
    return Image.open(path).convert("RGB")


def draw_tile(title: str, figure: Image.Image) -> Image.Image:
    """The figure as wide as a column, its lesson's name above it."""
    high = round(figure.height * WIDTH / figure.width)
    tile = Image.new("RGB", (WIDTH, high + TITLE), "white")
    ImageDraw.Draw(tile).text((0, 2), title, fill="#222222", font=ImageFont.load_default(16))
    tile.paste(figure.resize((WIDTH, high), Image.Resampling.LANCZOS), (0, TITLE))
    return tile


def draw_sheet(tiles: list[Image.Image]) -> Image.Image:
    """The tiles in columns, each under the shortest one so far."""
    bottoms, places = [GAP] * COLUMNS, []
    for tile in tiles:
        column = bottoms.index(min(bottoms))
        places.append((GAP + column * (WIDTH + GAP), bottoms[column]))
        bottoms[column] += tile.height + GAP
    sheet = Image.new("RGB", (GAP + COLUMNS * (WIDTH + GAP), max(bottoms)), "white")
    for tile, place in zip(tiles, places, strict=True):
        sheet.paste(tile, place)
    return sheet


if __name__ == "__main__":
    sys.exit(run_app(app, "benchmarks.thumbnails", sys.argv[1:]))
