"""A table as it stands in its file: its compression, encoding, separator and quoting are found, its rows counted.

Nothing is repaired and nothing guessed. Every row of the file comes back as a row or is named as faulty with the line
it stands in; what cannot be found (the encoding of a text that is not UTF-8) is asked for in one line. Not here: what
the columns mean.
"""

import bz2
import csv
import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from .errors import DataError

SEPARATORS = ",;\t|"
LIMIT = 2**30  # bytes of an unpacked table: more is a mistake, or meant to fill the memory
SHAPES = 1000  # rows whose keys are remembered, to know a row where it does not belong
ENCODINGS = (
    "cp1252 (Excel in Western Europe and America), cp1251 (in Cyrillic), gb18030 (China), "
    "big5 (Taiwan), cp932 (Japan), euc_kr (Korea)"
)
PROSE = re.compile(r"\s*[^\W\d_](?:[^\W\d_]|\s)*[.]?\s*")  # words, and nothing that names have
MARKS = (  # the byte order marks, the longer first
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
FOREIGN = (  # how files begin that are no table of text
    (b"PK\x03\x04", "an Excel workbook or another zip"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"%PDF", "a PDF"),
    (b"{\\rtf", "a word processor's file"),
    (b"<", "HTML or XML"),
    (b"PAR1\x15", "Parquet under another name"),
    (b"\x1f\x8b", "packed (name it .gz)"),
    (b"BZh9", "packed (name it .bz2)"),
    (b"\xfd7zXZ", "packed (name it .xz)"),
    (b"\x28\xb5\x2f\xfd", "packed (name it .zst)"),
    (b"7z\xbc\xaf", "packed by 7-Zip"),
    (b"\x04\x22\x4d\x18", "packed by LZ4"),
)
UNPACKING = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
UNPACKING += (tarfile.TarError, RuntimeError, NotImplementedError)


class Table(NamedTuple):
    """The columns by name, the line each row begins in, and (line, reason) for each row that is no row."""

    columns: dict[str, list[str]]
    lines: list[int]
    faulty: list[tuple[int, str]]


class Unreadable(DataError):
    """The file is missing, damaged or empty: another copy is needed."""


class UnknownEncoding(DataError):
    """The text is not UTF-8, and nothing in it says what it is."""


def read(path: Path, wanted: list[str], encoding: str | None = None) -> Table:
    """The table in `path`, whose header has to hold the columns `wanted`: the separator is the one that finds them.

    Rows are known by the first two of them (an image, a number). Raises DataError.
    """
    lines = _decode(path, _read_bytes(path), encoding)
    start, separator = _find_header(lines, wanted)
    header = next(csv.reader([lines[start]], delimiter=separator), [])
    header = [name.strip() for name in header]
    while header and not header[-1]:  # a separator at the end of the line names no column
        header.pop()
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the column {twice[0]} twice: rename one")
    keys = [header.index(name) for name in wanted[:2] if name in header] or [0]
    return _Rows(header, separator, keys).parse(lines, start + 1)


# ------------------------------------------------------------------------------------------------------------ bytes


def _read_bytes(path: Path) -> bytes:
    """The unpacked bytes of `path`."""
    try:
        if not path.is_file():
            raise Unreadable(f"{path} is {'not a file' if path.exists() else 'missing'}")
        with _opened(path) as file:
            content = bytearray()
            # piece by piece: asked for LIMIT bytes, a file takes as much memory
            while len(content) <= LIMIT and (piece := file.read(2**20)):
                content += piece
    except UNPACKING as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(f"{path} is not a readable table ({why})") from error
    if len(content) > LIMIT:
        raise DataError(f"{path} holds more than {LIMIT >> 30} GB of text: give Parquet, or parts")
    return bytes(content)


@contextmanager
def _opened(path: Path):
    """The file, unpacked as its suffix asks."""
    ending = path.suffix.lower()
    if ".tar" in path.suffixes or ending == ".tgz":
        with tarfile.open(path) as archive:
            names = [member for member in archive if member.isfile()]
            yield archive.extractfile(_only(names))
    elif ending == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            with archive.open(_only(names)) as file:
                yield file
    elif ending == ".zst":
        with pa.input_stream(str(path), compression="zstd") as file:
            yield file
    else:
        openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
        with openers.get(ending, open)(path, "rb") as file:
            yield file


def _only(names: list):
    if len(names) != 1:
        raise ValueError(f"the archive holds {len(names)} files, not one table")
    return names[0]


def _decode(path: Path, content: bytes, encoding: str | None) -> list[str]:
    """The lines of the text. A carriage return within a line is white space, unless the file knows no other end."""
    if not content.strip(b"\0 \r\n\t"):
        raise Unreadable(f"{path} is empty")
    for start, kind in FOREIGN:
        if content.startswith(start):
            how = "save it as CSV UTF-8 or Parquet"
            raise DataError(f"{path} is {kind}, not a table of text: {how}")
    found = encoding or find_encoding(content)
    try:
        text = content.decode(found)
    except LookupError:
        raise DataError(f"--encoding {encoding}: no such encoding; try {ENCODINGS}") from None
    except UnicodeError as error:
        line = content[: getattr(error, "start", 0)].count(b"\n") + 1
        if encoding or found not in ("utf-8", "utf-8-sig"):
            how = "name another encoding with --encoding"
            raise DataError(f"{path} is not {found} text (line {line}): {how}") from None
        raise UnknownEncoding(f"{path} is not UTF-8 text (line {line})") from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.strip():
        raise Unreadable(f"{path} is empty")
    return text.replace("\r", " " if "\n" in text else "\n").split("\n")


def find_encoding(content: bytes) -> str:
    """By its mark, or by the zero bytes that UTF-16 has in every header; else UTF-8."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding
    if content[1:2] == b"\0" and content[:1] != b"\0":
        return "utf-16-le"
    return "utf-16-be" if content[:1] == b"\0" and content[1:2] != b"\0" else "utf-8"


# ------------------------------------------------------------------------------------------------------------- rows


def _find_header(lines: list[str], wanted: list[str]) -> tuple[int, str]:
    """Which line is the header, and the separator: Excel's own `sep=`, or the one that finds most columns."""
    start = next(number for number, line in enumerate(lines) if line.strip())
    named = re.fullmatch(r'"?sep=(.)"?\s*', lines[start], re.IGNORECASE)
    if named and len(lines) > start + 1:
        return start + 1, named[1]

    def columns_found(separator: str) -> tuple[int, int]:
        try:
            names = next(csv.reader([lines[start]], delimiter=separator), [])
        except csv.Error:
            names = []
        return len({name.strip() for name in names} & set(wanted)), len(names)

    return start, max(SEPARATORS, key=columns_found)


class _Rows:
    """Takes the lines of a table apart, knowing what the keys of its rows look like so far."""

    def __init__(self, header: list[str], separator: str, keys: list[int]) -> None:
        self.header, self.separator, self.keys = header, separator, keys
        self.table = Table({name: [] for name in header if name}, [], [])
        self.shapes: list[set[str]] = [set() for _ in keys]

    def parse(self, lines: list[str], start: int) -> Table:
        """All rows from line `start` on; one that breaks a rule of CSV, or has other columns, is faulty."""
        at, follows_row = start, False
        while at < len(lines):
            line = at + 1
            if not lines[at].strip():
                at += 1
                continue
            fields, at, fault = _next_row(lines, at, self.separator)
            fault = fault or self._fault(fields)
            if not fault:
                self._add(line, fields)
                follows_row = True
                continue
            at = line  # this line alone is faulty; those it may have swallowed are read again
            self.table.faulty.append((line, fault))
            if follows_row and not self._is_known(fields):
                self._take_back(line)
            follows_row = False
        return self.table

    def _add(self, line: int, fields: list[str]) -> None:
        self.table.lines.append(line)
        for name, field in zip(self.header, fields, strict=False):
            if name:
                self.table.columns[name].append(field)
        if len(self.table.lines) <= SHAPES:
            for known, key in zip(self.shapes, self.keys, strict=True):
                known.add(_shape(fields[key]))

    def _take_back(self, line: int) -> None:
        """The row before a line that is no row: the line goes on with it, so it is not whole."""
        before = self.table.lines.pop()
        for column in self.table.columns.values():
            column.pop()
        why = f"a line break that no quotes protect, before line {line}"
        self.table.faulty.append((before, why))

    def _fault(self, fields: list[str]) -> str:
        """Why these fields are no row of the table, or ""."""
        width = len(self.header)
        if any("\0" in field for field in fields):
            return "a zero byte"
        if len(fields) < width or any(field.strip() for field in fields[width:]):
            return f"{len(fields)} columns where the header has {width}"
        keys = zip(self.keys, self.shapes, strict=True)
        if all(self._is_prose(key, known, fields) for key, known in keys):
            return "words where other rows have a name and a number"
        inner = [line for field in fields if "\n" in field for line in field.split("\n")[1:]]
        if any(self._is_swallowed(line, _shape(fields[self.keys[0]])) for line in inner):
            return "a quote that opens and closes rows later"
        return ""

    def _is_known(self, fields: list[str]) -> bool:
        """Whether it begins as rows do."""
        key = self.keys[0]
        return len(fields) > key and _shape(fields[key]) in self.shapes[0]

    def _is_prose(self, key: int, known: set[str], fields: list[str]) -> bool:
        """Whether the key is made of words, which no row's was."""
        is_prose = PROSE.fullmatch(fields[key]) and known
        return bool(is_prose) and not any(map(PROSE.fullmatch, known))

    def _is_swallowed(self, line: str, shape: str) -> bool:
        """Whether a line within a field is a row by its number of columns and by its key."""
        fields, key, width = line.split(self.separator), self.keys[0], len(self.header)
        if width < 2 or len(fields) < width - 1 or len(fields) <= key:
            return False
        return _shape(fields[key]) in self.shapes[0] | {shape}


def _next_row(lines: list[str], at: int, separator: str) -> tuple[list[str], int, str]:
    """(fields, the line after the row, "") or (…, what is wrong with it)."""
    if '"' not in lines[at]:
        return lines[at].split(separator), at + 1, ""
    reader = csv.reader(_with_ends(lines, at), delimiter=separator, strict=True)
    try:
        fields = next(reader)
    except csv.Error:
        return lines[at].split(separator), at + 1, "a quote that opens and does not close rightly"
    return fields, at + reader.line_num, ""


def _with_ends(lines: list[str], at: int) -> Iterator[str]:
    """The lines from `at` on, each with its end."""
    for number in range(at, len(lines)):
        yield lines[number] + "\n"


def _shape(text: str) -> str:
    """What a key looks like: img/007.png → a/0.a."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", text.strip().strip('"')))
