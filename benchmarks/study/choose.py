"""The one choice of a hyper-parameter: the learning rate of each arm of the study, the same three rates for every arm,
one seed that the study does not use, judged on the split `validate` at the last step. The test split is not read.

    python -m benchmarks.study.choose --data DIR --runs DIR --out benchmarks/results/choice_phantom.json

What is trained already is not trained again. --arms does a part, for a second process or machine; the result file is
written by the one that finds all of them done.
"""

import sys
from pathlib import Path

import torch
import typer

from benchmarks.study.arms import GROUPS, Arm, parse_arms
from benchmarks.study.files import read_evaluation
from data_prep.commands import QUIET, command_line, option, run_app
from data_prep.folder import describe_data, write_json
from data_prep.provenance import provenance
from data_prep.run_files import read_manifest
from mcr_lib.__main__ import Data, Device, Profile
from mcr_lib.config import resolve
from mcr_lib.engine.distributed import pick_device
from mcr_lib.evaluate import evaluate_run
from mcr_lib.run import train_run

MODULE = "benchmarks.study.choose"
RATES = (5e-4, 1e-3, 2e-3)
SEED = 100

app = typer.Typer(help="The learning rate of each arm, on the split validate.", **QUIET)


@app.command()
def main(
    data: Data,
    runs: option(Path, "folder for the run folders; what is in it is not trained again"),
    out: option(Path, "the result file to write, .json, once all core arms are done"),
    arms: option(str, "arms or groups, by commas") = "core",
    profile: Profile = "demo",
    steps: option(int, "training steps of each run") = 500,
    device: Device = "auto",
) -> None:
    """Train what is missing, print the rsum on validation of each arm at each rate, write `out`."""
    command, where = command_line(MODULE), pick_device(device)
    for rate in RATES:
        for arm in parse_arms(arms):
            settings = {"steps": steps, **arm.settings, "learning_rate": rate, "seed": SEED}
            run = runs / _run_name(arm, rate)
            _train_and_evaluate(data, run, resolve(profile, settings), where, command)
    missing = _find_missing(runs)
    if missing:
        print(
            f"{len(missing)} runs are still to be done, {missing[0]} among them: {out} is not written"
        )
        return
    rows = {arm.name: _read_rates(runs, arm) for arm in GROUPS["core"]}
    for arm, rates in rows.items():
        print(f"{arm:24s}", *(f"{rate}: {row['rsum']:6.1f}  " for rate, row in rates.items()))
    content = {
        "measure": "rsum (0–600) on the split validate, unmasked, text-identical, last step",
        "seed": SEED,
        "profile": profile,
        "steps": steps,
        "rates": RATES,
        "arms": rows,
        "best": {arm: _best_rate(rates) for arm, rates in rows.items()},
        "data": describe_data(data),
        **provenance(command),
    }
    write_json(out, content)


def _run_name(arm: Arm, rate: float) -> str:
    return f"{arm.name}-{rate:g}"


def _train_and_evaluate(data: Path, run: Path, config, device: torch.device, command: str) -> None:
    if (run / "metrics.json").exists():
        return
    if not (run / "manifest.json").exists():
        train_run(data, run, config, resume=(run / "config.yaml").exists(), device=device)
    evaluate_run(run, data, split="validate", device=device, command=command)


def _find_missing(runs: Path) -> list[str]:
    """The runs of the core arms that are not evaluated yet, by name."""
    missing = []
    for arm in GROUPS["core"]:
        for rate in RATES:
            name = _run_name(arm, rate)
            if not (runs / name / "metrics.json").exists():
                missing.append(name)
    return missing


def _read_rates(runs: Path, arm: Arm) -> dict[str, dict]:
    return {f"{rate:g}": _read_row(runs / _run_name(arm, rate)) for rate in RATES}


def _read_row(run: Path) -> dict:
    metrics, manifest = read_evaluation(run / "metrics.json"), read_manifest(run)
    return {
        "rsum": metrics["rsum"],
        "interval": metrics["interval"].get("rsum"),
        "precision": manifest.precision,
        "commit": manifest.commit,
    }


def _best_rate(rates: dict[str, dict]) -> str:
    return max(rates, key=lambda rate: rates[rate]["rsum"])


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
