"""What a training step costs, per framework and beside what people would use instead, on this machine.

python -m benchmarks.cost --device cuda --out runs/benchmark.json
python -m benchmarks.cost --table benchmarks/results/benchmark_2cpu.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.commands import QUIET, UsageError, command_line, flag, option, run_app
from mcr_lib.__main__ import Device, Profile, Set

MODULE = "benchmarks.cost"
app = typer.Typer(help="What a training step costs on this machine.", **QUIET)

Files = Annotated[list[Path] | None, typer.Argument(help="with --table: result files")]
Out = option(Path | None, "result file (JSON); a picture (PNG) goes beside it")
SIZES = "pairs per step, may be repeated; none: 8 on a CPU, on CUDA 64, 128 … until memory is full"
BatchSize = Annotated[list[int], typer.Option(min=2, help=SIZES)]
Rounds = Annotated[int, typer.Option(min=1, help="timed rounds A B C, A B C …")]
Table = flag("--table", "print result FILES as Markdown, measure nothing")


@app.command()
def main(
    files: Files = None,
    out: Out = None,
    profile: Profile = "base",
    settings: Set = [],  # noqa: B006 (typer copies it)
    batch_size: BatchSize = [],  # noqa: B006
    rounds: Rounds = 3,
    table: Table = False,
    device: Device = "auto",
):
    """Measure steps of all frameworks and peers, memory, data handling; say which targets are met."""
    if table != bool(files):
        raise UsageError(
            "FILES and --table go together: "
            f"python -m {MODULE} --table benchmarks/results/benchmark_*.json"
        )
    if files:
        print_tables(files)
        return
    from benchmarks.cost.figure import draw_costs
    from benchmarks.cost.steps import measure_costs
    from benchmarks.cost.tables import format_result
    from data_prep.folder import write_json
    from kit.plotting.style import png
    from mcr_lib.config import parse_settings
    from mcr_lib.engine.distributed import pick_device

    if out:  # a place that cannot be written to is known now, not at the end
        out.parent.mkdir(parents=True, exist_ok=True)
    result = measure_costs(
        pick_device(device),
        profile=profile,
        settings=parse_settings(settings),
        batch_sizes=batch_size or None,
        rounds=rounds,
        command=command_line(MODULE),
    )
    print(format_result(result))
    if out:
        write_json(out, result)
        out.with_suffix(".png").write_bytes(png(draw_costs(result)))


def print_tables(files: list[Path]) -> None:
    """Print result files as Markdown. UsageError if one is something else."""
    from benchmarks.cost.tables import format_result

    contents = []
    for file in files:
        content = json.loads(file.read_text())
        if "steps" not in content or "targets" not in content:
            raise UsageError(f"{file} is not a result of python -m {MODULE}")
        contents.append(content)
    print("\n\n".join(format_result(content) for content in contents))


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE, sys.argv[1:]))  # bare, it measures as well
