"""The data set folder: its rows, how it is written whole or not at all, and how it is read back.

Not a loader: pixels reach training through `pack.py`, and each source has its own module.

    manifest.parquet   one row per image–report pair (COLUMNS), sorted by pair_id; written last
    images/            8-bit grayscale, aspect ratio kept
    funnel.json        count after each step
    quarantine.csv     what was left out: path, reason
    dataset.json       name, licence, synthetic, text policy, counts, provenance, SHA-256

The SHA-256 is over the rows in order of pair_id and each image's size in bytes. It notices a changed text,
split or label and a missing, truncated or re-encoded image, without reading 377,110 files again.
"""

import hashlib
import json
import os
import re
import secrets
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

COLUMNS = ["pair_id", "study_id", "patient_id", "image_path", "view", "report", "findings", "impression",
           "labels", "split"]
SPLITS = ("train", "validate", "test")
VIEWS = ("frontal", "lateral", "unknown")
TEXT_POLICIES = {  # the first is the default; what is empty is left out
    "findings+impression": lambda findings, impression: f"{findings} {impression}".strip(),
    "impression+findings": lambda findings, impression: f"{impression} {findings}".strip(),
    "findings": lambda findings, impression: findings,
    "impression": lambda findings, impression: impression,
    "longest": lambda findings, impression: max(findings, impression, key=lambda text: len(text.split())),
}


class DataError(Exception):
    """Input or output that stops the work. The message is one line: what, where, what to do."""


def read_table(path: Path, columns: list[str], origin: str) -> pd.DataFrame:
    """A CSV, TSV (also compressed) or Parquet table as strings ("" for nothing) that has at least `columns`.

    `origin` says in the error where such a table is to be had.
    """
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path).convert_dtypes()  # a missing value must not turn 123 into 123.0
            table = table.astype(object).where(table.notna(), "").astype(str)
        else:
            separator = "\t" if ".tsv" in path.suffixes else ","
            header = list(pd.read_csv(path, nrows=0, sep=separator))
            if len(header) == 1 and ";" in header[0]:  # as Excel writes a CSV where the comma is the decimal point
                separator = ";"
            table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {origin}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text: save it as such, or iconv -f cp1252 -t utf-8 {path} > new.csv"
                        ) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is not a readable table ({error}): {origin}") from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the column(s) {', '.join(missing)}: {origin}")
    return table


def join_report(findings: str, impression: str, text_policy: str) -> str:
    """The text that is paired with the image, by the named policy ("" where the policy finds none)."""
    if text_policy not in TEXT_POLICIES:
        raise DataError(f"unknown text policy {text_policy!r}: choose one of {', '.join(TEXT_POLICIES)}")
    return TEXT_POLICIES[text_policy](findings.strip(), impression.strip())


def split_of(patient_id: str, seed: int = 0) -> str:
    """80/10/10 by a hash of the patient: the same patient gets the same split whatever else is there."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()[:8]) / 2**64
    return "train" if draw < 0.8 else "validate" if draw < 0.9 else "test"


def view_name(text: str) -> str:
    """AP, p.a., Frontal, LL, XTABLE LATERAL, seitlich … → frontal, lateral or unknown."""
    words = set(re.split(r"[^A-Z]+", text.upper().replace(".", "")))
    if {"LATERAL", "LL", "RL", "LAT", "SEITLICH", "SEITL"} & words:
        return "lateral"
    return "frontal" if {"FRONTAL", "AP", "PA"} & words else "unknown"


class Funnel:
    """What is left after each step (`steps`), and what each step left out and why (`quarantine`)."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.quarantine: list[tuple[str, str]] = []

    def keep(self, table: pd.DataFrame, good: pd.Series, step: str, reason) -> pd.DataFrame:
        """The good rows; the others go to the quarantine by their `origin` with `reason` (text or a Series)."""
        reasons = pd.Series(reason, index=table.index)
        self.quarantine += zip(table.origin[~good], reasons[~good], strict=True)
        self.steps[step] = int(good.sum())
        return table[good]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: Path):
    """A temporary path beside `path`: renamed to it if the block succeeds, removed if it does not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, wait: bool = True):
    """One process at a time, on this machine or a shared disk; the lock ends with its process. Yields whether it is
    ours: always, unless another process holds it and we do not `wait`."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock: there, start one process at a time
        yield True
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def write_json(path: Path, content: dict) -> None:
    """`content` as readable JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """The JSON object in `path`; a broken file is named."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): make the folder again") from error


def start(out: Path, source: dict, may_change: str = "") -> None:
    """Begin or resume writing `out`: refuse a folder holding other things, or made with settings that differ in more
    than the one that `may_change`."""
    out, settings = Path(out), json.loads(json.dumps(source))
    begun = out / "building.json"
    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out} is a file: give a folder")
    if begun.exists() or (out / "dataset.json").exists():
        earlier = read_json(begun) if begun.exists() else read_json(out / "dataset.json")["source"]
        changed = [f"{key}: {earlier.get(key)!r} → {settings.get(key)!r}"
                   for key in sorted({*earlier, *settings} - {may_change}) if earlier.get(key) != settings.get(key)]
        if changed:
            raise DataError(f"{out} was begun with other settings ({'; '.join(changed)}): "
                            "use the same ones, another --out, or remove it")
    elif out.exists() and not all(entry.name.startswith(f".{begun.name}") for entry in out.iterdir()):
        raise DataError(f"{out} holds other files: choose an empty or new folder for --out")
    out.mkdir(parents=True, exist_ok=True)
    if not begun.exists() and not (out / "dataset.json").exists():
        write_json(begun, settings)  # before images/: a shard that starts a moment later finds it
    (out / "images").mkdir(exist_ok=True)


def finish(out, rows, *, funnel, quarantine, name, licence, synthetic, text_policy, source) -> None:
    """Check the rows, write everything beside images/ (the manifest last) and print the funnel.

    rows: dicts or a DataFrame with COLUMNS; funnel: step → count; quarantine: (path, reason) tuples;
    source: how the folder was made, kept in dataset.json.
    """
    out = Path(out)
    with atomic(out / "quarantine.csv") as temporary:
        pd.DataFrame(sorted(quarantine), columns=["path", "reason"]).to_csv(temporary, index=False)
    if len(rows) == 0:
        steps = ", ".join(f"{step} {count:,}" for step, count in funnel.items())
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons(quarantine).items())
        raise DataError(f"no image–report pair is left for {out} ({steps}): " + (
            f"{why}; the first: {min(quarantine)[1]}; all are named in {out / 'quarantine.csv'}" if why else
            "the source is empty"))
    table = pd.DataFrame(rows)
    _check_columns(table, out)
    table = table[COLUMNS].fillna("").astype(str).sort_values("pair_id", ignore_index=True)
    _check_rows(table, out)
    digest, left_out = content_sha256(out, table), reasons(quarantine)
    write_json(out / "funnel.json", funnel)
    write_json(out / "dataset.json", {
        "name": name, "licence": licence, "synthetic": synthetic, "text_policy": text_policy,
        "sha256": digest, "counts": counts(table), "left_out": left_out, "source": source})
    with atomic(out / "manifest.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    (out / "building.json").unlink(missing_ok=True)
    print(funnel_text(funnel))
    if quarantine:
        print(f"left out, each named in {out / 'quarantine.csv'}:")
        print("\n".join(f"{count:>9,}  {reason}" for reason, count in left_out.items()))


def read(folder) -> pd.DataFrame:
    """The rows of a finished data set folder, checked."""
    path = Path(folder) / "manifest.parquet"
    if not path.exists():
        unfinished = (Path(folder) / "building.json").exists()
        raise DataError(f"{folder} is not finished: run the same data_prep command again" if unfinished else
                        f"{folder} has no manifest.parquet: make a data set folder with python -m data_prep")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable Parquet ({error}): make the folder again") from error
    _check_columns(table, folder)
    _check_rows(table, folder)
    return table


def counts(table: pd.DataFrame) -> dict:
    """Rows, studies, patients, reports, and rows per split and view."""
    return {"rows": len(table), "studies": table.study_id.nunique(), "patients": table.patient_id.nunique(),
            "different_reports": table.report.nunique(),
            "split": table.split.value_counts().to_dict(), "view": table["view"].value_counts().to_dict()}


def reasons(quarantine: list[tuple[str, str]]) -> dict[str, int]:
    """How often each reason (up to its colon) left something out, most often first."""
    return dict(Counter(reason.split(":")[0] for _, reason in quarantine).most_common())


def crossing_patients(table: pd.DataFrame) -> list[str]:
    """Patients with rows in more than one split."""
    splits = table.groupby("patient_id").split.nunique()
    return sorted(splits.index[splits > 1])


def content_sha256(out: Path, table: pd.DataFrame) -> str:
    """The data set's identity (see the top of this file)."""
    digest = hashlib.sha256()
    for row in table[COLUMNS].itertuples(index=False):
        try:
            size = (out / row.image_path).stat().st_size
        except OSError:
            raise DataError(f"{out / row.image_path} is named by {row.pair_id} but missing: "
                            "run the same data_prep command again") from None
        digest.update(json.dumps([*row, size]).encode())
    return digest.hexdigest()


def funnel_text(funnel: dict) -> str:
    """The funnel as a small table: count after each step, and what the step took away."""
    width, before, lines = max(map(len, funnel)), None, []
    for step, count in funnel.items():
        change = f"{count - before:+,}" if before is not None and count < before else ""
        lines.append(f"{step:<{width}}  {count:>9,}  {change:>9}".rstrip())
        before = count
    return "\n".join(lines)


def _check_columns(table: pd.DataFrame, where) -> None:
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"the manifest of {where} lacks the column(s) {', '.join(missing)}: make it again")


def _check_rows(table: pd.DataFrame, where) -> None:
    crossing = crossing_patients(table)
    faults = {
        "pair_id twice": table.pair_id[table.pair_id.duplicated()],
        "a report without text": table.pair_id[table.report.str.strip() == ""],
        f"a split that is none of {SPLITS}": table.pair_id[~table.split.isin(SPLITS)],
        f"a view that is none of {VIEWS}": table.pair_id[~table["view"].isin(VIEWS)],
        "a patient in two splits": pd.Series(crossing, dtype=str),
    }
    for fault, found in faults.items():
        if len(found):
            raise DataError(f"the manifest of {where} has {fault} ({len(found)} times, first: "
                            f"{found.iloc[0]}): correct the source and make it again")
