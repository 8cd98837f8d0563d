"""Where mapping before aggregation must help, and where it cannot: heads alone on a phantom of local features
(notebooks/kit/one_patch.py), judged seed by seed by the study's rule. Under a minute.

    python -m benchmarks.one_patch --out benchmarks/results/one_patch.json
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.study.interval import find_interval, judge
from data_prep.commands import QUIET, command_line, run_app
from data_prep.folder import write_json
from data_prep.provenance import provenance
from kit import one_patch

MODULE = "benchmarks.one_patch"
app = typer.Typer(help="Where mapping before aggregation must help.", **QUIET)


@app.command()
def main(
    out: Annotated[Path, typer.Option()], seeds: Annotated[int, typer.Option(min=2)] = 10
) -> None:
    """Train heads of both orders, print the difference MbA − AbM with its interval, write `out`."""
    recalls, rows = one_patch.compare(seeds), []
    for seen_by, poolings in recalls.items():
        for pooling, orders in poolings.items():
            row = {"seen_by": seen_by, "pooling": pooling, **_compare_orders(orders)}
            rows.append(row)
            print(_format_row(row))
    content = {
        "measure": "R@1 in percent",
        "gallery": one_patch.GALLERY,
        "seeds": seeds,
        "rows": rows,
        "every_seed": recalls,
        **provenance(command_line(MODULE)),
    }
    write_json(out, content)


def _compare_orders(recalls: dict[str, list[float]]) -> dict:
    """order → R@1 of every seed; → means, the difference with its interval, and the verdict."""
    mba, abm = np.array(recalls["mba"]), np.array(recalls["abm"])
    difference = find_interval(mba - abm)
    return {
        "mba": float(mba.mean()),
        "abm": float(abm.mean()),
        "difference": difference.effect,
        "interval": [difference.low, difference.high],
        "MbA helps": judge(difference.low, difference.high),
    }


def _format_row(row: dict) -> str:
    low, high = row["interval"]
    return (
        f"{row['seen_by']:12s} {row['pooling']:10s} MbA {row['mba']:5.1f}  AbM {row['abm']:5.1f}  "
        f"difference {row['difference']:+6.1f}  [{low:+.1f}, {high:+.1f}]  {row['MbA helps']}"
    )


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
