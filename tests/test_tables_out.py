"""Tables for others: what comes back is what was given, and no cell of a CSV runs as a formula."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.commands import UsageError
from data_prep.tables_out import guarded, write_table

TABLE = pd.DataFrame(
    {"rank": [1, 2], "score": [0.5, -0.25], "report": ["Normal.", 'A "mass", left']}
)


@pytest.mark.parametrize(
    "end, read", [(".csv", pd.read_csv), (".json", pd.read_json), (".parquet", pd.read_parquet)]
)
def test_what_is_written_comes_back(tmp_path, end, read):
    write_table(tmp_path / f"hits{end}", TABLE)
    pd.testing.assert_frame_equal(read(tmp_path / f"hits{end}"), TABLE, check_dtype=False)
    assert [file.name for file in tmp_path.iterdir()] == [f"hits{end}"]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
@settings(max_examples=50)
def test_no_text_begins_as_a_formula(texts):
    table = guarded(pd.DataFrame({"report": texts, "score": -1.0}))
    assert not table["report"].str.match(r"[=+\-@\t\r]").any()
    assert (table["report"].str.removeprefix("'") == pd.Series(texts).str.removeprefix("'")).all()
    assert (table["score"] == -1).all()


def test_another_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"written as \.csv, \.json, \.parquet"):
        write_table(tmp_path / "hits.xlsx", TABLE)
    assert not list(tmp_path.iterdir())
