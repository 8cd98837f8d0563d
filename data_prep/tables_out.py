"""A table for others: CSV, JSON or Parquet by the name's end, written whole or not at all.

In CSV a cell that a spreadsheet would run as a formula is written with an apostrophe before it, as OWASP advises.
"""

from pathlib import Path

import pandas as pd

from .commands import UsageError
from .own_files import atomic

ENDS = (".csv", ".json", ".parquet")
FORMULA = r"^([=+\-@\t\r])"


def check_name(path: Path) -> None:
    """Raises UsageError unless the name says how to write it, before any work is done."""
    if path.suffix.lower() not in ENDS:
        raise UsageError(f"{path}: a table is written as {', '.join(ENDS)}: choose such a name")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write `table` to `path` in the format of its name; numbers and dates stay what they are."""
    check_name(path)
    with atomic(path) as temporary:
        if path.suffix.lower() == ".parquet":
            table.to_parquet(temporary, index=False)
        elif path.suffix.lower() == ".json":
            table.to_json(temporary, orient="records", indent=1, force_ascii=False)
        else:
            guarded(table).to_csv(temporary, index=False)


def guarded(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before each text that a spreadsheet would run."""
    texts = table.select_dtypes(include=["object", "string"]).columns
    return table.assign(
        **{
            name: table[name].astype("string").str.replace(FORMULA, r"'\1", regex=True)
            for name in texts
        }
    )
