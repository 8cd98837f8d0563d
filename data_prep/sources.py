"""What the sources share: reading their tables, words that mean nothing, the report's text, and what was left out.

Not a source: openi.py, mimic_cxr.py and table.py are. Not here: whose image it is (patients.py), what a view is called
(views.py), how a table is read from its file (raw_table.py), how the folder is written (folder.py).
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from . import raw_table
from .errors import DataError
from .own_files import DamagedFile, read_parquet

TEXT_POLICIES = (  # the first is the default
    "findings+impression",
    "impression+findings",
    "findings",
    "impression",
    "longest",
)
NOTHING = re.compile(  # how databases, R, C, Python, Excel and people write no value; how a lost word is written
    r"(?<![\w\\#])(?:\\N|\#N/?A|\#NAME\?|\#VALUE!|\#REF!|\#DIV/0!|\#NUM!|\#NULL!|1\.\#(?:QNAN|SNAN|IND|INF)"
    r"|<NA>|&nbsp;|_x000D_|null|nan|nat|none|nil|n[/\\]a|n\.a|na|undefined|unknown|missing|empty"
    r"|not (?:available|applicable|provided|recorded)|no (?:report|text|data|value)|x{2,})(?!\w)",
    re.IGNORECASE,
)
LETTER = re.compile(r"[^\W\d_]")
LONG_WORD = re.compile(
    r"[^\W\d_xX]{11}"
)  # none of these is so long: most texts need no closer look
LIST_ITEM = re.compile(r"""'([^']*)'|"([^"]*)"|([^\s,'"][^,'"]*)""")


class Funnel:
    """What is left after each step (`steps`), what each left out and why (`quarantine`), what else to say (`notes`)."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.quarantine: list[tuple[str, str]] = []
        self.notes: Counter[str] = Counter()

    def keep(self, table: pd.DataFrame, good: pd.Series, step: str, reason) -> pd.DataFrame:
        """The good rows; the others go to the quarantine by their `origin` with a reason.

        reason: one text for all, or a Series of them.
        """
        reasons = pd.Series(reason, index=table.index)
        self.quarantine += zip(table.origin[~good], reasons[~good], strict=True)
        self.steps[step] = int(good.sum())
        return table[good]


def read_table(
    path: Path,
    columns: list[str],
    origin: str,
    quarantine: list[tuple[str, str]] | None = None,
    encoding: str | None = None,
    may_lack: set[str] = frozenset(),
) -> pd.DataFrame:
    """A CSV, TSV (also compressed) or Parquet table as strings ("" for nothing).

    A row that is none goes to `quarantine` by its line. Raises DataError if the table is not readable or lacks one of
    `columns` (but for those it `may_lack`), the first of which is what its rows are known by; `origin` says there where
    such a table is to be had.
    """
    faulty: list[tuple[int, str]] = []
    if path.suffix == ".parquet":
        table = _read_parquet(path, origin)
    else:
        try:
            raw = raw_table.read(path, columns, encoding)
        except raw_table.UnknownEncoding as error:
            how = f"save it as UTF-8, or name what it is by --encoding: {raw_table.ENCODINGS}"
            raise DataError(f"{error}: {how}") from None
        except raw_table.Unreadable as error:
            raise DataError(f"{error}: {origin}") from None
        table, faulty = pd.DataFrame(raw.columns, dtype=object), raw.faulty
    missing = [column for column in columns if column not in {*table.columns, *may_lack}]
    if missing:
        there = ", ".join(map(str, table.columns[:12]))
        lacks = ", ".join(dict.fromkeys(missing))
        raise DataError(f"{path} lacks the column(s) {lacks} (it has {there}): {origin}")
    if faulty and quarantine is None:
        line, reason = faulty[0]
        raise DataError(f"{path} line {line}: {reason} ({len(faulty)} such rows): {origin}")
    if faulty:
        quarantine += [(f"{path.name} line {line}", reason) for line, reason in faulty]
    if table.empty and not faulty:
        raise DataError(f"{path} has a header and no rows: {origin}")
    return table


def _read_parquet(path: Path, origin: str) -> pd.DataFrame:
    try:
        table = read_parquet(path, origin, trusted=False)
        for name in table.select_dtypes(
            "floating"
        ):  # numbers that have lost digits: a rounded id is none
            column = table[name]
            is_lost = column.abs() >= 2.0 ** (np.finfo(column.dtype).nmant + 1)
            if is_lost.any():
                table[name] = column.astype(object).where(~is_lost, column.map("{:.16E}".format))
        # a missing value must not turn 123 into 123.0
        table = table.convert_dtypes()
    except DamagedFile as error:
        raise DataError(f"{path} is not a readable table: {error}") from error
    return table.astype(object).where(table.notna(), "").map(_as_text)


def _as_text(value) -> str:
    """A value of a Parquet table; a list of them '|'-joined."""
    items = value.tolist() if hasattr(value, "tolist") else value
    return "|".join(map(str, items)) if isinstance(items, list | tuple) else str(items)


def clean(text: str | None) -> str:
    """White space collapsed; "" if nothing is left beside words that mean nothing, numbers and punctuation."""
    text = " ".join((text or "").split())
    if LONG_WORD.search(text):
        return text
    return text if LETTER.search(NOTHING.sub("", text)) else ""


def clean_name(text: str) -> str:
    """An id, a label or a path: white space at its ends removed; "" for a word that means nothing."""
    text = text.strip()
    if not text or LONG_WORD.search(text) or text.isdecimal():
        return text
    return text if re.search(r"[^\W_]", NOTHING.sub("", text)) else ""


def clean_labels(text: str) -> str:
    """Labels joined by '|', also where they are written as a list of Python's, JSON's or numpy's."""
    text = text.strip()
    bracketed = re.fullmatch(r"[\[({](.*)[\])}]", text, re.DOTALL)
    if bracketed:
        items = [next(filter(None, found), "") for found in LIST_ITEM.findall(bracketed[1])]
    else:
        items = text.split("|")
    cleaned = [clean_name(part) for item in items for part in item.split("|")]
    return "|".join(dict.fromkeys(filter(None, cleaned)))


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


def why_no_file(path: Path) -> str:
    """Why the file cannot be opened at all, or "": a folder and a pipe have names as files have."""
    try:
        if path.is_file():
            return ""
        return "not a file" if path.exists() else "missing"
    except (OSError, ValueError) as error:  # a name too long, a zero byte
        return getattr(error, "strerror", None) or str(error)


def shown(name: str) -> str:
    """A file name as it can be written and printed: bytes that are no UTF-8 as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
