"""`python -m mcr_lib reproduce`: data, all numbered notebooks in order by papermill, a reduced study of the paper's
claims, and the report page.

Not here: what the notebooks do. A notebook that fails is named with its cell; the others still run.
"""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError

from . import report, run_folder, study, study_figures
from .lesson import ROOT, Lesson, Parameters, environment
from .progress import progress


class ReproductionFailed(run_folder.RunError):
    """At least one notebook did not run to its end; the page says which and where."""

    exit_status = 1


def reproduce(profile: str, data: Path | None, out: Path | None, *, seed: int = 0, device: str = "auto",
              command: str | None = None) -> Path:
    """Run everything and return the path of index.html. Raises ReproductionFailed after writing it if a notebook
    failed, ConfigError, RunError or DataError before starting."""
    parameters = Parameters(profile=profile, data=str(Path(data).resolve()) if data else "",
                            out=str(Path(out).resolve()) if out else "", seed=seed, device=device)
    lesson = Lesson("reproduce", parameters)
    start = time.perf_counter()
    described = run_folder.describe_data(lesson.data)  # generates the phantom here, where its progress can be seen
    (lesson.out / "notebooks").mkdir(exist_ok=True)
    done = []
    sources = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    with progress(sources, desc="notebooks", unit="notebook") as bar:
        for source in bar:
            bar.set_postfix_str(source.stem)
            done.append(_run(source, lesson.out, parameters))
    about = {
        "profile": profile, "data": f"{described['name']}{' (synthetic)' if described['synthetic'] else ''}, "
        f"SHA-256 {described['sha256'][:16]}…", "seed": seed, "command": command or "",
        "commit": run_folder.provenance()["commit"] or "",
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "notebooks took": _minutes(start), **environment(),
    }
    report.write(lesson.out, about, done)  # whatever becomes of the study, the notebooks have their page
    start, where = time.perf_counter(), run_folder.pick_device(device)
    claims = study.reduced(lesson.data, lesson.out / "study", profile, device=where, command=command or "")
    study_figures.write(lesson.out / "study", lesson.data, claims, where)
    page = report.write(lesson.out, about | {"reduced study took": _minutes(start)}, done)
    failed = [n for n in done if n["error"]]
    if failed:
        raise ReproductionFailed(f"{len(failed)} of {len(done)} notebooks failed, first {failed[0]['name']}: "
                                 f"{failed[0]['error']}; the page is {page}")
    return page


def _minutes(start: float) -> str:
    return f"{(time.perf_counter() - start) / 60:.1f} minutes"


def _run(source: Path, out: Path, parameters: Parameters) -> dict:
    executed, readable = (out / "notebooks" / f"{source.stem}.{ending}" for ending in ("ipynb", "html"))
    start, error = time.perf_counter(), None
    try:
        papermill.execute_notebook(source, executed, parameters=parameters.model_dump(), cwd=ROOT / "notebooks",
                                   progress_bar=False, extra_arguments=["--log-level=ERROR"])
    except papermill.PapermillExecutionError as failure:
        error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
    except DeadKernelError:
        error = "its kernel died, most likely out of memory"
    report.notebook_html(executed, readable)
    return {"name": source.stem, "title": _title(source), "seconds": time.perf_counter() - start, "error": error,
            "html": f"notebooks/{readable.name}", "ipynb": f"notebooks/{executed.name}"}


def _title(source: Path) -> str:
    """The first heading of a notebook."""
    for cell in nbformat.read(source, as_version=4).cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line.removeprefix("# ").strip()
    return source.stem
