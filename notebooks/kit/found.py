"""What the committed study found, read from its files in benchmarks/results: what no single run of a lesson can show.

So no measured figure of the study is typed into a lesson. Not here: how a verdict is made (benchmarks/study).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown

from data_prep.own_files import read_json

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
RETRIEVAL = "points of RSum (0–600)"  # the unit of what is said of retrieval
SIGNED = {"ratio": "{:.2f}", RETRIEVAL: "{:+.1f}"}
ABOUT_RETRIEVAL = (
    "In brackets stands the interval over seeds. *Not decidable here*: no model of the comparison clears the linear "
    "one (notebook 04, section 5). They are under-trained, and their difference says nothing of the method. "
    "Where no linear model was fitted, the line only says whether the interval *holds 0* or is *clear of 0*."
)


def read(name: str) -> dict:
    """A committed result file."""
    return read_json(RESULTS / f"{name}.json", "restore it from git")


def row(name: str, measured: str) -> dict:
    """The line of a study on what was `measured`, of the paper's claims or the variants. KeyError: there is none."""
    content = read(name)
    rows = {line["measured"]: line for line in [*content["claims"], *(content["variants"] or [])]}
    return rows[measured] | {"data": content["study"]}


def verdicts(*asked: tuple[str, str]) -> Markdown:
    """A line for each (file, what was measured): the effect with its interval over seeds, the verdict, the file.

    Of retrieval there is a verdict only where the study has a linear model to clear (benchmarks/study/standing.py);
    else whether the interval is clear of 0.
    """
    lines = []
    for name, measured in asked:
        line = row(name, measured)
        number = SIGNED.get(line["unit"], "{:+.2f}")
        effect, low, high = (number.format(x) for x in (line["effect"], *line["interval"]))
        verdict = line["verdict"]
        if line["unit"] == RETRIEVAL and not read(name).get("baselines"):
            verdict = "clear of 0" if line["interval"][0] * line["interval"][1] > 0 else "holds 0"
        lines.append(
            f"* {measured}: {effect} [{low}, {high}] {line['unit']}, {line['data']}: "
            f"**{verdict}** (`{name}.json`)"
        )
    if any(RETRIEVAL in line for line in lines):
        lines.append(f"\n{ABOUT_RETRIEVAL}")
    return Markdown("\n".join(lines))


def mask_rates() -> pd.DataFrame:
    """RSum of MCR, mean over seeds, after equal steps: rows and columns are the shares of image and report hidden."""
    arms, rates = read("study_phantom_masks")["arms"], {}
    for name, arm in arms.items():
        if name.startswith("mask-") and not name.endswith("@time"):
            image, report = map(float, name.split("-")[1:])
            mean = np.mean(arm["metrics"]["test, unmasked"]["rsum"])
            rates.setdefault(f"report {report:.0%}", {})[f"image {image:.0%}"] = mean
    return pd.DataFrame(rates)


def beside_linear(name: str) -> pd.DataFrame:
    """R@10 both ways of chance, the linear model and the study's MCR + MbA, each with the SHA-256 of its data."""
    linear, study = read(f"baselines_{name}"), read(f"study_{name}")
    arm = study["arms"]["mcr-mba"]
    lines = {
        "chance": (linear["chance"], linear),
        "linear CCA": (linear["rows"]["linear CCA"], linear),
        f"MCR, {arm['steps']} steps": (arm["metrics"]["test, unmasked"], study),
    }
    rows = {}
    for line, (measured, source) in lines.items():
        both = {
            way.replace("_", " "): np.mean(measured[f"{way}_R@10"])
            for way in ("image_to_text", "text_to_image")
        }
        rows[line] = both | {"data": source["data"]["sha256"][:8]}
    return pd.DataFrame.from_dict(rows, orient="index")  # columns of one kind, to be rounded


def learning_curves(study: dict) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each arm whose operations were counted: TFLOP of its training at each checkpoint (N,), and RSum on `validate`
    there (N, seeds). study: the content of a study.json."""
    cost, batch_size = study["cost"], study["config"]["train"]["batch_size"]
    counted = {name: about.get("flops") for name, about in cost["arms"].items()}
    counted |= cost.get("flops", {})
    curves = {}
    for arm, about in study["arms"].items():
        flops = counted.get(arm.partition("@")[0])
        validated = about.get("validated") or {}
        if flops and validated.get("steps"):
            spent = np.array(validated["steps"]) * flops * batch_size * 1e-12
            curves[arm] = spent, np.array(validated["rsum"])
    return curves
