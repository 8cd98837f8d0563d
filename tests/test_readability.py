"""README and lessons stay readable: no sentence is too long, and a term that a lesson introduces is in the glossary."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import readability

ROOT = Path(__file__).parent.parent
GLOSSARY = (ROOT / "notebooks" / "GLOSSARY.md").read_text(encoding="utf-8")
LABELS = ("Claim", "Check", "By hand", "Picture", "Exercise", "Minutes", "The question", "You ")
LABELS += ("What may surprise you", "Retrieval.", "Seen how?", "Two models.", "Can ")


@pytest.mark.parametrize("page", readability.PAGES)
def test_no_sentence_is_too_long(page):
    row = readability.measure((ROOT / page).read_text(encoding="utf-8"))
    assert row["longest"] <= readability.LONGEST, row["begins"]
    assert row["words a sentence"] < 17 and row["Flesch"] > 60


def test_the_measure_by_hand():
    text = "# Title\n\nThe cat sat. Is it *here*?\n\n* one `x = 1` more\n* two\n\n| a | b |\n\n```\nno prose\n```\n"
    assert [len(words) for words in readability.sentences(text)] == [3, 3, 3, 1]
    lesson = "# %% [markdown]\n# Two words.\n\n# %%\nx = 1\n# no prose\n\n# %% [markdown]\n# Three more words\n"
    assert readability.sentences(lesson) == [["Two", "words"], ["Three", "more", "words"]]
    assert [readability.syllables(w) for w in ("cat", "table", "made", "reading", "the", "3")] == [
        1,
        2,
        1,
        2,
        1,
        1,
    ]
    row = readability.measure("The cat sat on the mat.")
    assert row["Flesch"] == pytest.approx(206.835 - 1.015 * 6 - 84.6, abs=0.05)


def test_the_kept_measure_names_every_page():
    kept = json.loads((ROOT / "benchmarks/results/readability.json").read_text())
    before = kept.keys() - {"command", "now"}
    assert len(before) == 1
    for pages in (kept["now"], kept[before.pop()]):
        assert list(pages) == readability.PAGES


@pytest.mark.parametrize("page", readability.PAGES[1:])
def test_a_term_that_a_lesson_introduces_is_in_the_glossary(page):
    terms = {
        term.strip().lower()
        for row in re.findall(r"^\| (.+?) \|", GLOSSARY, re.M)
        for term in re.sub(r" \(verb\)", "", row).split(",")
    }
    cells = re.findall(
        r"^# %% \[markdown\]\n(.*?)(?=^# %%|\Z)", (ROOT / page).read_text(), re.M | re.S
    )
    prose = re.sub(r"\n# ?", " ", "\n".join(cells))
    bold = {b for b in re.findall(r"\*\*(.+?)\*\*", prose) if not b.startswith(LABELS)}
    missing = [
        b
        for b in bold
        if not {b.lower(), re.sub("e?s$", "", b.lower()), re.sub("s$", "", b.lower())} & terms
    ]
    assert missing == []


def test_the_glossary_is_sorted_and_names_a_term_once():
    terms = re.findall(r"^\| ([^|]+?) \|", GLOSSARY, re.M)[1:]
    assert terms == sorted(terms, key=str.lower) and len(terms) == len(set(terms)) > 40
