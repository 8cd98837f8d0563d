"""The study: arms × seeds, one run folder each, one result file each, and from these the verdicts (summary.py).

    OUT/runs/<arm>-seed<n>/     run folders, as `train` leaves them
    OUT/results/<arm>-seed<n>.json   what was measured of it: numbers only, query by query; no text, no patient's name
    OUT/cost.json               seconds, memory and FLOPs of a step, of the arms where they are compared or set equal
    OUT/baselines.json          what can be had without the method: chance, a linear model, oracles
    OUT/study.json              arms, claims, verdicts: small enough to commit

What is there is not done again, and what was interrupted goes on: start the same command once more. Several processes
on one folder share the runs; halves made on two machines are put together by copying `results/` (or --merge). Not
here: what an arm is (arms.py), what is measured of a run (measure.py).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from benchmarks.baselines import measure_baselines
from benchmarks.study import step_cost, text_scores
from benchmarks.study.arms import GROUPS, Arm, arm_of, own_settings, parse_arms, with_draws
from benchmarks.study.averaged import kind_at
from benchmarks.study.files import read_result, read_search
from benchmarks.study.measure import keep_middle_gap, measure_run
from benchmarks.study.summary import flatten_config, summarise
from data_prep.folder import describe_data, locked, write_json
from data_prep.folder import read as read_folder
from data_prep.provenance import provenance
from mcr_lib.config import ConfigError, RunConfig, read_config, resolve
from mcr_lib.data import usable_rows
from mcr_lib.engine.checkpoint import CheckpointError
from mcr_lib.engine.run_folder import RunError
from mcr_lib.model import MCR
from mcr_lib.run import train_run
from mcr_lib.trainer import TrainingStopped


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed: how it is trained, and where it lies in the study's folder OUT."""

    arm: Arm
    seed: int
    config: RunConfig
    out: Path

    @property
    def name(self) -> str:
        return f"{self.arm.name}-seed{self.seed}"

    @property
    def kind(self) -> type[MCR]:
        """The class of its model: of a training at a constant rate the weights are averaged."""
        return kind_at(self.config.train.schedule, self.arm.kind)

    @property
    def folder(self) -> Path:
        return self.out / "runs" / self.name

    @property
    def result(self) -> Path:
        return self.out / "results" / f"{self.name}.json"

    @property
    def lock(self) -> Path:
        return self.out / ".locks" / self.name


def run_study(
    data: Path,
    out: Path,
    *,
    arms: str = "core",
    own_arms: tuple[str, ...] = (),
    tuned: Path | None = None,
    seeds: str = "5",
    profile: str = "demo",
    settings: dict | None = None,
    device: torch.device,
    command: str = "",
    merge: tuple[Path, ...] = (),
    cost_repeats: int = step_cost.REPEATS,
    scored: int = text_scores.MOST,
    with_baselines: bool = True,
) -> dict:
    """Train and measure what is missing of arms × seeds ('5': 0 … 4; '3-4': these), then judge all in OUT/results.

    Seed by seed, all arms of one before the next: stopped anywhere, the arms are about equally far. tuned: search.json,
    whose best draw each of its arms gets. Returns what study.json says. Raises ConfigError, RunError, DataError before
    anything is trained.
    """
    data, out, settings = Path(data), Path(out), settings or {}
    plan, numbers = parse_arms(arms, own_arms), parse_seeds(seeds)
    if tuned is not None:
        search = read_search(tuned)
        if search["profile"] != profile:
            raise RunError(f"{tuned} is of the profile {search['profile']}, not {profile}")
        plan = with_draws(plan, search)
    config = resolve(profile, settings)
    _check_splits(data, config)
    if config.train.steps is None:  # arms of equal cost get more steps, or fewer
        settings = settings | {"steps": count_steps(data, config)}
        config = resolve(profile, settings)
    about = describe_data(data)
    open_folder(out, merge)
    with locked(out / ".cost.lock"):  # a second process on this folder waits, and finds it measured
        path = out / "cost.json"
        costs = step_cost.complete_costs(path, plan, config, data, device, cost_repeats)
        if with_baselines and not (out / "baselines.json").exists():
            write_json(out / "baselines.json", measure_baselines(data))
    runs = []
    for seed, arm in product(numbers, plan):
        run_config = resolve_run(arm, seed, profile, settings, costs)
        runs.append(PlannedRun(arm, seed, run_config, out))
    for run in runs:
        _check_stored(run, about)

    def finish(run: PlannedRun) -> None:
        train_and_measure(run, data, device, command, scored)

    share_runs(runs, finish)
    return summarise(out, profile=profile, settings=settings, command=command, tuned=tuned)


def run_reduced_study(
    data: Path, out: Path, profile: str, settings: dict, *, device: torch.device, command: str = ""
) -> dict:
    """A study small enough for `make reproduce`.

    Three arms, two seeds, a hundredth of the steps, costs twice, the reports found by 20 queries scored (METEOR takes
    longer than such a training), and no baselines: so short a training decides nothing on retrieval.
    """
    steps = max(2, round((resolve(profile, settings).train.steps or 6000) / 100))
    return run_study(
        data,
        out,
        arms="mcr-mba,mcr-abm,two-stream-mba",
        seeds="2",
        profile=profile,
        settings={**settings, "steps": steps},
        device=device,
        command=command,
        cost_repeats=2,
        scored=20,
        with_baselines=False,
    )


# ---------------------------------------------------------------------------------------------------- what to run


def parse_seeds(text: str) -> range:
    """'5' → 0 … 4; '3-4' → 3, 4: halves of a study for two machines. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    seeds = range(0)
    if match:
        first, last = match.groups()
        seeds = range(int(first)) if last is None else range(int(first), int(last) + 1)
    if not seeds:
        raise ConfigError(f"--seeds takes a number, 5, or a range, 3-4; got {text!r}")
    return seeds


def resolve_run(arm: Arm, seed: int, profile: str, settings: dict, costs: dict) -> RunConfig:
    """The configuration of one run: the profile, then the study's settings, then the arm's, then the seed."""
    config = resolve(profile, {**settings, **arm.settings, "seed": seed})
    if arm.budget_of is None:
        return config
    steps = round(config.train.steps * step_cost.steps_ratio(arm, costs))
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})


def count_steps(data: Path, config: RunConfig) -> int:
    """How many steps the configuration's epochs are on these data, as training counts them."""
    pairs = len(usable_rows(read_folder(data), "train", config.train.views))
    return max(1, round(config.train.epochs * pairs / config.train.batch_size))


def _check_splits(data: Path, config: RunConfig) -> None:
    table = read_folder(data)
    for split in ("train", "validate", "test"):
        if len(usable_rows(table, split, config.train.views)) < 2:
            raise RunError(
                f"{data}: a study needs pairs to train on, to validate with and to test; split {split!r} "
                "has fewer than 2"
            )


def _check_stored(run: PlannedRun, about: dict) -> None:
    """Raise RunError if OUT holds this arm and seed with other settings or other data."""
    if run.result.exists():
        where, stored = run.result, read_result(run.result)
        if stored["data"]["sha256"] != about["sha256"]:
            raise RunError(
                f"{where} was measured on other data ({stored['data']['name']}); name another --out"
            )
        config = stored["config"]
    elif (run.folder / "config.yaml").exists():
        where = run.folder
        config = read_config(run.folder / "config.yaml").model_dump(mode="json")
    else:
        return
    then, now = flatten_config(config), flatten_config(run.config.model_dump(mode="json"))
    for key, value in now.items():
        if then.get(key) != value:
            raise RunError(
                f"{where} was made with {key}={then.get(key)!r}, now it is {value!r}; "
                "name another --out"
            )


# ------------------------------------------------------------------------------------------------------ the folder


def open_folder(out: Path, merge: tuple[Path, ...] = ()) -> None:
    """Make OUT's folders, and put in what other studies have. RunError where two contradict."""
    for folder in ("results", ".locks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for half in merge:
        _merge_study(Path(half), out)


def _merge_study(half: Path, out: Path) -> None:
    """Copy another study's results (and its costs and baselines, if there are none here). RunError where the two
    contradict."""
    theirs = sorted((half / "results").glob("*.json"))
    if not theirs:
        raise RunError(f"{half}: no study to merge, there is nothing in {half / 'results'}")
    for path in theirs:
        ours = out / "results" / path.name
        if not ours.exists():
            shutil.copy2(path, ours)
        elif _weights_of(ours) != _weights_of(path):
            raise RunError(
                f"{path} and {ours} are two different runs of one arm and seed; remove one of them"
            )
    for name in ("cost.json", "baselines.json"):
        if (half / name).exists() and not (out / name).exists():
            shutil.copy2(half / name, out / name)


def _weights_of(result: Path) -> str:
    return read_result(result)["weights_sha256"]


def share_runs(runs: list[PlannedRun], finish) -> None:
    """Finish every run that has no result, each by one of the processes that are at this folder."""
    for wait in (False, True):  # first what no other process is at, then what it has not finished
        for run in runs:
            if run.result.exists():
                continue
            with locked(run.lock, wait) as ours:
                if ours and not run.result.exists():
                    finish(run)


# --------------------------------------------------------------------------------------------------------- one run


def train_and_measure(
    run: PlannedRun, data: Path, device: torch.device, command: str, scored: int
) -> None:
    """Train one arm with one seed, or find an arm that is the same under another name, and leave the result file."""
    twin = _find_twin(run)
    if twin is not None:
        twin.pop("own_settings", None)
        about = {"arm": run.arm.name, "same_as": twin["arm"], **own_settings(run.arm)}
        write_json(run.result, twin | about)
        return
    steps = run.config.train.steps or f"{run.config.train.epochs} epochs of"
    print(f"{run.arm.name}, seed {run.seed}: {steps} steps", flush=True)
    if not (run.folder / "manifest.json").exists():
        _train(run, data, device, command)
    is_null = run.arm in GROUPS["null"]
    measured = measure_run(data, run.folder, device, kind=run.kind, null=is_null, scored=scored)
    about = {"arm": run.arm.name, "seed": run.seed, **own_settings(run.arm)}
    write_json(run.result, {**about, **measured, **provenance(command)})


def _find_twin(run: PlannedRun) -> dict | None:
    """The result of another arm that has this run's configuration, whole for what is measured of this one."""
    own = flatten_config(run.config.model_dump(mode="json"))
    for path in sorted((run.out / "results").glob(f"*-seed{run.seed}.json")):
        other = read_result(path)
        is_whole = run.arm not in GROUPS["null"] or "both_orders" in other
        is_whole = is_whole and arm_of(other).kind is run.arm.kind
        if is_whole and flatten_config(other["config"]) == own:
            return other
    return None


def _train(run: PlannedRun, data: Path, device: torch.device, command: str) -> None:
    try:
        train_run(
            data,
            run.folder,
            run.config,
            resume=(run.folder / "config.yaml").exists(),
            device=device,
            callbacks=[keep_middle_gap(data, run.folder, device)],
            command=command,
            kind=run.kind,
        )
    except (TrainingStopped, CheckpointError) as stopped:
        raise type(stopped)(
            f"{run.arm.name}, seed {run.seed}: {stopped} (for a study: the same command again)"
        ) from None
