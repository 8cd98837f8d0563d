"""The study of the paper's claims: train arms × seeds, resumably, and judge every claim by a rule written beforehand.

python -m benchmarks.study --data data/phantom --out runs/study --seeds 5 --arms core,time,null
python -m benchmarks.study --table benchmarks/results/study_phantom.json
python -m benchmarks.study --table --short --forest forest.png benchmarks/results/study_{phantom,openi}.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.commands import QUIET, UsageError, command_line, flag, option, run_app
from data_prep.folder import atomic
from mcr_lib.__main__ import Device, Profile, Set

MODULE = "benchmarks.study"
app = typer.Typer(help="Train arms × seeds and judge the claims of the paper.", **QUIET)

Files = Annotated[
    list[Path] | None, typer.Argument(exists=True, help="with --table: study.json files")
]
Data = option(Path | None, "data set folder, made by python -m data_prep")
Out = option(Path | None, "the study's folder; what is in it is not done again")
Seeds = option(str, "how many, each for every arm; or a part of them: 3-4")
Arms = option(
    str,
    "arms or groups (core, flops, time, null, pooling, projection, mask, mask@time, weights), by commas",
)
OwnArm = option(
    list[str], "an arm of your own: NAME=key=value,key=value on top of MCR with MbA", "--arm"
)
Tuned = option(Path | None, "search.json: each arm with the settings that were best for it there")
Merge = option(list[Path], "another study's folder, made on another machine")
Table = flag("--table", "print what study.json FILES say, as Markdown")
Short = flag("--short", "with --table: at most six rows for each file")
Forest = option(Path | None, "with --table: draw the same as one figure, FILE.png")


@app.command()
def main(
    files: Files = None,
    data: Data = None,
    out: Out = None,
    seeds: Seeds = "5",
    arms: Arms = "core",
    own_arms: OwnArm = [],  # noqa: B006
    tuned: Tuned = None,
    profile: Profile = "demo",
    settings: Set = [],  # noqa: B006 (typer copies it)
    merge: Merge = [],  # noqa: B006
    table: Table = False,
    short: Short = False,
    forest: Forest = None,
    device: Device = "auto",
):
    """Train arms × seeds, resumably, and judge every claim of the paper: OUT/study.json."""
    from benchmarks.study.tables import format_studies

    if table:
        if not files:
            example = f"python -m {MODULE} --table benchmarks/results/*.json"
            raise UsageError(f"--table takes study.json files: {example}")
        _show(files, short, forest)
        return
    if short or forest:
        raise UsageError("--short and --forest go with --table and FILES")
    if data is None or out is None or files:
        raise UsageError("a study takes --data and --out (or --table and FILES)")
    from benchmarks.study.figures import write_figures
    from benchmarks.study.runs import run_study
    from mcr_lib.config import parse_settings
    from mcr_lib.engine.distributed import pick_device

    where = pick_device(device)
    content = run_study(
        data,
        out,
        arms=arms,
        own_arms=tuple(own_arms),
        tuned=tuned,
        seeds=seeds,
        profile=profile,
        settings=parse_settings(settings),
        device=where,
        command=command_line(MODULE),
        merge=tuple(merge),
    )
    print(format_studies([out / "study.json"]))
    for path in write_figures(out, data, content, where):
        print(path)


def _show(files: list[Path], short: bool, forest: Path | None) -> None:
    from benchmarks.study import short as in_short
    from benchmarks.study.tables import format_studies
    from kit.plotting.style import png

    print(in_short.format_short(files) if short else format_studies(files))
    if forest:
        with atomic(forest) as temporary:
            temporary.write_bytes(png(in_short.forest(files), dpi=110))


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
