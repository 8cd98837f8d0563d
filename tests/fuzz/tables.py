"""Tables of one's own, as spreadsheets and databases write them, packed or not, and damaged.

Every row of a valid table is read as it was written. Of a damaged one, every row that the damage did not touch is read,
or rows are named as faulty: never fewer without a word.
"""

import bz2
import csv
import gzip
import io
import lzma
import random
import zipfile

import pandas as pd
import pyarrow as pa

from data_prep import table
from data_prep.mimic_cxr import read_labels
from data_prep.sources import Funnel, clean

from . import Kind, Loss
from .damage import damage, damage_text

TEXTS = (
    "Clear lungs.",
    "No acute disease, heart normal.",
    'The "nodule" is a nipple.',
    "Effusion; small.",
    "Line one.\nLine two, after it.",
    "Größe unverändert, kein Erguß.",
    "心影不大。",
    "Opacity\tin the left base",
    "a|b, c;d",
    "It's 5' wide",
    "Ends with a backslash \\",
    "=SUM(A1) mm",
)
NO_TEXT = ("", "nan", r"\N", "NULL", "#N/A", "XXXX.", "None None", "1.")


def rows_of(rng: random.Random) -> list[dict[str, str]]:
    """Two to thirty rows, each of an image of its own."""
    made = []
    for number in range(rng.randint(2, 30)):
        report = rng.choice(TEXTS) if rng.random() < 0.9 else rng.choice(NO_TEXT)
        patient = rng.choice(("7", "p1", "0012", "12.0", "100000", "S-3"))
        row = {"image": f"img/{number:03d}.png", "patient_id": patient, "report": report}
        made.append(row | {"view": rng.choice(("PA", "AP", "LL", "", "chest"))})
    return made


def as_text(rng: random.Random, rows: list[dict[str, str]]) -> str:
    separator = rng.choice(",;\t|")
    file = io.StringIO()
    end, quoting = rng.choice(("\n", "\r\n")), rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.DictWriter(
        file, list(rows[0]), delimiter=separator, lineterminator=end, quoting=quoting
    )
    writer.writeheader()
    writer.writerows(rows)
    return ("sep=" + separator + end if rng.random() < 0.1 else "") + file.getvalue()


def packed(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Suffix and bytes."""
    suffix = rng.choice(
        (".csv", ".csv", ".csv", ".csv.gz", ".csv.xz", ".csv.bz2", ".zip", ".csv.zst")
    )
    if suffix == ".zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("table.csv", content)
        return suffix, file.getvalue()
    if suffix == ".csv.zst":
        return suffix, pa.compress(content, codec="zstd", asbytes=True)
    pack = {".csv.gz": gzip.compress, ".csv.xz": lzma.compress, ".csv.bz2": bz2.compress}
    return suffix, pack.get(suffix, bytes)(content)


class Tables(Kind):
    name, cases = "table (csv)", 15_000

    def case(self, rng):
        rows = rows_of(rng)
        content = as_text(rng, rows).encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")))
        way = rng.choice(("valid", "bytes", "packed"))
        if way == "bytes":
            content = damage(rng, content)
        suffix, content = packed(rng, content)
        if way == "packed":
            content = damage(rng, content)
        path = self.folder / f"x{suffix}"
        path.write_bytes(content)
        funnel = Funnel()
        read = table.read(path, [], [], "findings+impression", funnel)
        if way == "valid":
            self.compare(rows, read, funnel)
        return bool(funnel.quarantine)

    def compare(self, rows: list[dict[str, str]], read: pd.DataFrame, funnel: Funnel) -> None:
        if len(read) + len(funnel.quarantine) != len(rows):
            raise Loss(f"{len(rows)} rows became {len(read)} + {len(funnel.quarantine)} left out")
        if funnel.quarantine:
            raise Loss(f"a valid row is left out: {funnel.quarantine[0]}")
        for written, (_, row) in zip(rows, read.iterrows(), strict=True):
            if row.image != written["image"] or row.report != clean(written["report"]):
                raise Loss(f"{written} became {row.image!r}, {row.report!r}")


class OneChange(Kind):
    """One character of a table in UTF-8 is another, missing or more."""

    name, cases = "table, one character changed", 8_000

    def case(self, rng):
        rows = rows_of(rng)
        text = as_text(rng, rows)
        at, new = rng.randrange(text.index("\n"), len(text)), rng.choice('",;\t|\n\r\\\0a"')
        text = rng.choice((text[:at] + new + text[at:], text[:at] + new + text[at + 1 :]))
        path, funnel = self.folder / "x.csv", Funnel()
        path.write_bytes(text.encode())
        read = table.read(path, [], [], "findings+impression", funnel)
        reports = dict(zip(read.image, read.report, strict=True))
        missing = [row["image"] for row in rows if row["image"] not in reports]
        if len(missing) > 1 + len(funnel.quarantine):  # the changed row may have another name
            raise Loss(f"{len(missing)} rows are gone, {len(funnel.quarantine)} named")
        for row in rows:
            if len(reports.get(row["image"], "")) > len(row["report"]) + 40:
                raise Loss(f"{row['image']} swallowed other rows")
        return bool(funnel.quarantine)


class Labels(Kind):
    """A table of MIMIC-CXR-JPG, damaged."""

    name, cases = "table of MIMIC-CXR-JPG", 4_000

    def case(self, rng):
        lines = ["subject_id,study_id,Atelectasis,Edema,No Finding"]
        for number in range(rng.randint(1, 20)):
            marks = [rng.choice(("", "1.0", "0.0", "-1.0")) for _ in range(3)]
            lines.append(f"{10000000 + number},{50000000 + number},{','.join(marks)}")
        valid = rng.random() < 0.2
        text = "\n".join(lines) + "\n"
        path = self.folder / "x.csv.gz"
        content = gzip.compress(text.encode() if valid else damage_text(rng, text), 1)
        path.write_bytes(damage(rng, content) if not valid and rng.random() < 0.3 else content)
        read = read_labels(path)
        if valid and len(read) != len(lines) - 1:
            raise Loss(f"{len(lines) - 1} studies became {len(read)}")
        return False


KINDS = [Tables, OneChange, Labels]
