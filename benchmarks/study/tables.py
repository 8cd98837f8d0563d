"""A study as tables: the claims with their verdicts, and what each arm scored and costs; in Markdown, and as cells for
the report page. Pure functions of study.json. Not here: what a claim is and how it is judged (comparisons.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.study import standing
from benchmarks.study.comparisons import COST_ARMS, NOT_MEASURED
from benchmarks.study.files import AGAIN, read_study
from benchmarks.study.interval import OF_PAIRS
from benchmarks.study.plateau import growths
from benchmarks.study.standing import POINTS
from data_prep.own_files import read_json

ABOUT_ARMS = (
    "What each arm scored on the test split (mean over seeds; in percent, image→text / text→image; RSum with "
    "its standard deviation, of the linear model with its interval), what the second half of its training added to "
    "RSum on `validate` (below 1 %: the plateau), and what it costs: all its training, and a step (in brackets, as a "
    "share of two-stream-mba's)"
)
WITHOUT_THE_METHOD = ("most frequent report", "linear CCA", "label oracle", "attribute oracle")
SCORES = {  # column → table of metrics, name in it
    "R@1": ("test, unmasked", "R@1"),
    "R@10": ("test, unmasked", "R@10"),
    "RSum": ("test, unmasked", "rsum"),
    "RSum, masked input": ("test, masked", "rsum"),
    "mAP by label": ("test, label-match", "mAP"),
    "precision@10 by label": ("test, label-match", "precision@10"),
    "RSum, abnormal": ("test, abnormal", "rsum"),
    "right among equal findings": ("test, alike", "alike"),
    "F1 of findings": ("test, label_f1", "label_f1"),
    "pointing": ("test, pointing", "pointing"),
}
ALL_TRAINING = ("added by the last doubling", "TFLOP in all", "minutes in all")
COSTS = {  # column → measure, unit
    "MFLOP per pair": ("flops", 1e-6),
    "seconds a step": ("seconds", 1),
    "peak MB": ("peak_bytes", 1e-6),
}
CLAIM_HEAD = (
    "claim",
    "measured",
    "effect [95 % interval]",
    "verdict",
    "smallest detectable",
    "p, Holm",
    "arms",
)


# ------------------------------------------------------------------------------------------------------- Markdown


def format_studies(files: list[Path]) -> str:
    """Of study.json files the claims, and what each arm scored and costs, as Markdown, each under what it was measured
    on; other JSON files are named, and a claim on costs that several files share is shown once."""
    parts, shown_costs = [], []
    for path in map(Path, files):
        if "claims" not in read_json(path, AGAIN):
            print(f"{path}: holds no claims, passed over", file=sys.stderr)
            continue
        content = read_judged(path)
        rows = [row for row in content["claims"] if row not in shown_costs]
        shown_costs += [row for row in rows if row["unit"] == "ratio"]
        parts += _format_study(path.name, content, rows)
    return "\n".join(parts)


def read_judged(path: Path) -> dict:
    """study.json, without verdicts on retrieval where its data do not allow one."""
    content = read_study(path)
    for part in ("claims", "variants"):
        rows = content.get(part, [])
        content[part] = standing.hold_back(rows, content["arms"], content.get("baselines"))
    return content


def _format_study(name: str, content: dict, rows: list[dict]) -> list[str]:
    """One study's lines of Markdown, with these rows of its claims."""
    parts = [
        f"{headline(content)}; `{name}`. A row is made again by `{content['repeat']}`, with the "
        f"arms of its last column. {standing.explain(content)}",
        "",
    ]
    if any(row["verdict"] != NOT_MEASURED for row in rows):
        parts += [format_claims(rows), ""]
    if content.get("variants"):
        parts += ["Variants of MCR, by the same rule:", "", format_claims(content["variants"]), ""]
    return [*parts, f"{ABOUT_ARMS}:", "", format_table(arm_cells(content)), ""]


def format_claims(rows: list[dict]) -> str:
    """The rows as the README's table."""
    lines, missing = claim_cells(rows)
    marked = []
    for claim, what, effect, verdict, *rest in lines:
        marked.append((claim, what, effect, f"**{verdict}**", *rest))
    table = format_table([CLAIM_HEAD, *marked])
    return f"{table}\n\n{missing}" if missing else table


def format_table(lines: list) -> str:
    """Cells, the first line of which is the head."""
    head, *body = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


# --------------------------------------------------------------------------------------------------------- claims


def claim_cells(rows: list[dict]) -> tuple[list[tuple[str, ...]], str]:
    """The measured rows as cells, a claim's text once, and a sentence on what was not measured ("" if all was)."""
    lines, above = [], None
    for row in rows:
        if row["verdict"] != NOT_MEASURED:
            claim, *rest = row_cells(row)
            lines.append(("" if claim == above else claim, *rest))
            above = claim
    missing = "; ".join(row["measured"] for row in rows if row["verdict"] == NOT_MEASURED)
    return lines, f"Not measured here: {missing}." if missing else ""


def row_cells(row: dict) -> tuple[str, ...]:
    """A row in words and figures, one text per column of CLAIM_HEAD."""
    digits = 1 if row["unit"] == POINTS or row["unit"].startswith("percent") else 3
    detectable = f"{row['detectable']:.{digits}f}" if row["detectable"] else "–"
    effect = _effect_cell(row, digits)
    p = row.get("p_holm")
    p = "–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"
    return row["claim"], row["measured"], effect, row["verdict"], detectable, p, row["arms"] or "–"


def _effect_cell(row: dict, digits: int) -> str:
    is_ratio = row["unit"] == "ratio"
    number = f".{digits}f" if is_ratio else f"+.{digits}f"
    if row["effect"] is None:
        return "–"
    if not row["interval"]:
        return f"{row['effect']:{number}} {row['unit']}, one seed, no interval"
    if row["interval"] == [0, 0]:
        return f"0, identical in all {row['repeats']} seeds"
    low, high = row["interval"]
    repeats = f"{row['repeats']} {'runs' if is_ratio else 'seeds'}"
    return f"{row['effect']:{number}} [{low:{number}}, {high:{number}}] {row['unit']}, {repeats}"


# ----------------------------------------------------------------------------------------------------------- arms


def arm_cells(content: dict) -> list[list[str]]:
    """The cells of a table with a line per arm: a head, chance, what can be had without the method, the arms. Costs are
    medians over repeats; "–": not measured. A column that no arm has is left out."""
    arms, costs = content["arms"], _step_costs(content["cost"])
    lines = [["arm", "steps", *SCORES, *ALL_TRAINING, *COSTS]]
    lines.append(_chance_line(next(iter(arms.values()))["metrics"]))
    lines += _baseline_lines(content.get("baselines"))
    for arm, about in arms.items():
        scores = [_score_cell(about["metrics"], *which) for which in SCORES.values()]
        plain = arm.partition("@")[0]
        of_step = [_cost_cell(costs, plain, *which) for which in COSTS.values()]
        lines.append([arm, str(about["steps"]), *scores, *_all_training(content, arm), *of_step])
    columns = [column for column in zip(*lines, strict=True) if set(column[-len(arms) :]) != {"–"}]
    return [list(line) for line in zip(*columns, strict=True)]


def _step_costs(cost: dict) -> dict:
    """arm → measure → value or values, of arms whose operations alone were counted too."""
    counted = {name: {"flops": flops} for name, flops in cost.get("flops", {}).items()}
    return counted | cost.get("arms", {})


def _baseline_lines(baselines: dict | None) -> list[list[str]]:
    lines = []
    for name in WITHOUT_THE_METHOD if baselines else ():
        row = baselines["rows"].get(name)
        if row:
            of_row = {key: [value] for key, value in row.items() if isinstance(value, float)}
            tables = {"test, unmasked": of_row, "test, label-match": of_row}
            scores = [_score_cell(tables, *which) for which in SCORES.values()]
            if row.get("interval"):
                low, high = row["interval"]["rsum"]
                scores[list(SCORES).index("RSum")] += f" [{low:.1f}, {high:.1f}]"
            lines.append([name, "", *scores, *[""] * len((*ALL_TRAINING, *COSTS))])
    return lines


def _all_training(content: dict, arm: str) -> list[str]:
    """What the last doubling of an arm's training added, operations and minutes of all of it."""
    about, flops = content["arms"][arm], _step_costs(content["cost"])
    flops = flops.get(arm.partition("@")[0], {}).get("flops")
    batch_size = content.get("config", {}).get("train", {}).get("batch_size")
    operations = "–"
    if flops and batch_size:
        operations = f"{flops * batch_size * about['steps'] * 1e-12:.3g}"
    seconds = about.get("seconds")
    minutes = f"{np.mean(seconds) / 60:.1f}" if seconds else "–"
    return [_last_doubling(about.get("validated")), operations, minutes]


def _last_doubling(validated: dict | None) -> str:
    """By how much RSum on `validate` grew from half of the steps to the last, mean over seeds."""
    if not validated or len(validated["steps"]) < 2:
        return "–"
    growth = growths(validated)[-1]
    return "–" if np.isnan(growth) else f"{100 * growth:+.1f} %"


def _chance_line(metrics: dict) -> list[str]:
    """What a random order scores; it depends on the gallery and not on the input."""
    scores = []
    for where, name in SCORES.values():
        if name in OF_PAIRS:
            name = "chance"  # in the same table
        else:
            where = "chance, label-match" if where == "test, label-match" else "chance"
        scores.append(_score_cell(metrics, where, name))
    return ["chance", "", *scores, *[""] * len((*ALL_TRAINING, *COSTS))]


def _score_cell(metrics: dict, where: str, name: str) -> str:
    measured = metrics.get(where, {})
    if name == "rsum" and name in measured:
        values = measured[name]
        deviation = f" ({np.std(values, ddof=1):.1f})" if len(set(values)) > 1 else ""
        return f"{np.mean(values):.1f}{deviation}"
    if name in measured:
        return f"{np.mean(measured[name]):.1f}"
    both = [f"{way}_{name}" for way in ("image_to_text", "text_to_image")]
    if any(key not in measured for key in both):
        return "–"
    return " / ".join(f"{np.mean(measured[key]):.1f}" for key in both)


def _cost_cell(costs: dict, arm: str, measure: str, unit: float) -> str:
    own, other = (costs.get(name, {}).get(measure) for name in (arm, COST_ARMS[1]))
    if own is None or other is None:
        return "–"
    value, of_two_stream = unit * np.median(own), unit * np.median(other)
    return f"{value:.3g} ({value / of_two_stream:.2f})"


# ------------------------------------------------------------------------------------------------------- headline


def headline(content: dict) -> str:
    """What a study was made of, in one line."""
    gallery = content["gallery"]
    hardware = sorted({_describe_machine(run, content["cost"]) for run in content["trained_on"]})
    commits = sorted({run["commit"] or "unknown" for run in content["trained_on"]})
    return (
        f"{content['study']}{' (synthetic)' if content['data']['synthetic'] else ''}, profile "
        f"{content['profile']}, {_count_seeds(content['arms'])}, "
        f"{_count_steps(content['arms'])} steps, gallery "
        f"{gallery['images']} images and {gallery['distinct_texts']} distinct reports of {gallery['patients']} "
        f"patients, on {', '.join(hardware)}, trained at commit {', '.join(commits)}"
    )


def _count_seeds(arms: dict) -> str:
    counts = {len(arm["seeds"]) for arm in arms.values()}
    fewest, most = min(counts), max(counts)
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{count} seed{'s' * (most > 1)}"


def _count_steps(arms: dict) -> str:
    counts = sorted({arm["steps"] for arm in arms.values()})
    return " / ".join(map(str, counts)) if len(counts) < 4 else f"{counts[0]} to {counts[-1]}"


def _describe_machine(run: dict, cost: dict) -> str:
    hardware = run["hardware"]
    on_gpu = hardware["gpu"] and cost.get("device") != "cpu"  # it is recorded, trained on or not
    where = hardware["gpu"] if on_gpu else f"{hardware['cpus']} CPU cores"
    precision = run.get("precision")
    return f"{where} in {precision}" if precision else where
