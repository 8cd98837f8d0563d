"""The data set folder: its rows, how it is written whole or not at all, and how it is read back.

Not a loader: pixels reach training through `pack.py`. Each source has its own module; what they share is in sources.py.

    manifest.parquet   one row per image–report pair (COLUMNS), sorted by pair_id; written last
    images/            8-bit grayscale, aspect ratio kept
    writing.json       while a table's images are written: which files in images/ are ours (written.py)
    funnel.json        count after each step
    quarantine.csv     what was left out: path, reason
    dataset.json       name, licence, synthetic, text policy, counts, provenance, SHA-256; and that of manifest.parquet

The SHA-256 is over the rows in order of pair_id and each image's size in bytes. It notices a changed text,
split or label and a missing, truncated or re-encoded image, without reading 377,110 files again.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pandas as pd
from pydantic import BaseModel

from .errors import DataError
from .own_files import (  # noqa: F401 (part of this module for who writes or reads a data set)
    DamagedFile,
    atomic,
    file_sha256,
    locked,
    read_json,
    read_model,
    read_parquet,
    write_json,
)
from .tables_out import guarded
from .written import remove_leftovers

COLUMNS = [
    "pair_id",
    "study_id",
    "patient_id",
    "image_path",
    "view",
    "report",
    "findings",
    "impression",
    "labels",
    "split",
]
KEPT = [
    "picture",
    "source_path",
]  # a fingerprint of what is shown, and whence: of all but the phantom
SPLITS = ("train", "validate", "test")
VIEWS = ("frontal", "lateral", "unknown")
AGAIN = "run the same data_prep command again"


class About(BaseModel):
    """What every dataset.json says."""

    name: str
    licence: str
    synthetic: bool
    text_policy: str
    sha256: str
    source: dict = {}
    manifest_sha256: str | None = None  # folders of earlier versions have none


def start(out: Path, source: dict, may_change: tuple[str, ...] = ()) -> None:
    """Begin or resume writing `out`; what killed runs have left there is removed.

    Refuses a folder that holds other things, or that was made with settings that differ in more than
    what `may_change`.
    """
    out, settings = Path(out), json.loads(json.dumps(source))
    begun, finished = out / "building.json", out / "dataset.json"
    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out} is a file: give a folder")
    if (out / "images").is_symlink():
        raise DataError(f"{out / 'images'} is a link: make it a folder, or link {out} as a whole")
    is_new = not begun.exists() and not finished.exists()
    if is_new:
        _check_empty(out, begun.name)
    else:
        earlier = read_json(begun) if begun.exists() else read_about(out).source
        _check_settings(out, earlier, settings, may_change)
    out.mkdir(parents=True, exist_ok=True)
    if is_new:
        write_json(begun, settings)  # before images/: a shard that starts a moment later finds it
    (out / "images").mkdir(exist_ok=True)
    remove_leftovers(out)


def _check_empty(out: Path, begun: str) -> None:
    """A folder to be written may hold what another process is beginning it with, nothing else."""
    entries = out.iterdir() if out.exists() else []
    if not all(entry.name.startswith(f".{begun}") for entry in entries):
        raise DataError(f"{out} holds other files: choose an empty or new folder for --out")


def _check_settings(out: Path, earlier: dict, settings: dict, may_change: tuple[str, ...]) -> None:
    changed = []
    for key in sorted({*earlier, *settings} - {*may_change}):
        before, now = earlier.get(key), settings.get(key)
        if before != now:
            changed.append(f"{key}: {before!r} → {now!r}")
    if changed:
        raise DataError(
            f"{out} was begun with other settings ({'; '.join(changed)}): "
            "use the same ones, another --out, or remove it"
        )


def finish(
    out: Path,
    rows: list[dict] | pd.DataFrame,
    *,
    funnel: dict[str, int],
    quarantine: list[tuple[str, str]],
    name: str,
    licence: str,
    synthetic: bool,
    text_policy: str,
    source: dict,
    notes: dict[str, int] | None = None,
    extra: list[str] | None = None,
) -> None:
    """Check the rows, write everything beside images/ (the manifest last) and print the funnel.

    rows: with COLUMNS and those named in `extra`; funnel: step → count; quarantine: path, reason; source: how the
    folder was made, kept in dataset.json; notes: what else to say → how often.
    """
    out, quarantine, columns = Path(out), _printable(quarantine), COLUMNS + (extra or [])
    kept = [
        (path, reason.split(": /")[0]) for path, reason in quarantine
    ]  # no folder of the user's
    with atomic(out / "quarantine.csv") as temporary:
        guarded(pd.DataFrame(kept, columns=["path", "reason"])).to_csv(temporary, index=False)
    if len(rows) == 0:
        raise DataError(
            f"no image–report pair is left for {out} {_why_empty(out, funnel, quarantine)}"
        )
    table = pd.DataFrame(rows)
    _check_columns(table, out)
    table = table[columns].fillna("").astype(str).sort_values("pair_id", ignore_index=True)
    _check_rows(table, out)
    left_out = count_reasons(quarantine)
    about = {
        "name": name,
        "licence": licence,
        "synthetic": synthetic,
        "text_policy": text_policy,
        "sha256": content_sha256(out, table),
        "counts": counts(table),
        "left_out": left_out,
        "notes": notes or {},
        "source": source,
    }
    write_json(out / "funnel.json", funnel)
    with atomic(out / "manifest.parquet") as temporary:
        table.to_parquet(temporary, index=False)
        write_json(out / "dataset.json", about | {"manifest_sha256": file_sha256(temporary)})
    (out / "building.json").unlink(missing_ok=True)
    print(funnel_text(funnel))
    for note, count in (notes or {}).items():
        print(f"{count:>9,}  {note}")
    if quarantine:
        print(f"left out, each named in {out / 'quarantine.csv'}:")
        print("\n".join(f"{count:>9,}  {reason}" for reason, count in left_out.items()))


def _printable(quarantine: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """In order, and names whose bytes are no UTF-8 with these as \\xNN."""

    def shown(text: str) -> str:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    return sorted((shown(path), shown(reason)) for path, reason in quarantine)


def _why_empty(out: Path, funnel: dict[str, int], quarantine: list[tuple[str, str]]) -> str:
    steps = ", ".join(f"{step} {count:,}" for step, count in funnel.items())
    if not quarantine:
        return f"({steps}): the source is empty"
    reasons = count_reasons(quarantine)
    why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
    most = next(iter(reasons))
    example = next(reason for _, reason in sorted(quarantine) if reason.startswith(most))
    if most == "image file missing":
        example += (
            " (is the folder right that the image paths begin in: --images-root, --jpg-root?)"
        )
    return f"({steps}): {why}; such as: {example}; all are named in {out / 'quarantine.csv'}"


def read(folder) -> pd.DataFrame:
    """The rows of a finished data set folder, checked."""
    path = _manifest(folder)
    table = read_parquet(path, AGAIN, trusted=_is_as_written(path))
    _check_columns(table, folder)
    for column in COLUMNS:
        if table[column].isna().any() or not pd.api.types.is_string_dtype(table[column]):
            raise DamagedFile(f"{path} holds other things than text in {column}: {AGAIN}")
    _check_rows(table, folder)
    return table


def _manifest(folder) -> Path:
    """The manifest of a finished data set folder."""
    path = Path(folder) / "manifest.parquet"
    if not path.exists():
        unfinished = (Path(folder) / "building.json").exists()
        raise DataError(
            f"{folder} is not finished: run the same data_prep command again"
            if unfinished
            else f"{folder} has no manifest.parquet: make a data set folder with python -m data_prep"
        )
    return path


def read_about(folder) -> About:
    """What dataset.json says of a finished data set folder."""
    return read_model(Path(folder) / "dataset.json", About, AGAIN)


def _is_as_written(manifest: Path) -> bool:
    """Whether the manifest is, byte by byte, the one that dataset.json was written with."""
    if not manifest.with_name("dataset.json").exists():
        return False
    return read_about(manifest.parent).manifest_sha256 == file_sha256(manifest)


def describe_data(folder) -> dict:
    """Name, licence, whether it is synthetic, text policy and SHA-256 of a finished data set folder.

    Where the manifest was changed by hand, the SHA-256 is that of what is there now.
    """
    path, about = _manifest(folder), read_about(folder)
    said = ("name", "licence", "synthetic", "text_policy", "sha256")
    described = {key: getattr(about, key) for key in said}
    if about.manifest_sha256 and not _is_as_written(path):
        described["sha256"] = content_sha256(path.parent, read(folder))
    return described


def crossing_pictures(table: pd.DataFrame) -> list[str]:
    """Pairs whose picture stands in more than one split."""
    if "picture" not in table:
        return []
    splits = table.groupby("picture").split.transform("nunique")
    return sorted(table.pair_id[splits > 1])


def counts(table: pd.DataFrame) -> dict:
    """Rows, studies, patients, reports, and rows per split and view."""
    return {
        "rows": len(table),
        "studies": table.study_id.nunique(),
        "patients": table.patient_id.nunique(),
        "different_reports": table.report.nunique(),
        "split": table.split.value_counts().to_dict(),
        "view": table["view"].value_counts().to_dict(),
    }


def count_reasons(quarantine: list[tuple[str, str]]) -> dict[str, int]:
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
            raise DataError(
                f"{out / row.image_path} is named by {row.pair_id} but missing: "
                "run the same data_prep command again"
            ) from None
        digest.update(json.dumps([*row, size]).encode())
    return digest.hexdigest()


def funnel_text(funnel: dict[str, int]) -> str:
    """The funnel as a small table: count after each step, and what the step took away."""
    width, before, lines = max(map(len, funnel)), 0, []
    for step, count in funnel.items():
        change = f"{count - before:+,}" if count < before else ""
        lines.append(f"{step:<{width}}  {count:>9,}  {change:>9}".rstrip())
        before = count
    return "\n".join(lines)


def _check_columns(table: pd.DataFrame, where) -> None:
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(
            f"the manifest of {where} lacks the column(s) {', '.join(missing)}: make it again"
        )


def _check_rows(table: pd.DataFrame, where) -> None:
    crossing = crossing_patients(table)
    faults = {
        "pair_id twice": table.pair_id[table.pair_id.duplicated()],
        "a report without text": table.pair_id[table.report.str.strip() == ""],
        f"a split that is none of {SPLITS}": table.pair_id[~table.split.isin(SPLITS)],
        f"a view that is none of {VIEWS}": table.pair_id[~table["view"].isin(VIEWS)],
        "a patient in two splits": pd.Series(crossing, dtype=str),
        "a picture in two splits": pd.Series(crossing_pictures(table), dtype=str),
        "an image outside images/": table.pair_id[~table.image_path.map(_is_inside)],
    }
    for fault, found in faults.items():
        if len(found):
            raise DataError(
                f"the manifest of {where} has {fault} ({len(found)} times, first: "
                f"{found.iloc[0]}): correct the source and make it again"
            )


def _is_inside(image_path: str) -> bool:
    """Whether a path of the manifest stays within the folder, by its words."""
    parts = Path(image_path).parts
    return parts[:1] == ("images",) and ".." not in parts
