"""What the sources have in common: reading their tables, the report's text, views, splits, and what was left out.

Not a source: openi.py, mimic_cxr.py and table.py are. Not here: how the folder is written (folder.py).
"""

import hashlib
import re
import zlib
from pathlib import Path

import pandas as pd

from .folder import DataError

TEXT_POLICIES = (  # the first is the default
    "findings+impression",
    "impression+findings",
    "findings",
    "impression",
    "longest",
)
LATERAL = {"LATERAL", "LL", "RL", "LAT", "SEITLICH", "SEITL"}
FRONTAL = {"FRONTAL", "AP", "PA"}


class Funnel:
    """What is left after each step (`steps`), and what each step left out and why (`quarantine`)."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.quarantine: list[tuple[str, str]] = []

    def keep(self, table: pd.DataFrame, good: pd.Series, step: str, reason) -> pd.DataFrame:
        """The good rows; the others go to the quarantine by their `origin` with a reason.

        reason: one text for all, or a Series of them.
        """
        reasons = pd.Series(reason, index=table.index)
        self.quarantine += zip(table.origin[~good], reasons[~good], strict=True)
        self.steps[step] = int(good.sum())
        return table[good]


def read_table(path: Path, columns: list[str], origin: str) -> pd.DataFrame:
    """A CSV, TSV (also compressed) or Parquet table as strings ("" for nothing).

    Raises DataError if it is not readable or lacks one of `columns`; `origin` says there where such
    a table is to be had.
    """
    try:
        table = _read_parquet(path) if path.suffix == ".parquet" else _read_text_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {origin}") from None
    except UnicodeDecodeError:
        how = f"save it as such, or iconv -f cp1252 -t utf-8 {path} > new.csv"
        raise DataError(f"{path} is not UTF-8 text: {how}") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is not a readable table ({error}): {origin}") from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the column(s) {', '.join(missing)}: {origin}")
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path).convert_dtypes()  # a missing value must not turn 123 into 123.0
    return table.astype(object).where(table.notna(), "").astype(str)


def _read_text_table(path: Path) -> pd.DataFrame:
    separator = "\t" if ".tsv" in path.suffixes else ","
    header = list(pd.read_csv(path, nrows=0, sep=separator))
    if len(header) == 1 and ";" in header[0]:  # as Excel writes where the comma is a decimal point
        separator = ";"
    return pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)


def join_report(findings: str, impression: str, text_policy: str) -> str:
    """The text that is paired with the image, by the policy ("" where the policy finds none)."""
    findings, impression = findings.strip(), impression.strip()
    texts = {
        "findings+impression": f"{findings} {impression}".strip(),
        "impression+findings": f"{impression} {findings}".strip(),
        "findings": findings,
        "impression": impression,
        "longest": max(findings, impression, key=lambda text: len(text.split())),
    }
    if text_policy not in texts:
        known = ", ".join(TEXT_POLICIES)
        raise DataError(f"unknown text policy {text_policy!r}: choose one of {known}")
    return texts[text_policy]


def add_reports(table: pd.DataFrame, text_policy: str) -> pd.DataFrame:
    """The table with a column `report`, joined from its `findings` and `impression`."""
    sections = zip(table.findings, table.impression, strict=True)
    return table.assign(report=[join_report(*both, text_policy) for both in sections])


def keep_text(table: pd.DataFrame, text_policy: str, funnel: Funnel) -> pd.DataFrame:
    """The rows whose `report` is not empty."""
    reason = f"no text by the policy {text_policy}"
    return funnel.keep(table, table.report != "", "with usable text", reason)


def split_of(patient_id: str) -> str:
    """80/10/10 by a hash of the patient: the same patient gets the same split whatever else is there."""
    digest = hashlib.sha256(f"0:{patient_id}".encode()).digest()
    draw = int.from_bytes(digest[:8]) / 2**64
    if draw < 0.8:
        return "train"
    return "validate" if draw < 0.9 else "test"


def view_name(text: str) -> str:
    """AP, p.a., Frontal, LL, XTABLE LATERAL, seitlich … → frontal, lateral or unknown."""
    words = set(re.split(r"[^A-Z]+", text.upper().replace(".", "")))
    if words & LATERAL:
        return "lateral"
    return "frontal" if words & FRONTAL else "unknown"
