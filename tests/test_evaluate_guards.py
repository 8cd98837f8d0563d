"""What evaluate says or refuses where the numbers would not mean what they seem to: other data, other weights, other
words, pairs that were trained on; one training at a time in a folder; and that nothing names who ran it, or a report.
"""

import json
import multiprocessing
import platform
import shutil
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cli import call
from test_trainer import FAST, Stop, changed_data, stop_at

from benchmarks.study.runs import run_study
from data_prep import checkpoint_files, folder, own_files
from data_prep.__main__ import main as prepare
from data_prep.own_files import DamagedFile
from data_prep.run_files import PICTURES, RunError, hold_folder
from mcr_lib.config import resolve
from mcr_lib.data import PairData
from mcr_lib.engine import checkpoint, distributed
from mcr_lib.evaluate import evaluate_run, load_pairs
from mcr_lib.features import QueryError, check_query, encode_pairs, encode_texts, picture_hashes
from mcr_lib.run import load_run, train_run

CPU = torch.device("cpu")


@pytest.fixture
def run(smoke_run, tmp_path):
    """A copy of the smoke run that may be damaged."""
    return Path(shutil.copytree(smoke_run, tmp_path / "run"))


def prepare_csv(table: Path, root: Path, out: Path) -> None:
    of_images = ["--images-root", str(root), "--processes", "1"]
    assert prepare(["csv", "--table", str(table), "--out", str(out), *of_images]) == 0


def evaluated(run, data, **how) -> dict:
    return evaluate_run(run, data, device=CPU, **how)


def test_an_ordinary_evaluation_has_nothing_to_note(run, phantom):
    result = evaluated(run, phantom)
    assert result["notes"] == [] and result["seen_in_training"] == 0
    assert (
        result["checkpoint"] == "newest"
        and result["trained_on"]["sha256"] == result["data"]["sha256"]
    )


def test_the_training_split_is_marked_in_row_and_line(run, phantom, capsys):
    status, out, _ = call(capsys, "evaluate", "--run", run, "--data", phantom, "--split", "train")
    row = json.loads((run / "metrics.json").read_text())
    assert status == 0 and row["seen_in_training"] == row["gallery"]["images"] > 0
    assert (
        "NOTE: seen in training: the pictures of" in out and "seen in training" in row["notes"][0]
    )


def test_all_splits_are_one_gallery_and_what_was_trained_on_is_said(run, phantom):
    result = evaluate_run(run, phantom, device=CPU, split="all")
    table = folder.read(phantom)
    frontal = table[table["view"] != "lateral"]
    assert result["gallery"]["images"] == len(frontal)
    trained = (frontal["split"] == "train").sum()
    assert f"the pictures of {trained} of these {len(frontal)} pairs" in result["notes"][0]


def test_findings_alone_are_encoded_and_compared_in_lower_case(run, phantom, tmp_path):
    """Sections that differ in case only are one; a report without the section is left out."""
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    table = pd.read_parquet(data / "manifest.parquet")
    test = table.index[(table["split"] == "test") & (table["view"] != "lateral")]
    test = test[table.loc[test, "findings"] != ""]
    table.loc[test[0], "findings"] = ""
    table.loc[test[2], "findings"] = table.loc[test[1], "findings"].upper()
    table.to_parquet(data / "manifest.parquet")
    result = evaluate_run(run, data, device=CPU, protocol="findings")
    sections = table.loc[test, "findings"].str.lower()
    sections = sections[sections != ""]
    assert result["gallery"]["images"] == len(sections) == len(test) - 1
    assert result["gallery"]["texts"] == sections.nunique()
    model, tokenizer = load_run(run)
    pairs = load_pairs(run, data, "test", CPU, only_findings=True)[1]
    again = encode_texts(model, tokenizer, sections.tolist())
    assert torch.allclose(encode_pairs(model, pairs, CPU)[1], again, atol=1e-5)
    table["findings"] = ""
    table.to_parquet(data / "manifest.parquet")
    with pytest.raises(RunError, match="no report has a findings section"):
        evaluate_run(run, data, device=CPU, protocol="findings")


def test_a_test_split_of_training_pairs_is_marked_whatever_it_is_called(run, phantom, tmp_path):
    """Other names, other splits, other reports: the pictures are the same."""
    table = folder.read(phantom)
    table = table[(table["split"] == "train") & (table["view"] != "lateral")].head(12)
    rows = pd.DataFrame(
        {
            "image": table["image_path"].to_list(),
            "report": [f"Renamed report, number {n}." for n in range(12)],
            "patient_id": [f"new{n}" for n in range(12)],
            "split": "test",
        }
    )
    rows.to_csv(tmp_path / "table.csv", index=False)
    prepare_csv(tmp_path / "table.csv", phantom, tmp_path / "leak")
    result = evaluated(run, tmp_path / "leak")
    assert result["seen_in_training"] == 12
    assert any("other data than trained on" in note for note in result["notes"])


def test_hashes_of_pictures_are_those_of_a_plain_loop(phantom, smoke_run):
    model, tokenizer = load_run(smoke_run)
    train = PairData(phantom, "train", tokenizer, model.config)
    test = PairData(phantom, "test", tokenizer, model.config)
    same = [
        any(np.array_equal(train.pixels[a], test.pixels[b]) for a in train.rows) for b in test.rows
    ]
    seen = np.isin(picture_hashes(test), picture_hashes(train))
    assert seen.tolist() == same
    assert len(np.unique(picture_hashes(train))) == len(np.unique(train.pixels[train.rows], axis=0))


def test_a_swapped_data_folder_is_refused_unless_it_is_named(run, phantom, tmp_path, capsys):
    data = Path(shutil.copytree(phantom, tmp_path / "data"))
    manifest = json.loads((run / "manifest.json").read_text())
    own_files.write_json(run / "manifest.json", manifest | {"data_folder": str(data)})
    assert call(capsys, "evaluate", "--run", run)[0] == 0
    shutil.rmtree(data)
    changed_data(phantom, data, lambda table: table.index % 3 > 0)
    status, _, err = call(capsys, "evaluate", "--run", run)
    assert status == 2 and "holds other data now" in err and len(err.splitlines()) == 1
    status, out, _ = call(capsys, "evaluate", "--run", run, "--data", data)
    assert status == 0 and "NOTE: other data than trained on" in out


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_another_tokenizer_is_refused_by_all_who_load_the_run(run, phantom, file, capsys):
    path = run / "tokenizer" / file
    if file == "tokenizer.json":  # the same words, two of them in each other's place
        content = json.loads(path.read_text())
        words = content["model"]["vocab"]
        last = sorted(words, key=words.get)[-2:]
        words[last[0]], words[last[1]] = words[last[1]], words[last[0]]
        path.write_text(json.dumps(content))
    else:
        path.write_text(path.read_text() + "\n")
    for command in (
        ["evaluate"],
        ["search", "--text", "effusion"],
        ["train", "--profile", "smoke", "--resume"],
    ):
        status, _, err = call(capsys, *command, "--run", run, "--data", phantom)
        assert status == 2 and f"tokenizer/{file} is not as it was written" in err, err


def test_a_missing_tokenizer_is_one_line_and_no_request(run, phantom, capsys, monkeypatch):
    """Nor is anything asked of whoever sits at the keyboard, or of the network."""
    shutil.rmtree(run / "tokenizer")

    def refuse(*_, **__):
        raise AssertionError("asked")

    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for old in (False, True):  # a run of an earlier version has no list of files
        if old:
            (run / "data.json").unlink()
        status, _, err = call(capsys, "evaluate", "--run", run, "--data", phantom)
        assert status == 2 and "tokenizer" in err and "restore it" in err
        assert len(err.strip().splitlines()) == 1


def test_code_beside_the_tokenizer_is_neither_run_nor_asked_for(run, phantom, monkeypatch):
    (run / "data.json").unlink()  # as a stranger sends it: nothing to compare with
    for name in ("tokenizer_config.json", "config.json"):
        about = {"auto_map": {"AutoTokenizer": ["evil.Evil", None], "AutoConfig": "evil.Evil"}}
        (run / "tokenizer" / name).write_text(
            json.dumps(about | {"tokenizer_class": "Evil", "model_type": "evil"})
        )
    (run / "tokenizer" / "evil.py").write_text(
        "import pathlib; pathlib.Path('ran').touch()\nclass Evil: ..."
    )
    monkeypatch.chdir(run)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    from data_prep.errors import KitError

    try:
        load_run(run)
    except KitError as error:
        assert "\n" not in str(error)
    assert not (run / "ran").exists()


def test_a_fallback_checkpoint_is_named_and_exchanged_weights_are_refused(run, phantom, capsys):
    last = checkpoint.list_folders(run / "checkpoints")[-1]
    weights = last / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + bytes(4))  # of the same size
    status, out, err = call(capsys, "evaluate", "--run", run, "--data", phantom)
    row = json.loads((run / "metrics.json").read_text())
    assert status == 0 and row["checkpoint"] == "step 15" and f"skipped {last.name}" in err
    assert "NOTE: not the last weights of the training, but those of step 15" in out
    tensors = load_file(checkpoint.list_folders(run / "checkpoints")[0] / "model.safetensors")
    save_file(tensors, weights)  # whole, and of another step
    state = json.loads((last / "state.json").read_text())
    del state["seal"]
    state["sha256"] = {name: own_files.file_sha256(last / name) for name in checkpoint_files.FILES}
    own_files.write_json(last / "state.json", own_files.sealed(state))
    status, _, err = call(capsys, "evaluate", "--run", run, "--data", phantom)
    assert status == 2 and "holds other weights than training left there" in err


def test_the_list_of_pictures_is_ours_or_refused(run, phantom):
    (run / PICTURES).write_bytes(b"\x93NUMPY")
    with pytest.raises(DamagedFile, match=PICTURES):
        evaluated(run, phantom)


def test_a_run_of_an_earlier_version_is_measured_and_says_what_it_cannot(run, phantom):
    manifest = json.loads((run / "manifest.json").read_text())
    for key in ("files", "pretrained"):
        del manifest[key]
    own_files.write_json(run / "manifest.json", manifest)
    about = json.loads((run / "data.json").read_text())
    for key in ("tokenizer", "seal"):
        del about[key]
    own_files.write_json(run / "data.json", about)
    for path in checkpoint.list_folders(run / "checkpoints"):
        state = json.loads((path / "state.json").read_text())
        for key in ("sha256", "seal"):
            del state[key]
        own_files.write_json(path / "state.json", state)
    (run / PICTURES).unlink()
    result = evaluated(run, phantom, split="train")
    assert result["seen_in_training"] is None and "could not be checked" in result["notes"][0]


def test_a_config_of_other_sizes_takes_no_memory(run, monkeypatch):
    """The sizes are compared with the checkpoint's before a model of them is made."""
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        text.replace("decoder_embed_dim: 48", "decoder_embed_dim: 12000")
    )
    with pytest.raises(checkpoint.CheckpointError, match="another configuration: image_decoder"):
        load_run(run)
    (run / "config.yaml").write_text(text.replace("mask_token_id: 4", "mask_token_id: 5"))
    with pytest.raises(RunError, match="name other vocabularies"):
        load_run(run)


# --- one at a time


def _hold(run, ready, go) -> None:
    with hold_folder(Path(run)):
        ready.set()
        go.wait(60)


def test_a_second_training_is_refused_beside_the_first_also_to_resume(phantom, tmp_path):
    run, config = tmp_path / "run", resolve("smoke", FAST)
    with pytest.raises(Stop):
        train_run(phantom, run, config, device=CPU, callbacks=[stop_at(4)])
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(run, ready, go))
    other.start()
    assert ready.wait(60)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    try:
        with pytest.raises(RunError, match=r"another command trains in .*run: wait for it"):
            train_run(phantom, run, config, device=CPU, resume=True)
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    finally:
        go.set()
        other.join()
    train_run(phantom, run, config, device=CPU, resume=True)


def test_of_two_that_begin_at_once_one_is_refused(phantom, tmp_path):
    """Both have seen an empty folder; the second finds a run there once the first has let go."""
    run, config = tmp_path / "run", resolve("smoke", FAST | {"steps": 2})

    def begin_too(trainer, record):
        with pytest.raises(RunError, match="another command trains"), hold_folder(run):
            pass

    train_run(phantom, run, config, device=CPU, callbacks=[begin_too])
    from mcr_lib.engine.run_folder import begin

    with pytest.raises(RunError, match="holds a run"):
        begin(run, phantom, config, None)


# --- small things that were wrong in silence


def test_reports_of_one_word_train_evaluate_search_and_resume(tmp_path, capsys):
    rng = np.random.default_rng(0)
    from PIL import Image

    rows = []
    for n in range(40):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        split = "test" if n % 4 == 3 else "validate" if n % 4 == 2 else "train"
        rows.append((f"{n}.png", "pneumonia" if n % 2 else "normal", f"p{n}", split))
    table = pd.DataFrame(rows, columns=["image", "report", "patient_id", "split"])
    table["report"] = np.where(table.index % 3 == 0, "normal", "pneumonia")
    table.to_csv(tmp_path / "table.csv", index=False)
    prepare_csv(tmp_path / "table.csv", tmp_path, tmp_path / "data")
    train = ["train", "--run", tmp_path / "run", "--data", tmp_path / "data", "--profile", "smoke"]
    train += ["--device", "cpu", "--set", "steps=2", "--set", "batch_size=8"]
    assert call(capsys, *train)[0] == 0
    status, out, err = call(capsys, "evaluate", "--run", tmp_path / "run")
    assert status == 0 and "distinct_texts 2" in out, err
    asked = ["search", "--run", tmp_path / "run", "--data", tmp_path / "data", "--text", "normal"]
    assert call(capsys, *asked)[0] == 0
    assert call(capsys, *train, "--resume")[0] == 0


def test_what_is_said_of_a_question_is_said_everywhere(run, phantom, capsys):
    asked = ["search", "--run", run, "--data", phantom, "-k", "2", "--json"]
    status, out, err = call(capsys, *asked, "--text", "left effusion. " * 200)
    rows = json.loads(out)  # nothing else on stdout
    assert status == 0 and "tokens were read" in err and "tokens were read" in rows[0]["notes"][0]
    status, out, err = call(capsys, *asked, "--text", "large left ☃ effusion")
    assert status == 0 and "unknown to this model" in err and "☃" in json.loads(out)[0]["notes"][0]
    status, out, err = call(capsys, *asked, "--text", "☃☃ ☄ ☔ ☎")
    assert status == 2 and "unknown to this model" in err and out == ""


@pytest.mark.parametrize("text", ["", " \n", "☃ ☄ ☔", "☃ " * 400])
def test_command_line_and_explorer_refuse_the_same(run, phantom, text):
    from kit.explore import Searcher
    from mcr_lib.search import build_index

    model, tokenizer = load_run(run)
    with pytest.raises(QueryError) as refused:
        check_query(tokenizer, text, model.config.max_text_length)
    searcher = Searcher(build_index(run, phantom, split="test", device=CPU), model, tokenizer)
    with pytest.raises(QueryError) as also:
        searcher.for_text(text)
    assert str(refused.value) == str(also.value)


def test_a_world_size_of_somebody_else_changes_nothing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with distributed.process_group():
        assert distributed.world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "many")
    with distributed.process_group():
        assert distributed.world_size() == 1


def test_a_terminal_gets_no_control_characters(capsys):
    from data_prep.commands import notice, say

    say("a\x1b[31mred\x1b]0;title\x07 \u202ereversed \x9b2J tab\there\nline\udcff é ☃")
    notice("skipped \x1b[2J")
    out, err = capsys.readouterr()
    assert (
        "\x1b" not in out + err and "\x07" not in out and "\u202e" not in out and "\x9b" not in out
    )
    assert "tab\there\nline" in out and "é ☃" in out and "skipped" in err


def test_versions_are_one_line_a_library(capsys):
    status, out, _ = call(capsys, "versions")
    names = [line.split()[0] for line in out.splitlines()]
    assert status == 0 and {"python", "torch", "transformers", "safetensors", "pydantic"} <= set(
        names
    )
    import torch

    (line,) = [line for line in out.splitlines() if line.startswith("torch ")]
    assert torch.__version__.split("+")[0] in line and "BSD" in line and len(line.split()[2]) == 10


# --- nobody is named


def test_nothing_that_is_kept_or_said_names_user_host_home_or_a_report(
    phantom, tmp_path, monkeypatch, capsys
):
    """From training to a study under a home folder of its own. What holds reports by its purpose (the data set, the
    index, the vocabulary, hits on stdout) is left out for reports, not for names."""
    home = tmp_path / "home" / "zaphodb"
    data = shutil.copytree(phantom, home / "data", ignore=shutil.ignore_patterns("store"))
    monkeypatch.setattr(socket, "gethostname", lambda: "heartofgold")
    monkeypatch.setattr(platform, "node", lambda: "heartofgold")
    for variable, value in {"HOME": str(home), "USER": "zaphodb", "LOGNAME": "zaphodb"}.items():
        monkeypatch.setenv(variable, value)
    common = ["--data", data, "--run", home / "run"]
    train = ["train", *common, "--profile", "smoke", "--set", "steps=2", "--device", "cpu"]
    printed = [call(capsys, *train), call(capsys, "evaluate", *common)]
    assert call(capsys, "search", *common, "--text", "left effusion", "--json")[0] == 0
    run_study(
        *(data, home / "study"),
        arms="null-mba",
        seeds="1",
        profile="smoke",
        settings={"steps": 2},
        device=CPU,
        scored=2,
        cost_repeats=2,
    )
    errors = [call(capsys, *train), call(capsys, "evaluate", "--run", home / "nowhere")]
    assert [status for status, _, _ in printed + errors] == [0, 0, 2, 2]
    said = " ".join(out + err for _, out, err in printed + errors)
    kept = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for name in ("zaphodb", "heartofgold", str(tmp_path)):
        assert name not in said, said
        for path, content in kept.items():
            assert name.encode() not in content, f"{path} holds {name}"
    texts = " ".join(folder.read(phantom)["report"]).split(".")
    sentences = {sentence.strip() for sentence in texts if len(sentence) > 25}
    of_reports = {"index", "tokenizer", "data"}
    logs = [said.encode(), *(c for path, c in kept.items() if not of_reports & {*path.parts})]
    assert len(sentences) > 50 and len(logs) > 10
    for sentence in sentences:
        assert not any(sentence.encode() in content for content in logs), sentence
