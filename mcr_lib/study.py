"""The study: arms × seeds, one run folder each, one result file each, and from these the verdicts (claims.py).

    OUT/runs/<arm>-seed<n>/     run folders, as `train` leaves them
    OUT/results/<arm>-seed<n>.json   what was measured of it: numbers only, query by query; no text, no patient's name
    OUT/cost.json               seconds, memory and FLOPs of a step, of the arms where they are compared or set equal
    OUT/study.json              arms, claims, verdicts: small enough to commit

What is there is not done again, and what was interrupted goes on: start the same command once more. Several processes
on one folder share the runs; halves made on two machines are put together by copying `results/` (or --merge). Not
here: what an arm is (arms.py).
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import torch

from data_prep.folder import locked
from data_prep.folder import read as read_folder

from . import claims, nlg, run_folder, step_cost
from .arms import ARMS, GROUPS, Arm, chosen
from .config import ConfigError, RunConfig, read_config, resolve
from .data import usable_rows
from .precision import autocast_dtype
from .run_folder import RunError, write_json
from .study_run import keep_middle, measure
from .trainer import TrainingStopped

VOCABULARY = ("vocab_size", "special_token_ids", "mask_token_id")  # what the data decide
ABOUT = ("versions", "hardware", "commit", "time")


def study(data: Path, out: Path, *, arms: str = "core", seeds: str = "5", profile: str = "demo",
          settings: dict | None = None, device: torch.device, command: str = "", merge: tuple[Path, ...] = (),
          cost_repeats: int = step_cost.REPEATS, scored: int = nlg.MOST) -> dict:
    """Train and measure what is missing of arms × seeds ('5': 0 … 4; '3-4': these), then judge all in OUT/results.

    Seed by seed, all arms of one before the next: stopped anywhere, the arms are about equally far. Returns what
    study.json says. Raises ConfigError, RunError, DataError before anything is trained.
    """
    data, out, settings = Path(data), Path(out), settings or {}
    plan, numbers = chosen(arms), which_seeds(seeds)
    config = resolve(profile, settings)
    about, table = run_folder.describe_data(data), read_folder(data)
    for split in ("train", "validate", "test"):
        if len(usable_rows(table, split, config.train.views)) < 2:
            raise RunError(f"{data}: a study needs pairs to train on, to validate with and to test; split {split!r} "
                           "has fewer than 2")
    for folder in ("results", ".locks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for half in merge:
        _merge(Path(half), out)
    with locked(out / ".cost.lock"):  # a second process on this folder waits, and finds it measured
        costs = _costs(data, out, config, plan, device, cost_repeats)
    todo = [(arm, seed, _resolved(arm, seed, profile, settings, costs)) for seed in numbers for arm in plan]
    for arm, seed, wanted in todo:
        _check(out, arm, seed, wanted, about)
    for wait in (False, True):  # first what no other process is at, then what it has not finished
        for arm, seed, wanted in todo:
            if not _result(out, arm.name, seed).exists():
                with locked(out / ".locks" / f"{arm.name}-seed{seed}", wait) as ours:
                    if ours and not _result(out, arm.name, seed).exists():
                        _do(data, out, arm, seed, wanted, device, command, scored)
    return summarise(out, profile=profile, settings=settings, command=command)


def reduced(data: Path, out: Path, profile: str, *, device: torch.device, command: str = "") -> dict:
    """A study small enough for `make reproduce`: three arms, two seeds, a hundredth of the steps, costs twice, and
    the reports found by 20 queries scored (METEOR takes longer than such a training)."""
    steps = max(2, round((resolve(profile).train.steps or 6000) / 100))
    return study(data, out, arms="mcr-mba,mcr-abm,two-stream-mba", seeds="2", profile=profile,
                 settings={"steps": steps}, device=device, command=command, cost_repeats=2, scored=20)


# ---------------------------------------------------------------------------------------------------- what to run

def which_seeds(text: str) -> range:
    """'5' → 0 … 4; '3-4' → 3, 4: halves of a study for two machines. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    seeds = range(0) if not match else range(int(match[1]), int(match[2]) + 1) if match[2] else range(int(match[1]))
    if not seeds:
        raise ConfigError(f"--seeds takes a number, 5, or a range, 3-4; got {text!r}")
    return seeds


def _result(out: Path, arm: str, seed: int) -> Path:
    return out / "results" / f"{arm}-seed{seed}.json"


def _costs(data: Path, out: Path, config: RunConfig, plan: list[Arm], device: torch.device, repeats: int) -> dict:
    """The costs in OUT/cost.json: of the two arms that the claims compare, and of those that arms of equal time need.
    What is not there is measured first; a second machine is handed the file."""
    needs = {_timed(arm): arm.time_of for arm in plan if arm.time_of}  # arm → the arm whose time it gets
    path = out / "cost.json"
    how = {"device": device.type, "batch_size": config.train.batch_size,
           "precision": str(autocast_dtype(config.train.precision, device) or torch.float32).removeprefix("torch.")}
    costs = json.loads(path.read_text()) if path.exists() else {"arms": {}, "steps_of": {}} | how
    for key, value in how.items():
        if (stored := costs.get(key)) != value:
            raise RunError(f"{path} was measured with {key}={stored!r}, now it is {value!r}; name another --out")
    needs = {name: other for name, other in needs.items() if name not in costs["steps_of"]}
    missing = [name for name in claims.COSTS if name not in costs["arms"]]
    if names := dict.fromkeys((*missing, *needs, *needs.values())):
        found = step_cost.measured({name: config.model_copy(update={"model": config.model.model_copy(
            update=ARMS[name].settings)}) for name in names}, data, device, repeats)
        # repeat by repeat, as they took turns: a slow minute slows both
        fit = {name: statistics.median(theirs / own for own, theirs in zip(
            found[name]["seconds"], found[other]["seconds"], strict=True)) for name, other in needs.items()}
        about = run_folder.provenance()
        costs |= {"arms": found | costs["arms"], "steps_of": costs["steps_of"] | fit,
                  "threads": torch.get_num_threads(), **{k: about[k] for k in ABOUT}}
        write_json(path, costs)
    return costs


def _timed(arm: Arm) -> str:
    """The arm whose step an arm of equal time takes."""
    return arm.name.removesuffix("@time")


def _resolved(arm: Arm, seed: int, profile: str, settings: dict, costs: dict) -> RunConfig:
    """The configuration of one run: the profile, then the study's settings, then the arm's, then the seed."""
    config = resolve(profile, {**settings, **arm.settings, "seed": seed})
    if arm.time_of is None:
        return config
    if config.train.steps is None:
        raise RunError(f"arm {arm.name} takes its steps from those of {arm.time_of}: give them with --set steps=…")
    steps = round(config.train.steps * costs["steps_of"][_timed(arm)])
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})


def _flat(config: dict) -> dict:
    return {k: v for k, v in {**config["model"], **config["train"]}.items() if k not in VOCABULARY}


def _check(out: Path, arm: Arm, seed: int, wanted: RunConfig, about: dict) -> None:
    """Raise RunError if OUT holds this arm and seed with other settings or other data."""
    path, run = _result(out, arm.name, seed), out / "runs" / f"{arm.name}-seed{seed}"
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["data"]["sha256"] != about["sha256"]:
            raise RunError(f"{path} was measured on other data ({stored['data']['name']}); name another --out")
        stored = stored["config"]
    elif (run / "config.yaml").exists():
        path, stored = run, read_config(run / "config.yaml").model_dump(mode="json")
    else:
        return
    stored, now = _flat(stored), _flat(wanted.model_dump(mode="json"))
    for key in now:
        if stored.get(key) != now[key]:
            raise RunError(f"{path} was made with {key}={stored.get(key)!r}, now it is {now[key]!r}; "
                           "name another --out")


def _merge(half: Path, out: Path) -> None:
    """Copy another study's results (and its cost.json, if there is none here). RunError where the two contradict."""
    found = sorted((half / "results").glob("*.json"))
    if not found:
        raise RunError(f"{half}: no study to merge, there is nothing in {half / 'results'}")
    for path in found:
        target = out / "results" / path.name
        if target.exists() and json.loads(target.read_text())["weights_sha256"] != \
                json.loads(path.read_text())["weights_sha256"]:
            raise RunError(f"{path} and {target} are two different runs of one arm and seed; remove one of them")
        if not target.exists():
            shutil.copy2(path, target)
    if (half / "cost.json").exists() and not (out / "cost.json").exists():
        shutil.copy2(half / "cost.json", out / "cost.json")


def _do(data: Path, out: Path, arm: Arm, seed: int, config: RunConfig, device: torch.device, command: str,
        scored: int) -> None:
    """Train one arm with one seed, or find an arm that is the same under another name, and leave the result file."""
    for path in sorted((out / "results").glob(f"*-seed{seed}.json")):
        other = json.loads(path.read_text())
        whole = arm not in GROUPS["null"] or "both_orders" in other
        if whole and _flat(other["config"]) == _flat(config.model_dump(mode="json")):
            write_json(_result(out, arm.name, seed), other | {"arm": arm.name, "same_as": other["arm"]})
            return
    run = out / "runs" / f"{arm.name}-seed{seed}"
    print(f"{arm.name}, seed {seed}: {config.train.steps or f'{config.train.epochs} epochs of'} steps", flush=True)
    if not (run / "manifest.json").exists():
        try:
            run_folder.train(data, run, config, resume=(run / "config.yaml").exists(), device=device,
                             callbacks=[keep_middle(data, run, device)], command=command)
        except TrainingStopped as stopped:
            raise TrainingStopped(f"{arm.name}, seed {seed}: {stopped} (for a study: the same command again)") from None
    measured = measure(data, run, device, null=arm in GROUPS["null"], scored=scored)
    write_json(_result(out, arm.name, seed),
               {"arm": arm.name, "seed": seed, **measured, **run_folder.provenance(command)})


# --------------------------------------------------------------------------------------------------- what it says

def results(out: Path) -> list[dict]:
    """All result files of a study. RunError if they are not of one study: other data, or settings that are not the
    arm's own differ."""
    found = [json.loads(path.read_text()) for path in sorted((Path(out) / "results").glob("*.json"))]
    if not found:
        raise RunError(f"{out}: no results yet, {Path(out) / 'results'} is empty")

    def shared(result: dict) -> dict:
        own = {"seed", *ARMS[result["arm"]].settings, *(("steps",) if ARMS[result["arm"]].time_of else ())}
        return {"data": result["data"]["sha256"], "computed in": result["training"]["precision"],
                **{k: v for k, v in _flat(result["config"]).items() if k not in own}}

    steps = {}
    for result in found:
        for key in shared(result).keys() & shared(found[0]).keys():
            if shared(result)[key] != shared(found[0])[key]:
                raise RunError(f"{out}: {result['arm']} seed {result['seed']} and {found[0]['arm']} seed "
                               f"{found[0]['seed']} differ in {key}: they are not of one study")
        if steps.setdefault(result["arm"], result["config"]["train"]["steps"]) != result["config"]["train"]["steps"]:
            raise RunError(f"{out}: the seeds of {result['arm']} were trained for different numbers of steps; give "
                           "both machines the same cost.json")
    return found


def summarise(out: Path, *, profile: str, settings: dict, command: str) -> dict:
    """Judge all results in OUT, write OUT/study.json and return it. Needs no model and no data."""
    found, costs = results(out), json.loads((Path(out) / "cost.json").read_text())
    changed = "".join(f" --set {k}={v}" for k, v in settings.items())
    count = max(r["seed"] for r in found) + 1
    repeat = f"python -m mcr_lib study --data DIR --out OUT --seeds {count} --profile {profile}{changed} --arms …"
    by_arm = {arm: sorted((r for r in found if r["arm"] == arm), key=lambda r: r["seed"]) for arm in ARMS}
    content = {
        "study": found[0]["data"]["name"], "command": command, "rule": claims.RULE,
        **{k: v for k, v in run_folder.provenance().items() if k in ("commit", "time")},
        "data": found[0]["data"], "profile": profile, "settings": settings,
        "seeds": sorted({r["seed"] for r in found}), "gallery": _gallery(found[0]),
        "trained_on": _distinct([{"hardware": r["hardware"], "versions": r["versions"], "commit": r["commit"],
                                  "precision": r["training"]["precision"]} for r in found]),
        "claims": claims.rows(found, costs["arms"]), "variants": claims.variant_rows(found), "repeat": repeat,
        "null_control": [{"arm": r["arm"], "seed": r["seed"], **r["both_orders"]} for r in found if "both_orders" in r],
        "arms": {arm: _arm(runs) for arm, runs in by_arm.items() if runs},
        "cost": costs, "config": {k: found[0]["config"][k] for k in ("model", "train")},
        "nlg_note": None if all(r["nlg"]["image_to_text"]["METEOR"] for r in found) else nlg.NO_JAVA,
    }
    write_json(Path(out) / "study.json", content)
    return content


def _arm(runs: list[dict]) -> dict:
    """One arm over its seeds: every metric as a list (a value per seed), and mean and standard
    deviation of the Fig. 3 curves."""
    def curves(statistic, **how) -> dict:
        found = {way: {name: [r["nlg"][way][name] for r in runs] for name in names}
                 for way, names in runs[0]["nlg"].items()}
        return {way: {name: None if None in seeds else _round(statistic(seeds, axis=0, **how).tolist())  # None: no Java
                      for name, seeds in names.items()} for way, names in found.items()}

    return {
        "settings": ARMS[runs[0]["arm"]].settings, "seeds": [r["seed"] for r in runs],
        "steps": runs[0]["training"]["steps"], "seconds": [r["training"]["training_seconds"] for r in runs],
        "parameters": runs[0]["training"]["parameters"],
        "metrics": {where: {name: _round([r["metrics"][where][name] for r in runs]) for name in names}
                    for where, names in runs[0]["metrics"].items()},
        "gap": {when: {name: _round([r["gap"][when][name] for r in runs]) for name in names if name != "step"}
                for when, names in runs[0]["gap"].items()},
        "gradient_agreement": [r["gradient_agreement"] for r in runs],
        "nlg": curves(np.mean), "nlg_sd": curves(np.std, ddof=1) if len(runs) > 1 else None,
    }


def _round(values: list[float]) -> list[float]:
    return [float(f"{v:.6g}") for v in values]


def _gallery(result: dict) -> dict:
    test = result["test"]
    return {"images": len(test["patient_of_pair"]), "distinct_texts": max(test["text_of_pair"]) + 1,
            "patients": max(test["patient_of_pair"]) + 1}


def _distinct(items: list) -> list:
    return list({json.dumps(item, sort_keys=True): item for item in items}.values())
