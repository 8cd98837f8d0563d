"""Conditions on a table's rows, against plain Python and in the words of errors."""

import contextlib

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.commands import UsageError
from data_prep.conditions import rows_where

TABLE = pd.DataFrame(
    {
        "labels": ["effusion|edema", "", "Mass", "edema"],
        "view": ["frontal", "lateral", "frontal", "unknown"],
        "age": ["9", "65", "70", "n/a"],
        "date": ["2024-03-31", "2023-12-01", "2024-04-01", "2025-01-01"],
        "report": ["Small effusion.", "Normal.", "A mass (left).", "Mild edema."],
    }
)


@pytest.mark.parametrize(
    "conditions, rows",
    [
        ([], [0, 1, 2, 3]),
        (["labels=edema"], [0, 3]),  # one of several labels
        (["labels=effusion|mass"], [0, 2]),
        (["labels!=edema"], [1, 2]),
        (["view = frontal", "age>=10"], [2]),  # as numbers: 9 < 10
        (["age<65"], [0]),  # what is no number is neither above nor below
        (["date>=2024-01-01", "date<2025"], [0, 2]),
        (["report~(LEFT)"], [2]),  # not a pattern
        (["report~a mass"], [2]),
    ],
)
def test_conditions(conditions, rows):
    assert rows_where(TABLE, conditions).tolist() == rows


@pytest.mark.parametrize(
    "condition, words",
    [
        ("frontal", "cannot read"),
        ("view=", "cannot read"),
        ("colour=red", "there are: labels, view"),
        ("view=oblique", "view holds: frontal, lateral, unknown"),
    ],
)
def test_a_condition_that_leaves_nothing_says_why(condition, words):
    with pytest.raises(UsageError, match=words):
        rows_where(TABLE, [condition])


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1), st.sampled_from(["a", "b", "c"]))
def test_equal_and_unequal_part_the_table(values, value):
    table, found = pd.DataFrame({"x": values}), []
    for sign in ("=", "!="):
        with contextlib.suppress(UsageError):
            found += rows_where(table, [f"x{sign}{value}"]).tolist()
    assert sorted(found) == list(range(len(values)))
