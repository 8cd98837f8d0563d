"""The README says what is there: its tables of claims are the command's output, its links and modules exist."""

import re
from pathlib import Path

import pytest

from mcr_lib import claim_table
from mcr_lib.config import parse_settings, resolve

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_claims_are_what_the_command_prints():
    results, shown = ROOT / "benchmarks" / "results", []
    pages = TEXT + (ROOT / "benchmarks" / "RESULTS.md").read_text()
    for names, block in re.findall(r"<!-- claims: ([a-z_ ]+) -->\n(.*?)<!-- end of claims -->", pages, re.S):
        files = [results / f"study_{name}.json" for name in names.split()]
        assert block.strip() == claim_table.tables(files).strip(), f"python -m mcr_lib study --table … of {names}"
        shown += files
    assert sorted(shown) == sorted(results.glob("study_*.json"))


@pytest.mark.parametrize("page", ["README.md", "benchmarks/RESULTS.md", "benchmarks/SCALING.md"])
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    assert targets and [t for t in targets if not ((ROOT / page).parent / t).exists()] == []


def test_the_map_names_every_module_once():
    section = TEXT.split("## How it is built")[1].split("\n## ")[0]
    named = re.findall(r"`([a-z_ ]+)`", "\n".join(line for line in section.splitlines() if line.startswith("|")))
    named = [name for names in named for name in names.split()]
    there = {path.stem for path in (ROOT / "mcr_lib").glob("*.py")} - {"__init__", "__main__"} | {"plotting"}
    assert sorted(named) == sorted(there)


def test_the_settings_it_shows_are_accepted():
    shown = re.findall(r"--set ([a-z_]+=[\w.-]+)", TEXT)
    assert len(shown) > 5
    resolve("demo", parse_settings([s for s in shown if "_weights" not in s]))
