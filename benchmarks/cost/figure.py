"""The picture of a cost benchmark's result file. Not here: measuring (steps.py), the tables (tables.py)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from kit.plotting.style import COLOURS, Picture, new_picture

MARKERS = "osD^ovD^"


def draw_costs(result: dict) -> Picture:
    """Seconds per step (median, range over rounds, floor) and peak memory of everyone at the largest batch size; both
    against the batch size where there are several."""
    sizes = sorted({row["batch_size"] for row in result["steps"]})
    rows = [row for row in result["steps"] if row["batch_size"] == sizes[-1]]
    has_growth = len(sizes) > 1
    times = [f"{_name(row)} {row['median']:.3g} s" for row in rows]
    picture, axes = new_picture(
        0.34 * len(rows) + 1.5 + 3 * has_growth,
        1 + has_growth,
        2,
        alt="time per step: " + ", ".join(times),
    )
    _draw_seconds(axes[0, 0], rows)
    _draw_memory(axes[0, 1], rows)
    for ax in axes[0]:
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if has_growth:
        _draw_growth(axes[1, 0], result["steps"], "pairs_per_second", 1, "pairs per second")
        _draw_growth(
            axes[1, 1], result["steps"], "peak_bytes", 1e9, "GB above weights and optimizer"
        )
        more_handles, more_labels = axes[1, 0].get_legend_handles_labels()
        handles, labels = handles + more_handles, labels + more_labels
    picture.legend(handles, labels, loc="outside lower center", ncols=3)
    return picture


def _name(row: dict) -> str:
    return row["name"] if row["lengths"] == "full" else f"{row['name']}, short reports"


def _draw_seconds(ax: Axes, rows: list[dict]) -> None:
    names = [_name(row) for row in rows]
    medians = np.array([np.median(row["seconds"]) for row in rows])
    shortest = [min(row["seconds"]) for row in rows]
    longest = np.array([max(row["seconds"]) for row in rows])
    ax.barh(names, medians, color=[COLOURS.get(row["name"], COLOURS["faint"]) for row in rows])
    ax.hlines(names, shortest, longest, color=COLOURS["ink"], lw=1.2)
    ax.plot(
        [row["floor_seconds"] for row in rows],
        names,
        linestyle="none",
        marker="|",
        markersize=15,
        markeredgewidth=2.5,
        color=COLOURS["ink"],
        label="floor: counted FLOPs at the rate of a large product",
    )
    beside = dict(xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    for y, (end, median) in enumerate(zip(longest, medians, strict=True)):
        ax.annotate(f"{median:.3g}", (end, y), **beside)
    ax.margins(x=0.15)
    pairs, precision = rows[0]["batch_size"], rows[0]["precision"]
    ax.set(
        xlabel=f"seconds per step of {pairs} pairs, {precision}; range over rounds", title="Time"
    )


def _draw_memory(ax: Axes, rows: list[dict]) -> None:
    """In the same rows as the seconds; empty where it was not measured."""
    measured = [row for row in rows if "peak_bytes" in row]
    ax.set_yticks(range(len(rows)), [])
    bars = ax.barh(
        [rows.index(row) for row in measured],
        [row["peak_bytes"] / 1e9 for row in measured],
        color=[COLOURS.get(row["name"], COLOURS["faint"]) for row in measured],
    )
    ax.bar_label(
        bars, [f"{row['peak_bytes'] / 1e9:.2f}" for row in measured], padding=4, fontsize=9
    )
    ax.margins(x=0.18)
    ax.set(xlabel="GB above weights and optimizer", title="Peak memory")


def _draw_growth(ax: Axes, steps: list[dict], key: str, unit: float, label: str) -> None:
    """One measure against the batch size, a line for everyone."""
    sizes = sorted({row["batch_size"] for row in steps})
    for marker, (name, rows) in zip(MARKERS, _rows_by_name(steps).items(), strict=False):
        ax.plot(
            [row["batch_size"] for row in rows],
            [row[key] / unit for row in rows],
            marker=marker,
            lw=1.5,
            color=COLOURS.get(name, COLOURS["chance"]),
            ls="-" if name in COLOURS else ":",
            label=name,
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.set(xlabel="pairs per step", ylabel=label)


def _rows_by_name(steps: list[dict]) -> dict[str, list[dict]]:
    """The rows with reports of full length."""
    rows = {}
    for row in steps:
        if row["lengths"] == "full":
            rows.setdefault(row["name"], []).append(row)
    return rows
