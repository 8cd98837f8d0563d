"""The report page: whole, offline, and honest about what was not measured."""

import html
import json
import re

import nbformat
import numpy as np
import pytest
from PIL import Image

from benchmarks import page, reproduce, thumbnails
from benchmarks.study import comparisons
from data_prep.commands import run_app
from kit.lesson import Parameters
from mcr_lib import paper
from mcr_lib.engine.run_folder import RunError


def test_page_names_every_claim_and_loads_nothing(tmp_path):
    notebook = {
        "name": "00_x",
        "title": "X & Y",
        "seconds": 1.0,
        "error": None,
        "html": "n.html",
        "ipynb": "n.ipynb",
    }
    failed = {**notebook, "error": "cell 3: ValueError"}
    text = page.write_page(tmp_path, {"profile": "smoke"}, [notebook, failed]).read_text()
    for fact in (*paper.CLAIMS, *paper.FACTS):
        assert html.escape(fact.what) in text
    assert (
        "has not measured the claims" in text and "stopped: cell 3" in text and "X &amp; Y" in text
    )
    assert not re.search(r"<script|src=.https?:|<link[^>]+https?:", text)


def test_a_study_of_this_run_and_a_committed_one_stand_side_by_side_and_say_which_is_which(
    tmp_path, monkeypatch
):
    def content(name, effect):
        rows = comparisons.judge_comparisons([], None)
        rows[1] |= {
            "effect": effect,
            "interval": [effect - 1, effect + 1],
            "repeats": 3,
            "verdict": "supported",
        }
        return {
            "study": name,
            "data": {"synthetic": True},
            "profile": "smoke",
            "rule": "the rule",
            "repeat": "study --arms …",
            "gallery": {"images": 9, "distinct_texts": 8, "patients": 7},
            "claims": rows,
            "trained_on": [{"hardware": {"gpu": None, "cpus": 2}, "commit": "abc"}],
            "cost": {"arms": {}},
            "arms": {
                "mcr-mba": {
                    "steps": 30,
                    "seeds": [0, 1, 2],
                    "metrics": {
                        where: {"rsum": [effect]}
                        | {
                            f"{way}_R@{k}": [effect]
                            for way in ("image_to_text", "text_to_image")
                            for k in (1, 10)
                        }
                        for where in ("test, unmasked", "chance")
                    },
                }
            },
        }

    (tmp_path / "study" / "figures").mkdir(parents=True)
    (tmp_path / "study" / "study.json").write_text(json.dumps(content("mine", 11.5)))
    (tmp_path / "study" / "figures" / "spread.png").write_bytes(b"")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "study_x.json").write_text(
        json.dumps(content("theirs", -22.5))
    )
    (tmp_path / "benchmarks" / "results" / "other.json").write_text(
        "{}"
    )  # a result file that is no study
    monkeypatch.setattr(page, "RESULTS", tmp_path / "benchmarks" / "results")
    text = page.write_page(tmp_path, {"profile": "smoke"}, []).read_text()
    own, committed = text.split("Committed, not measured by this run: study_x.json")
    assert (
        "Measured by this run" in own
        and "mine (synthetic)" in own
        and "+11.5 [+10.5, +12.5]" in own
    )
    (table,) = re.findall(r"<table>.*?</table>", own[own.index("mine (synthetic)") :], re.S)[:1]
    assert (
        table.count("<tr>") == 2 and "not measured" not in table
    )  # the head and the one row that was measured
    assert "Not measured here: state of the art on MIMIC-CXR; " in own
    assert (
        "theirs (synthetic)" in committed
        and "-22.5 [-23.5, -21.5]" in committed
        and "+11.5" not in committed
    )
    assert (
        'src="study/figures/spread.png"' in own
        and "has not measured the claims" not in text
        and "other.json" not in text
    )


def test_a_notebook_page_folds_solutions_and_names_no_path_of_this_machine(tmp_path):
    say = nbformat.v4.new_output
    cells = [
        nbformat.v4.new_code_cell("profile = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("out = '/home/me'", metadata={"tags": ["injected-parameters"]}),
        nbformat.v4.new_code_cell("1", outputs=[say("stream", text="a 1 %\ra 99 %\nshown")]),
        nbformat.v4.new_code_cell(
            "secret", metadata={"tags": ["solution"]}, outputs=[say("stream", text="answer")]
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "x.ipynb")
    page.write_notebook_page(tmp_path / "x.ipynb", tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    (folded,) = re.findall(r"<details><summary>Solution</summary>.*?</details>", text, re.S)
    assert "secret" in folded and "answer" in folded
    outside = text.replace(folded, "")
    assert "secret" not in outside and "answer" not in outside
    assert "shown" in outside and "a 99 %" in outside and "a 1 %" not in outside
    assert "/home/me" not in text and "profile" not in text


def test_imports_are_folded_like_solutions(tmp_path):
    cell = nbformat.v4.new_code_cell("import this_library", metadata={"tags": ["imports"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "x.ipynb")
    page.write_notebook_page(tmp_path / "x.ipynb", tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert re.search(r"<details><summary>Imports</summary>.*this_library.*?</details>", text, re.S)


def test_links_between_lessons_lead_to_their_pages(tmp_path):
    (tmp_path / "GLOSSARY.md").write_text("see [01](01_masking.ipynb) and [us](https://x.org/a.md)")
    page.write_text_page(tmp_path / "GLOSSARY.md", tmp_path / "GLOSSARY.html")
    text = (tmp_path / "GLOSSARY.html").read_text()
    assert 'href="01_masking.html"' in text and 'href="https://x.org/a.md"' in text


def test_a_kernel_that_dies_is_named_and_the_others_still_run(tmp_path):
    source = tmp_path / "00_dies.ipynb"
    cells = [
        nbformat.v4.new_code_cell("profile = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import os; os._exit(1)"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), source)
    (tmp_path / "notebooks").mkdir()
    done = reproduce.run_notebook(source, tmp_path, Parameters(profile="smoke"))
    assert "kernel died" in done["error"] and (tmp_path / done["html"]).exists()


def test_reproduce_studies_the_claims_and_leaves_the_page_whatever_becomes_of_that(
    phantom, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        reproduce,
        "run_notebook",
        lambda source, *_: {
            "name": source.stem,
            "title": source.stem,
            "seconds": 1.0,
            "error": None,
            "html": "n.html",
            "ipynb": "n.ipynb",
        },
    )
    seen = []

    def stop(data, out, profile, settings, **_):
        seen.append((data, out, profile, settings, (tmp_path / "out" / "index.html").exists()))
        raise RunError("no")

    measured = {"image_to_text_R@10": 12.5, "text_to_image_R@10": 11.5}
    baselines = {"chance": measured, "rows": {"linear CCA": measured}}
    monkeypatch.setattr(reproduce, "measure_baselines", lambda data: baselines)
    monkeypatch.setattr(reproduce, "run_reduced_study", stop)
    with pytest.raises(RunError):
        given = ["dropout=0.1"]
        reproduce.reproduce("demo", phantom, tmp_path / "out", settings=given, device="cpu")
    study = tmp_path / "out" / "study"
    assert seen == [(phantom.resolve(), study, "demo", {"dropout": 0.1}, True)]
    kept = json.loads((tmp_path / "out" / "notebooks.json").read_text())
    assert kept["seconds"]["06_explore"] == 1 and kept["profile"] == "demo"
    assert "step 4 of 5: a reduced study" in capsys.readouterr().out
    # two steps can decide nothing: smoke has no study, and its page says what it is
    written = reproduce.reproduce("smoke", phantom, tmp_path / "out", device="cpu").read_text()
    assert len(seen) == 1 and "step 4 of 4: the page" in capsys.readouterr().out
    assert "06_explore" in written and "know nothing" in written and "12.5" in written


def test_what_was_found_comes_first_and_what_ran_last(tmp_path):
    (tmp_path / "lessons" / "00_start_here").mkdir(parents=True)
    records = [{"kind": "figure", "name": "films", "file": "films.png", "caption": "found"}]
    (tmp_path / "lessons" / "00_start_here" / "records.json").write_text(json.dumps(records))
    (tmp_path / "mcr-mba").mkdir()
    measured = {"image_to_text_R@10": 81.25, "text_to_image_R@10": 71.25}
    between = {"interval": {key: [value - 1, value + 1] for key, value in measured.items()}}
    (tmp_path / "mcr-mba" / "metrics.json").write_text(json.dumps(measured | between))
    notebook = {"name": "00_start_here", "title": "Start", "seconds": 1.0, "error": None}
    notebook |= {"html": "n.html", "ipynb": "n.ipynb"}
    about = {"profile": "demo", "commit": "abcdef"}
    text = page.write_page(tmp_path, about, [notebook]).read_text()
    order = ["films.png", "81.2 [80.2, 82.2]", "MbA finds more than AbM", "read it", "Committed"]
    places = [text.index(words) for words in [*order, "abcdef"]]
    assert places == sorted(places)
    assert text.count("<details") == text.count("</details>") > 4 and "reproduced" not in text


def test_a_wrong_key_is_one_line_before_anything_is_run(tmp_path, capsys):
    arguments = ["--profile", "smoke", "--out", str(tmp_path), "--set", "lr=1"]
    assert run_app(reproduce.app, reproduce.MODULE, arguments) == 2
    assert "did you mean 'learning_rate'?" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_wrong_data_folder_is_one_line_before_anything_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--profile", "smoke", "--data", "nope", "--out", "made"]
    assert run_app(reproduce.app, reproduce.MODULE, arguments) == 2
    said = capsys.readouterr().err
    assert "nope has no manifest.parquet" in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "made").exists()


def test_a_profile_that_is_fitted_is_refused_before_anything_is_made(tmp_path, capsys):
    arguments = ["--profile", "small", "--out", str(tmp_path / "made")]
    assert run_app(reproduce.app, reproduce.MODULE, arguments) == 2
    assert "one of smoke, demo, base" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_the_sheet_of_lessons_shows_a_figure_of_each_or_says_which_is_missing(tmp_path, capsys):
    for lesson, name in thumbnails.SHOWN.items():
        figure = tmp_path / "lessons" / lesson / f"{name}.png"
        figure.parent.mkdir(parents=True)
        Image.new("RGB", (1000, 400), "red").save(figure)
    arguments = ["--run", str(tmp_path), "--out", str(tmp_path / "sheet.png")]
    assert run_app(thumbnails.app, "benchmarks.thumbnails", arguments) == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3)
    red = (np.abs(sheet.astype(int) - [255, 0, 0]).max(1) < 20).sum()
    assert red == 7 * thumbnails.WIDTH * round(0.4 * thumbnails.WIDTH)
    (tmp_path / "lessons" / "06_explore" / "maps.png").unlink()
    assert run_app(thumbnails.app, "benchmarks.thumbnails", arguments) == 2
    assert "no figure maps of 06_explore" in capsys.readouterr().err
