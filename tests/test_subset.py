"""Fewer training pairs: nested, the same on any machine, validation and test untouched, nothing half-written."""

import pandas as pd
import pytest

from data_prep import folder
from data_prep.__main__ import main
from data_prep.subset import subset


def pairs(data, split="train"):
    table = folder.read(data)
    return set(table["pair_id"][table["split"] == split])


def test_a_smaller_subset_lies_in_a_larger_one_and_what_is_measured_stays(phantom, tmp_path):
    for count in (20, 50):
        assert (
            main(
                ["subset", str(phantom), "--out", str(tmp_path / str(count)), "--train", str(count)]
            )
            == 0
        )
    small, large = tmp_path / "20", tmp_path / "50"
    assert pairs(small) < pairs(large) < pairs(phantom)
    assert (len(pairs(small)), len(pairs(large))) == (20, 50)
    for split in ("validate", "test"):
        assert pairs(small, split) == pairs(large, split) == pairs(phantom, split)
    table = folder.read(phantom).set_index("pair_id")
    for pair in folder.read(small).itertuples(index=False):
        assert pair.report == table.loc[pair.pair_id, "report"]
        assert (small / pair.image_path).read_bytes() == (phantom / pair.image_path).read_bytes()
    boxes = pd.read_parquet(small / "boxes.parquet")
    assert set(boxes["pair_id"]) <= set(folder.read(small)["pair_id"]) and len(boxes)
    assert main(["check", str(small)]) == 0


def test_the_whole_is_itself_and_running_again_changes_nothing(phantom, tmp_path):
    count = len(pairs(phantom))
    for _ in range(2):
        subset(phantom, tmp_path / "all", count)
        whole = folder.describe_data(tmp_path / "all")["sha256"]
        assert whole == folder.describe_data(phantom)["sha256"]


def test_an_image_is_copied_where_it_cannot_be_linked(phantom, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    subset(phantom, tmp_path / "few", 10)
    assert main(["check", str(tmp_path / "few")]) == 0


@pytest.mark.parametrize("train", ["0", "100000"])
def test_more_or_fewer_pairs_than_there_are_is_one_line(phantom, tmp_path, train, capsys):
    assert main(["subset", str(phantom), "--out", str(tmp_path / "x"), "--train", train]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
