"""`make lab`: JupyterLab on copies of the lessons in runs/lab, which git ignores. What a reader does there is kept.

    python -m kit.lab [flags of JupyterLab]        # remotely: --no-browser --ip=0.0.0.0

A copy knows the lesson it is of. Where the lesson has changed since, the newer one is laid beside the reader's copy.
Not here: the lessons (notebooks/src), what a lesson leaves (lesson.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import nbformat

LESSONS = Path(__file__).resolve().parents[1]
PLACE = LESSONS.parent / "runs" / "lab"
SETTINGS = {  # no question whether Jupyter's news are wanted, and no look into the network
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}
}


def lay_out(place: Path, lessons: Path = LESSONS) -> list[str]:
    """Copy into `place` every lesson that is not there, overwriting nothing → a line for each newer one."""
    place.mkdir(parents=True, exist_ok=True)
    for page in lessons.glob("*.md"):  # glossary and questions, to which the lessons point
        shutil.copyfile(page, place / page.name)
    newer = []
    for lesson in sorted(lessons.glob("[0-9][0-9]_*.ipynb")):
        version = hashlib.sha256(lesson.read_bytes()).hexdigest()[:8]
        target = place / lesson.name
        if target.exists() and _version_of(target) != version:
            target = place / f"{lesson.stem}-{version}.ipynb"
            newer.append(f"{lesson.stem} has changed; the newer one is {target.name}, yours stays")
        if not target.exists():
            notebook = nbformat.read(lesson, as_version=4)
            notebook.metadata["lesson_version"] = version
            nbformat.write(notebook, target)
    return newer


def _version_of(copy: Path) -> str | None:
    """Of the lesson that a copy was made from; None where the reader's file does not say."""
    try:
        return json.loads(copy.read_text(encoding="utf-8"))["metadata"].get("lesson_version")
    except (ValueError, KeyError, TypeError):
        return None


def arguments(place: Path) -> list[str]:
    """JupyterLab's, to open the first lesson in `place`, without its popup; root may start it, as in a container."""
    settings = place / ".settings"
    settings.mkdir(exist_ok=True)
    (settings / "overrides.json").write_text(json.dumps(SETTINGS))
    given = [
        f"--ServerApp.root_dir={place}",
        f"--LabApp.app_settings_dir={settings}",
        "--LabApp.default_url=/lab/tree/00_start_here.ipynb",
    ]
    return [*given, "--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else given


def main(flags: list[str]) -> None:
    """Lay the copies out and become JupyterLab."""
    print("your copies of the lessons lie in runs/lab: work there, it is yours and stays")
    for line in lay_out(PLACE):
        print(line)
    sys.stdout.flush()
    command = [sys.executable, "-m", "jupyterlab", *arguments(PLACE), *flags]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main(sys.argv[1:])
