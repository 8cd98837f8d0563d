"""What a step of the variants of MCR costs beside MCR's own: whether equal steps of them are equal time as well. The
loss weights are not among them: they change a factor, and no computation.

    python benchmarks/variant_cost.py --data data/phantom --out benchmarks/results/variant_cost.json
"""

import shlex
import statistics
import sys
from pathlib import Path
from typing import Annotated

import typer

from mcr_lib import run_folder, step_cost
from mcr_lib.arms import chosen
from mcr_lib.config import resolve


def main(data: Annotated[Path, typer.Option()], out: Annotated[Path, typer.Option()], profile: str = "demo",
         arms: str = "mcr-mba,mcr-abm,pool-mean-mba,pool-mean-abm,pool-attention-mba,pool-attention-abm,linear-mba,"
         "linear-abm", repeats: int = step_cost.REPEATS, device: str = "auto") -> None:
    """Measure in turns, print each arm's seconds relative to the first one's (median over turns), write `out`."""
    where = run_folder.pick_device(device)
    found = step_cost.measured({arm.name: resolve(profile, arm.settings) for arm in chosen(arms)}, data, where, repeats)
    own = next(iter(found.values()))["seconds"]
    relative = {name: statistics.median(a / b for a, b in zip(cost["seconds"], own, strict=True))
                for name, cost in found.items()}
    for name, ratio in relative.items():
        print(f"{name:22s} {ratio:.3f}")
    run_folder.write_json(out, {"profile": profile, "arms": found, "relative_seconds": relative,
                                **run_folder.provenance(shlex.join(["python", *sys.argv]))})


if __name__ == "__main__":
    typer.run(main)
