"""The report page: runs/<name>/index.html, from what the notebooks left as files (kit.lesson) and from study.json.

Plain HTML (templates/) and the figures beside it: no script, nothing from the network, so it works offline and years
from now. It measures nothing and draws nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbconvert.preprocessors import TagRemovePreprocessor
from pygments.formatters import HtmlFormatter

from benchmarks import RESULTS, ROOT
from benchmarks.study import short, tables
from data_prep.own_files import read_json
from kit.lesson import collected
from mcr_lib import paper

TEMPLATES = ROOT / "benchmarks" / "templates"
SEARCH = ("00_start_here", "films")  # notebook and figure: what a sentence finds
MAIN_STUDIES = {  # their verdicts in one look
    "hard phantom": "study_hard",
    "phantom": "study_phantom",
    "Open-i": "study_openi",
}
WAYS = {"image_to_text": "image → report", "text_to_image": "report → image"}
NEEDS_SCRIPT = "application/vnd.jupyter.widget-view+json"
FIGURES = {  # of a study, in this order where they are there → caption
    "spread": "Every run of this study: RSum of each seed",
    "recall_for_cost": "RSum on validate over the operations of the training",
    "masks": "How much to mask: RSum at each pair of rates",
    "fig3_retrieved": "As the paper’s Fig. 3: what the first K retrieved reports score",
    "fig3_retrieved_equal_time": "The same after equal time",
    "fig4_gap": "As the paper’s Fig. 4: the gap before, during and after training",
    "fig4_pca": "As the paper’s Fig. 4: images and reports of the validation split, two principal components",
    "fig4_tsne": "The same by t-SNE",
}


def render(template: str, **context) -> str:
    """Fill a template of templates/; every text in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def write_page(out: Path, about: dict, notebooks: list[dict]) -> Path:
    """Write `out/index.html` and return its path: what was found first, what ran last.

    about: what ran, on what (shown as a table); notebooks: dicts with name, title, seconds, error (None: ran to its
    end), and `html` / `ipynb`, paths relative to `out`.
    """
    records = collected(out)
    shown = [
        notebook | _split_records(out, notebook["name"], records.get(notebook["name"], []))
        for notebook in notebooks
    ]
    own = out / "study" / "study.json"
    text = render(
        "index.html",
        about=about,
        notebooks=shown,
        paper=paper,
        search=_find_picture(shown, *SEARCH),
        recall=_read_recall(out),
        verdicts=_read_verdicts({"this run": own} if own.exists() else {}),
        committed=_read_committed_studies(),
        **_read_own_study(out),
    )
    path = out / "index.html"
    path.write_text(text, encoding="utf-8")
    return path


def write_notebook_page(executed: Path, target: Path) -> None:
    """Write an executed notebook as one offline page. Widgets leave their static view, solutions are folded; nothing
    is loaded from elsewhere."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = _last_states(output.text)
            if "data" in output:
                output.data.pop(NEEDS_SCRIPT, None)  # the static view stays
    loaders = [FileSystemLoader(TEMPLATES)]
    exporter = HTMLExporter(
        extra_loaders=loaders, template_name="basic", template_file="lesson.html.j2"
    )
    # what they say, the lesson's first line of output says as well, without this machine's paths
    parameters = TagRemovePreprocessor(remove_cell_tags={"parameters", "injected-parameters"})
    exporter.register_preprocessor(parameters, enabled=True)
    body, _ = exporter.from_notebook_node(notebook)
    highlighting = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    _write_readable(target, body, highlighting)


def write_text_page(source: Path, target: Path) -> None:
    """Write a Markdown file as one offline page."""
    _write_readable(target, markdown2html(source.read_text(encoding="utf-8")))


def _write_readable(target: Path, body: str, highlighting: str = "") -> None:
    """The page of a lesson or of a text, whose links lead to the pages of others."""
    body = re.sub(r'href="([\w-]+)\.(ipynb|md)"', r'href="\1.html"', body)
    text = render("notebook.html", name=target.stem, body=body, highlighting=highlighting)
    target.write_text(text, encoding="utf-8")


def _last_states(printed: str) -> str:
    """What was printed, of a progress bar the last state only."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in printed.split("\n")]
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------- what a notebook left


def _split_records(out: Path, name: str, records: list[dict]) -> dict:
    """What a notebook left, ready to be shown: figures, tables and numbers in their order, and apart the claims."""
    folder = Path("lessons") / name
    shown, claims = [], []
    for record in records:
        if record["kind"] == "claim":
            claims.append(record)
        elif record["kind"] == "answer":
            continue  # of an exercise, which the reader is to solve
        elif record["kind"] == "figure":
            shown.append(record | {"source": str(folder / record["file"])})
        elif record["kind"] == "table":
            shown.append(record | _read_table(out / folder / record["file"]))
        else:
            shown.append(record)
    return {"records": shown, "claims": claims}


def _read_table(path: Path) -> dict:
    table = pd.read_csv(path).fillna("")
    head = ["" if str(name).startswith("Unnamed") else str(name) for name in table.columns]
    return {"head": head, "lines": list(table.itertuples(index=False))}


# ------------------------------------------------------------------------------------------------ in one look


def _find_picture(notebooks: list[dict], name: str, figure: str) -> dict | None:
    """A figure that a notebook left, if it came so far."""
    for notebook in notebooks:
        for record in notebook["records"]:
            if (notebook["name"], record["kind"], record["name"]) == (name, "figure", figure):
                return record
    return None


def _read_recall(out: Path) -> dict | None:
    """R@10 of this run's model, of a linear model and of chance, as cells; what was not measured is left out."""
    sources = {}
    if (out / "baselines.json").exists():
        baselines = read_json(out / "baselines.json")
        sources["chance"] = baselines["chance"]
        sources["linear model of pixels and word counts (CCA)"] = baselines["rows"]["linear CCA"]
    if (out / "mcr-mba" / "metrics.json").exists():
        sources["this run’s MCR"] = read_json(out / "mcr-mba" / "metrics.json")
    lines = []
    for name, measured in sources.items():
        cells = []
        for key in (f"{way}_R@10" for way in WAYS):
            interval = measured.get("interval", {}).get(key)
            between = f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
            cells.append(f"{measured[key]:.1f}{between}")
        lines.append([name, *cells])
    head = ["found among the first ten, %", *WAYS.values()]
    return {"head": head, "lines": lines} if lines else None


def _read_verdicts(own: dict[str, Path]) -> dict:
    """The claims in few words, a column of verdicts for each study: this run's and the main committed ones."""
    there = {data: RESULTS / f"{name}.json" for data, name in MAIN_STUDIES.items()}
    studies = own | {name: path for name, path in there.items() if path.exists()}
    rows = {name: short.short_rows(tables.read_judged(path)) for name, path in studies.items()}
    lines = [
        [claim, *(rows[name][claim]["verdict"] if claim in rows[name] else "–" for name in rows)]
        for claim in short.ROWS
    ]
    return {"head": ["claim", *rows], "lines": lines}


# -------------------------------------------------------------------------------------------------- the studies


def _read_own_study(out: Path) -> dict:
    """The claims as this run's own study judged them, if it made one, its figures, and its page of Fig. 5."""
    path, drawn = out / "study" / "study.json", out / "study" / "figures"
    if not path.exists():
        return {"own_study": None}
    figures = [
        {"source": f"study/figures/{name}.png", "caption": caption}
        for name, caption in FIGURES.items()
        if (drawn / f"{name}.png").exists()
    ]
    top3 = "study/figures/fig5_top3.html" if (drawn / "fig5_top3.html").exists() else None
    own = _describe_study(tables.read_judged(path))
    return {"own_study": own, "figures": figures, "top3": top3}


def _read_committed_studies() -> list[dict]:
    studies = []
    for path in sorted(RESULTS.glob("*.json")):
        if "claims" in read_json(path):
            studies.append(_describe_study(tables.read_judged(path)) | {"file": path.name})
    return studies


def _describe_study(content: dict) -> dict:
    """A study as the page shows it: sentences and cells."""
    variants = content.get("variants")
    return {
        "headline": tables.headline(content),
        "repeat": content["repeat"],
        "rule": content["rule"],
        "head": tables.CLAIM_HEAD,
        "claims": _describe_claims(content["claims"]),
        "variants": _describe_claims(variants) if variants else None,
        "about_arms": tables.ABOUT_ARMS,
        "arms": tables.arm_cells(content),
    }


def _describe_claims(rows: list[dict]) -> dict:
    lines, missing = tables.claim_cells(rows)
    return {"lines": lines, "missing": missing}
