"""The report page: runs/<name>/index.html, from what the notebooks left as files (lesson.py).

Plain HTML and the figures beside it: no script, nothing from the network, so it works offline and years from now.
It measures nothing and draws nothing.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from pygments.formatters import HtmlFormatter

from . import claim_table, paper
from .lesson import ROOT, collected

STYLE = """
:root { color-scheme: light dark; --ink: #1a2433; --soft: #5b6678; --line: #d9dfe7; --paper: #fff; --accent: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #9aa6b8; --line: #36404e; --paper: #151a21; --accent: #56b4e9 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 5rem; background: var(--paper); color: var(--ink);
  font: 1.02rem/1.6 system-ui, sans-serif }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem } h2 { margin: 3rem 0 .75rem; font-size: 1.4rem }
p.lead, figcaption, caption, .soft { color: var(--soft) } a { color: var(--accent) }
figure { margin: 1.5rem 0 } figure img { max-width: 100%; background: #fff; border: 1px solid var(--line);
  border-radius: 6px } figcaption, caption { font-size: .95rem; text-align: left; padding: .35rem 0 }
table { border-collapse: collapse; font-size: .92rem; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .35rem .75rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums } ul.claims { list-style: none; padding: 0 }
nav a { margin-right: 1.1rem; white-space: nowrap } .badge { border: 1px solid var(--line); border-radius: 1rem;
  padding: .1rem .7rem; font-size: .85rem } pre { overflow-x: auto; font-size: .86rem; line-height: 1.45 }
.highlight { background: #f6f8fa; color: #1a2433; padding: .6rem .9rem; border-radius: 6px } .jp-InputPrompt,
.jp-OutputPrompt, .anchor-link { display: none } img { max-width: 100% }
"""
NOTEBOOK_STYLE = STYLE + HtmlFormatter(style="friendly").get_style_defs(".highlight")
FIGURES = {"spread": "Every run of this study: RSum of each seed",
           "masks": "How much to mask: RSum at each pair of rates",
           "fig3_retrieved": "As the paper’s Fig. 3: what the first K retrieved reports score",
           "fig3_retrieved_equal_time": "The same after equal time",
           "fig4_gap": "As the paper’s Fig. 4: the gap before, during and after training",
           "fig4_pca": "As the paper’s Fig. 4: images and reports of the validation split, two principal components",
           "fig4_tsne": "The same by t-SNE"}
MARK = {True: "✓", False: "✗", None: "○"}


def write(out: Path, about: dict, notebooks: list[dict]) -> Path:
    """Write `out/index.html`. about: what ran, on what (shown as a table); notebooks: dicts with name, title, seconds,
    error (None: ran to its end), and `html` / `ipynb`, paths relative to `out`. Returns the page's path."""
    records = collected(out)
    parts = [
        "<h1>Masked Contrastive Reconstruction, reproduced</h1>",
        f'<p class="lead">{html.escape(paper.PAPER)}. This page was written by the run it describes; every figure and '
        "number on it was measured by that run, but for the committed studies, which say so.</p>",
        "<nav>" + "".join(f'<a href="#{n["name"]}">{html.escape(n["title"])}</a>' for n in notebooks) + "</nav>",
        "<h2>What ran</h2>", _pairs(about.items()), _notebook_table(notebooks),
        "<h2>The paper’s claims</h2>", _verdicts(out),
    ]
    for notebook in notebooks:
        parts += [f'<h2 id="{notebook["name"]}">{html.escape(notebook["title"])}</h2>', _links(notebook)]
        parts += [_record(out, notebook["name"], record) for record in records.get(notebook["name"], [])
                  if record["kind"] != "claim"]
        parts.append(_claims([r for r in records.get(notebook["name"], []) if r["kind"] == "claim"]))
    parts += ["<h2>What the paper says, and what we chose</h2>", _paper()]
    path = out / "index.html"
    path.write_text(page("MCR reproduced", "\n".join(parts), STYLE), encoding="utf-8")
    return path


def notebook_html(executed: Path, target: Path) -> None:
    """An executed notebook as one offline page. Widgets leave their static view; nothing is loaded from elsewhere."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("widgets", None)
    for output in (o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream"):
        lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in output.text.split("\n"))
        output.text = "\n".join(lines)  # of a progress bar, the last state
    for output in (o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o):
        output.data.pop("application/vnd.jupyter.widget-view+json", None)  # needs a script; the static view stays
    exporter = HTMLExporter(template_name="basic")
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"injected-parameters"}), enabled=True)
    body, _ = exporter.from_notebook_node(notebook)
    back = '<p><a href="../index.html">← the report</a></p>'
    target.write_text(page(executed.stem, back + body, NOTEBOOK_STYLE), encoding="utf-8")


def page(title: str, body: str, style: str) -> str:
    return ('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
            f'content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
            f'<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n')


def _pairs(content) -> str:
    rows = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in content)
    return f"<table>{rows}</table>"


def _notebook_table(notebooks: list[dict]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(n['title'])}</td><td class=n>{n['seconds']:.0f} s</td>"
        f"<td>{'ran to its end' if n['error'] is None else 'stopped: ' + html.escape(n['error'])}</td>"
        f"<td>{_links(n, tag='span')}</td></tr>" for n in notebooks)
    return f"<table><tr><th>notebook</th><th>took</th><th>result</th><th>open</th></tr>{rows}</table>"


def _links(notebook: dict, tag: str = "p") -> str:
    links = [f'<a href="{notebook[kind]}">{label}</a>'
             for kind, label in (("html", "read it"), ("ipynb", "notebook file"))]
    return f'<{tag} class="soft">{" · ".join(links)}</{tag}>'


def _record(out: Path, name: str, record: dict) -> str:
    caption = html.escape(record["caption"])
    if record["kind"] == "figure":
        source = f"lessons/{name}/{record['file']}"
        return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    if record["kind"] == "table":
        table = pd.read_csv(out / "lessons" / name / record["file"]).fillna("")
        if table.columns[0].startswith("Unnamed"):
            table = table.rename(columns={table.columns[0]: ""})
        head = "".join(f"<th>{html.escape(str(c))}</th>" for c in table.columns)
        rows = "".join("<tr>" + "".join(_cell(v) for v in row) + "</tr>" for row in table.itertuples(index=False))
        return f"<table><caption>{caption}</caption><tr>{head}</tr>{rows}</table>"
    return f"<p>{caption}: <strong>{record['value']:.4g}</strong></p>"


def _cell(value) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"<td class=n>{value:,.4g}</td>" if isinstance(value, float) else f"<td class=n>{value:,}</td>"
    return f"<td>{html.escape(str(value))}</td>"


def _claims(found: list[dict]) -> str:
    if not found:
        return ""
    rows = "".join(f"<li>{MARK[c['holds']]} {html.escape(c['sentence'])}"
                   + ('' if c["holds"] is not None else ' <span class="badge">not checked in this profile</span>')
                   + "</li>" for c in found)
    return f"<p>Sentences of the text that this run checked:</p><ul class=claims>{rows}</ul>"


def _verdicts(out: Path) -> str:
    """The claims as this run's own study judged them, if it made one, and beside it the committed studies."""
    own, parts = out / "study" / "study.json", []
    if own.exists():
        parts += ["<h3>Measured by this run</h3>", "<p>A reduced study, trained just now: few steps and few seeds, so "
                  "expect <em>undecided</em>. It shows that the numbers can be made, not what they are.</p>",
                  _study(json.loads(own.read_text()))]
        folder = out / "study" / "figures"
        parts += [f'<figure><img src="study/figures/{name}.png" alt="{caption}"><figcaption>{caption}</figcaption>'
                  "</figure>" for name, caption in FIGURES.items() if (folder / f"{name}.png").exists()]
        if (folder / "fig5_top3.html").exists():
            parts.append('<p><a href="study/figures/fig5_top3.html">As the paper’s Fig. 5: the first three reports '
                         "that each alignment strategy finds</a></p>")
    else:
        parts += ["<p>This run has not measured them; here they are as the paper states them.</p>",
                  _pairs((fact.where, fact.what) for fact in paper.CLAIMS)]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        content = json.loads(path.read_text())
        if "claims" in content:
            parts += [f"<h3>Committed, not measured by this run: {html.escape(path.name)}</h3>", _study(content)]
    return "\n".join(parts)


def _study(content: dict) -> str:
    tables = _rows(content["claims"])
    if content.get("variants"):
        tables += "<p>Variants of MCR, by the same rule:</p>" + _rows(content["variants"])
    tables += f"<p>{claim_table.ABOUT_ARMS}:</p>" + _table(*claim_table.arms(content))
    return (f"<p>{html.escape(claim_table.headline(content))}. A row is made again by <code>"
            f"{html.escape(content['repeat'])}</code>, with the arms of its last column.</p>{tables}"
            f'<p class="soft">{html.escape(content["rule"])}</p>')


def _rows(rows: list[dict]) -> str:
    lines, missing = claim_table.shown(rows)
    return f"{_table(claim_table.HEAD, *lines)}<p>{html.escape(missing)}</p>"


def _table(head, *lines) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in line) + "</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def _paper() -> str:
    facts = "".join(f"<tr><td>{html.escape(f.what)}</td><td>{html.escape(f.where)}</td></tr>" for f in paper.FACTS)
    choices = "".join(f"<tr><td>{html.escape(', '.join(c.keys))}</td><td>{html.escape(c.value)}</td>"
                      f"<td>{html.escape(c.reason)}</td></tr>" for c in paper.CHOICES)
    return (f"<table><tr><th>fact of the paper</th><th>where</th></tr>{facts}</table>"
            f"<table><tr><th>our setting</th><th>value</th><th>reason</th></tr>{choices}</table>")
