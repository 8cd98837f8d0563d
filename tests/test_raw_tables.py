"""Tables as they stand in their files: what is read is what was written, no row is lost, shifted or repaired unsaid."""

import bz2
import csv
import gzip
import io
import lzma
import tarfile
import zipfile

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import raw_table, sources
from data_prep.errors import DataError

HEADER = ["image", "patient_id", "report", "labels"]
ROWS = [
    [f"img/{i:03}.png", f"{i // 2}", f"Lungs are clear, study {i}.", "normal"] for i in range(8)
]
LINES = [",".join(HEADER), *(f'{a},{b},"{c}",{d}' for a, b, c, d in ROWS)]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@pytest.fixture
def write(tmp_path):
    """Writes bytes or lines as a table → its path."""

    def write(content, name="table.csv"):
        if isinstance(content, list):
            content = "\n".join(content) + "\n"
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows_of(table: raw_table.Table) -> list[list[str]]:
    return [list(row) for row in zip(*table.columns.values(), strict=True)]


def read(path, encoding=None):
    return raw_table.read(path, ["image", "patient_id"], encoding)


@given(
    texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6),
    separator=st.sampled_from(raw_table.SEPARATORS),
    ending=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    announced=st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path_factory, texts, separator, ending, encoding, quoting, announced
):
    rows = [[f"img/{i}.png", str(i), *pair] for i, pair in enumerate(texts)]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=ending, quoting=quoting)
    writer.writerows([HEADER, *rows])
    text = f"sep={separator}{ending}" * announced + file.getvalue()
    path = tmp_path_factory.mktemp("t") / "table.csv"
    path.write_bytes(text.encode(encoding))
    table = read(path)
    assert table.faulty == [] and rows_of(table) == rows


@given(
    damages=st.lists(
        st.tuples(
            st.integers(1, 8), st.integers(0, 45), st.sampled_from(['"', ",", ";", "\r", "\0", ""])
        ),
        min_size=1,
        max_size=4,
    )
)
def test_of_damaged_rows_none_is_lost_or_swallowed(tmp_path_factory, damages):
    """A sign is put into or taken out of some lines: each line is then a row or named, and others are untouched."""
    lines = list(LINES)
    for line, place, sign in damages:
        text = lines[line]
        lines[line] = text[:place] + sign + text[place + (sign == "") :]
    path = tmp_path_factory.mktemp("t") / "table.csv"
    path.write_text("\n".join(lines) + "\n", newline="")
    table = read(path)
    named = [line for line, _ in table.faulty]
    assert sorted(table.lines + named) == list(range(2, 10))
    touched = {line + 1 for line, *_ in damages}
    for line, row in zip(table.lines, rows_of(table), strict=True):
        if line not in touched:
            assert row == ROWS[line - 2]
    near = touched | {line - 1 for line in touched}  # a row may be named for the line after it
    assert set(named) <= near


@pytest.mark.parametrize(
    ("change", "kept", "reasons"),
    [
        ({3: 'img/002.png,1,"Increased markings.,normal'}, 7, ["does not close"]),
        (  # two lone quotes, each of which could be taken for the other's end
            {3: 'img/002.png,1,"Increased.,normal', 6: 'img/005.png,2,Clear.",normal'},
            7,
            ["a quote that opens and"],
        ),
        ({3: "img/002.png,1,Clear\rlungs.,normal"}, 8, []),
        ({n: f"{LINES[n]}," for n in range(1, 9)}, 8, []),
        ({3: LINES[3] + ",surplus"}, 7, ["5 columns where the header has 4"]),
        ({3: "img/002.png,1"}, 7, ["2 columns"]),
        (  # a line break within a report that no quotes protect: both halves, not the half as a whole
            {3: "img/002.png,1,Large effusion,\nis excluded."},
            7,
            ["1 columns where", "a line break that no quotes protect"],
        ),
        (
            {3: "img/002.png,1,Large effusion,\nnone, and heart, normal, too"},
            7,
            ["words where other rows", "a line break that no quotes protect"],
        ),
        ({3: 'img/002.png,1,12" tube and a 5" drain,normal'}, 8, []),
        ({3: 'img/002.png,1,"A ""tube""\nin place,\nwell, so",normal'}, 8, []),
        ({3: "", 5: "  "}, 6, []),
    ],
)
def test_kinds_of_damage(write, change, kept, reasons):
    lines = [change.get(number, line) for number, line in enumerate(LINES)]
    table = read(write(lines))
    assert len(table.lines) == kept and len(table.faulty) == len(reasons)
    for (_, reason), expected in zip(table.faulty, reasons, strict=True):
        assert expected in reason
    assert {row[0] for row in rows_of(table)} <= {row[0] for row in ROWS}
    assert all(row[3] == "normal" for row in rows_of(table))


def test_a_carriage_return_alone_ends_rows_where_nothing_else_does(write):
    assert rows_of(read(write("\r".join(LINES)))) == ROWS


@pytest.mark.parametrize("encoding", ["gb18030", "cp1252", "cp932"])
def test_an_encoding_is_asked_for_and_never_guessed(write, encoding):
    text = {"gb18030": "双肺纹理清晰", "cp1252": "Ergüsse", "cp932": "胸部正常"}[encoding]
    path = write("\n".join([LINES[0], f"img/0.png,1,{text},normal"]).encode(encoding))
    with pytest.raises(DataError, match=r"not UTF-8 text \(line 2\).*--encoding") as said:
        sources.read_table(path, ["image", "patient_id"], "")
    assert "iconv" not in str(said.value) and "\n" not in str(said.value)
    assert read(path, encoding).columns["report"] == [text]
    with pytest.raises(DataError, match="no such encoding"):
        read(path, "utf-88")
    with pytest.raises(DataError, match="is not ascii text"):
        read(path, "ascii")


def zipped(content: bytes, *names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return file.getvalue()


def tarred(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("table.csv")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    sink = io.BytesIO()
    pd.DataFrame({"image": ["a.png"]}).to_parquet(sink)
    return sink.getvalue()


PACKERS = {
    "t.csv.gz": gzip.compress,
    "t.csv.bz2": bz2.compress,
    "t.csv.xz": lzma.compress,
    "t.csv.zst": zstandard,
    "t.csv.zip": lambda content: zipped(content, "t.csv"),
    "t.csv.tar.gz": tarred,
}


@pytest.mark.parametrize("name", PACKERS)
def test_packed_tables_and_damaged_ones(write, name):
    packed = PACKERS[name]("\n".join(LINES).encode())
    assert rows_of(read(write(packed, name))) == ROWS
    for damaged in (
        packed[: len(packed) // 2],
        b"not packed",
        packed[:9] + b"\xff" * 9 + packed[18:],
    ):
        try:
            assert rows_of(read(write(damaged, name))) == ROWS  # a name or a time in the header
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (LINES[0].encode(), "has a header and no rows"),
        (zipped(b"", "xl/workbook.xml"), "Excel workbook"),
        (b"\xd0\xcf\x11\xe0....", "old Excel workbook"),
        (b"<html><table>", "HTML"),
        (gzip.compress(b"image,patient_id"), r"packed \(name it .gz\)"),
        (bz2.compress(b"image,patient_id"), r"packed \(name it .bz2\)"),
        (lzma.compress(b"image,patient_id"), r"packed \(name it .xz\)"),
        (zstandard(b"image,patient_id"), r"packed \(name it .zst\)"),
        (parquet(), "Parquet under another name"),
        (b"image,report\na,b\n", r"lacks the column\(s\) patient_id"),
        (b"image,patient_id,image\na,b,c\n", "column image twice"),
        (b"image,patient_id\nimg/1.png,7\nimg/2.png\n", "line 3: 1 columns"),
    ],
)
def test_refused_in_one_line(write, content, message):
    with pytest.raises(DataError, match=message) as said:
        sources.read_table(write(content), ["image", "patient_id"], "")
    assert "\n" not in str(said.value)


def test_an_archive_of_several_files_and_a_bomb_are_refused(write, monkeypatch):
    with pytest.raises(DataError, match="holds 2 files"):
        read(write(zipped(b"image,patient_id\n", "a.csv", "b.csv"), "t.zip"))
    monkeypatch.setattr(raw_table, "LIMIT", 1000)
    with pytest.raises(DataError, match="holds more than"):
        read(write(gzip.compress(b"image,patient_id\n" * 1000), "t.csv.gz"))


def test_a_folder_or_a_missing_file_is_no_table(tmp_path):
    for path, message in [(tmp_path, "not a file"), (tmp_path / "no.csv", "is missing")]:
        with pytest.raises(DataError, match=message):
            read(path)
