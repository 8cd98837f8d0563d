"""Data, all numbered notebooks in order by papermill, a linear model to compare with, a reduced study of the paper's
claims (not in the profile smoke, whose two steps can decide nothing), and the report page.

    python -m benchmarks.reproduce --profile demo

Not here: what the notebooks do. A notebook that fails is named with its cell; the others still run.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import nbformat
import papermill
import torch
import typer
from nbclient.exceptions import DeadKernelError

from benchmarks import ROOT
from benchmarks.baselines import measure_baselines
from benchmarks.page import write_notebook_page, write_page, write_text_page
from benchmarks.study.figures import write_figures
from benchmarks.study.runs import run_reduced_study
from data_prep import folder
from data_prep.commands import QUIET, command_line, run_app
from data_prep.errors import KitError
from data_prep.folder import describe_data
from data_prep.machine import progress
from data_prep.own_files import write_json
from data_prep.provenance import provenance
from kit.lesson import STUDIES, Lesson, Parameters, environment, shown_path
from mcr_lib.__main__ import Device, Profile, Set
from mcr_lib.config import ConfigError, resolve
from mcr_lib.engine.distributed import pick_device

MODULE = "benchmarks.reproduce"
NOTEBOOKS = ROOT / "notebooks"
STEPS = DATA, LESSONS, LINEAR, STUDY, PAGE = (
    "the data",
    "the notebooks",
    "a linear model to compare with",
    "a reduced study",
    "the page",
)

app = typer.Typer(help="Run all notebooks and write the report page.", **QUIET)


class ReproductionFailed(KitError):
    """At least one notebook did not run to its end; the page says which and where."""

    exit_status = 1


@app.command()
def main(
    profile: Profile = "demo",
    data: Annotated[
        Path | None, typer.Option(help="data set folder; none: the phantom is generated")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for everything; none: runs/<profile>")
    ] = None,
    settings: Set = [],  # noqa: B006 (typer copies it)
    device: Device = "auto",
):
    """Run all numbered notebooks by papermill and write index.html with every figure, table and claim."""
    command = command_line(MODULE)
    page = reproduce(profile, data, out, settings=settings, device=device, command=command)
    print(f"the report: {shown_path(page)}")
    print("next: open it in a browser; make lab opens the lessons to change and run them")


def reproduce(
    profile: str,
    data: Path | None,
    out: Path | None,
    *,
    settings: Sequence[str] = (),
    device: str = "auto",
    command: str = "",
) -> Path:
    """Run everything and return the path of index.html.

    Raises ReproductionFailed after writing it if a notebook failed, ConfigError, RunError or DataError before starting.
    """
    parameters = Parameters(
        profile=profile,
        data=str(Path(data).resolve()) if data else "",
        out=str(Path(out).resolve()) if out else "",
        device=device,
        settings=" ".join(settings),
    )
    if profile not in STUDIES:
        there = ", ".join(STUDIES)
        raise ConfigError(f"--profile {profile}: the lessons train MCR, so it is one of {there}")
    if data:
        folder.read(Path(data))  # a wrong folder is said here, in one line
    lesson = Lesson("reproduce", parameters)
    resolve(profile, lesson.settings)  # and so is a wrong key
    steps = [step for step in STEPS if step != STUDY or profile != "smoke"]

    def say(step: str) -> None:
        print(f"step {steps.index(step) + 1} of {len(steps)}: {step}", flush=True)

    start = time.perf_counter()
    say(DATA)
    about = _describe(lesson, command)  # generates the phantom here, where its progress can be seen
    say(LESSONS)
    ran = _run_notebooks(lesson.out, parameters)
    about |= {"notebooks took": _minutes_since(start), **environment()}
    took = {notebook["name"]: round(notebook["seconds"], 1) for notebook in ran}
    ran_as = {"profile": profile, "data": about["data"], "seconds": took}
    write_json(lesson.out / "notebooks.json", provenance(command) | ran_as)
    write_page(lesson.out, about, ran)  # whatever becomes of the rest, this much can be read
    say(LINEAR)
    write_json(lesson.out / "baselines.json", measure_baselines(lesson.data))
    if profile != "smoke":
        start = time.perf_counter()
        say(STUDY)
        _study_claims(lesson, pick_device(device), command)
        about |= {"reduced study took": _minutes_since(start)}
    say(PAGE)
    page = write_page(lesson.out, about, ran)
    failed = [notebook for notebook in ran if notebook["error"]]
    if failed:
        raise ReproductionFailed(
            f"{len(failed)} of {len(ran)} notebooks failed, first {failed[0]['name']}: "
            f"{failed[0]['error']}; the page is {page}"
        )
    return page


def _describe(lesson: Lesson, command: str) -> dict:
    """What ran, on what: the page's first table."""
    data = describe_data(lesson.data)
    synthetic = " (synthetic)" if data["synthetic"] else ""
    return {
        "profile": lesson.profile,
        "data": f"{data['name']}{synthetic}, SHA-256 {data['sha256'][:16]}…",
        "seed": lesson.seed,
        "command": command,
        "commit": provenance()["commit"] or "",
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _study_claims(lesson: Lesson, device: torch.device, command: str) -> None:
    folder = lesson.out / "study"
    content = run_reduced_study(
        lesson.data, folder, lesson.profile, lesson.settings, device=device, command=command
    )
    write_figures(folder, lesson.data, content, device)


def _minutes_since(start: float) -> str:
    return f"{(time.perf_counter() - start) / 60:.1f} minutes"


# ---------------------------------------------------------------------------------------------------------- notebooks


def _run_notebooks(out: Path, parameters: Parameters) -> list[dict]:
    (out / "notebooks").mkdir(exist_ok=True)
    for text in NOTEBOOKS.glob("*.md"):  # glossary and questions, to which the lessons point
        shutil.copyfile(text, out / "notebooks" / text.name)
        write_text_page(text, out / "notebooks" / f"{text.stem}.html")
    sources = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    ran = []
    with progress(sources, desc="notebooks", unit="notebook") as bar:
        for source in bar:
            bar.set_postfix_str(source.stem)
            ran.append(run_notebook(source, out, parameters))
    return ran


def run_notebook(source: Path, out: Path, parameters: Parameters) -> dict:
    """Execute one notebook into `out/notebooks`, and its page beside it → what page.write_page shows of it."""
    executed = out / "notebooks" / f"{source.stem}.ipynb"
    readable = executed.with_suffix(".html")
    start, error = time.perf_counter(), None
    try:
        papermill.execute_notebook(
            source,
            executed,
            parameters=parameters.model_dump(),
            cwd=NOTEBOOKS,
            progress_bar=False,
            extra_arguments=["--log-level=ERROR"],
        )
    except papermill.PapermillExecutionError as failure:
        error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
    except DeadKernelError:
        error = "its kernel died, most likely out of memory"
    write_notebook_page(executed, readable)
    return {
        "name": source.stem,
        "title": _read_title(source),
        "seconds": time.perf_counter() - start,
        "error": error,
        "html": f"notebooks/{readable.name}",
        "ipynb": f"notebooks/{executed.name}",
    }


def _read_title(source: Path) -> str:
    """The first heading of a notebook."""
    for cell in nbformat.read(source, as_version=4).cells:
        if cell.cell_type != "markdown":
            continue
        for line in cell.source.splitlines():
            if line.startswith("# "):
                return line.removeprefix("# ").strip()
    return source.stem


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE, sys.argv[1:]))  # bare, it reproduces as well
