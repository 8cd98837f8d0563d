"""What a study says: its result files, checked to be of one study, and from them OUT/study.json. It needs no model and
no data. Not here: training and measuring (runs.py), the verdicts (comparisons.py), the tables (tables.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.study import comparisons, standing, text_scores
from benchmarks.study.arms import ARMS, arm_of
from benchmarks.study.files import read_baselines, read_costs, read_result
from benchmarks.study.interval import find_interval, measure_value
from data_prep.folder import write_json
from data_prep.provenance import provenance
from mcr_lib.engine.run_folder import VOCABULARY, RunError


def flatten_config(config: dict) -> dict:
    """A run's configuration as one dict, without what the data decide."""
    settings = {**config["model"], **config["train"]}
    return {key: value for key, value in settings.items() if key not in VOCABULARY}


def read_results(out: Path) -> list[dict]:
    """All result files of a study. RunError if they are not of one study: other data, or settings that are not the
    arm's own differ."""
    folder = Path(out) / "results"
    results = [read_result(path) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise RunError(f"{out}: no results yet, {folder} is empty")
    steps_of_arm = {}
    for result in results:
        _check_same_study(out, result, results[0])
        steps = result["config"]["train"]["steps"]
        if steps_of_arm.setdefault(result["arm"], steps) != steps:
            raise RunError(
                f"{out}: the seeds of {result['arm']} were trained for different numbers of steps; give "
                "both machines the same cost.json"
            )
    return results


def _check_same_study(out: Path, result: dict, first: dict) -> None:
    theirs = _shared_settings(first)
    for key, value in _shared_settings(result).items():
        if key in theirs and value != theirs[key]:
            raise RunError(
                f"{out}: {result['arm']} seed {result['seed']} and {first['arm']} seed "
                f"{first['seed']} differ in {key}: they are not of one study"
            )


def _shared_settings(result: dict) -> dict:
    """What a result must have in common with the others of its study."""
    arm = arm_of(result)
    own = {"seed", *arm.settings}
    if arm.budget_of:
        own.add("steps")
    settings = flatten_config(result["config"])
    return {
        "data": result["data"]["sha256"],
        "computed in": result["training"]["precision"],
        **{key: value for key, value in settings.items() if key not in own},
    }


def summarise(
    out: Path, *, profile: str, settings: dict, command: str, tuned: Path | None = None
) -> dict:
    """Judge all results in OUT, write OUT/study.json and return it."""
    results = read_results(out)
    first, costs = results[0], read_costs(Path(out) / "cost.json")
    about = provenance()
    arms, baselines = _summarise_arms(results), _find_baselines(Path(out), first)
    claims = comparisons.judge_comparisons(results, costs["arms"])
    variants = comparisons.judge_variants(results) + comparisons.judge_own(results)
    has_meteor = all(result["nlg"]["image_to_text"]["METEOR"] for result in results)
    content = {
        "study": first["data"]["name"],
        "command": command,
        "rule": comparisons.RULE,
        "commit": about["commit"],
        "time": about["time"],
        "data": first["data"],
        "profile": profile,
        "settings": settings,
        "seeds": sorted({result["seed"] for result in results}),
        "gallery": _describe_gallery(first),
        "trained_on": _distinct([_describe_training(result) for result in results]),
        "claims": standing.hold_back(claims, arms, baselines),
        "variants": standing.hold_back(variants, arms, baselines),
        "baselines": baselines,
        "repeat": _repeat_command(results, profile, settings, tuned),
        "null_control": [
            {"arm": result["arm"], "seed": result["seed"], **result["both_orders"]}
            for result in results
            if "both_orders" in result
        ],
        "arms": arms,
        "cost": costs,
        "config": {part: first["config"][part] for part in ("model", "train")},
        "nlg_note": None if has_meteor else text_scores.NO_JAVA,
    }
    write_json(Path(out) / "study.json", content)
    return content


def _find_baselines(out: Path, result: dict) -> dict | None:
    """OUT/baselines.json, as far as the tables show it. RunError if it is of other data."""
    path = out / "baselines.json"
    if not path.exists():
        return None
    baselines = read_baselines(path)
    if baselines["data"]["sha256"] != result["data"]["sha256"]:
        raise RunError(f"{path} is of other data than the study; remove it, and it is made again")
    return {"rows": baselines["rows"]}


def _repeat_command(results: list[dict], profile: str, settings: dict, tuned: Path | None) -> str:
    count = max(result["seed"] for result in results) + 1
    changed = "".join(f" --set {key}={value}" for key, value in settings.items())
    if tuned is not None:
        changed += f" --tuned {tuned}"
    return (
        f"python -m benchmarks.study --data DIR --out OUT --seeds {count} --profile {profile}"
        f"{changed} --arms …"
    )


def _describe_gallery(result: dict) -> dict:
    test = result["test"]
    return {
        "images": len(test["patient_of_pair"]),
        "distinct_texts": max(test["text_of_pair"]) + 1,
        "patients": max(test["patient_of_pair"]) + 1,
    }


def _describe_training(result: dict) -> dict:
    return {
        "hardware": result["hardware"],
        "versions": result["versions"],
        "commit": result["commit"],
        "precision": result["training"]["precision"],
    }


def _distinct(items: list[dict]) -> list[dict]:
    return list({json.dumps(item, sort_keys=True): item for item in items}.values())


def _summarise_arms(results: list[dict]) -> dict[str, dict]:
    """The arms of which there are results, in the order of ARMS, then own ones, each over its seeds."""
    by_seed = sorted(results, key=lambda result: result["seed"])
    arms = {}
    own = [name for name in dict.fromkeys(run["arm"] for run in by_seed) if name not in ARMS]
    for name in [*ARMS, *own]:
        runs = [result for result in by_seed if result["arm"] == name]
        if runs:
            arms[name] = summarise_arm(runs)
    return arms


def summarise_arm(runs: list[dict]) -> dict:
    """One arm over its seeds: every metric as a list (a value per seed), and mean and standard deviation of the Fig. 3
    curves."""
    first = runs[0]
    several = len(runs) > 1
    return {
        "settings": arm_of(first).settings,
        "seeds": [run["seed"] for run in runs],
        "steps": first["training"]["steps"],
        "training_pairs": first["training"].get("training_pairs"),
        "seconds": [run["training"]["training_seconds"] for run in runs],
        "parameters": first["training"]["parameters"],
        "metrics": _combine_metrics(runs),
        "rsum_interval": _rsum_interval(runs) if several else None,
        "validated": _combine_validated(runs),
        "gap": {stage: _per_seed(runs, "gap", stage) for stage in first["gap"]},
        "gradient_agreement": [run["gradient_agreement"] for run in runs],
        "nlg": _combine_curves(runs, _mean),
        "nlg_sd": _combine_curves(runs, _deviation) if several else None,
    }


def _rsum_interval(runs: list[dict]) -> list[float]:
    """95 % interval of RSum over seeds and patients."""
    values, influence = zip(*(measure_value(run, "rsum") for run in runs), strict=True)
    found = find_interval(np.array(values), np.array(influence))
    return _round([found.low, found.high])


def _combine_validated(runs: list[dict]) -> dict | None:
    """RSum on `validate` at each checkpoint, a list of a value per seed; None for results of before it was kept."""
    curves = [dict(run["validated"]) for run in runs if run.get("validated")]
    if len(curves) < len(runs):
        return None
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    return {"steps": steps, "rsum": [_round([curve[step] for curve in curves]) for step in steps]}


def _combine_metrics(runs: list[dict]) -> dict[str, dict]:
    """Every table of metrics over the seeds that have it: older result files lack some."""
    splits = dict.fromkeys(split for run in runs for split in run["metrics"])
    return {
        split: _per_seed([run for run in runs if split in run["metrics"]], "metrics", split)
        for split in splits
    }


def _per_seed(runs: list[dict], kind: str, where: str) -> dict[str, list[float]]:
    """Each number of one table of the result files, a value per seed."""
    names = [name for name in runs[0][kind][where] if name != "step"]
    return {name: _round([run[kind][where][name] for run in runs]) for name in names}


def _combine_curves(runs: list[dict], statistic: Callable) -> dict[str, dict]:
    """Fig. 3's curves, depth by depth over the seeds; None where one was measured without Java."""
    combined = {}
    for direction, names in runs[0]["nlg"].items():
        combined[direction] = {}
        for name in names:
            curves = [run["nlg"][direction][name] for run in runs]
            whole = None not in curves
            combined[direction][name] = _round(statistic(curves)) if whole else None
    return combined


def _mean(curves: list[list[float]]) -> list[float]:
    return np.mean(curves, axis=0).tolist()


def _deviation(curves: list[list[float]]) -> list[float]:
    return np.std(curves, axis=0, ddof=1).tolist()


def _round(values: list[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
