"""The command: python -m tests.fuzz [--share 0.01] [--only "picture, PNG"] [--out FILE.json] [--case KIND SEED].

Prints a row per kind of input; ends with 1 if there was a traceback, a signal, a timeout or a loss.
"""

import json
import random
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from . import all_kinds
from .run import run_kind

COLUMNS = {
    "cases": "cases",
    "read": "read",
    "refused": "refused",
    "traceback": "tracebacks",
    "signal": "signals",
    "timeout": "timeouts",
    "loss": "losses",
    "memory_mb": "memory MB",
    "memory_before_mb": "(before)",
    "slowest_s": "slowest s",
}
FAULTS = ("traceback", "signal", "timeout", "loss")


def main(
    share: Annotated[float, typer.Option(help="of the full run's cases")] = 1.0,
    only: Annotated[list[str] | None, typer.Option(help="these kinds; may be repeated")] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file of results, kinds added to it")
    ] = None,
    case: Annotated[
        tuple[str, int] | None, typer.Option(help="one case, its traceback shown")
    ] = None,
) -> None:
    """Send generated input through every reader."""
    if case:
        return show_case(*case)
    kinds = [kind for kind in all_kinds() if not only or kind.name in only]
    results = json.loads(out.read_text())["kinds"] if out and out.exists() else {}
    for kind in kinds:
        results[kind.name] = run_kind(kind, 0, max(1, round(share * kind.cases)))
        if out:
            out.write_text(json.dumps(report(results), indent=1, ensure_ascii=False) + "\n")
    print(table(results))
    raise typer.Exit(any(row[fault] for row in results.values() for fault in FAULTS))


def show_case(name: str, seed: int) -> None:
    """Run one case in this process; an error is shown with its traceback."""
    kind = next(kind for kind in all_kinds() if kind.name == name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            print("refused" if kind(Path(folder)).case(random.Random(f"{name} {seed}")) else "read")
        except Exception:
            traceback.print_exc(file=sys.stdout)


def report(results: dict) -> dict:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    total = {name: sum(row[name] for row in results.values()) for name in ("cases", *FAULTS)}
    about = {"command": "make fuzz", "commit": commit.stdout.strip(), "seeds": "0 … cases − 1"}
    return {**about, "total": total, "kinds": results}


def table(results: dict) -> str:
    """As Markdown."""
    lines = [
        f"| kind of input | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, row in results.items():
        lines.append(f"| {name} | {' | '.join(f'{row[key]:,}' for key in COLUMNS)} |")
    faults = [
        f"{name}: {' '.join(map(str, fault))}"
        for name, row in results.items()
        for fault in row["faults"]
    ]
    return "\n".join([*lines, *faults])


if __name__ == "__main__":
    typer.run(main)
