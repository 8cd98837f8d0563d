"""Where mapping before aggregation must help, and where it cannot: heads alone on a phantom of local features
(mcr_lib/one_patch.py), judged seed by seed by the study's rule. Under a minute.

    python benchmarks/one_patch.py --out benchmarks/results/one_patch.json
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mcr_lib import one_patch, run_folder, verdict


def main(out: Annotated[Path, typer.Option()], seeds: Annotated[int, typer.Option(min=2)] = 10) -> None:
    """Train heads of both orders, print the difference MbA − AbM with its interval, write `out`."""
    found, rows = one_patch.compare(seeds), []
    for seen_by, poolings in found.items():
        for pooling, orders in poolings.items():
            between = verdict.interval(np.array(orders["mba"]) - np.array(orders["abm"]))
            rows.append({"seen_by": seen_by, "pooling": pooling, **{k: float(np.mean(v)) for k, v in orders.items()},
                         "difference": between.effect, "interval": [between.low, between.high],
                         "MbA helps": verdict.judge(between.low, between.high)})
            print("{seen_by:12s} {pooling:10s} MbA {mba:5.1f}  AbM {abm:5.1f}  difference {difference:+6.1f}  "
                  "[{interval[0]:+.1f}, {interval[1]:+.1f}]  {MbA helps}".format(**rows[-1]))
    run_folder.write_json(out, {"measure": "R@1 in percent", "gallery": one_patch.GALLERY, "seeds": seeds, "rows": rows,
                                "every_seed": found, **run_folder.provenance(shlex.join(["python", *sys.argv]))})


if __name__ == "__main__":
    typer.run(main)
