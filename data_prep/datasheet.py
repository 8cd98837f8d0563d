"""A datasheet of a data set folder (Gebru et al. 2021): what is in it, where it is from, what is missing.

Numbers and settings only: no report, image, patient or path. Not here: whether the folder is whole (check.py), the
card of a model (mcr_lib/export.py)."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from . import folder
from .own_files import read_json

SAID = ("command", "size", "views", "text_policy", "layout", "studies", "seed", "difficulty")


def datasheet(data: Path) -> str:
    """The datasheet as Markdown. Raises DataError if the folder is not finished, or damaged."""
    table, about = folder.read(data), folder.read_about(data)
    left_out = read_json(data / "dataset.json", folder.AGAIN).get("left_out", {})
    funnel = read_json(data / "funnel.json", folder.AGAIN)
    words = table.report.str.split().str.len().quantile([0.05, 0.5, 0.95]).astype(int).tolist()
    by_split = table.groupby(["split", "view"]).size().unstack(fill_value=0)
    labels = table.labels[table.labels != ""].str.split("|").explode().value_counts()
    return (
        Environment(loader=FileSystemLoader(Path(__file__).with_name("templates")))
        .get_template("datasheet.md")
        .render(
            about=about,
            rows=len(table),
            different=table.report.nunique(),
            studies=table.study_id.nunique(),
            patients=table.patient_id.nunique(),
            words=words,
            views=list(by_split.columns),
            by_split=by_split.to_dict("index"),
            funnel=funnel,
            left_out=left_out,
            labels=labels.to_dict(),
            settings={key: about.source[key] for key in SAID if key in about.source},
        )
    )
