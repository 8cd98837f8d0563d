"""The study's figures, from what lies in its folder: the spread over seeds, the paper's Fig. 3, 4 and 5. Written to
OUT/figures. Those of features and texts (Fig. 4's clouds, Fig. 5) need the run folders and the data set; on patients'
data they hold patients' text and stay where they are. Not here: how a picture is drawn (plotting).
"""

from __future__ import annotations

import html
from pathlib import Path

import torch

from . import plotting, run_folder
from .arms import ALIGNMENTS, ARMS, FRAMEWORKS, GROUPS
from .data import PairData
from .findings import coloured
from .index import Index
from .modality_gap import project_2d
from .report import STYLE, page

LOOKS = {  # how a phrase stands to the query's own report: background, underline, in words
    "truth": ("#BFE8DA", "solid", "ground-truth semantics"), "similar": ("#CFE4F5", "dashed", "similar to the query"),
    "irrelevant": ("#F8D9C4", "dotted", "irrelevant")}


def write(out: Path, data: Path, content: dict, device: torch.device) -> list[Path]:
    """Draw what the study's results allow → the files written. content: study.json."""
    folder, arms = Path(out) / "figures", content["arms"]
    folder.mkdir(parents=True, exist_ok=True)
    chance = next(iter(arms.values()))["metrics"]["chance"]["rsum"][0]
    pictures, files = {"spread": plotting.study_spread(arms, chance)}, []
    for when, suffix in (("", ""), ("_equal_time", "@time")):
        shown = [f"{f}-mba{suffix}" if f != "two-stream" else "two-stream-mba" for f in FRAMEWORKS]
        if len(there := {name: arms[name] for name in shown if name in arms}) > 1:
            pictures[f"fig3_retrieved{when}"] = plotting.retrieved_scores(there)
        both = [name for name in (f"mcr-{order}{suffix}" for order in ALIGNMENTS) if name in arms]
        if both:  # the two alignment strategies that Fig. 4 and 5 compare
            pictures[f"fig4_gap{when}"] = plotting.gap_stages(arms, both)
        runs = {name: Path(out) / "runs" / f"{name}-seed0" for name in both}
        if len(both) == 2 and all((run / "manifest.json").exists() for run in runs.values()):
            features = {name: _features(data, run, "validate", device)[1:] for name, run in runs.items()}
            for method, axis in (("pca", ("first component", "second component")), ("tsne", ("t-SNE 1", "t-SNE 2"))):
                planes = {name: project_2d(*pair, method) for name, pair in features.items()}
                pictures[f"fig4_{method}{when}"] = plotting.clouds(
                    {name: (plane.images, plane.texts) for name, plane in planes.items()}, xlabel=axis[0],
                    ylabel=axis[1])
            files.append(folder / f"fig5_top3{when}.html")
            files[-1].write_text(top3(data, runs, device), encoding="utf-8")
    masks = {title: [arms[arm.name] for arm in dict.fromkeys((ARMS["mask-0.5-0.25"], *GROUPS[group]))
                     if arm.name in arms]
             for title, group in (("equal steps", "mask"), ("equal time", "mask@time"))}
    if masks := {title: found for title, found in masks.items() if len(found) > 1}:
        pictures["masks"] = plotting.mask_rates(masks)
    for name, picture in pictures.items():
        files.append(folder / f"{name}.png")
        files[-1].write_bytes(plotting.png(picture, dpi=110))
    return files


def _features(data: Path, run: Path, split: str, device: torch.device):
    model, tokenizer = run_folder.load(run, device)
    views = run_folder.read_config(run / "config.yaml").train.views
    pairs = PairData(data, split, tokenizer, model.config, views)
    return pairs, *run_folder.encode(model, pairs, device)


def top3(data: Path, runs: dict[str, Path], device: torch.device, queries: int = 4) -> str:
    """Fig. 5 as a page: for the first test images with at least two findings, the three reports that each alignment
    strategy finds, phrases marked by how they stand to the image's own report."""
    found, own = {}, []
    for name, run in runs.items():
        pairs, image_features, text_features = _features(data, run, "test", device)
        reports = pairs.table["report"].tolist()
        rows = [n for n, labels in enumerate(pairs.table["labels"]) if labels.count("|") >= 1][:queries]
        rows = rows or list(range(min(queries, len(reports))))
        _, top = Index(image_features, text_features, pairs.table, "").topk(
            image_features[rows], 3, "texts", distinct=True)
        found[name], own = [[reports[row] for row in line] for line in top.tolist()], [reports[row] for row in rows]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in found)
    body = "".join(
        f"<tr><td>{_marked(report, report)}</td>" + "".join(
            "<td><ol>" + "".join(f"<li>{_marked(hit, report)}</li>" for hit in hits[query]) + "</ol></td>"
            for hits in found.values()) + "</tr>" for query, report in enumerate(own))
    legend = " · ".join(f'<span style="{_style(kind)}">{label}</span>' for kind, (_, _, label) in LOOKS.items())
    return page("Top 3 reports by alignment strategy", f"<p>Marked: {legend}.</p><table><tr><th>the image’s own report"
                f"</th>{head}</tr>{body}</table>", STYLE)


def _marked(report: str, own: str) -> str:
    return "".join(html.escape(text) if kind is None else
                   f'<span style="{_style(kind)}" title="{LOOKS[kind][2]}">{html.escape(text)}</span>'
                   for text, kind in coloured(report, own))


def _style(kind: str) -> str:
    background, line, _ = LOOKS[kind]
    return f"background:{background};color:#111;padding:0 .15em;text-decoration:underline {line} 2px"
