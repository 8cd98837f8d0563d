"""A study as tables: the claims with their verdicts, and what each arm scored and costs; in Markdown, and as cells for
the report page. Pure functions of study.json. Not here: what a claim is and how it is judged (claims.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from .claims import COSTS, NOT_MEASURED, POINTS


def tables(files: list[Path]) -> str:
    """Of study.json files the claims, and what each arm scored and costs, as Markdown, each under what it was measured
    on; other JSON files are named, and a claim on costs that several files share is shown once."""
    parts, costs = [], []
    for path in files:
        content = json.loads(Path(path).read_text())
        if "claims" not in content:
            print(f"{path}: holds no claims, passed over", file=sys.stderr)
            continue
        rows_of = [row for row in content["claims"] if row["unit"] != "ratio" or row not in costs]
        costs += [row for row in rows_of if row["unit"] == "ratio"]
        parts += [f"{headline(content)}; `{Path(path).name}`. A row is made again by `{content['repeat']}`, with the "
                  "arms of its last column.", ""]
        if any(row["verdict"] != NOT_MEASURED for row in rows_of):
            parts += [markdown(rows_of), ""]
        if content.get("variants"):
            parts += ["Variants of MCR, by the same rule:", "", markdown(content["variants"]), ""]
        head, *lines = arms(content)
        parts += [f"{ABOUT_ARMS}:", "", _markdown([head, ["---"] * len(head), *lines]), ""]
    return "\n".join(parts)


ABOUT_ARMS = ("What each arm scored on the test split (mean over seeds; in percent, image→text / text→image; RSum with "
              "its standard deviation), and what a step of it costs (in brackets, as a share of two-stream-mba's)")
SCORES = {"R@1": ("test, unmasked", "R@1"), "R@10": ("test, unmasked", "R@10"), "RSum": ("test, unmasked", "rsum"),
          "RSum, masked input": ("test, masked", "rsum"), "mAP by label": ("test, label-match", "mAP"),
          "precision@10 by label": ("test, label-match", "precision@10")}
COST = {"MFLOP per pair": ("flops", 1e-6), "seconds a step": ("seconds", 1), "peak MB": ("peak_bytes", 1e-6)}


def arms(content: dict) -> list[list[str]]:
    """The cells of a table with a line per arm: a head, chance, the arms. Costs are medians over repeats; "–": not
    measured."""
    costs = content["cost"].get("arms", {})

    def score(metrics: dict, where: str, name: str) -> str:
        if where not in metrics:
            return "–"
        if name != "rsum":
            both = (metrics[where][f"{way}_{name}"] for way in ("image_to_text", "text_to_image"))
            return " / ".join(f"{np.mean(values):.1f}" for values in both)
        values = metrics[where][name]
        return f"{np.mean(values):.1f}" + (f" ({np.std(values, ddof=1):.1f})" if len(set(values)) > 1 else "")

    def cost(arm: str, name: str, scale: float) -> str:
        if arm not in costs:
            return "–"
        value, whole = (scale * np.median(costs[which][name]) for which in (arm, COSTS[1]))
        return f"{value:.3g} ({value / whole:.2f})"

    chance = next(iter(content["arms"].values()))["metrics"]
    return [["arm", "steps", *SCORES, *COST],
            ["chance", "", *(score(chance, "chance, label-match" if "label" in where else "chance", name)
                             for where, name in SCORES.values()), *([""] * len(COST))],
            *([arm, str(about["steps"]), *(score(about["metrics"], *which) for which in SCORES.values()),
               *(cost(arm.removesuffix("@time"), *which) for which in COST.values())]
              for arm, about in content["arms"].items())]


def headline(content: dict) -> str:
    """What a study was made of, in one line."""
    steps = sorted({arm["steps"] for arm in content["arms"].values()})
    steps = " / ".join(map(str, steps)) if len(steps) < 4 else f"{steps[0]} to {steps[-1]}"
    seeds = sorted({len(arm["seeds"]) for arm in content["arms"].values()})
    on_cpu = content["cost"].get("device") == "cpu"  # a machine's GPU is recorded whether it trained or not
    where = sorted({" in ".join(filter(None, (
        f"{run['hardware']['cpus']} CPU cores" if on_cpu or not run["hardware"]["gpu"] else run["hardware"]["gpu"],
        run.get("precision")))) for run in content["trained_on"]})
    commits = sorted({run["commit"] or "unknown" for run in content["trained_on"]})
    gallery = content["gallery"]
    return (f"{content['study']}{' (synthetic)' if content['data']['synthetic'] else ''}, profile "
            f"{content['profile']}, {' to '.join(map(str, sorted({seeds[0], seeds[-1]})))} seeds, "
            f"{steps} steps, gallery "
            f"{gallery['images']} images and {gallery['distinct_texts']} distinct reports of {gallery['patients']} "
            f"patients, on {', '.join(where)}, trained at commit {', '.join(commits)}")


HEAD = ("claim", "measured", "effect [95 % interval]", "verdict", "smallest detectable", "arms")


def cells(row: dict) -> tuple[str, ...]:
    """A row in words and figures, one text per column of HEAD."""
    digits = 1 if row["unit"] == POINTS else 3
    sign = "" if row["unit"] == "ratio" else "+"
    effect = "–" if row["effect"] is None else f"{row['effect']:{sign}.{digits}f}"
    if row["interval"]:
        low, high = (f"{end:{sign}.{digits}f}" for end in row["interval"])
        effect += f" [{low}, {high}] {row['unit']}, {row['repeats']} {'runs' if row['unit'] == 'ratio' else 'seeds'}"
        if row["interval"] == [0, 0]:
            effect = f"0, identical in all {row['repeats']} seeds"
    elif row["effect"] is not None:
        effect += f" {row['unit']}, one seed, no interval"
    detectable = "–" if not row["detectable"] else f"{row['detectable']:.{digits}f}"
    return row["claim"], row["measured"], effect, row["verdict"], detectable, row["arms"] or "–"


def shown(row_list: list[dict]) -> tuple[list[tuple[str, ...]], str]:
    """The measured rows as cells, a claim's text once, and a sentence on what was not measured ("" if all was)."""
    lines, above = [], None
    for row in row_list:
        if row["verdict"] != NOT_MEASURED:
            claim, *rest = cells(row)
            lines.append(("" if claim == above else claim, *rest))
            above = claim
    missing = "; ".join(row["measured"] for row in row_list if row["verdict"] == NOT_MEASURED)
    return lines, f"Not measured here: {missing}." if missing else ""


def markdown(row_list: list[dict]) -> str:
    """The rows as the README's table."""
    lines, missing = shown(row_list)
    lines = [(claim, what, effect, f"**{found}**", *rest) for claim, what, effect, found, *rest in lines]
    return _markdown([HEAD, ["---"] * len(HEAD), *lines]) + (f"\n\n{missing}" if missing else "")


def _markdown(lines: list) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
