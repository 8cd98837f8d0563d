"""A fair search: the same draws of hyper-parameters for every arm, at a part of the length, judged on `validate`.

    python -m benchmarks.study.search --data DIR --out OUT --arms two-stream-mba,mcr-mba@flops --set steps=375

Draw 0 is the profile as it stands. Every arm gets the operations that the study gives it. The seeds are none of the
study's, and the test split is not read. What is done is not done again, several processes on one folder share the
runs, and OUT/search.json is written by whoever finds all of them done; `benchmarks.study --tuned` takes it. Not here:
a search that looks for the best there is. Eight draws only say whether the profile favours one arm.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
import typer

from benchmarks.study.arms import ARMS, Arm, parse_arms
from benchmarks.study.measure import read_validated
from benchmarks.study.runs import PlannedRun, open_folder, resolve_run, share_runs
from benchmarks.study.step_cost import count_flops
from data_prep.commands import QUIET, UsageError, command_line, option, run_app
from data_prep.folder import describe_data, write_json
from data_prep.own_files import read_json
from data_prep.provenance import provenance
from mcr_lib.__main__ import Data, Device, Profile, Set
from mcr_lib.config import ConfigError, parse_settings, resolve
from mcr_lib.engine.distributed import pick_device
from mcr_lib.engine.run_folder import RunError
from mcr_lib.run import train_run

MODULE = "benchmarks.study.search"
FIRST_SEED = 100  # the study's are 0, 1, …
GENERATOR = 0  # of the draws
MEASURE = "rsum (0–600) on the split validate, unmasked, text-identical, last step"

app = typer.Typer(help="The same draws of hyper-parameters for every arm, on `validate`.", **QUIET)


@app.command()
def main(
    data: Data,
    out: option(Path, "the search's folder; what is in it is not done again"),
    arms: option(str, "arms or groups, by commas"),
    draws: option(int, "settings that every arm is trained with, the profile's among them") = 8,
    seeds: option(int, "seeds of each arm with each draw") = 2,
    profile: Profile = "demo",
    settings: Set = [],  # noqa: B006 (typer copies it)
    device: Device = "auto",
) -> None:
    """Train what is missing, print RSum on `validate` of each arm with each draw, write OUT/search.json."""
    if draws < 1 or seeds < 1:
        raise UsageError("--draws and --seeds take 1 or more")
    content = run_search(
        data,
        out,
        parse_arms(arms),
        draw_settings(draws),
        seeds,
        profile,
        parse_settings(settings),
        device=pick_device(device),
        command=command_line(MODULE),
    )
    print(format_search(content))


def draw_settings(count: int) -> list[dict]:
    """The profile (nothing changed), then `count` - 1 random settings, always the same; rates log-uniform, a factor of
    3 around the profile's 0.001."""
    generator = np.random.default_rng(GENERATOR)
    drawn: list[dict] = [{}]
    for _ in range(count - 1):
        weight = float(generator.choice([0.3, 1.0, 3.0]))
        drawn.append(
            {
                "learning_rate": round(1e-3 * 3 ** generator.uniform(-1, 1), 5),
                "weight_decay": float(generator.choice([0.01, 0.05, 0.2])),
                "temperature": float(generator.choice([0.03, 0.07, 0.2])),
                "image_reconstruction_weight": weight,
                "text_reconstruction_weight": weight,
                "dropout": float(generator.choice([0.0, 0.1])),
                "pooling": str(generator.choice(["mean", "max"])),
                "projection": str(generator.choice(["mlp", "linear"])),
                "augment": bool(generator.choice([False, True])),
            }
        )
    return drawn


def run_search(
    data: Path,
    out: Path,
    arms: list[Arm],
    draws: list[dict],
    seeds: int,
    profile: str,
    settings: dict,
    *,
    device: torch.device,
    command: str = "",
) -> dict:
    """arms × draws × seeds, all of one seed before the next → what OUT/search.json says.

    Raises ConfigError for an arm of equal time: a stopwatch is not for many settings.
    """
    timed = [arm.name for arm in arms if arm.budget == "time"]
    if timed:
        raise ConfigError(f"{timed[0]}: a search takes arms of equal operations, @flops")
    about = describe_data(data)
    _keep_plan(out, {"profile": profile, "settings": settings, "data": about["sha256"]})
    costs = {"flops": _count(arms, profile, settings, data)}
    trials = []
    for number in range(len(draws)):
        open_folder(out / f"draw-{number}")
    for seed, (number, draw), arm in product(range(seeds), enumerate(draws), arms):
        config = resolve_run(arm, FIRST_SEED + seed, profile, settings | draw, costs)
        trials.append(PlannedRun(arm, FIRST_SEED + seed, config, out / f"draw-{number}"))

    def finish(trial: PlannedRun) -> None:
        print(f"{trial.out.name}, {trial.name}", flush=True)
        begun = (trial.folder / "config.yaml").exists()
        train_run(
            data, trial.folder, trial.config, resume=begun, device=device, kind=trial.arm.kind
        )
        step, rsum = read_validated(trial.folder)[-1]
        write_json(trial.result, {"steps": step, "rsum": rsum, **provenance(command)})

    share_runs(trials, finish)
    found = {arm.name: _read_arm(arm, out, len(draws), seeds) for arm in arms}
    content = {
        "measure": MEASURE,
        "profile": profile,
        "settings": settings,
        "first_seed": FIRST_SEED,
        "draws": draws,
        "arms": found,
        "data": about,
        **provenance(command),
    }
    write_json(out / "search.json", content)
    return content


def _keep_plan(out: Path, plan: dict) -> None:
    """OUT/plan.json says what is searched there. RunError where it is something else."""
    path = out / "plan.json"
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, plan)
    elif read_json(path, "name another --out") != plan:
        raise RunError(f"{path} is of a search with other settings or data; name another --out")


def _count(arms: list[Arm], profile: str, settings: dict, data: Path) -> dict[str, float]:
    """Operations of a step with the profile's numbers, of the arms that are made equal by them."""
    names = dict.fromkeys(
        name for arm in arms if arm.budget == "flops" for name in (arm.plain_name, arm.budget_of)
    )
    return count_flops(
        {name: resolve(profile, settings | ARMS[name].settings) for name in names}, data
    )


def _read_arm(arm: Arm, out: Path, draws: int, seeds: int) -> dict:
    rsums, steps = [], None  # of the rsums: draws, seeds
    for number in range(draws):
        row = []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            path = out / f"draw-{number}" / "results" / f"{arm.name}-seed{seed}.json"
            result = read_json(path, "remove it, and search again")
            row.append(result["rsum"])
            steps = result["steps"]
        rsums.append(row)
    best = int(np.argmax(np.mean(rsums, axis=1)))
    return {"steps": steps, "rsum": rsums, "best": best}


def format_search(content: dict) -> str:
    """A row per arm: the mean over seeds with each draw, the best one marked, and what it gains over the profile."""
    numbers = range(len(content["draws"]))
    lines = [
        "| arm | steps | profile | " + " | ".join(f"draw {n}" for n in numbers[1:]) + " | gain |"
    ]
    lines.append("|---" * (len(content["draws"]) + 3) + "|")
    for name, arm in content["arms"].items():
        means = np.mean(arm["rsum"], axis=1)
        cells = [f"**{m:.0f}**" if n == arm["best"] else f"{m:.0f}" for n, m in enumerate(means)]
        gain = means[arm["best"]] - means[0]
        lines.append(f"| {name} | {arm['steps']} | " + " | ".join(cells) + f" | {gain:+.0f} |")
    for number, draw in enumerate(content["draws"][1:], 1):
        lines.append(f"\ndraw {number}: " + ", ".join(f"{key} {v}" for key, v in draw.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
