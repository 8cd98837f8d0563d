"""A data set folder loses nothing it should keep: removal, deltas, foreign files, links, kills, full disks."""

import errno
import os
import signal
import stat
import threading
from pathlib import Path

import pandas as pd
import pytest
from test_data_prep_mimic_cxr import root, run  # noqa: F401 (a fixture)
from test_data_prep_openi import run as run_openi
from test_data_prep_openi import write_trees
from test_patients import write
from test_recovery import small_disk  # noqa: F401 (a fixture)

from data_prep import folder, own_files
from data_prep.__main__ import main
from data_prep.phantom import write as write_phantom


@pytest.fixture
def archive(tmp_path):
    """A table of 20 rows with their images, in a folder."""
    images = [write(tmp_path / f"{i}.png", i) for i in range(20)]
    return pd.DataFrame({"image": images, "patient_id": range(20), "report": "Clear lungs."})


def csv(place, table, *options) -> int:
    table.to_csv(place / "table.csv", index=False)
    return main(["csv", "--table", str(place / "table.csv"), "--out", str(place / "out"), *options])


def tree(out: Path) -> dict[str, bytes]:
    """Every file by its path, without the lock and what a packed store knows of times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock" and path.parent.name != "store"
    }


# -------------------------------------------------------------------------------------------------------- removal


def test_many_pairs_are_taken_out_only_on_demand(tmp_path, archive, capsys):
    assert csv(tmp_path, archive) == 0
    before = tree(tmp_path / "out")
    assert csv(tmp_path, archive[:18]) == 2
    said = capsys.readouterr().err
    assert "2 of the 20 pairs" in said and "--append" in said and "--remove" in said
    assert {name: tree(tmp_path / "out")[name] for name in before} == before
    assert main(["check", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert csv(tmp_path, archive[:18], "--remove") == 0
    said = capsys.readouterr().out
    assert "2 pairs that the table no longer has are taken out" in said and "2 image(s)" in said
    assert (
        len(list((tmp_path / "out" / "images").iterdir()))
        == len(folder.read(tmp_path / "out"))
        == 18
    )


def test_a_few_pairs_are_taken_out_and_counted(tmp_path, archive, capsys):
    assert csv(tmp_path, archive) == 0
    assert csv(tmp_path, archive[1:]) == 0
    assert "1 pairs that the table no longer has" in capsys.readouterr().out
    assert len(folder.read(tmp_path / "out")) == 19


def test_images_that_are_gone_take_no_pairs_with_them(tmp_path, archive, capsys):
    """A disk that is not there, after the folder was copied without its images."""
    assert csv(tmp_path, archive) == 0
    for file in [*(tmp_path / "out" / "images").iterdir(), *tmp_path.glob("?.png")]:
        file.unlink()
    assert csv(tmp_path, archive) == 2
    assert "10 of the 20 pairs" in capsys.readouterr().err
    assert len(folder.read(tmp_path / "out")) == 20


def test_a_delta_keeps_all_that_is_there(tmp_path, archive, capsys):
    assert csv(tmp_path, archive[:12], "--keep", "patient_id") == 2  # the manifest has that column
    assert csv(tmp_path, archive[:12]) == 0
    assert csv(tmp_path, archive[12:], "--append") == 0
    assert "12 pairs that were there before are kept" in capsys.readouterr().out
    assert csv(tmp_path, archive[10:14].assign(report="Corrected."), "--append") == 0
    table = folder.read(tmp_path / "out").set_index("source_path")
    assert len(table) == 20 and (table.report == "Corrected.").sum() == 4
    (tmp_path / "whole").mkdir()
    assert csv(tmp_path, archive, "--out", str(tmp_path / "whole" / "out")) == 0
    whole = folder.read(tmp_path / "whole" / "out").set_index("source_path")
    same = ["pair_id", "patient_id", "study_id", "split", "picture"]
    pd.testing.assert_frame_equal(table[same].sort_index(), whole[same].sort_index())
    assert main(["check", str(tmp_path / "out")]) == 0


def test_a_delta_of_other_images_under_the_same_names_is_refused(tmp_path, archive, capsys):
    assert csv(tmp_path, archive) == 0
    before = tree(tmp_path / "out")
    other = archive.assign(patient_id=range(100, 120))
    assert csv(tmp_path, other, "--append") == 2
    assert "of another patient (20 such)" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before
    assert csv(tmp_path, archive, "--append", "--out", str(tmp_path / "new")) == 2
    assert "leave out --append" in capsys.readouterr().err


def test_a_delta_with_other_splits_than_before_is_refused(tmp_path, archive, capsys):
    table = archive.assign(split=["train", "test"] * 10)
    assert csv(tmp_path, table) == 0
    new = {"image": write(tmp_path / "new.png", 99), "patient_id": 0, "report": "Clear."}
    assert csv(tmp_path, pd.DataFrame([{**new, "split": "test"}]), "--append") == 2
    assert "patient 0 is in two splits" in capsys.readouterr().err
    assert csv(tmp_path, pd.DataFrame([new]), "--append") == 2
    assert "splits: " in capsys.readouterr().err
    assert csv(tmp_path, pd.DataFrame([{**new, "split": "train"}]), "--append") == 0
    assert len(folder.read(tmp_path / "out")) == 21


def test_kept_columns_and_where_an_image_came_from(tmp_path, archive):
    table = archive.assign(age=50, ward="A")
    assert csv(tmp_path, table[:10], "--keep", "age", "--keep", "ward") == 0
    assert csv(tmp_path, table[10:], "--keep", "age", "--keep", "ward", "--append") == 0
    made = folder.read(tmp_path / "out")
    assert set(made.age) == {"50"} and set(made.ward) == {"A"}
    assert set(made.source_path) == set(archive.image)
    assert csv(tmp_path, table) == 2  # less is kept only if that is asked for
    assert csv(tmp_path, table, "--remove") == 0
    assert "age" not in folder.read(tmp_path / "out")


def test_foreign_files_and_links_are_left_alone(tmp_path, archive):
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.jpg").write_text("thesis")
    assert csv(tmp_path, archive) == 0
    (out / "images" / "mine.png").write_text("mine")
    (out / "images" / "link").symlink_to(outside)
    (out / "images" / ".mine.tmp").symlink_to(outside / "thesis.jpg")
    assert csv(tmp_path, archive[1:]) == 0
    assert (out / "images" / "mine.png").read_text() == "mine"
    assert (outside / "thesis.jpg").read_text() == "thesis" and (
        out / "images" / "link"
    ).is_symlink()


def test_a_linked_images_folder_is_refused(tmp_path, archive, capsys):
    out, outside = tmp_path / "out", tmp_path / "outside"
    assert csv(tmp_path, archive) == 0
    (out / "images").rename(outside)
    (out / "images").symlink_to(outside)
    assert csv(tmp_path, archive[:5], "--remove") == 2
    assert "images is a link" in capsys.readouterr().err
    assert len(list(outside.iterdir())) == 20


def test_a_manifest_that_names_files_outside_is_refused(tmp_path, archive, capsys):
    assert csv(tmp_path, archive) == 0
    for path in ("../table.csv", "images/../../table.csv", str(tmp_path / "table.csv")):
        table = folder.read(tmp_path / "out")
        table.loc[0, "image_path"] = path
        changed = tmp_path / "out" / "manifest.parquet"
        kept = changed.read_bytes()
        table.to_parquet(changed)
        assert csv(tmp_path, archive[:5], "--remove") == 2
        assert "remove" in capsys.readouterr().err and (tmp_path / "table.csv").exists()
        changed.write_bytes(kept)


def test_a_record_that_names_files_outside_removes_none(tmp_path, archive):
    assert csv(tmp_path, archive) == 0
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "mine.png").touch()
    (tmp_path / "out" / "images" / "sub").symlink_to(tmp_path / "linked")
    names = ["../table.csv", "images/../../table.csv", "images/sub/mine.png", "dataset.json"]
    folder.write_json(tmp_path / "out" / "writing.json", {"images": names})
    assert csv(tmp_path, archive) == 0
    for path in ("table.csv", "linked/mine.png", "out/dataset.json"):
        assert (tmp_path / path).exists()


def test_files_follow_the_umask(tmp_path, archive):
    before = os.umask(0o027)
    try:
        assert csv(tmp_path, archive) == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "out").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_of_two_preparations_at_once_the_second_waits(tmp_path, archive, capsys):
    assert csv(tmp_path, archive) == 0
    done = []
    with own_files.locked(tmp_path / "out" / ".lock"):
        waiting = threading.Thread(target=lambda: done.append(csv(tmp_path, archive)))
        waiting.start()
        waiting.join(0.5)
        assert not done
    waiting.join(20)
    assert done == [0] and "waiting for it" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- kills and full disks


def prepare_mimic(place, out):
    return run(place, out, "--shard", "1/2") or run(place, out, "--shard", "2/2")


def prepare_openi(place, out):
    return run_openi(place, out)


def prepare_csv(place, out):
    """A smaller table than before, so that images are taken out as well."""
    options = ["--out", str(out), "--remove", "--processes", "1"]
    first = csv(place, place.table, *options) if not (out / "manifest.parquet").exists() else 0
    return first or csv(place, place.table[:3], *options)


def prepare_phantom(place, out):
    write_phantom(out, studies=3, seed=0, processes=1)
    return 0


class Table(type(Path())):
    """A place with the table that stands there."""

    table: pd.DataFrame


@pytest.fixture
def places(tmp_path, root):  # noqa: F811
    """For each reader a preparation, and where its source is."""
    (tmp_path / "openi").mkdir()
    write_trees(tmp_path / "openi")
    place = Table(tmp_path / "csv")
    images = [write(place / f"{i}.png", i) for i in range(5)]
    place.table = pd.DataFrame({"image": images, "patient_id": range(5), "report": "Clear."})
    return {
        "mimic": (prepare_mimic, root),
        "openi": (prepare_openi, tmp_path / "openi"),
        "csv": (prepare_csv, place),
        "phantom": (prepare_phantom, tmp_path),
    }


def count_renames(prepare, place, out) -> int:
    """How often the preparation renames a file."""
    counted, replace = [], os.replace

    def count(*names):
        counted.append(names)
        replace(*names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", count)
        assert prepare(place, out) == 0
    return len(counted)


def run_and_die(prepare, place, out, at: int, renamed: bool) -> None:
    """The preparation in a child, which kills itself right before or after its rename number `at`."""
    child = os.fork()
    if child == 0:
        count, replace = [0], os.replace

        def die(*names):
            if count[0] == at and not renamed:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)
            if count[0] == at and renamed:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1

        os.replace = die
        prepare(place, out)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("reader", ["csv", "openi", "mimic", "phantom"])
def test_killed_at_every_rename_the_same_command_goes_on(places, tmp_path, reader):
    prepare, place = places[reader]
    renames = count_renames(prepare, place, tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    assert renames >= 8
    for at in range(renames):
        out = tmp_path / f"killed-{at}"
        run_and_die(prepare, place, out, at, renamed=at % 2 == 1)
        assert prepare(place, out) == 0
        assert tree(out) == whole, at


@pytest.mark.parametrize("reader", ["csv", "mimic"])
def test_a_full_disk_at_every_file_names_the_file(places, tmp_path, reader, monkeypatch, capsys):
    prepare, place = places[reader]
    renames = count_renames(prepare, place, tmp_path / "whole")
    whole, replace = tree(tmp_path / "whole"), os.replace
    for at in range(renames):
        out, count = tmp_path / f"full-{at}", [0]

        def fill(source, target, at=at, count=count):
            if count[0] == at:
                Path(source).write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device", str(source))
            count[0] += 1
            replace(source, target)

        monkeypatch.setattr(os, "replace", fill)
        capsys.readouterr()
        assert prepare(place, out) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "No space left on device" in said and str(out) in said
        assert not list(out.rglob("*.tmp"))
        monkeypatch.setattr(os, "replace", replace)
        assert prepare(place, out) == 0
        assert tree(out) == whole, at


def test_a_full_disk_is_named_and_not_the_images_that_are_read(
    tmp_path,
    archive,
    small_disk,  # noqa: F811
    capsys,
):
    """On a real one, with ever more room."""
    disk, remount = small_disk
    assert csv(tmp_path, archive) == 0
    need = sum(file.stat().st_blocks * 512 for file in (tmp_path / "out").rglob("*"))
    failures = 0
    for share in (0, 0.1, 0.3, 0.6, 0.9, 1.1, 2):
        remount(f"size={int(share * need) + 8192}")
        capsys.readouterr()
        status = csv(tmp_path, archive, "--out", str(disk / "out"), "--processes", "1")
        if status == 0:
            break
        failures += 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"data_prep: {disk}") and "No space left" in said
        assert not list(disk.rglob("*.tmp"))
    assert status == 0 and failures > 1
    assert tree(disk / "out").keys() == tree(tmp_path / "out").keys()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_copy_that_finds_no_room_names_the_copy(tmp_path, number):
    """The system names the source; and what is wrong with a source is said of it."""
    target = tmp_path / "copy.png"
    for error, named in ((number, target), (errno.EIO, "source.png")):
        with pytest.raises(OSError) as said, own_files.atomic(target):
            raise OSError(error, os.strerror(error), "source.png")
        assert (said.value.errno, said.value.filename) == (error, str(named))


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path, archive
):
    assert csv(tmp_path, archive) == 0
    out = tmp_path / "out"
    for name in (".funnel.json.tmp", "images/.gone.jpg.tmp"):
        (out / name).write_text("half")
    with own_files.atomic(out / "images" / "living.jpg") as temporary:
        assert csv(tmp_path, archive) == 0
        assert [path.name for path in out.rglob("*.tmp")] == [temporary.name]
        temporary.write_text("whole")
    assert (out / "images" / "living.jpg").read_text() == "whole"
