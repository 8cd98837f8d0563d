"""Files of our own: whatever has become of one, reading it gives what was written or one line that names it; what is
written is whole, has the umask's access, and takes over what a killed process left."""

import json
import os
import resource
import shutil
import signal
import stat
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_index import make_index

from benchmarks import RESULTS
from benchmarks.study.files import read_costs, read_study
from benchmarks.study.tables import format_studies
from data_prep import checkpoint_files, folder, own_files
from data_prep.errors import KitError
from data_prep.own_files import DamagedFile
from data_prep.run_files import check_tokenizer, read_manifest
from data_prep.running import cut_log
from mcr_lib.config import ConfigError, parse_settings, read_config, resolve
from mcr_lib.engine import checkpoint
from mcr_lib.index import Index

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TOKENS = [
    b"null",
    b"-1",
    b"1e999",
    b"[]",
    b"{}",
    b'"',
    b"\x00",
    b"\xff\xfe",
    b"999999999999",
    b"&a",
]


@st.composite
def damages(draw):
    """A function from a file's bytes to other bytes: cut, a piece lost, doubled, overwritten, or a token put in."""
    kind = draw(st.sampled_from(["cut", "lose", "double", "flip", "insert", "replace word"]))
    where, length = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    token, bit = draw(st.sampled_from(TOKENS)), draw(st.integers(0, 7))

    def damage(content: bytes) -> bytes:
        at = int(where * max(0, len(content) - 1))
        before, piece, after = content[:at], content[at : at + length], content[at + length :]
        if kind == "cut":
            return before
        if kind == "lose":
            return before + after
        if kind == "double":
            return before + piece + piece + after
        if kind == "flip":
            return before + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]
        if kind == "insert":
            return before + token + piece + after
        words = content.split(b" ")
        words[int(where * (len(words) - 1))] = token
        return b" ".join(words)

    return damage


def tried(read, path, content: bytes) -> None:
    """`read` gives something, or a KitError of one line."""
    path.write_bytes(content)
    try:
        read()
    except KitError as error:
        assert "\n" not in str(error) and len(str(error)) < 900
        assert path.name in str(error) or "checkpoint" in str(error), error


@pytest.fixture(scope="module")
def copies(smoke_run, phantom, tmp_path_factory):
    """Of a run and a data set what can be read again in no time; every test damages a file and puts it back."""
    place = tmp_path_factory.mktemp("copies")
    shutil.copytree(smoke_run, place / "run")
    (place / "data").mkdir()
    for name in ("dataset.json", "manifest.parquet"):
        shutil.copy(phantom / name, place / "data")
    shutil.copy(RESULTS / "study_openi.json", place / "study.json")
    (place / "cost.json").write_text(json.dumps(read_study(place / "study.json")["cost"]))
    return place


READERS = {
    "run/config.yaml": lambda place: read_config(place / "run" / "config.yaml"),
    "run/manifest.json": lambda place: read_manifest(place / "run").of_training(),
    "run/data.json": lambda place: check_tokenizer(place / "run"),
    "run/metrics.jsonl": lambda place: cut_log(place / "run" / "metrics.jsonl", 10),
    "data/dataset.json": lambda place: folder.read_about(place / "data"),
    "study.json": lambda place: format_studies([place / "study.json"]),
    "cost.json": lambda place: read_costs(place / "cost.json"),
}


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(damage=damages())
def test_a_damaged_file_is_read_or_is_one_line(copies, name, damage):
    path = copies / name
    whole = path.read_bytes()
    try:
        tried(lambda: READERS[name](copies), path, damage(whole))
    finally:
        path.write_bytes(whole)


@FUZZ
@given(damage=damages(), name=st.sampled_from(["state.json", *sorted(checkpoint_files.FILES)]))
def test_of_a_damaged_checkpoint_nothing_is_used(copies, damage, name):
    """Not a byte: the older one is found, and the damaged one named."""
    newest = checkpoint.list_folders(copies / "run" / "checkpoints")[-1]
    whole = (newest / name).read_bytes()
    damaged = damage(whole)
    (newest / name).write_bytes(damaged)
    try:
        found, state, skipped = checkpoint.find_newest(copies / "run" / "checkpoints")
    finally:
        (newest / name).write_bytes(whole)
    if found == newest:  # JSON may hold more spaces
        assert state == checkpoint.find_newest(copies / "run" / "checkpoints")[1]
    else:
        assert damaged != whole and skipped and newest.name in skipped[0] and "\n" not in skipped[0]


@FUZZ
@given(
    damage=damages(),
    name=st.sampled_from(["index.json", "images.npy", "texts.npy", "table.parquet"]),
)
def test_a_damaged_index_is_never_opened(tmp_path, damage, name):
    """No reader of Parquet or of arrays sees a damaged byte: such a reader can end the process by a signal."""
    path = tmp_path / "index"
    if not path.exists():
        make_index(13).save(path)
    whole = (path / name).read_bytes()
    damaged = damage(whole)
    (path / name).write_bytes(damaged)
    try:
        if damaged == whole:
            return
        with pytest.raises(ValueError, match="build the index again"):
            Index.load(path)
    except pytest.fail.Exception:
        assert name == "index.json" and json.loads(damaged) == json.loads(whole)
    finally:
        (path / name).write_bytes(whole)


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: c[:99] + b"\xff" * 40 + c[139:]])
def test_a_damaged_manifest_is_one_line(copies, damage):
    path = copies / "data" / "manifest.parquet"
    whole = path.read_bytes()
    try:
        tried(lambda: folder.read(copies / "data"), path, damage(whole))
    finally:
        path.write_bytes(whole)


def test_a_manifest_whose_reader_dies_is_one_line(copies, monkeypatch):
    """What is not known to be as written is first read by a process of its own."""

    class Died:
        returncode = -signal.SIGSEGV

    path = copies / "data" / "manifest.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    monkeypatch.setattr(own_files.subprocess, "run", lambda *_, **__: Died)
    try:
        with pytest.raises(DamagedFile, match=r"manifest\.parquet .*ends by signal 11"):
            folder.read(copies / "data")
    finally:
        path.write_bytes(whole)
    folder.read(copies / "data")  # known to be as written: no other process is asked


def test_a_manifest_changed_by_hand_is_other_data(phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "data", ignore=shutil.ignore_patterns("store"))
    before = folder.describe_data(tmp_path / "data")
    table = folder.read(tmp_path / "data")
    table["split"] = table["split"].map({"train": "test", "test": "train", "validate": "validate"})
    table.to_parquet(tmp_path / "data" / "manifest.parquet")
    after = folder.describe_data(tmp_path / "data")
    assert after["sha256"] == folder.content_sha256(tmp_path / "data", table) != before["sha256"]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_a_yaml_bomb_takes_no_time(tmp_path):
    (tmp_path / "config.yaml").write_text(BOMB)
    start = time.monotonic()
    with pytest.raises(DamagedFile, match=r"config\.yaml is not valid YAML .*aliases"):
        read_config(tmp_path / "config.yaml")
    assert time.monotonic() - start < 1
    with pytest.raises(ConfigError, match="steps"):
        resolve("smoke", parse_settings([f"steps={BOMB}"]))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "2001-99-99", "{" * 5000, "!!python/name:os.system x", "- : -"]
)
def test_a_setting_that_yaml_cannot_read_is_a_text(text):
    with pytest.raises(ConfigError, match="steps"):
        resolve("smoke", parse_settings([f"steps={text}"]))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"epochs": float("inf")}, "epochs"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"vocab_size": 10**10}, "vocab_size"),
        ({"embed_dim": 10**6 * 12}, "embed_dim"),
        ({"betas": [0.9, 1.5]}, "betas"),
        ({"mask_token_id": -3}, "mask_token_id"),
    ],
)
def test_a_number_of_no_sense_is_refused_before_memory_is_taken(settings, words):
    with pytest.raises(ConfigError, match=words):
        resolve("smoke", settings)


def test_a_log_loses_its_cut_last_line_and_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [record["step"] for record in cut_log(path, 9)] == [1, 2]
    for damaged in (
        '{"step": 1}\n{"st\n{"step": 3}\n',
        '{"step": 1}\n[2]\n',
        '{"step": "x"}\n',
        "\x00\n",
    ):
        path.write_text(damaged)
        with pytest.raises(DamagedFile, match=r"metrics\.jsonl line \d.*restore it"):
            cut_log(path, 9)
        assert path.read_text() == damaged


# --- writing


def test_a_name_of_a_killed_writer_is_taken_over_and_two_at_once_both_write(tmp_path):
    target = tmp_path / "file.json"
    (tmp_path / ".file.json.tmp").write_text("half of an older wri")
    own_files.write_json(target, {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]

    def write(number):
        for _ in range(30):
            own_files.write_json(target, {"writer": number, "text": "x" * 5000})

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert len(json.loads(target.read_text())) in (1, 2)  # whole at any moment
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    own_files.write_json(tmp_path / "file", {"a": 1})
    with pytest.raises(TypeError):
        own_files.write_json(tmp_path / "file", {"a": object()})
    (tmp_path / ".whole.new").mkdir()  # of a killed one
    with pytest.raises(ZeroDivisionError), own_files.atomic_folder(tmp_path / "whole") as beside:
        (beside / "x").write_text("x")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert json.loads((tmp_path / "file").read_text()) == {"a": 1}


def test_a_full_disk_is_named_by_the_file_that_was_to_be_written(tmp_path):
    """A limit on file sizes stands in for the disk: what was being written has no name of its own then."""

    def write():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        own_files.write_json(tmp_path / "file.json", {"text": "x" * 10_000})

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError) as error:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(tmp_path / "file.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_what_is_written_follows_the_umask(tmp_path, umask):
    import torch

    before = os.umask(umask)
    try:
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        checkpoint.save(tmp_path / "checkpoints", 7, model, optimizer, {})
        own_files.write_json(tmp_path / "file.json", {})
        make_index(13).save(tmp_path / "index")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_a_folder_that_was_being_exchanged_comes_back(tmp_path):
    """Killed between the two renames: the old one lies beside, whole, and is not lost."""
    index = make_index(13)
    index.save(tmp_path / "index")
    (tmp_path / "index").rename(tmp_path / ".index.old")
    with pytest.raises(ZeroDivisionError), own_files.atomic_folder(tmp_path / "index"):
        raise ZeroDivisionError
    assert len(Index.load(tmp_path / "index")) == 13
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_arrays_are_compared_before_they_are_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    prints = own_files.fingerprints(tmp_path)
    own_files.check_fingerprints(tmp_path, prints, "restore it", exactly=True)
    (tmp_path / "b.npy").touch()
    own_files.check_fingerprints(tmp_path, prints, "restore it")
    with pytest.raises(DamagedFile, match=r"b\.npy was added since"):
        own_files.check_fingerprints(tmp_path, prints, "restore it", exactly=True)
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"a\.npy is not as it was written"):
        own_files.check_fingerprints(tmp_path, prints, "restore it")
    (tmp_path / "a.npy").unlink()
    with pytest.raises(DamagedFile, match=r"a\.npy is missing: restore it"):
        own_files.check_fingerprints(tmp_path, prints, "restore it")
