"""A study in six rows and one figure: each claim's effect at equal cost, the verdict, and how much comes of nothing.

Pure functions of study.json. Not here: all rows (tables.py), what a claim is (comparisons.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.study import standing
from benchmarks.study.arms import GROUPS
from benchmarks.study.comparisons import BUDGETS, MUCH_LESS, NOT_MEASURED
from benchmarks.study.interval import Interval, find_interval
from benchmarks.study.standing import CONTROL, NOT_DECIDABLE, POINTS
from benchmarks.study.tables import format_table, headline, read_judged, row_cells
from kit.plotting.style import COLOURS, OKABE_ITO, Picture, new_picture

HEAD = ("claim", "measured", "effect [95 % interval]", "verdict", "null band")
NULL = tuple(arm.name for arm in GROUPS["null"])  # mapped first, aggregated first
ROWS = {  # claim in few words → how what is measured begins
    "MCR finds more than two-stream": "MCR against two-stream",
    "Rebuilding adds to contrast": "MCR against contrastive on masked input",
    "One masked input: less competition": "recall that adding reconstruction costs",
    "A step needs less memory": "peak memory of a training step",
    "A step takes less time": "seconds of a training step",
    "MbA finds more than AbM": "MbA against AbM, recall of MCR",
}
MARKS = {  # verdict → marker, colour, filled
    "supported": ("o", OKABE_ITO["blue"], True),
    "contradicted": ("s", OKABE_ITO["vermillion"], True),
    "undecided": ("D", COLOURS["chance"], False),
    NOT_DECIDABLE: ("X", COLOURS["chance"], False),
}
LINES = {  # row of the baselines → colour, dashes
    "chance": (COLOURS["chance"], (0, (1, 1.5))),
    standing.LINEAR: (OKABE_ITO["vermillion"], "-"),
    "label oracle": (OKABE_ITO["purple"], (0, (5, 2))),
    "attribute oracle": (OKABE_ITO["black"], (0, (5, 2, 1, 2))),
}


def short_rows(content: dict) -> dict[str, dict]:
    """Claim in few words → its row, at equal FLOPs, else at equal time, else at equal steps; what was measured only."""
    chosen = {}
    for words, begins in ROWS.items():
        rows = [row for row in content["claims"] if row["measured"].startswith(begins)]
        rows = [row for row in rows if "hidden" not in row["measured"]]
        rows = [row for row in rows if row["verdict"] != NOT_MEASURED and row["interval"]]
        rows.sort(key=lambda row: _budget_place(row["measured"]))
        if rows:
            chosen[words] = rows[0]
    return chosen


def _budget_place(measured: str) -> int:
    """0 for the budget that is preferred."""
    for place, budget in enumerate(BUDGETS):
        if budget in measured:
            return place
    return len(BUDGETS)


def compares(content: dict) -> bool:
    """Whether a study has arms of claims, and not the null control alone, which is for the others' bands."""
    return not set(content["arms"]) <= set(NULL)


def null_effects(content: dict) -> list[float]:
    """MbA − AbM of the null control in RSum, seed by seed; empty where it was not run."""
    mapped_first, aggregated_first = (_rsum_of_seed(content["arms"].get(name)) for name in NULL)
    shared = [seed for seed in mapped_first if seed in aggregated_first]
    return [mapped_first[seed] - aggregated_first[seed] for seed in shared]


def _rsum_of_seed(arm: dict | None) -> dict[int, float]:
    if arm is None:
        return {}
    return dict(zip(arm["seeds"], arm["metrics"]["test, unmasked"]["rsum"], strict=True))


def pooled_null(contents: list[dict]) -> Interval | None:
    """The null control over all seeds of all these studies; None with fewer than two."""
    effects = [effect for content in contents for effect in null_effects(content)]
    return find_interval(np.array(effects)) if len(effects) > 1 else None


def null_band(content: dict, contents: list[dict]) -> list[float] | None:
    """The interval of a study's null control, of all `contents` together where it has none of its own."""
    for row in content["claims"]:
        if row["claim"] == CONTROL and row["interval"]:
            return row["interval"]
    pooled = pooled_null(contents)
    return [pooled.low, pooled.high] if pooled else None


def format_short(files: list[Path]) -> str:
    """At most six rows for each study.json, as Markdown, and a sentence on whether retrieval is decidable."""
    parts, contents = [], list(map(read_judged, files))
    for content in filter(compares, contents):
        band, lines = null_band(content, contents), [HEAD]
        for words, row in short_rows(content).items():
            _, measured, effect, verdict, *_ = row_cells(row)
            shown = f"[{band[0]:+.1f}, {band[1]:+.1f}]" if band and row["unit"] == POINTS else "–"
            lines.append((words, measured, effect, f"**{verdict}**", shown))
        about = f"{headline(content)}. {standing.explain(content)}"
        parts += [about, "", format_table(lines), ""]
    pooled = pooled_null(contents)
    if pooled:
        count = sum(len(null_effects(content)) for content in contents)
        parts.append(
            f"Null control, all {count} seeds together: MbA − AbM {pooled.effect:+.1f} [{pooled.low:+.1f}, "
            f"{pooled.high:+.1f}] {POINTS}, where no effect exists."
        )
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------------------ forest


def forest(files: list[Path]) -> Picture:
    """A line of panels for each study: effects on RSum over the null band, ratios of costs, the arms' own RSum between
    chance, linear model and ceilings."""
    read = [read_judged(path) for path in files]
    contents = [content for content in read if compares(content)] or read
    names = ", ".join(content["study"] for content in contents)
    alt = f"Effects, cost ratios and RSum of the arms with intervals; {names}"
    picture, axes = new_picture(
        3.0 * len(contents) + 0.8, len(contents), 3, width=13.0, width_ratios=(4, 3, 4), alt=alt
    )
    for (effects, ratios, arms), content in zip(axes, contents, strict=True):
        rows = short_rows(content)
        of_rsum = {words: row for words, row in rows.items() if row["unit"] == POINTS}
        of_costs = {words: row for words, row in rows.items() if row["unit"] == "ratio"}
        band = null_band(content, read)
        if band:
            effects.axvspan(*band, color=COLOURS["faint"], label="null band")
        effects.axvline(0, color=COLOURS["ink"], linewidth=1)
        _draw_rows(effects, of_rsum)
        effects.set(title=content["study"], xlabel="difference of RSum")
        ratios.axvline(1, color=COLOURS["ink"], linewidth=1)
        ratios.axvline(MUCH_LESS, color=COLOURS["chance"], linestyle=(0, (5, 3)), linewidth=1)
        _draw_rows(ratios, of_costs)
        ratios.set(xlim=(0, 1.1), xlabel=f"MCR / two-stream; dashed: {MUCH_LESS}")
        _draw_arms(arms, content, [row["arms"] for row in of_rsum.values()])
    _add_legend(picture, axes)
    return picture


def _draw_rows(ax: Axes, rows: dict[str, dict]) -> None:
    for y, row in enumerate(rows.values()):
        marker, colour, filled = MARKS[row["verdict"]]
        ax.plot(row["interval"], [y, y], color=colour, linewidth=1.8)
        face = colour if filled else COLOURS["paper"]
        ax.plot(row["effect"], y, marker, color=colour, markerfacecolor=face, markersize=8)
    _name_rows(ax, list(rows))


def _name_rows(ax: Axes, names: list[str]) -> None:
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    ax.tick_params(axis="y", labelsize=8)
    ax.grid(axis="y", visible=False)


def _draw_arms(ax: Axes, content: dict, asked: list[str]) -> None:
    """RSum of the arms that the rows compare, best first, between the lines."""
    arms = content["arms"]
    names = dict.fromkeys(name for one in asked for name in one.split(",")) or arms
    names = sorted(names, key=lambda name: -standing.mean_rsum(arms[name]))
    baselines = content.get("baselines") or {"rows": {}}
    rows = {"chance": {"rsum": arms[names[0]]["metrics"]["chance"]["rsum"][0]}}
    rows |= baselines["rows"]
    rows = {name: rows[name] for name in LINES if name in rows}
    for name, row in rows.items():
        colour, dashes = LINES[name]
        ax.axvline(row["rsum"], color=colour, linestyle=dashes, linewidth=1.6, label=name)
    if standing.LINEAR in rows:
        ax.axvspan(
            *rows[standing.LINEAR]["interval"]["rsum"], color=LINES[standing.LINEAR][0], alpha=0.15
        )
    for y, name in enumerate(names):
        interval = standing.rsum_interval(arms[name])
        if interval:
            ax.plot(interval, [y, y], color=OKABE_ITO["blue"], linewidth=1.8)
        ax.plot(standing.mean_rsum(arms[name]), y, "o", color=OKABE_ITO["blue"], markersize=5)
    _name_rows(ax, names)
    ax.set(xlabel="RSum of each arm (0–600)")
    ax.set_xlim(left=0)


def _add_legend(picture: Picture, axes: np.ndarray) -> None:
    """What the marks and lines of all panels mean, once."""
    named = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    for verdict, (marker, colour, filled) in MARKS.items():
        face = colour if filled else COLOURS["paper"]
        named[verdict] = axes[0, 0].plot([], [], marker, color=colour, markerfacecolor=face)[0]
    picture.legend(named.values(), named, loc="outside lower center", ncols=5)
