"""What a training step of an arm costs in the study's own conditions: FLOPs, seconds, peak memory; kept as
OUT/cost.json, from which arms of equal cost have their steps. FLOPs are counted, so they are the same everywhere;
seconds are one machine's. Real batches, read as training reads them, and each
measurement in a fresh process of its own, so that none profits from what another left behind. Not here: where the FLOPs
go, part by part (notebook 03), and training itself.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cost.processes import run_in_own_process
from benchmarks.cost.subjects import make_batch
from benchmarks.study.arms import ARMS, Arm
from benchmarks.study.comparisons import COST_ARMS
from benchmarks.study.files import read_costs
from data_prep import folder
from data_prep.folder import write_json
from data_prep.machine import progress
from data_prep.provenance import peak_memory, provenance
from kit import cost
from mcr_lib.config import RunConfig
from mcr_lib.data import PairData, TrainBatches
from mcr_lib.engine.precision import autocast_dtype, precision_name
from mcr_lib.engine.run_folder import RunError
from mcr_lib.model import MCR
from mcr_lib.tokenizer import load_tokenizer, make_tokenizer, with_vocabulary
from mcr_lib.trainer import Trainer, named_losses

WARM_UP, STEPS, REPEATS = 2, 16, 5  # steps, steps, processes per arm
ABOUT = ("versions", "hardware", "commit", "time")


# ---------------------------------------------------------------------------------------------------- OUT/cost.json


def complete_costs(
    path: Path,
    plan: Iterable[Arm],
    config: RunConfig,
    data: Path,
    device: torch.device,
    repeats: int,
) -> dict:
    """The costs in cost.json: of the two arms that the claims compare, and of those that arms of equal cost need.

    What is not there is measured first; a second machine is handed the file. RunError if it was measured otherwise.
    """
    plan, costs = list(plan), _read_costs(path, config, device)
    new = _find_timed_arms(plan, costs)
    names = [name for name in COST_ARMS if name not in costs["arms"]]
    names = list(dict.fromkeys([*names, *new, *new.values()]))
    counted = _find_counted_arms(plan, costs)
    if not names and not counted:
        return costs
    known = ARMS | {arm.plain_name: arm for arm in plan}  # of these some with other settings
    configs = {name: _with_settings(config, known[name].settings) for name in [*names, *counted]}
    timed = {name: configs[name] for name in names}
    measured = measure_step_costs(timed, data, device, repeats) if timed else {}
    costs["flops"] |= count_flops({name: configs[name] for name in counted}, data)
    steps_of = {}
    for arm, other in new.items():
        steps_of[arm] = _median_ratio(measured[other]["seconds"], measured[arm]["seconds"])
    about = provenance()
    costs |= {
        "arms": measured | costs["arms"],
        "steps_of": costs["steps_of"] | steps_of,
        "threads": torch.get_num_threads(),
        **{key: about[key] for key in ABOUT},
    }
    write_json(path, costs)
    return costs


def _find_timed_arms(plan: Iterable[Arm], costs: dict) -> dict[str, str]:
    """Arm → the arm whose time it gets, where that was not measured yet."""
    given = {arm.plain_name: arm.budget_of for arm in plan if arm.budget == "time"}
    return {arm: other for arm, other in given.items() if arm not in costs["steps_of"]}


def _find_counted_arms(plan: Iterable[Arm], costs: dict) -> list[str]:
    """The arms whose operations are still to be counted."""
    asked = []
    for arm in plan:
        if arm.budget == "flops":
            asked += [arm.plain_name, arm.budget_of]
    return [name for name in dict.fromkeys(asked) if name not in costs["flops"]]


def steps_ratio(arm: Arm, costs: dict) -> float:
    """How many of its steps cost what one step of the arm costs whose budget it has."""
    if arm.budget == "flops":
        return costs["flops"][arm.budget_of] / costs["flops"][arm.plain_name]
    return costs["steps_of"][arm.plain_name]


def _read_costs(path: Path, config: RunConfig, device: torch.device) -> dict:
    """What is in cost.json, or what it begins with. RunError if it was measured in other conditions."""
    conditions = {
        "device": device.type,
        "batch_size": config.train.batch_size,
        "precision": precision_name(autocast_dtype(config.train.precision, device)),
    }
    if not path.exists():
        return {"arms": {}, "steps_of": {}, "flops": {}, **conditions}
    costs = {"flops": {}, **read_costs(path)}
    for key, value in conditions.items():
        if costs.get(key) != value:
            raise RunError(
                f"{path} was measured with {key}={costs.get(key)!r}, now it is {value!r}; name another --out"
            )
    return costs


def _with_settings(config: RunConfig, settings: dict) -> RunConfig:
    parts = {}
    for name in ("model", "train"):
        part = getattr(config, name)
        own = {key: value for key, value in settings.items() if key in type(part).model_fields}
        parts[name] = part.model_copy(update=own)
    return config.model_copy(update=parts)


def _median_ratio(seconds: list[float], others: list[float]) -> float:
    """Repeat by repeat, as they took turns: a slow minute slows both."""
    return statistics.median(a / b for a, b in zip(seconds, others, strict=True))


# ------------------------------------------------------------------------------------------------------- measuring


def measure_step_costs(
    configs: dict[str, RunConfig], data: Path, device: torch.device, repeats: int = REPEATS
) -> dict[str, dict]:
    """name → {seconds, peak_bytes: a list, one per repeat; flops: per pair} of a step of each configuration on the
    pairs of `data`, all with the first one's vocabulary.

    They take turns, so that what slows the machine down for a while slows all of them. RunError if a measuring process
    dies (out of memory).
    """
    tokenizer = make_tokenizer(next(iter(configs.values())), folder.read(data))
    configs = {name: with_vocabulary(config, tokenizer) for name, config in configs.items()}
    costs = {}
    for name, config in configs.items():
        costs[name] = {"seconds": [], "peak_bytes": [], "flops": count_step_flops(config)}
    context = multiprocessing.get_context("forkserver")
    # torch is imported once; each child starts clean from there
    context.set_forkserver_preload(["benchmarks.study.step_cost"])
    with tempfile.TemporaryDirectory() as kept:
        tokenizer.save_pretrained(kept)
        turns = list(configs) * repeats
        for name in progress(turns, desc="cost of a step", unit="process", leave=False):
            config = configs[name].model_dump(mode="json")
            values = run_in_own_process(
                context, _measure_step, name, config, data, Path(kept), device
            )
            for key, value in values.items():
                costs[name][key].append(value)
    return costs


def count_flops(configs: dict[str, RunConfig], data: Path) -> dict[str, float]:
    """name → operations per pair, all with the vocabulary that is trained on `data` for the first."""
    if not configs:
        return {}
    tokenizer = make_tokenizer(next(iter(configs.values())), folder.read(data))
    return {
        name: count_arm_flops(ARMS[name], with_vocabulary(config, tokenizer))
        for name, config in configs.items()
    }


def count_arm_flops(arm: Arm, config: RunConfig) -> float:
    """Operations per pair of a step of an arm. Those of a method that compares words with the patches of all images
    grow with the batch: counted in batches of 2 and 4 pairs, and drawn on to the batch of training."""
    if arm.kind is MCR:
        return count_step_flops(config)
    two, four = (count_step_flops(config, pairs, arm.kind) for pairs in (2, 4))
    return two + (four - two) / 2 * (config.train.batch_size - 2)


def count_step_flops(config: RunConfig, pairs: int = 2, kind: type[MCR] = MCR) -> float:
    """Floating-point operations of forward and backward of one pair with a report of the longest length (a multiply-add
    counts as two)."""
    model, batch = kind(config.model), make_batch(config.model, pairs, torch.device("cpu"))

    def take_step() -> None:
        total: Tensor = sum(named_losses(model(batch)).values())
        total.backward()

    return cost.flops(take_step) / pairs


def _measure_step(
    _name: str, config: dict, data: Path, tokenizer: Path, device: torch.device
) -> dict[str, float]:
    """Mean seconds of a step, waiting for its data included, and peak bytes above what the process held when it had
    read those data and had no model."""
    config = RunConfig.model_validate(config)
    pairs = PairData(data, "train", load_tokenizer(tokenizer), config.model, config.train.views)
    batches = TrainBatches(pairs, config.train, device)
    for _ in batches(0, WARM_UP + STEPS):
        pass
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_memory(device)
    torch.manual_seed(0)
    trainer = Trainer(MCR(config.model), batches, config.train, run=Path(), device=device)
    trainer.model.train()
    if config.train.compile:  # compiling, shape by shape, is no part of a step
        _time_steps(trainer)
    ends = _time_steps(trainer)
    return {
        "seconds": (ends[-1] - ends[WARM_UP - 1]) / STEPS,
        "peak_bytes": peak_memory(device) - before,
    }


def _time_steps(trainer: Trainer) -> list[float]:
    """When each of the steps ended, in seconds of the clock."""
    ends = []
    for parts in trainer.batches(0, WARM_UP + STEPS):
        trainer.train_step(parts)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        ends.append(time.perf_counter())
    return ends
