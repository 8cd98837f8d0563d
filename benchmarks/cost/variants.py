"""What a step of the variants of MCR costs beside MCR's own: whether equal steps of them are equal time as well. The
loss weights are not among them: they change a factor, and no computation.

    python -m benchmarks.cost.variants --data data/phantom --out benchmarks/results/variant_cost.json
"""

import statistics
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.study import step_cost
from benchmarks.study.arms import parse_arms
from data_prep.commands import QUIET, command_line, run_app
from data_prep.folder import write_json
from data_prep.provenance import provenance
from mcr_lib.config import resolve
from mcr_lib.engine.distributed import pick_device

MODULE = "benchmarks.cost.variants"
ARMS = (
    "mcr-mba,mcr-abm,pool-mean-mba,pool-mean-abm,pool-attention-mba,pool-attention-abm,linear-mba,"
    "linear-abm"
)

app = typer.Typer(help="What a step of the variants of MCR costs.", **QUIET)


@app.command()
def main(
    data: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
    profile: str = "demo",
    arms: str = ARMS,
    repeats: int = step_cost.REPEATS,
    device: str = "auto",
) -> None:
    """Measure in turns, print each arm's seconds relative to the first one's (median over turns), write `out`."""
    where = pick_device(device)
    configs = {arm.name: resolve(profile, arm.settings) for arm in parse_arms(arms)}
    costs = step_cost.measure_step_costs(configs, data, where, repeats)
    first = next(iter(costs.values()))
    relative = {}
    for name, cost in costs.items():
        ratios = [a / b for a, b in zip(cost["seconds"], first["seconds"], strict=True)]
        relative[name] = statistics.median(ratios)
        print(f"{name:22s} {relative[name]:.3f}")
    content = {"profile": profile, "arms": costs, "relative_seconds": relative}
    write_json(out, content | provenance(command_line(MODULE)))


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
