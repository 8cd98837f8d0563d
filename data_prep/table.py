"""Bring your own table: a CSV, TSV or Parquet file with a row per image (the `csv` command).

Not a guesser: fields are found by exact column name, and another name is given by FIELD=NAME.

    image        path, from the table's folder or --images-root; JPEG, PNG, TIFF, DICOM     required
    patient_id   splits are by patient, so without it no honest split is possible           required
    report       the text as it is; or findings and/or impression, joined by the policy     one of them required
    study_id     the patient and the image's name if not given
    view         AP, PA, frontal, lateral …; labels: '|'-joined; split: train, validate, test (or val, dev)

The table may grow: run again with more rows, and only images that are not there yet are read. An image is known by its
path; one that the table no longer names is removed.
"""

import hashlib
import re
from pathlib import Path

import pandas as pd

from . import folder, images, sections
from .folder import DataError
from .sources import Funnel, add_reports, read_table, split_of, view_name

REQUIRED = ("image", "patient_id")
TEXTS = ("report", "findings", "impression")
FIELDS = (*REQUIRED, *TEXTS, "study_id", "view", "labels", "split")
NOTHING = {"null", "nan", "none", "n/a", "na", "<na>"}  # how databases and R write no value
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    **dict.fromkeys(["validate", "validation", "valid", "val", "dev"], "validate"),
}


def prepare_table(
    path: Path,
    out: Path,
    images_root: Path,
    columns: list[str],
    *,
    name: str,
    licence: str,
    size: int,
    views: str,
    text_policy: str,
    processes: int | None,
) -> None:
    """Make the data set folder `out` (see `python -m data_prep csv --help`)."""
    rows = read(path, columns)
    source = {
        "command": "csv",
        "size": size,
        "views": views,
        "text_policy": text_policy,
        "columns": sorted(columns),
        "table_sha256": folder.file_sha256(path),
    }
    folder.start(out, source, may_change="table_sha256")
    funnel = Funnel()
    rows = rows.assign(file=[images_root / image for image in rows.image])
    rows = images.store_all(_select(rows, views, text_policy, funnel), out, size, processes, funnel)
    folder.finish(
        out,
        rows,
        funnel=funnel.steps,
        quarantine=funnel.quarantine,
        name=name,
        licence=licence,
        synthetic=False,
        text_policy=text_policy,
        source=source,
    )
    unknown = int((rows["view"] == "unknown").sum())
    if unknown:
        print(
            f"{unknown:,} rows have no view that is known (PA, AP, frontal, lateral); they count "
            "as frontal"
        )
    kept = {out / image for image in rows.image_path}
    for file in (out / "images").iterdir():
        if file not in kept:
            file.unlink()


def _select(rows: pd.DataFrame, views: str, text_policy: str, funnel: Funnel) -> pd.DataFrame:
    """The rows that can become pairs."""
    funnel.steps["rows"] = len(rows)
    rows = rows.assign(origin=rows.image)
    rows = funnel.keep(rows, rows.image != "", "with an image path", "no image path")
    rows = funnel.keep(rows, rows.patient_id != "", "with a patient", "no patient_id")
    joined = add_reports(rows, text_policy).report
    rows = rows.assign(report=rows.report.where(rows.report != "", joined))
    rows = funnel.keep(rows, rows.report != "", "with usable text", "no text")
    if views == "frontal":
        rows = funnel.keep(rows, rows["view"] == "frontal", "frontal", "view is " + rows["view"])
    return rows


def read(path: Path, columns: list[str]) -> pd.DataFrame:
    """The table under our names, one pair_id per row, every value a string."""
    names = _names(columns)
    given = [names.get(field, field) for field in REQUIRED] + list(names.values())
    table = read_table(path, given, "name its columns with --column FIELD=NAME")
    if not any(names.get(field, field) in table for field in TEXTS):
        how = "name one with --column report=NAME"
        raise DataError(f"{path} has no column report, findings or impression: {how}")
    rows = pd.DataFrame(index=table.index)
    for field in FIELDS:
        column = names.get(field, field)
        value = table[column].str.strip() if column in table else pd.Series("", table.index)
        rows[field] = value.mask(value.str.lower().isin(NOTHING), "")
    for field in TEXTS:
        rows[field] = rows[field].map(sections.clean)
    rows["target"] = rows.image.map(_target)
    again = rows.groupby("target").cumcount()  # an image may stand in several rows
    rows["pair_id"] = rows.target.where(again == 0, rows.target + "_" + (again + 1).astype(str))
    own_study = rows.patient_id + "_" + rows.pair_id
    rows["study_id"] = rows.study_id.where(rows.study_id != "", own_study)
    rows["view"] = rows["view"].map(view_name)
    rows["split"] = _splits(rows, path)
    return rows


def _names(columns: list[str]) -> dict[str, str]:
    """Field → the table's own name for it, from FIELD=NAME."""
    names = {}
    for column in columns:
        field, _, name = column.partition("=")
        names[field] = name
    unknown = sorted(set(names) - set(FIELDS))
    if unknown or not all(names.values()):
        which = f": not {', '.join(unknown)}" if unknown else ""
        known = ", ".join(FIELDS)
        raise DataError(f"--column takes FIELD=NAME with FIELD one of {known}{which}")
    return names


def _target(image: str) -> str:
    """The file name of a stored image, without suffix: one for each path."""
    digest = hashlib.sha256(image.encode()).hexdigest()[:12]
    return f"{digest}_" + re.sub(r"[^\w.-]+", "_", Path(image).stem)


def _splits(rows: pd.DataFrame, path: Path) -> pd.Series:
    """The table's own split, or by a hash of the patient where it has none."""
    if (rows.split == "").all():
        return rows.patient_id.map(split_of)
    split = rows.split.str.strip().str.lower().map(SPLIT_NAMES)
    if split.isna().any():
        raise DataError(
            f"{path}: split {rows.split[split.isna()].iloc[0]!r} is none of {', '.join(SPLIT_NAMES)}"
        )
    rows = rows.assign(split=split)
    crossing = folder.crossing_patients(rows[rows.patient_id != ""])
    if crossing:
        raise DataError(
            f"{path}: patient {crossing[0]} is in two splits ({len(crossing)} such): a patient "
            "belongs to one; drop the column to split by patient"
        )
    return split
