"""Derive notebooks/NN_….ipynb from the text beside this file: `python notebooks/src/derive.py [--check]`.

The .py text (cells start with `# %%`) is what one edits and reviews; the .ipynb holds the same cells, no outputs and
only the metadata a reader's Jupyter needs, so that it is byte-identical whenever and wherever it is derived.
Cells tagged `solution` are folded with their output, and begin with a line that gives nothing away; those tagged
`imports` are folded, too. A notebook that holds somebody's outputs or own cells is not overwritten.
Not here: running them (papermill does), what their text must keep (tests), the reader's copies (kit/lab.py).
"""

import re
import sys
from pathlib import Path

import jupytext
import nbformat

SRC = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# what a folded cell shows of itself is its first line
FOLD = "# Solution: a click on the bar at the left opens it, another one what it prints"
IMPORTS = "# Imports: a click on the bar at the left opens them"


def derive(source: Path) -> str:
    """The .ipynb file's text for a py:percent file."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.id = f"{source.stem[:2]}-{number:02d}"  # else it is drawn at random
        cell.metadata = {"tags": tags} if tags else {}
        if "solution" in tags:
            cell.metadata["jupyter"] = {"source_hidden": True, "outputs_hidden": True}
            cell.source = f"{FOLD}\n{cell.source}"
        elif "imports" in tags:
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.source = f"{IMPORTS}\n{cell.source}"
    notebook.metadata, notebook.nbformat, notebook.nbformat_minor = METADATA, 4, 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook, indent=1, ensure_ascii=False).rstrip("\n") + "\n"


def pairs() -> dict[Path, Path]:
    """Every text form and the notebook that belongs to it."""
    return {
        source: SRC.parent / f"{source.stem}.ipynb"
        for source in sorted(SRC.glob("[0-9][0-9]_*.py"))
    }


def holds_work(target: Path) -> bool:
    """Whether a notebook holds outputs, or cells that no text form has given it."""
    try:
        cells = nbformat.read(target, as_version=4).cells
    except (ValueError, nbformat.ValidationError):
        return True  # half-written or merged by hand: a person must look
    own_id = re.compile(rf"{target.stem[:2]}-\d\d")
    return any(cell.get("outputs") or not own_id.fullmatch(cell.get("id", "")) for cell in cells)


def main(check: bool) -> int:
    """Write every notebook that differs from its text, or with `check` only name them; the exit status."""
    stale = [
        (source, target)
        for source, target in pairs().items()
        if not target.exists() or target.read_text(encoding="utf-8") != derive(source)
    ]
    taken = [target.name for _, target in stale if target.exists() and holds_work(target)]
    if taken and not check:
        advice = "move it to runs/lab, then derive again"
        print(f"notebooks/{taken[0]} holds outputs or cells of yours: {advice}", file=sys.stderr)
        return 2
    for source, target in stale:
        print(f"{target.name} differs from src/{source.name}" if check else f"wrote {target.name}")
        if not check:
            target.write_text(derive(source), encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
