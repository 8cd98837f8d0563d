"""The datasheet of a data set: its numbers are those of the folder, and nothing of a patient stands in it."""

import re

from data_prep import folder
from data_prep.__main__ import main


def test_a_datasheet_counts_what_is_there(phantom, capsys):
    assert main(["datasheet", str(phantom)]) == 0
    page, table = capsys.readouterr().out, folder.read(phantom)
    sizes = table.split.value_counts()
    for split in folder.SPLITS:
        row = re.search(rf"^\| {split} \| (.*) \|$", page, re.M)[1]
        assert sum(map(int, row.split(" | "))) == sizes[split]
    labels = table.labels[table.labels != ""].str.split("|").explode().value_counts()
    for label, count in labels.items():
        assert f"| {label} | {count} |" in page
    about = folder.read_about(phantom)
    assert about.sha256 in page and about.licence in page and "Not for clinical use" in page
    assert "no patient is behind them" in page


def test_a_datasheet_holds_no_report_patient_or_path(phantom, capsys):
    assert main(["datasheet", str(phantom)]) == 0
    page, table = capsys.readouterr().out, folder.read(phantom)
    for words in (*table.report, *table.patient_id, *table.image_path, str(phantom.parent)):
        assert words not in page


def test_of_no_data_set_there_is_none(tmp_path, capsys):
    assert main(["datasheet", str(tmp_path)]) == 2
    assert "no manifest.parquet" in capsys.readouterr().err
