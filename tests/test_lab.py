"""What a reader has done in a lesson is never lost: `make lab` opens copies, and deriving refuses to write over work.

Not here: JupyterLab itself in a browser (test_browser.py).
"""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kit import lab

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks" / "src"))
import derive  # noqa: E402


@pytest.fixture
def lessons(tmp_path):
    """A folder with one lesson, derived as the real ones are."""
    (tmp_path / "src").mkdir()
    write_lesson(tmp_path, "1 + 1")
    return tmp_path


def write_lesson(folder: Path, code: str) -> None:
    source = folder / "src" / "00_x.py"
    source.write_text(f"# %% [markdown]\n# # X\n\n# %%\n{code}\n")
    (folder / "00_x.ipynb").write_text(derive.derive(source))


def add_work(path: Path) -> bytes:
    """What a reader leaves: an output, and a cell of their own."""
    notebook = nbformat.read(path, 4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    notebook.cells.append(nbformat.v4.new_code_cell("mine = 3"))
    nbformat.write(notebook, path)
    return path.read_bytes()


def test_a_copy_is_the_readers_and_a_newer_lesson_lies_beside_it(lessons):
    place = lessons / "lab"
    (lessons / "GLOSSARY.md").write_text("a word")
    assert lab.lay_out(place, lessons) == []
    assert (place / "GLOSSARY.md").read_text() == "a word"
    mine = place / "00_x.ipynb"
    work = add_work(mine)
    assert lab.lay_out(place, lessons) == [] and mine.read_bytes() == work
    write_lesson(lessons, "1 + 2")
    (said,) = lab.lay_out(place, lessons)
    (newer,) = place.glob("00_x-*.ipynb")
    assert newer.name in said and nbformat.read(newer, 4).cells[1].source == "1 + 2"
    newer_work = add_work(newer)
    assert lab.lay_out(place, lessons) == [said]
    assert mine.read_bytes() == work and newer.read_bytes() == newer_work
    mine.write_text("no notebook any more")
    lab.lay_out(place, lessons)
    assert mine.read_text() == "no notebook any more"


def test_every_lesson_is_laid_out_and_the_first_one_opened(tmp_path, monkeypatch):
    assert lab.lay_out(tmp_path / "lab") == []
    copies = {path.name for path in (tmp_path / "lab").glob("*.ipynb")}
    assert copies == {target.name for target in derive.pairs().values()}
    for root in (True, False):
        monkeypatch.setattr(lab.os, "geteuid", lambda root=root: 0 if root else 1000)
        given = lab.arguments(tmp_path / "lab")
        assert ("--allow-root" in given) == root
        (opened,) = [flag for flag in given if "default_url" in flag]
        assert opened.rsplit("/", 1)[1] in copies
    ignored = subprocess.run(["git", "check-ignore", "-q", lab.PLACE], cwd=ROOT)
    assert ignored.returncode == 0


def test_flags_reach_jupyter(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(lab, "PLACE", tmp_path / "lab")
    monkeypatch.setattr(lab.os, "execv", lambda _, command: subprocess.run(["echo", *command]))
    lab.main(["--no-browser", "--ip=0.0.0.0"])
    assert capfd.readouterr().out.strip().endswith("--no-browser --ip=0.0.0.0")


@pytest.mark.parametrize("work", [add_work, lambda path: path.write_text("<<<<<<< HEAD")])
def test_deriving_refuses_to_write_over_work(lessons, monkeypatch, capsys, work):
    source, target = lessons / "src" / "00_x.py", lessons / "00_x.ipynb"
    monkeypatch.setattr(derive, "pairs", lambda: {source: target})
    source.write_text(source.read_text() + "\n# %%\n2 + 2\n")
    assert derive.main(check=False) == 0 and derive.main(check=True) == 0
    work(target)
    before = target.read_bytes()
    assert derive.main(check=False) == 2
    assert "00_x.ipynb holds outputs or cells of yours" in capsys.readouterr().err
    assert target.read_bytes() == before
    assert derive.main(check=True) == 1
