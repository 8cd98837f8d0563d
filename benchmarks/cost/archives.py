"""What an archive of one's own takes: seconds, memory and disk of each of the README's three commands, size by size.

    python -m benchmarks.cost.archives --studies 500 --studies 2000 --out benchmarks/results/archives_2cpu.json

The archive is a phantom's images as PNG with a table, so it needs no patient. Films of a hospital are larger: reading
them takes longer, what is kept of them is as large. Each command has a process of its own; memory is the most that it
or one of its workers held at once. Not here: what the fitted model finds (benchmarks/archive.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from data_prep.commands import QUIET, command_line, option, run_app
from data_prep.errors import KitError
from data_prep.folder import write_json
from data_prep.provenance import provenance

MODULE = "benchmarks.cost.archives"
app = typer.Typer(help="What an archive takes of time, memory and disk.", **QUIET)


@app.command()
def main(
    studies: Annotated[list[int], typer.Option(min=100, help="how many; may be repeated")],
    out: option(Path | None, "result file (JSON)") = None,
):
    """Make an archive of each size and take the three commands through it."""
    rows = []
    for number in studies:
        with tempfile.TemporaryDirectory() as place:
            row = measure(number, Path(place))
        rows.append(row)
        print(row, flush=True)
    if out:
        write_json(out, provenance(command_line(MODULE)) | {"archives": rows})


def measure(studies: int, place: Path) -> dict:
    """{studies, raw_mb, and for prepare, fit, search: seconds, memory_mb, disk_mb}."""
    archive, data, run = place / "archive", place / "data", place / "run"
    take("data_prep", "phantom", "--studies", studies, "--out", archive)
    table = pd.read_parquet(archive / "manifest.parquet")
    table[["image_path", "patient_id", "report"]].to_csv(place / "export.csv", index=False)
    shutil.rmtree(archive / "store", ignore_errors=True)
    where = ["--table", place / "export.csv", "--images-root", archive]
    where += ["--column", "image=image_path"]
    row = {"studies": studies, "raw_mb": size_of(archive / "images")}
    row["prepare"] = take("data_prep", "csv", *where, "--out", data) | {"disk_mb": size_of(data)}
    row["fit"] = take("mcr_lib", "train", "--data", data, "--run", run, "--profile", "small")
    asked = ["--text", "large left pleural effusion"]
    row["search"] = take("mcr_lib", "search", "--run", run, "--data", data, *asked)
    row["fit"]["disk_mb"] = size_of(run)  # with the index, which the first search makes
    return row


def take(module: str, *arguments) -> dict:
    """Run a command of the kit to its end → seconds and peak memory. Raises KitError where it fails."""
    start = time.perf_counter()
    command = [sys.executable, "-m", module, *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise KitError(f"python -m {module} {arguments[0]} ended with status {child.returncode}")
    seconds = round(time.perf_counter() - start, 1)
    return {"seconds": seconds, "memory_mb": round(used.ru_maxrss / 1024)}


def size_of(folder: Path) -> int:
    """MB of all its files."""
    return round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6)


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE, sys.argv[1:]))
