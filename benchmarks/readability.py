"""How hard README and lessons are to read: words, sentences, the longest sentence, Flesch reading ease.

    python -m benchmarks.readability --at 24f55d2 --out benchmarks/results/readability.json

Measured is the prose: code, tables, pictures and link targets are left out. A sentence ends at a full stop, a question
mark, an exclamation mark, at `·` and with its paragraph or list item. Flesch (1948) is 206.835 − 1.015 × words a
sentence − 84.6 × syllables a word: 100 is very easy, 60 plain English, 30 a journal. Syllables are counted as groups
of vowels, so the figure compares pages of this kit and no others. Not here: whether a sentence is true (the tests).
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import ROOT
from data_prep.commands import QUIET, command_line, run_app
from data_prep.errors import KitError
from data_prep.own_files import write_json

LONGEST = 35  # words that a sentence may have, held by tests/test_readability.py
PAGES = ["README.md"] + [
    f"notebooks/src/{path.name}" for path in sorted((ROOT / "notebooks/src").glob("[0-9]*.py"))
]
app = typer.Typer(help="Measure how hard README and lessons are to read.", **QUIET)


def sentences(text: str) -> list[list[str]]:
    """The sentences of Markdown or of a lesson's text form, each as its words."""
    if text.startswith("# %%"):
        cells = re.findall(r"^# %% \[markdown\]\n(.*?)(?=^# %%|\Z)", text, re.M | re.S)
        text = "\n\n".join(re.sub(r"^# ?", "", cell, flags=re.M) for cell in cells)
    text = re.sub(r"```.*?```|<!--.*?-->", "\n\n", text, flags=re.S)
    text = re.sub(r"</?\w+>", "", text)
    text = re.sub(r"^(\||#).*$", "\n", text, flags=re.M)  # tables and headings
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"^\s*(\*|-|\d+\.) ", "\n\n", text, flags=re.M)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"[.!?][”\"'*_)]*(?=\s|$)|·", " ".join(paragraph.split())):
            found.append([word for word in sentence.split() if re.search(r"\w", word)])
    return [words for words in found if words]


def syllables(word: str) -> int:
    """Groups of vowels; a silent e at the end is none."""
    letters = re.sub(r"[^a-z]", "", word.lower())
    groups = len(re.findall(r"[aeiouy]+", letters))
    silent = letters.endswith("e") and not letters.endswith("le") and groups > 1
    return max(1, groups - silent)


def measure(text: str) -> dict:
    """What the docstring of this file names, of one page."""
    found = sentences(text)
    words = [word for sentence in found for word in sentence]
    longest = max(found, key=len)
    ease = 206.835 - 1.015 * len(words) / len(found)
    ease -= 84.6 * sum(map(syllables, words)) / len(words)
    return {
        "words": len(words),
        "sentences": len(found),
        "words a sentence": round(len(words) / len(found), 1),
        "longest": len(longest),
        "begins": " ".join(longest[:8]),
        "Flesch": round(ease, 1),
    }


def read_at(commit: str, page: str) -> str:
    """A page as it was at a commit; KitError where git does not know it."""
    shown = subprocess.run(
        ["git", "show", f"{commit}:{page}"], cwd=ROOT, capture_output=True, text=True
    )
    if shown.returncode:
        raise KitError(f"--at {commit}: git does not know {page} there")
    return shown.stdout


@app.command()
def main(
    at: Annotated[str | None, typer.Option(help="also as it was at this commit")] = None,
    out: Annotated[Path | None, typer.Option(help="a JSON file to keep it in")] = None,
):
    """Print a line for each page, and keep all in a file."""
    measured = {"now": {page: measure((ROOT / page).read_text()) for page in PAGES}}
    if at:
        measured[at] = {page: measure(read_at(at, page)) for page in PAGES}
    for when, pages in measured.items():
        print(f"{when:40s} words  a sentence  longest  Flesch")
        for page, row in pages.items():
            shown = (row["words"], row["words a sentence"], row["longest"], row["Flesch"])
            print(f"{page:40s} {shown[0]:5d} {shown[1]:11.1f} {shown[2]:8d} {shown[3]:7.1f}")
    if out:
        write_json(out, {"command": command_line("benchmarks.readability"), **measured})


if __name__ == "__main__":
    sys.exit(run_app(app, "benchmarks.readability", sys.argv[1:]))
