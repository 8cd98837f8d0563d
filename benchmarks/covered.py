"""Which lines of mcr_lib and data_prep the tests run: `make coverage` runs them all, and this counts.

`python -m benchmarks.covered [--out FILE.json]` takes what `coverage run` left (.coverage.* of every process), prints a
row for each file and ends with 1 below LEAST percent.
"""

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import ROOT

PACKAGES = ("data_prep", "mcr_lib")
LEAST = 95


def count(measured) -> dict[str, dict]:
    """For each file of PACKAGES its lines, how many are run, and which are not. measured: a `coverage.Coverage`."""
    rows = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        _, lines, _, missing, shown = measured.analysis2(str(path))
        run = len(lines) - len(missing)
        rows[str(path.relative_to(ROOT))] = {**share(run, len(lines)), "missing": shown}
    return rows


def share(run: int, lines: int) -> dict:
    return {"lines": lines, "run": run, "percent": round(100 * run / lines, 1) if lines else 100}


def main(out: Annotated[Path | None, typer.Option(help="JSON file of results")] = None) -> None:
    """Count the lines that the tests have run."""
    from coverage import Coverage

    measured = Coverage(config_file=str(ROOT / "pyproject.toml"))
    measured.combine()
    rows = count(measured)
    total = share(*(sum(row[key] for row in rows.values()) for key in ("run", "lines")))
    for name, row in rows.items():
        print(f"{row['percent']:6.1f} %  {name}  {row['missing']}")
    print(f"{total['percent']:6.1f} %  of {total['lines']:,} lines")
    if out:
        git = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
        about = {"command": "make coverage", "commit": commit, "total": total, "files": rows}
        out.write_text(json.dumps(about, indent=1) + "\n")
    raise typer.Exit(total["percent"] < LEAST)


if __name__ == "__main__":
    typer.run(main)
