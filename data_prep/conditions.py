"""Which rows of a table meet conditions such as `view=frontal`, `labels=effusion|edema`, `age>=65`, `report~pneumonia`.

One small language for the command line, Python and the explorer; nothing in it is run as code.
"""

import re

import numpy as np
import pandas as pd

from .commands import UsageError

CONDITION = re.compile(r"\s*([^=!<>~]+?)\s*(!=|>=|<=|=|>|<|~)\s*(.*?)\s*")
HELP = "column=value, column!=value, column>=value, column<=value or column~words"


def rows_where(table: pd.DataFrame, conditions: list[str]) -> np.ndarray:
    """Positions (n,) int64 of the rows that meet all conditions.

    `=` and `!=` compare whole values, of several ('a|b') any one; `a|b` after them means either. `>`, `>=`, `<` and
    `<=` compare numbers where the column has some, else text, so that dates written 2024-03-31 compare as dates.
    `~` looks for words anywhere. Letters' case does not count. Raises UsageError for a condition that cannot be read,
    a column that is not there, and where nothing is left.
    """
    kept = np.ones(len(table), dtype=bool)
    for condition in conditions:
        parts = CONDITION.fullmatch(condition)
        if parts is None or not parts[3]:
            raise UsageError(f"cannot read the condition {condition!r}: write {HELP}")
        column, sign, value = parts.groups()
        if column not in table.columns:
            there = ", ".join(map(str, table.columns))
            raise UsageError(f"no column {column!r} to choose by; there are: {there}")
        codes, distinct = pd.factorize(table[column].astype(str))  # each value is looked at once
        kept &= _meets(pd.Series(distinct), sign, value)[codes]
        if not kept.any():
            often = ", ".join(map(str, table[column].value_counts().index[:8]))
            raise UsageError(f"no pair is left with {condition!r}; {column} holds: {often[:200]}")
    return np.flatnonzero(kept)


def split_conditions(line: str) -> list[str]:
    """Several conditions written in one line, with semicolons between them."""
    return [condition for condition in map(str.strip, line.split(";")) if condition]


def _meets(values: pd.Series, sign: str, value: str) -> np.ndarray:
    text = values.astype(str).str.casefold()
    if sign == "~":
        return text.str.contains(value.casefold(), regex=False).to_numpy()
    if sign in ("=", "!="):
        wanted = {one.strip() for one in value.casefold().split("|")}
        found = text.map(lambda whole: not wanted.isdisjoint({whole, *whole.split("|")}))
        return (found == (sign == "=")).to_numpy()
    left, right = text, value.casefold()
    numbers, number = pd.to_numeric(values, errors="coerce"), pd.to_numeric(value, errors="coerce")
    if not pd.isna(number) and numbers.notna().any():
        left, right = numbers, number  # what is no number is neither above nor below
    compare = {">": left.gt, ">=": left.ge, "<": left.lt, "<=": left.le}[sign]
    return compare(right).to_numpy()
