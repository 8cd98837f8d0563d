"""The notebooks: text form and .ipynb in step, no outputs, the structure and the prose they promise, and each of them
run by plain papermill in the smoke profile. Not here: the widgets in a browser (test_browser.py), what a claim means.
"""

import ast
import builtins
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from papermill import inspect_notebook

from kit.lesson import Lesson, Parameters
from mcr_lib.config import ConfigError
from mcr_lib.engine.run_folder import RunError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
sys.path.insert(0, str(ROOT / "notebooks" / "src"))
import derive  # noqa: E402

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str, tag: str | None = None) -> list:
    return [
        cell
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == kind and (tag is None or tag in cell.metadata.get("tags", []))
    ]


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def code(path: Path) -> ast.Module:
    return ast.parse("\n".join(cell.source for cell in cells(path, "code")))


def calls(path: Path, method: str) -> list[ast.Call]:
    """Every call lesson.method(…) in the notebook's code."""
    return [
        node
        for node in ast.walk(code(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
        and getattr(node.func.value, "id", "") == "lesson"
    ]


# --- the pair of files


def test_there_are_seven_and_each_has_both_forms():
    assert {source.stem for source in derive.pairs()} == {path.stem for path in NOTEBOOKS}
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{n:02d}" for n in range(7)]


@each_notebook
def test_pair_in_step_and_deterministic(path):
    source = ROOT / "notebooks" / "src" / f"{path.stem}.py"
    assert derive.derive(source) == derive.derive(source) == path.read_text(encoding="utf-8"), (
        "run: make notebooks"
    )


@each_notebook
def test_no_outputs_and_no_machine_in_the_metadata(path):
    notebook = nbformat.read(path, 4)
    assert notebook.metadata == derive.METADATA
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "jupyter"}
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


# --- structure


@each_notebook
def test_parameters_then_the_cell_that_checks_them(path):
    first, second = cells(path, "code")[:2]
    assert first.metadata.tags == ["parameters"]
    given = {}
    for node in ast.parse(first.source).body:
        assert isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant), (
            "literals only, annotated"
        )
        given[node.target.id] = node.value.value
    assert given == Parameters().model_dump()
    assert set(inspect_notebook(path)) == set(given), "papermill knows them all"
    assert all("#" in line for line in first.source.splitlines()), "each parameter has its comment"
    assert f'Lesson.begin("{path.stem}")' in second.source


@each_notebook
def test_sections_pictures_checks_and_exercises(path):
    text = prose(path)
    assert text.startswith("# "), "a title first"
    for promise in (
        "The question",
        "What may surprise you",
        "You need",
        "You will be able to",
        "Minutes",
    ):
        assert f"**{promise}.**" in text.split("\n## ")[0], f"the opening should say: {promise}"
    assert "\n## Summary" in text and "\n## References" in text.split("\n## Summary")[1]
    assert "arxiv.org/abs/2312.15840" in text or "(00_start_here.ipynb)" in text, (
        "the way to the facts of the paper"
    )
    sections = re.split(r"^## (?=\d)", text, flags=re.M)[1:]
    assert 3 <= len(sections) <= 5, [section.splitlines()[0] for section in sections]
    assert len(calls(path, "figure")) >= 3, "pictures of real tensors"
    assert text.count("**Exercise.**") >= len(sections) - 1
    solutions = cells(path, "code", "solution")
    assert len(solutions) == text.count("**Exercise.**"), "each exercise has one folded solution"
    for cell in (
        solutions
    ):  # nothing of it is seen before it is opened: not its first line, not what it prints
        assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}
        assert cell.source.startswith(f"{derive.FOLD}\n")
    (imports,) = cells(path, "code", "imports")  # what it imports is not what it teaches
    assert imports.metadata.jupyter == {"source_hidden": True}
    assert text.count("**Check") >= 2 and re.search(
        r"assert|torch\.equal", "\n".join(cell.source for cell in cells(path, "code"))
    ), "the hand version is compared with the library's"


@each_notebook
def test_cells_are_short(path):
    lengths = sorted(
        len([line for line in cell.source.splitlines() if line.strip()])
        for cell in cells(path, "code")
    )
    assert lengths[len(lengths) // 2] <= 12 and lengths[-1] <= 30, lengths
    assert len(lengths) - len(cells(path, "code", "solution")) <= 25, "no longer than its idea"
    assert path.stat().st_size < 60_000


# --- prose


@each_notebook
def test_every_claim_in_the_text_is_checked_and_the_other_way_round(path):
    said = {
        " ".join(claim.split())
        for claim in re.findall(r"\*\*Claim:\*\*\s+(.+?)(?=\n\s*\n|\Z)", prose(path), re.S)
    }
    checked = [ast.literal_eval(call.args[0]) for call in calls(path, "claim")]
    assert said == set(checked) and len(checked) == len(set(checked))


@each_notebook
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not target.startswith(("https://", "#")):
            assert (path.parent / target.split("#")[0]).exists(), target


@each_notebook
def test_names_in_backticks_exist(path):
    """`module.name` and `name()` must be something of the project, of Python, or of the notebook itself."""
    own = {node.id for node in ast.walk(code(path)) if isinstance(node, ast.Name)}
    own |= {
        node.name
        for node in ast.walk(code(path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    own |= {
        alias.asname or alias.name
        for node in ast.walk(code(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for name, called in re.findall(r"(?<!`)`([A-Za-z_][\w.]*)(\([^`]*\))?`(?!`)", prose(path)):
        if (called or "." in name) and not name.endswith(
            (".json", ".jsonl", ".yaml", ".parquet", ".py", ".html")
        ):
            assert resolves(name, own), f"`{name}` is nothing in the project"


def resolves(name: str, own: set[str]) -> bool:
    parts = name.split(".")
    if parts[0] in own:
        return True
    for start in ("", "mcr_lib.", "data_prep.", "kit."):
        for cut in range(len(parts), 0, -1):
            try:
                thing = importlib.import_module(start + ".".join(parts[:cut]))
            except ImportError:
                continue
            for part in parts[cut:]:
                fields = getattr(thing, "model_fields", {}) | getattr(
                    thing, "__dataclass_fields__", {}
                )
                if not hasattr(thing, part) and part not in fields:
                    return False
                thing = getattr(thing, part, None)
            return True
    return hasattr(builtins, parts[0])


@each_notebook
def test_no_measured_number_is_typed_into_the_text(path):
    """Percentages in prose are settings (mask rates, confidence, exercises' questions), never results."""
    settings = {"25", "50", "75", "95", "99"}
    for number in re.findall(r"(\d+(?:[.,]\d+)?)\s?%", prose(path)):
        assert number in settings, f"{number} % looks measured: print it from code"
    assert not re.search(r"\d\s?(seconds|minutes|ms|GB|MB|GFLOP)\b", prose(path)), (
        "measured: print it from code"
    )


QUESTIONS = (ROOT / "notebooks" / "QUESTIONS.md").read_text(encoding="utf-8")
ANSWER = re.compile(
    r"^\d\. (.+?)\n.*?^   > (.+?)\n\n   Section (.+?), profile `(\w+)`", re.M | re.S
)


@each_notebook
def test_its_three_questions_are_answered_in_it(path):
    """By a sentence of its text or of a solution, in the section named, at the profile named."""
    asked = QUESTIONS.split(f"\n## {path.stem[:2]} · ")[1].split("\n## ")[0]
    assert asked.splitlines()[0] == prose(path).splitlines()[0].split(" · ")[1]
    answers = ANSWER.findall(asked)
    assert len(answers) == 3
    notebook = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    sections = {part.split("\n")[0]: part for part in re.split(r"^## ", notebook, flags=re.M)}
    profiles = {
        ast.literal_eval(call.args[0]): "demo" if call.keywords else "smoke"
        for method in ("claim", "answer")
        for call in calls(path, method)
        if isinstance(call.args[0], ast.Constant)
    }
    for question, quote, section, profile in answers:
        assert question.endswith("?")
        title = section.strip("“”")
        [text] = [
            t for name, t in sections.items() if name == title or name.startswith(f"{title}. ")
        ]
        assert quote in " ".join(text.split()) and profiles.get(quote, "smoke") == profile, quote


# --- running them


def papermill(path: Path, target: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`papermill notebook target …` as a user would type it; one thread, for notebooks and tests share two cores."""
    return subprocess.run(
        [
            Path(sys.executable).with_name("papermill"),
            "--no-progress-bar",
            path.name,
            target,
            *arguments,
        ],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )


@pytest.fixture(scope="session")
def shared_out(tmp_path_factory):
    """The folder in which the notebooks find what an earlier one has left, as in `make reproduce`."""
    return tmp_path_factory.mktemp("lessons")


@pytest.mark.slow
@each_notebook
def test_runs_by_plain_papermill(path, shared_out, tmp_path):
    """In one folder, as `make reproduce` does; but 03, which needs most (data, a model, its evaluation), all alone."""
    out = tmp_path / "cold" if path.stem.startswith("03") else shared_out
    target = tmp_path / path.name
    done = papermill(path, target, "-p", "out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    records = json.loads((out / "lessons" / path.stem / "records.json").read_text())
    assert {record["sentence"] for record in records if record["kind"] == "claim"} == {
        ast.literal_eval(call.args[0]) for call in calls(path, "claim")
    }, "every claim was reached"
    for record in records:
        if "file" in record:
            assert (out / "lessons" / path.stem / record["file"]).stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "bogus",
            "1",
            "unknown parameter 'bogus'; a notebook takes: profile, data, out, seed, device, settings",
        ),
        ("seed", "abc", "parameter seed: "),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line(name, value, message, tmp_path):
    done = papermill(
        NOTEBOOKS[0], tmp_path / "out.ipynb", "-p", "out", str(tmp_path / "run"), "-p", name, value
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "ConfigError: " in line]
    assert lines and message in lines[-1]


def test_a_run_of_other_data_or_seed_is_not_taken_for_this_one(phantom, smoke_run, tmp_path):
    from kit.lesson import Lesson
    from mcr_lib.config import ConfigError

    shutil.copytree(smoke_run, tmp_path / "mcr-mba")
    given = {"profile": "smoke", "data": str(phantom), "out": str(tmp_path), "device": "cpu"}
    assert Lesson.begin("xx", given).train() == tmp_path / "mcr-mba"  # it is there
    with pytest.raises(ConfigError, match="seed=0, now it is 1"):
        Lesson.begin("xx", given | {"seed": 1}).train()
    about = json.loads((phantom / "dataset.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(phantom, other)
    (other / "dataset.json").write_text(json.dumps(about | {"sha256": "0" * 64}))
    with pytest.raises(RunError, match="begun on other data"):
        Lesson.begin("xx", given | {"data": str(other)}).train()


def test_what_is_trained_is_taken_and_else_a_box_says_that_nothing_is(
    phantom, smoke_run, tmp_path, monkeypatch, capsys
):
    from kit import lesson as kit_lesson

    shown = []
    monkeypatch.setattr(kit_lesson, "display", lambda html: shown.append(html.data))
    monkeypatch.setattr(kit_lesson, "ROOT", tmp_path)
    assert Lesson.begin("xx", {"device": "cpu"}).out == tmp_path / "runs" / "smoke"
    assert "know nothing" in shown[0] and "make reproduce" in shown[0]
    assert "profile smoke" in capsys.readouterr().out
    demo = tmp_path / "runs" / "demo"
    for run in kit_lesson.TRAINED:
        shutil.copytree(smoke_run, demo / run)
        config = demo / run / "config.yaml"
        config.write_text(config.read_text().replace("profile: smoke", "profile: demo"))
        assert Lesson.begin("xx", {"device": "cpu"}).profile == "smoke"  # not all is there
    shown.clear()
    (demo / "data").symlink_to(phantom)
    lesson = Lesson.begin("xx", {"device": "cpu"})
    assert (lesson.profile, lesson.out, shown) == ("demo", demo, [])
    assert Lesson.begin("xx", {"device": "cpu", "seed": 1}).profile == "smoke"
    assert Lesson.begin("xx", {"device": "cpu", "profile": "smoke"}).profile == "smoke"
    (demo / "data").unlink()
    shutil.copytree(phantom, demo / "data")
    about = json.loads((phantom / "dataset.json").read_text())
    (demo / "data" / "dataset.json").write_text(json.dumps(about | {"sha256": "0" * 64}))
    assert Lesson.begin("xx", {"device": "cpu"}).profile == "smoke"  # trained on other data


def test_an_answer_is_checked_like_a_claim_and_only_a_trained_model_can_be_asked_for_some(tmp_path):
    lesson = Lesson.begin("xx", {"profile": "smoke", "out": str(tmp_path), "device": "cpu"})
    lesson.answer("true", True)
    lesson.answer("it takes training", False, needs="demo")
    with pytest.raises(AssertionError, match="does not bear out: false"):
        lesson.answer("false", False)
    kept = json.loads((lesson.folder / "records.json").read_text())
    assert [(r["kind"], r["holds"]) for r in kept] == [
        ("answer", True),
        ("answer", None),
        ("answer", False),
    ]


def test_a_profile_that_trains_no_mcr_is_refused(tmp_path):
    given = {"profile": "small", "out": str(tmp_path), "device": "cpu"}
    with pytest.raises(ConfigError, match="'small': the lessons train MCR, with one of: smoke"):
        Lesson.begin("xx", given)


def test_settings_reach_the_training_and_leave_trained_models_alone(tmp_path, monkeypatch):
    from kit import lesson as kit_lesson

    trained = []
    monkeypatch.setattr(
        kit_lesson, "train_run", lambda data, run, config, **_: trained.append(config)
    )
    given = {"profile": "smoke", "settings": "steps=3 dropout=0.1", "device": "cpu"}
    lesson = Lesson.begin("xx", given | {"out": str(tmp_path), "data": str(tmp_path)})
    lesson.train(alignment="abm")
    (config,) = trained
    assert (config.train.steps, config.model.dropout, config.model.alignment) == (3, 0.1, "abm")
    monkeypatch.setattr(kit_lesson, "TRAINED", ())  # all is there
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.parquet").touch()
    given = Parameters(out=str(tmp_path), settings="steps=3")
    assert kit_lesson.trained_profile(given) == "smoke"


def test_parameters_are_made_the_right_type(tmp_path):
    lesson = Lesson.begin(
        "xx", {"profile": "smoke", "data": "", "out": str(tmp_path), "seed": "7", "device": "cpu"}
    )
    assert lesson.seed == 7
    with pytest.raises(ConfigError, match="unknown parameter 'lesson'"):
        Lesson.begin("xx", {"out": str(tmp_path), "lesson": lesson})


def test_a_cell_run_twice_passes_over_what_later_cells_made(tmp_path, monkeypatch):
    from kit import lesson as kit_lesson

    names = {
        "profile": "smoke",
        "out": str(tmp_path),
        "device": "cpu",
        "_": 3,
        "In": [],
        "json": json,
    }
    shell = SimpleNamespace(user_ns=names, user_ns_hidden={"In": names["In"]})
    monkeypatch.setattr(kit_lesson, "get_ipython", lambda: shell)
    names["lesson"] = kit_lesson.Lesson.begin("xx")
    names["model"] = 1
    assert kit_lesson.Lesson.begin("xx").seed == 0
    del names["lesson"]
    with pytest.raises(ConfigError, match="unknown parameter 'model'"):
        kit_lesson.Lesson.begin("xx")


def test_what_a_startup_file_has_named_is_passed_over_unless_the_notebook_names_it(
    tmp_path, monkeypatch
):
    from kit import lesson as kit_lesson

    started = {"helper": 1, "seed": 3, "data": "elsewhere"}
    names = started | {"profile": "smoke", "out": str(tmp_path), "device": "cpu", "data": ""}
    shell = SimpleNamespace(user_ns=names, user_ns_hidden=started)
    monkeypatch.setattr(kit_lesson, "get_ipython", lambda: shell)
    lesson = kit_lesson.Lesson.begin("xx")
    assert lesson.seed == 0 and lesson._given == ""


@pytest.mark.parametrize("text", ["$x_$", "costs $5 and $6", r"\frac{$", r"$\nothing$", "$$"])
def test_text_of_a_report_is_no_formula(text):
    from kit import plotting
    from kit.plotting.retrieval import KINDS

    grey = np.zeros((8, 8))
    pictures = [
        plotting.pairs([grey], [text], [text], [[(0, 0, 1, 1, text)]]),
        plotting.top_reports(
            [{"gray": grey, "own": text, "hits": [(0.5, text, next(iter(KINDS)))]}]
        ),
        plotting.token_strips({"tokens": ([text], [False])}),
    ]
    for picture in pictures:
        assert plotting.png(picture).startswith(b"\x89PNG")


def test_a_table_of_a_lesson_holds_no_formula(tmp_path):
    lesson = Lesson.begin("xx", {"out": str(tmp_path), "device": "cpu"})
    lesson.table(
        pd.DataFrame({"report": ["=1+1", "@a", "-b", "clear"], "x": [-1.5, 2, 3, 4]}), "t", ""
    )
    written = (lesson.folder / "t.csv").read_text()
    assert "'=1+1" in written and "'@a" in written and "'-b" in written and ",-1.5" in written
