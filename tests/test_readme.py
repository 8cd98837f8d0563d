"""The README says what is there: its tables of claims are the command's output, its links and modules exist."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.tables import format_studies
from kit import found
from mcr_lib.config import parse_settings, resolve

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = ["README.md", "mcr_lib/README.md", "data_prep/README.md"]
PAGES += [
    "notebooks/GLOSSARY.md",
    "notebooks/QUESTIONS.md",
    "benchmarks/RESULTS.md",
    "benchmarks/SCALING.md",
    "CONTRIBUTING.md",
]


def test_the_claims_are_what_the_command_prints():
    results, shown = ROOT / "benchmarks" / "results", []
    pages = TEXT + (ROOT / "benchmarks" / "RESULTS.md").read_text()
    blocks = re.findall(r"<!-- claims: ([a-z0-9_ ]+) -->\n(.*?)<!-- end of claims -->", pages, re.S)
    for names, block in blocks:
        files = [results / f"study_{name}.json" for name in names.split()]
        printed = format_studies(files)
        assert block.strip() == printed.strip(), f"python -m benchmarks.study --table … of {names}"
        shown += files
    assert sorted(shown) == sorted(results.glob("study_*.json"))


def test_what_was_found_on_the_hard_phantom_is_what_its_file_says():
    section = " ".join(TEXT.split("## What was found")[1].split("\n## ")[0].split())
    study = found.read("study_hard")
    scores = {arm: about["metrics"]["test, unmasked"] for arm, about in study["arms"].items()}
    others = [arm for arm in scores if not arm.startswith("mcr")]
    best = max(others, key=lambda arm: np.mean(scores[arm]["rsum"]))
    cells = []
    for arm in ("mcr-mba@flops", best):
        ways = (scores[arm][f"{way}_R@10"] for way in ("image_to_text", "text_to_image"))
        cells.append(" / ".join(f"{np.mean(recalls):.1f}" for recalls in ways))
    assert re.search(rf"hard phantom[^|]*\| {cells[0]} \| [^|]*: {cells[1]} \|", section)

    reached = []
    for arm in ("mcr-mba@flops", "two-stream-mba"):
        spent, rsums = found.learning_curves(study)[arm]
        reached.append(np.interp(400, np.maximum.accumulate(rsums.mean(axis=1)), spent))
    assert f"RSum 400 on `validate` after {reached[0]:.0f} TFLOP" in section
    assert f"two-stream after {reached[1]:.0f}" in section
    needed = []  # to RSum 400, seed by seed
    for arm in ("mcr-mba@flops", "two-stream-mba"):
        spent, rsums = found.learning_curves(study)[arm]
        needed.append([np.interp(400, np.maximum.accumulate(seed), spent) for seed in rsums.T])
    shares = np.log(needed[0]) - np.log(needed[1])
    half = stats.sem(shares) * stats.t.ppf(0.975, len(shares) - 1)
    share, low, high = np.exp(shares.mean() + np.array([0, -half, half]))
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    assert f"× {share:.2f} [{low:.2f}, {high:.2f}] of what two-stream needs" in results
    for measured in ("MCR against two-stream", "MbA against AbM, recall of MCR"):
        row = found.row("study_hard", f"{measured}, equal FLOPs")
        low, high = row["interval"]
        assert f"by {row['effect']:.0f} points [{low:.0f}, {high:.0f}]: {row['verdict']}" in section


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_a_heading_find_it(page):
    asked = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", (ROOT / page).read_text())
    for target, anchor in asked:
        text = ((ROOT / page).parent / target if target else ROOT / page).read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.M)
        slugs = [re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings]
        assert anchor in slugs, f"{target}#{anchor}"


def test_the_map_names_every_module_of_the_library_once():
    section = TEXT.split("## How it is built")[1].split("\n| folder")[0]
    method = re.findall(r"^\| (\[.*?) \|", section, re.M)
    names = re.findall(r"\[`([a-z_]+)`\]", " ".join(method))
    names += re.findall(r"`([a-z_]+)`", section.split("What one does with it")[1])
    there = {path.stem for path in (ROOT / "mcr_lib").glob("*.py")} - {"__init__", "__main__"}
    assert sorted(set(names) - {"mcr_lib"}) == sorted(there)
    assert len(names) == len(set(names)) + names.count("mcr_lib") - ("mcr_lib" in names)


def test_the_settings_it_shows_are_accepted():
    pages = "".join((ROOT / page).read_text() for page in PAGES[:3])
    shown = re.findall(r"--set ([a-z_]+=[\w.-]+)", pages)
    assert len(shown) > 5
    resolve("demo", parse_settings([s for s in shown if "_weights" not in s]))
