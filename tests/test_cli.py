"""The command line as a user types it: results, and every mistake one clear line with exit status 2."""

import json
import shutil
import subprocess
import sys

import pytest

from data_prep.errors import KitError
from mcr_lib.__main__ import main


def call(capsys, *arguments):
    """mcr_lib with these arguments, in this process → (exit status, stdout, stderr)."""
    import unittest.mock

    with unittest.mock.patch.object(sys, "argv", ["mcr_lib", *map(str, arguments)]):
        status = main()
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def image(phantom):
    return next((phantom / "images").glob("*.png"))


def test_evaluate_prints_both_directions_and_writes_metrics(phantom, smoke_run, capsys):
    status, out, _ = call(capsys, "evaluate", "--run", smoke_run, "--data", phantom)
    assert (
        status == 0
        and "image_to_text_R@10" in out
        and "text_to_image_R@1" in out
        and "chance" in out
    )
    metrics = json.loads((smoke_run / "metrics.json").read_text())
    assert metrics["image_to_text_R@1"] >= 0 and metrics["protocol"] == "text-identical"
    assert (
        metrics["command"].startswith("python -m mcr_lib evaluate")
        and metrics["data"]["synthetic"] is True
    )
    assert metrics["modality_gap"]["gap_distance"] > 0
    assert call(capsys, "evaluate", "--run", smoke_run)[:2] == (0, out)  # the run knows its data


@pytest.mark.parametrize(("low", "noted"), [(-1.0, True), (1.0, False)])
def test_a_search_in_a_run_at_chance_says_so(phantom, smoke_run, tmp_path, capsys, low, noted):
    run = shutil.copytree(smoke_run, tmp_path / "run")
    assert call(capsys, "evaluate", "--run", run, "--data", phantom)[0] == 0
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["interval"]["rsum"][0] = metrics["chance"]["rsum"] + low
    (run / "metrics.json").write_text(json.dumps(metrics))
    asked = ["--run", run, "--data", phantom, "--text", "effusion"]
    status, out, err = call(capsys, "search", *asked)
    assert status == 0 and out
    assert ("finds no more than chance would (rsum" in err) is noted


def test_an_unfinished_run_is_not_measured(phantom, smoke_run, tmp_path, capsys, monkeypatch):
    from mcr_lib import evaluate as evaluation

    run = tmp_path / "unfinished"
    shutil.copytree(smoke_run, run)
    (run / "manifest.json").unlink()
    monkeypatch.setattr(
        evaluation, "encode_pairs", lambda *_, **__: pytest.fail("encoded before it was refused")
    )
    for more in ([], ["--data", phantom]):
        status, _, err = call(capsys, "evaluate", "--run", run, *more)
        assert status == 2 and "no finished run here" in err and "--resume" in err


def test_training_says_how_many_reports_are_cut(phantom, tmp_path, capsys):
    for length, said in (("8", "100% of the reports fill 8 tokens and end there"), ("256", None)):
        status, _, err = call(
            capsys,
            "train",
            "--data",
            phantom,
            "--run",
            tmp_path / length,
            "--profile",
            "smoke",
            "--set",
            "steps=1",
            "--set",
            f"max_text_length={length}",
            "--device",
            "cpu",
        )
        assert status == 0 and (said in err if said else "end there" not in err)


def test_search_by_text_and_by_image(phantom, smoke_run, image, capsys):
    status, out, _ = call(
        capsys,
        "search",
        "--run",
        smoke_run,
        "--data",
        phantom,
        "--text",
        "large left effusion",
        "-k",
        "3",
        "--json",
    )
    hits = json.loads(out[out.index("[") :])
    assert (
        status == 0
        and [h["rank"] for h in hits] == [1, 2, 3]
        and hits[0]["score"] >= hits[2]["score"]
    )
    status, _, err = call(
        capsys, "search", "--run", smoke_run, "--data", phantom, "--text", "left effusion?"
    )
    assert status == 0, err  # a mark that no report holds is no reason to refuse
    status, out, _ = call(capsys, "search", "--run", smoke_run, "--data", phantom, "--image", image)
    assert status == 0 and len([line for line in out.splitlines() if ".png" in line]) == 5


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--data", "NOWHERE", "--run", "RUN"], "NOWHERE has no manifest.parquet"),
        (["train", "--data", "EMPTY", "--run", "RUN"], "no manifest.parquet"),
        (
            ["train", "--data", "DATA", "--run", "RUN", "--profile", "huge"],
            "unknown profile 'huge'",
        ),
        (
            ["train", "--data", "DATA", "--run", "RUN", "--set", "framwork=mcr"],
            "did you mean 'framework'",
        ),
        (
            ["train", "--data", "DATA", "--run", "RUN", "--set", "batch_size=many"],
            "mcr_lib: batch_size: ",
        ),
        (
            ["train", "--data", "DATA", "--run", "RUN", "--device", "cuda:99"],
            "--device cpu, or leave",
        ),
        (["train", "--data", "DATA", "--run", "RUN", "--resume"], "nothing to resume"),
        (["train", "--data", "DATA", "--run", "DONE"], "--resume"),
        (
            [
                "train",
                "--data",
                "DATA",
                "--run",
                "RUN",
                "--profile",
                "base",
                "--set",
                "image_weights=/no/weights",
            ],
            "image_weights",
        ),
        (
            ["train", "--data", "DATA", "--run", "RUN", "--set", "text_weights=/no/weights"],
            "/no/weights",
        ),
        (["train", "--data", "DATA"], "--run"),
        (["train", "--bogus"], "--bogus"),
        (["nonsense"], "nonsense"),
        (["evaluate", "--run", "EMPTY", "--data", "DATA"], "no config.yaml"),
        (["evaluate", "--run", "EMPTY"], "no config.yaml"),
        (["evaluate", "--run", "NOWHERE"], "python -m mcr_lib train --data DIR --run NOWHERE"),
        (["embed", "--run", "DONE", "--data", "NOWHERE", "--out", "v.npz"], "no manifest.parquet"),
        (["evaluate", "--run", "DONE", "--data", "DATA", "--split", "tset"], "'tset'"),
        (
            ["evaluate", "--run", "DONE", "--data", "DATA", "--protocol", "best"],
            "unknown protocol 'best'",
        ),
        (["search", "--run", "DONE", "--data", "DATA"], "give --text, --image or both"),
        (["search", "--run", "DONE", "--data", "DATA", "--text", " "], "the query is empty"),
        (["search", "--run", "DONE", "--data", "DATA", "--image", "NOWHERE"], "NOWHERE"),
        (["search", "--run", "DONE", "--data", "DATA", "--image", "TEXTFILE"], "not"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments, words, phantom, smoke_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "TEXTFILE").write_text("not an image")
    places = {"DATA": phantom, "DONE": smoke_run}
    status, _, err = call(capsys, *[places.get(a, a) for a in arguments])
    assert status == 2 and words in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "RUN").exists()  # nothing half-written


def test_progress_stays_out_of_results_even_after_notebooks_were_run(capsys):
    import ipykernel  # noqa: F401  (papermill imports it in the process that starts kernels, which is none)

    from data_prep.machine import progress

    assert list(progress([1])) == [1]
    out, err = capsys.readouterr()
    assert out == "" and "1/1" in err


def test_import_is_cheap_and_help_needs_no_torch():
    code = "import sys, mcr_lib, mcr_lib.__main__; assert 'torch' not in sys.modules; print(mcr_lib.__all__)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "MCRConfig" in out and "Trainer" in out
    help_text = subprocess.run(
        [sys.executable, "-m", "mcr_lib", "train", "--help"], capture_output=True, text=True
    )
    assert help_text.returncode == 0 and "--profile" in help_text.stdout


def test_results_name_the_commit_that_was_loaded_not_the_one_checked_out_since(monkeypatch):
    from data_prep import provenance

    loaded = provenance.provenance()["commit"]
    monkeypatch.setattr(provenance.subprocess, "run", None)  # git is not asked again
    assert provenance.provenance("a command")["commit"] == loaded


@pytest.mark.parametrize("key, meant", [("lr", "learning_rate"), ("wd", "weight_decay")])
def test_a_setting_by_its_initials_is_answered_with_its_name(key, meant):
    from mcr_lib.config import ConfigError, resolve

    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        resolve("demo", {key: 1})


def test_the_explorer_looks_for_the_run_first(tmp_path, capsys):
    from data_prep.commands import run_app
    from kit.explore_page import app

    for run, words in (("run", "no run here (no config.yaml)"), ("begun", "no manifest.parquet")):
        (tmp_path / "begun").mkdir(exist_ok=True)
        (tmp_path / "begun" / "config.yaml").touch()
        arguments = ["--run", str(tmp_path / run), "--data", str(tmp_path / "data")]
        assert run_app(app, "kit.explore_page", arguments) == 2
        assert words in capsys.readouterr().err


def test_too_few_pairs_says_how_many_and_where_to_look(phantom, tmp_path):
    import pandas as pd

    from mcr_lib.config import MCRConfig
    from mcr_lib.data import PairData

    table = pd.read_parquet(phantom / "manifest.parquet")
    table.groupby("split").head(1).to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(KitError, match=r"at least 2 are needed.*data_prep check \S+ shows what"):
        PairData(tmp_path, "train", None, MCRConfig(), "all")
