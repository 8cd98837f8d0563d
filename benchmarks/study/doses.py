"""What more training pairs change: the arms and the effects of several studies against the pairs they were trained on.

    python -m data_prep subset data/hard --train 1600 --out data/hard_1600   (and a study of it, and of the whole)
    python -m benchmarks.study.doses --out doses.png runs/hard_1600/study.json runs/hard/study.json

The studies must have one gallery, so that nothing but the training differs. Not here: how an effect is judged
(comparisons.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.axes import Axes

from benchmarks.study.pictures import look_of
from benchmarks.study.standing import POINTS, mean_rsum, rsum_interval
from benchmarks.study.tables import format_table, read_judged
from data_prep.commands import QUIET, UsageError, option, run_app
from data_prep.folder import atomic
from kit.plotting.style import COLOURS, OKABE_ITO, Picture, new_picture, png

MODULE = "benchmarks.study.doses"
EFFECTS = {  # words → how what is measured begins
    "MCR − contrast, whole input": "MCR against contrastive on whole input",
    "MCR − contrast, masked input": "MCR against contrastive on masked input",
    "MbA − AbM of MCR": "MbA against AbM, recall of MCR",
}
LOOKS = dict(
    zip(EFFECTS, (OKABE_ITO["blue"], OKABE_ITO["vermillion"], OKABE_ITO["green"]), strict=True)
)

app = typer.Typer(help="Arms and effects against the training pairs.", **QUIET)


@app.command()
def main(
    files: Annotated[list[Path], typer.Argument(exists=True, help="study.json, two or more")],
    out: option(Path, "the picture to write, .png"),
) -> None:
    """Print the effects of each study, draw them against the training pairs."""
    studies = read_doses(files)
    print(format_doses(studies))
    with atomic(out) as temporary:
        temporary.write_bytes(png(draw_doses(studies), dpi=110))


def read_doses(files: list[Path]) -> dict[int, dict]:
    """Training pairs → study, fewest first. Raises UsageError where a study does not say them, where two have as many,
    and where galleries differ."""
    studies = {}
    for path in files:
        content = read_judged(path)
        pairs = {arm.get("training_pairs") for arm in content["arms"].values()}
        if len(pairs) != 1 or None in pairs:
            raise UsageError(f"{path} does not say on how many pairs its arms were trained")
        studies[pairs.pop()] = content
    galleries = {tuple(sorted(content["gallery"].items())) for content in studies.values()}
    if len(studies) < max(2, len(files)) or len(galleries) != 1:
        raise UsageError("give two or more studies of one gallery, of different numbers of pairs")
    return dict(sorted(studies.items()))


def effects_of(studies: dict[int, dict]) -> dict[str, dict[int, dict]]:
    """Words → training pairs → the row of claims, at equal operations."""
    found: dict[str, dict[int, dict]] = {words: {} for words in EFFECTS}
    for pairs, content in studies.items():
        for words, begins in EFFECTS.items():
            for row in content["claims"]:
                is_it = row["measured"].startswith(begins) and "equal FLOPs" in row["measured"]
                if is_it and row["unit"] == POINTS and row["effect"] is not None:
                    found[words][pairs] = row
    return {words: rows for words, rows in found.items() if rows}


def format_doses(studies: dict[int, dict]) -> str:
    """A row for each number of training pairs: the arms' RSum, the effects."""
    effects, arms = effects_of(studies), _shared_arms(studies)
    lines = [("training pairs", *arms, *effects)]
    for pairs, content in studies.items():
        means = [f"{mean_rsum(content['arms'][arm]):.0f}" for arm in arms]
        lines.append((f"{pairs:,}", *means, *(_cell(rows.get(pairs)) for rows in effects.values())))
    return format_table(lines)


def _cell(row: dict | None) -> str:
    if row is None:
        return "–"
    if not row["interval"]:
        return f"{row['effect']:+.0f} (one seed)"
    return f"{row['effect']:+.0f} [{row['interval'][0]:+.0f}, {row['interval'][1]:+.0f}]"


def _shared_arms(studies: dict[int, dict]) -> list[str]:
    first, *rest = (content["arms"] for content in studies.values())
    return [name for name in first if all(name in arms for arms in rest)]


def draw_doses(studies: dict[int, dict]) -> Picture:
    """Left RSum of the arms, right the effects, with their intervals; training pairs on a logarithmic axis."""
    picture, axes = new_picture(4.4, 1, 2, alt="RSum and effects by training pairs")
    arms, effects = axes[0]
    for n, name in enumerate(_shared_arms(studies)):
        about = next(iter(studies.values()))["arms"][name]
        colour, mark, _ = look_of(name, about)
        points = [mean_rsum(content["arms"][name]) for content in studies.values()]
        intervals = [rsum_interval(content["arms"][name]) for content in studies.values()]
        line = "-" if about["settings"]["alignment"] == "mba" else (0, (4, 2))
        _draw(arms, n, list(studies), points, intervals, colour, mark, name, line)
    effects.axhline(0, color=COLOURS["ink"], linewidth=1)
    for n, (words, rows) in enumerate(effects_of(studies).items()):
        points, intervals = ([row[key] for row in rows.values()] for key in ("effect", "interval"))
        _draw(effects, n, list(rows), points, intervals, LOOKS[words], "o", words, "-")
    arms.set(ylabel="RSum on the test split (0–600)", ylim=(0, None))
    effects.set(ylabel="difference of RSum")
    for ax in (arms, effects):
        ax.set(xscale="log", xlabel="training pairs")
        ax.set_xticks(list(studies), [f"{pairs:,}" for pairs in studies])
        ax.minorticks_off()
        ax.legend(fontsize=7.5)
    return picture


def _draw(ax: Axes, n: int, pairs, points, intervals, colour: str, mark: str, label: str, line):
    """The n-th line, a little to the right of the one before, so that intervals do not hide each other."""
    places = np.array(pairs) * 1.015**n
    ax.plot(places, points, marker=mark, color=colour, linestyle=line, label=label)
    for at, interval in zip(places, intervals, strict=True):
        if interval:
            ax.plot([at, at], interval, color=colour, linewidth=1.2)


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
