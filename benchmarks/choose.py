"""The one choice of a hyper-parameter: the learning rate of each arm of the study, the same three rates for every arm,
one seed that the study does not use, judged on the split `validate` at the last step. The test split is not read.

    python benchmarks/choose.py --data data/phantom --runs runs/choice --out benchmarks/results/choice_phantom.json

What is trained already is not trained again. --arms does a part, for a second process or machine; the result file is
written by the one that finds all of them done.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mcr_lib import run_folder
from mcr_lib.arms import GROUPS, chosen
from mcr_lib.config import resolve

RATES = (5e-4, 1e-3, 2e-3)
SEED = 100


def main(data: Annotated[Path, typer.Option()], runs: Annotated[Path, typer.Option()],
         out: Annotated[Path, typer.Option()], arms: str = "core", profile: str = "demo", steps: int = 500,
         device: str = "auto") -> None:
    """Train what is missing, print the rsum on validation of each arm at each rate, write `out`."""
    command, where = shlex.join(["python", *sys.argv]), run_folder.pick_device(device)
    for rate in RATES:
        for arm in chosen(arms):
            run = runs / f"{arm.name}-{rate:g}"
            if not (run / "metrics.json").exists():
                config = resolve(profile, {"steps": steps, **arm.settings, "learning_rate": rate, "seed": SEED})
                if not (run / "manifest.json").exists():
                    run_folder.train(data, run, config, resume=(run / "config.yaml").exists(), device=where)
                run_folder.evaluate(run, data, split="validate", device=where, command=command)
    folders = {arm.name: {f"{rate:g}": runs / f"{arm.name}-{rate:g}" for rate in RATES} for arm in GROUPS["core"]}
    if missing := [run for of_arm in folders.values() for run in of_arm.values()
                   if not (run / "metrics.json").exists()]:
        print(f"{len(missing)} runs are still to be done, {missing[0].name} among them: {out} is not written")
        return
    rows = {arm: {rate: _row(run) for rate, run in of_arm.items()} for arm, of_arm in folders.items()}
    for arm, rates in rows.items():
        print(f"{arm:24s}", *(f"{rate}: {row['rsum']:6.1f}  " for rate, row in rates.items()))
    run_folder.write_json(out, {
        "measure": "rsum (0–600) on the split validate, unmasked, text-identical, last step", "seed": SEED,
        "profile": profile, "steps": steps, "rates": RATES, "arms": rows,
        "best": {arm: max(rates, key=lambda rate: rates[rate]["rsum"]) for arm, rates in rows.items()},
        "data": run_folder.describe_data(data), **run_folder.provenance(command)})


def _row(run: Path) -> dict:
    metrics, trained = (json.loads((run / name).read_text()) for name in ("metrics.json", "manifest.json"))
    return {"rsum": metrics["rsum"], "interval": metrics["interval"]["rsum"],
            "precision": trained["precision"], "commit": trained["commit"]}


if __name__ == "__main__":
    typer.run(main)
