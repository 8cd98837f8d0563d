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
from .folder import DataError, Funnel

REQUIRED = ("image", "patient_id")
TEXTS = ("report", "findings", "impression")
OPTIONAL = ("study_id", "view", "labels", "split")
NOTHING = {"null", "nan", "none", "n/a", "na", "<na>"}  # how databases and R write that there is no value
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test",
               **dict.fromkeys(["validate", "validation", "valid", "val", "dev"], "validate")}


def write(path: Path, out: Path, images_root: Path, columns: list[str], *, name: str, licence: str, size: int,
          views: str, text_policy: str, processes: int | None) -> None:
    """Make the data set folder `out` (see `python -m data_prep csv --help`)."""
    rows = read(path, columns)
    source = {"command": "csv", "size": size, "views": views, "text_policy": text_policy, "columns": sorted(columns),
              "table_sha256": folder.file_sha256(path)}
    folder.start(out, source, may_change="table_sha256")
    funnel = Funnel()
    funnel.steps["rows"] = len(rows)
    rows = rows.assign(origin=rows.image, file=[images_root / image for image in rows.image])
    rows = funnel.keep(rows, rows.image != "", "with an image path", "no image path")
    rows = funnel.keep(rows, rows.patient_id != "", "with a patient", "no patient_id")
    rows["report"] = [report or folder.join_report(findings, impression, text_policy) for report, findings, impression
                      in zip(rows.report, rows.findings, rows.impression, strict=True)]
    rows = funnel.keep(rows, rows.report != "", "with usable text", "no text")
    if views == "frontal":
        rows = funnel.keep(rows, rows["view"] == "frontal", "frontal", "view is " + rows["view"])
    rows = images.store_all(rows, out, size, processes, funnel)
    folder.finish(out, rows, funnel=funnel.steps, quarantine=funnel.quarantine, name=name, licence=licence,
                  synthetic=False, text_policy=text_policy, source=source)
    if unknown := int((rows["view"] == "unknown").sum()):
        print(f"{unknown:,} rows have no view that is known (PA, AP, frontal, lateral); they count as frontal")
    kept = {out / image for image in rows.image_path}
    for file in (out / "images").iterdir():
        if file not in kept:
            file.unlink()


def read(path: Path, columns: list[str]) -> pd.DataFrame:
    """The table under our names, one pair_id per row, every value a string."""
    names = dict(column.partition("=")[::2] for column in columns)
    unknown = sorted(set(names) - {*REQUIRED, *TEXTS, *OPTIONAL})
    if unknown or not all(names.values()):
        raise DataError(f"--column takes FIELD=NAME with FIELD one of {', '.join((*REQUIRED, *TEXTS, *OPTIONAL))}"
                        f"{': not ' + ', '.join(unknown) if unknown else ''}")
    given = [names.get(field, field) for field in REQUIRED] + list(names.values())
    table = folder.read_table(path, given, "name its columns with --column FIELD=NAME")
    if not any(names.get(field, field) in table for field in TEXTS):
        raise DataError(f"{path} has no column report, findings or impression: name one with --column report=NAME")
    rows = pd.DataFrame({field: table.get(names.get(field, field), pd.Series("", table.index))
                         for field in (*REQUIRED, *TEXTS, *OPTIONAL)})
    for field in rows:
        value = rows[field].str.strip()
        rows[field] = value.mask(value.str.lower().isin(NOTHING), "")
    for field in TEXTS:
        rows[field] = rows[field].map(sections.clean)
    rows["target"] = [f"{hashlib.sha256(image.encode()).hexdigest()[:12]}_" + re.sub(r"[^\w.-]+", "_", Path(image).stem)
                      for image in rows.image]
    again = rows.groupby("target").cumcount()  # an image may stand in several rows
    rows["pair_id"] = rows.target.where(again == 0, rows.target + "_" + (again + 1).astype(str))
    rows["study_id"] = rows.study_id.where(rows.study_id != "", rows.patient_id + "_" + rows.pair_id)
    rows["view"] = rows["view"].map(folder.view_name)
    rows["split"] = _splits(rows, path)
    return rows


def _splits(rows: pd.DataFrame, path: Path) -> pd.Series:
    """The table's own split, or by a hash of the patient where it has none."""
    if (rows.split == "").all():
        return rows.patient_id.map(folder.split_of)
    split = rows.split.str.strip().str.lower().map(SPLIT_NAMES)
    if split.isna().any():
        raise DataError(f"{path}: split {rows.split[split.isna()].iloc[0]!r} is none of {', '.join(SPLIT_NAMES)}")
    rows = rows.assign(split=split)
    crossing = folder.crossing_patients(rows[rows.patient_id != ""])
    if crossing:
        raise DataError(f"{path}: patient {crossing[0]} is in two splits ({len(crossing)} such): a patient "
                        "belongs to one; drop the column to split by patient")
    return split
