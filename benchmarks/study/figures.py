"""The study's figures, from what lies in its folder: the spread over seeds, the paper's Fig. 3, 4 and 5. Written to
OUT/figures. Those of features and texts (Fig. 4's clouds, Fig. 5) need the run folders and the data set; on patients'
data they hold patients' text and stay where they are. Not here: how a picture is drawn (pictures.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.page import render
from benchmarks.study import pictures, standing
from benchmarks.study.arms import ALIGNMENTS, ARMS, FRAMEWORKS, GROUPS, METHODS
from benchmarks.study.averaged import kind_at
from benchmarks.study.phrases import cut_by_relation
from kit.found import learning_curves
from kit.plane import project_2d
from kit.plotting import clouds
from kit.plotting.style import Picture, png
from kit.split import SplitFeatures, encode_split
from mcr_lib.index import Index
from mcr_lib.model import MCR

MASK_GROUPS = {"equal steps": "mask", "equal time": "mask@time"}
PROJECTIONS = {  # method → names of its axes
    "pca": ("first component", "second component"),
    "tsne": ("t-SNE 1", "t-SNE 2"),
}


def write_figures(out: Path, data: Path, content: dict, device: torch.device) -> list[Path]:
    """Draw what the study's results allow → the files written. content: study.json."""
    out, arms = Path(out), content["arms"]
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    chance = next(iter(arms.values()))["metrics"]["chance"]["rsum"][0]
    drawn: dict[str, Picture] = {"spread": pictures.study_spread(arms, chance)}
    curves = learning_curves(content)
    if curves:
        levels = {"chance": chance}
        if content["baselines"]:
            linear = content["baselines"]["rows"][standing.LINEAR]["rsum"]
            levels[f"{standing.LINEAR} of thumbnails, test split"] = linear
        drawn["recall_for_cost"] = pictures.recall_for_cost(arms, curves, levels)
    kind = kind_at(content["config"]["train"]["schedule"])
    pages: dict[str, str] = {}
    budgets = (("", ""), ("_equal_flops", "@flops"), ("_equal_time", "@time"))
    for when, suffix in budgets:
        frameworks = _choose_frameworks(arms, suffix)
        if len(frameworks) > 1:
            drawn[f"fig3_retrieved{when}"] = pictures.retrieved_scores(frameworks)
        orders = _choose_orders(arms, suffix)
        if orders:
            drawn[f"fig4_gap{when}"] = pictures.gap_stages(orders)
        runs = {name: out / "runs" / f"{name}-seed0" for name in orders}
        if len(runs) == 2 and all((run / "manifest.json").exists() for run in runs.values()):
            for method, picture in _draw_clouds(data, runs, device, kind):
                drawn[f"fig4_{method}{when}"] = picture
            pages[f"fig5_top3{when}"] = top3_page(data, runs, device, kind)
    masks = _choose_masks(arms)
    if masks:
        drawn["masks"] = pictures.mask_rates(masks)
    return _write_pages(folder, pages) + _write_pictures(folder, drawn)


def _write_pages(folder: Path, pages: dict[str, str]) -> list[Path]:
    files = []
    for name, text in pages.items():
        files.append(folder / f"{name}.html")
        files[-1].write_text(text, encoding="utf-8")
    return files


def _write_pictures(folder: Path, drawn: dict[str, Picture]) -> list[Path]:
    files = []
    for name, picture in drawn.items():
        files.append(folder / f"{name}.png")
        files[-1].write_bytes(png(picture, dpi=110))
    return files


# --------------------------------------------------------------------------------------------- which arms are shown


def _choose_frameworks(arms: dict, suffix: str) -> dict:
    """The frameworks and methods that Fig. 3 compares, of those that were run; two-stream is its own arm of equal
    time."""
    names = [f"{f}-mba" if f == "two-stream" else f"{f}-mba{suffix}" for f in FRAMEWORKS]
    names += [f"{method}{suffix}" for method in METHODS]
    return {name: arms[name] for name in names if name in arms}


def _choose_orders(arms: dict, suffix: str) -> dict:
    """The two alignment strategies that Fig. 4 and 5 compare, of those that were run."""
    names = [f"mcr-{order}{suffix}" for order in ALIGNMENTS]
    return {name: arms[name] for name in names if name in arms}


def _choose_masks(arms: dict) -> dict[str, list[dict]]:
    """title → the arms of its grid, the paper's rates first; a grid of one field is none."""
    masks = {}
    for title, group in MASK_GROUPS.items():
        asked = dict.fromkeys((ARMS["mask-0.5-0.25"], *GROUPS[group]))
        there = [arms[arm.name] for arm in asked if arm.name in arms]
        if len(there) > 1:
            masks[title] = there
    return masks


# ------------------------------------------------------------------------------------------------------------ Fig. 4


def _draw_clouds(
    data: Path, runs: dict[str, Path], device: torch.device, kind: type[MCR]
) -> Iterator[tuple[str, Picture]]:
    """The validation split's images and reports in a plane, arm by arm: by each of PROJECTIONS a picture."""
    splits = {}
    for name, run in runs.items():
        splits[name] = encode_split(run, data, "validate", device, kind=kind)
    for method, (xlabel, ylabel) in PROJECTIONS.items():
        planes = {}
        for name, split in splits.items():
            plane = project_2d(split.image_features, split.text_features, method)
            planes[name] = (plane.images, plane.texts)
        yield method, clouds(planes, xlabel=xlabel, ylabel=ylabel)


# ------------------------------------------------------------------------------------------------------------ Fig. 5


def top3_page(
    data: Path, runs: dict[str, Path], device: torch.device, kind: type[MCR], queries: int = 4
) -> str:
    """Fig. 5 as a page: for some test images the three reports that each alignment strategy finds, phrases marked by
    how they stand to the image's own report."""
    hits_of_arm, own_reports = {}, []
    for name, run in runs.items():
        test = encode_split(run, data, "test", device, kind=kind)
        reports = test.pairs.table["report"].tolist()
        rows = _choose_queries(test.pairs.table["labels"].tolist(), queries)
        own_reports = [reports[row] for row in rows]
        hits_of_arm[name] = _find_top3(test, rows, reports)
    lines = []
    for query, own in enumerate(own_reports):
        cells = []
        for hits in hits_of_arm.values():
            cells.append([cut_by_relation(hit, own) for hit in hits[query]])
        lines.append({"own": cut_by_relation(own, own), "cells": cells})
    return render("top3.html", arms=list(hits_of_arm), lines=lines)


def _choose_queries(labels: list[str], most: int) -> list[int]:
    """The first rows with at least two findings; where there are none, the first rows."""
    several = [row for row, names in enumerate(labels) if "|" in names]
    return several[:most] or list(range(min(most, len(labels))))


def _find_top3(test: SplitFeatures, rows: list[int], reports: list[str]) -> list[list[str]]:
    """For the images of these rows the three nearest distinct reports, best first."""
    index = Index(test.image_features, test.text_features, test.pairs.table, "")
    _, top = index.topk(test.image_features[rows], 3, "texts", index.distinct_rows())  # Q, 3
    hits = []
    for best in top.tolist():
        hits.append([reports[row] for row in best])
    return hits
