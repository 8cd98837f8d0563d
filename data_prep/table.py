"""Bring your own table: a CSV, TSV or Parquet file with a row per image (the `csv` command).

Not a guesser: fields are found by exact column name, and another name is given by FIELD=NAME.

    image        path, from the table's folder or --images-root; JPEG, PNG, TIFF, DICOM     required
    patient_id   splits are by patient, so it is required; of a DICOM image its PatientID if not given
    report       the text as it is, cut where it has FINDINGS: and IMPRESSION: headings;
                 or findings and/or impression, joined by the policy                        one of them required
    study_id     the patient and the image's name if not given
    view         AP, PA, frontal, lateral …; of a DICOM image its own (tags.py) if not given
    labels: '|'-joined; split: train, validate, test (or val, dev)

Images lie under --images-root (places.py). The table may grow: run again with more rows, and only images that are not
there yet are read. An image is known by its path; pairs that the table no longer has are taken out, if they are few, or
with --remove. With --append the table is a delta: what is there stays.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from . import folder, images, patients, sections, tags, written
from .folder import DataError
from .places import find_images
from .sources import Funnel, clean, clean_labels, clean_name, join_report, read_table
from .views import view_name

TEXTS = ("report", "findings", "impression")
FIELDS = ("image", "patient_id", *TEXTS, "study_id", "view", "labels", "split")
MAY_CHANGE = ("table_sha256", "columns", "keep")  # when the folder is written again
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    **dict.fromkeys(["validate", "validation", "valid", "val", "dev"], "validate"),
}


@dataclass(frozen=True)
class Choices:
    """What one may choose of the folder, wherever its rows come from (see `python -m data_prep csv --help`)."""

    keep: list[str]
    encoding: str | None
    append: bool
    remove: bool
    name: str
    licence: str
    size: int
    views: str
    text_policy: str
    processes: int | None


def prepare_table(
    path: Path, out: Path, images_root: Path, columns: list[str], choices: Choices
) -> None:
    """Make the data set folder `out` of a table."""
    funnel = Funnel()
    rows = read(path, columns, choices.keep, choices.text_policy, funnel, choices.encoding)
    rows = tags.complete(find_images(rows, images_root), funnel, choices.processes)
    if len(rows) and not rows.patient_id.str.strip().any():
        raise DataError(
            f"{path} has no patient_id, and no image of it is DICOM with a PatientID: name the column "
            "with --column patient_id=NAME"
        )
    source = {
        "command": "csv",
        "columns": sorted(columns),
        "table_sha256": folder.file_sha256(path),
    }
    write(rows, path, out, source, funnel, choices)


def write(
    rows: pd.DataFrame, where: Path, out: Path, source: dict, funnel: Funnel, choices: Choices
) -> None:
    """Make the data set folder `out` of rows with FIELDS that have been found (places.py) `where` they come from."""
    rows = _select(rows, choices.views, where, funnel)
    source |= {
        "size": choices.size,
        "views": choices.views,
        "text_policy": choices.text_policy,
        "keep": sorted(choices.keep),
        "splits": "the table's" if _gives_splits(rows) else "by patient, ids in one spelling",
    }
    if not (choices.append or choices.remove):
        _check_named(out, source)
    folder.start(out, source, may_change=MAY_CHANGE[:1] if choices.append else MAY_CHANGE)
    with written.only_writer(out):
        earlier = _earlier(out)
        older = _older(earlier, rows, out) if choices.append else None
        both = pd.concat([older, rows]) if choices.append else rows
        written.check_removal(out, earlier, both.pair_id, allowed=choices.remove)
        written.record(out, earlier, rows.target)
        rows = images.store_all(rows, out, choices.size, choices.processes, funnel)
        rows = _join(rows, older, out, choices.processes, funnel)
        gone = written.check_removal(out, earlier, rows.pair_id, allowed=choices.remove)
        _note(rows, older, gone, funnel)
        folder.finish(
            out,
            rows,
            funnel=funnel.steps,
            quarantine=funnel.quarantine,
            name=choices.name,
            licence=choices.licence,
            synthetic=False,
            text_policy=choices.text_policy,
            source=source,
            notes=funnel.notes,
            extra=[*folder.KEPT, *_kept_columns(choices.keep, earlier if choices.append else None)],
        )
        removed = written.remove_surplus(out, rows.image_path)
        if removed:
            print(f"{removed:,} image(s) that no pair needs any more are removed from {out}")


def _check_named(out: Path, source: dict) -> None:
    """Raise DataError if the folder was made with columns that are not named now: what they held would be lost."""
    if not (out / "dataset.json").exists():
        return
    lost = sorted(_named(folder.read_about(out).source) - _named(source))
    if lost:
        raise DataError(
            f"{out} was made with {', '.join(lost)}, which this command does not name: add it by --column or --keep, "
            "or give --remove to lose it; nothing is changed"
        )


def _named(source: dict) -> set[str]:
    """The fields and columns, beside image, patient and text, that a folder's command names."""
    fields = {column.partition("=")[0] for column in source.get("columns", [])}
    return fields & {"study_id", "view", "labels", "split"} | set(source.get("keep", []))


# ------------------------------------------------------------------------------------------------------ the table


def read(
    path: Path,
    columns: list[str],
    keep: list[str],
    text_policy: str,
    funnel: Funnel,
    encoding: str | None = None,
    known_by: tuple[str, ...] = ("image", "patient_id"),
) -> pd.DataFrame:
    """The table under our names, every value a string; rows that are none go to the funnel's quarantine.

    known_by: the fields that tell what a row is; the first of them is required.
    """
    check_keep(keep)
    names = _names(columns)
    given = [names.get(field, field) for field in known_by] + list(names.values()) + keep
    may_lack = {*known_by[1:]} - {*names.values(), *keep}
    how = "export it again, or name its columns with --column FIELD=NAME"
    table = read_table(path, given, how, funnel.quarantine, encoding, may_lack)
    if not any(names.get(field, field) in table for field in TEXTS):
        how = "name one with --column report=NAME"
        raise DataError(f"{path} has no column report, findings or impression: {how}")
    funnel.steps["rows"] = len(table) + len(funnel.quarantine)
    if funnel.quarantine:
        funnel.steps["rows with all columns"] = len(table)
    rows = pd.DataFrame(index=table.index)
    for field in FIELDS:
        column = names.get(field, field)
        rows[field] = table.get(column, "")
    for field in ("image", "study_id", "view", "split"):
        rows[field] = rows[field].map(clean_name)
    rows["study_id"] = rows.study_id.map(patients.normal_id)
    rows["labels"] = rows.labels.map(clean_labels)
    rows["view"] = rows["view"].map(view_name)
    rows = add_texts(rows, text_policy)
    return rows.assign(**{name: table[name] for name in keep})


def check_keep(keep: list[str]) -> None:
    """Raises DataError for a column to keep that would hide one of ours."""
    clash = set(keep) & {*folder.COLUMNS, *folder.KEPT}
    if clash:
        raise DataError(f"--keep {clash.pop()}: the manifest has a column of that name already")


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


def add_texts(rows: pd.DataFrame, text_policy: str) -> pd.DataFrame:
    """The rows with clean texts: a report with headings is cut, one without stands as it is."""
    texts = []
    for report, *others in rows[list(TEXTS)].itertuples(index=False):
        findings, impression = map(clean, others)
        whole = clean(report)
        if whole and not findings and not impression and sections.has_headings(report):
            findings, impression = sections.parse(report)
            whole = ""
        texts.append(
            (whole or join_report(findings, impression, text_policy), findings, impression)
        )
    return rows.assign(**pd.DataFrame(texts, rows.index, TEXTS, dtype=object))


def _select(rows: pd.DataFrame, views: str, path: Path, funnel: Funnel) -> pd.DataFrame:
    """The rows that can become pairs, with one pair_id each."""
    rows = funnel.keep(rows, rows.why_not == "", "with an image path", rows.why_not)
    rows = patients.keep_patients(rows, "patient_id", funnel)
    again = rows.groupby("target").cumcount()  # an image may stand in several rows
    pair_id = rows.target.where(again == 0, rows.target + "_" + (again + 1).astype(str))
    own_study = rows.patient_id + "_" + pair_id
    study_id = rows.study_id.where(rows.study_id != "", own_study)
    rows = rows.assign(pair_id=pair_id, study_id=study_id, split=_splits(rows, path))
    rows = funnel.keep(rows, rows.report != "", "with usable text", "no text")
    if views == "frontal":
        rows = funnel.keep(rows, rows["view"] == "frontal", "frontal", "view is " + rows["view"])
    return rows


# ------------------------------------------------------------------------------------- splits, and what was there


def _gives_splits(rows: pd.DataFrame) -> bool:
    return bool((rows.split != "").any())


def _splits(rows: pd.DataFrame, path: Path) -> pd.Series:
    """The table's own split; "" for all where it has none."""
    if not _gives_splits(rows):
        return rows.split
    split = rows.split.str.lower().map(SPLIT_NAMES)
    if split.isna().any():
        wrong = rows.split[split.isna()].iloc[0]
        raise DataError(f"{path}: split {wrong!r} is none of {', '.join(SPLIT_NAMES)}")
    _check_crossing(rows.assign(split=split), path)
    return split


def _check_crossing(rows: pd.DataFrame, where: Path) -> None:
    crossing = folder.crossing_patients(rows)
    if crossing:
        raise DataError(
            f"{where}: patient {crossing[0]} is in two splits ({len(crossing)} such): a patient "
            "belongs to one; drop the column to split by patient"
        )


def _earlier(out: Path) -> pd.DataFrame | None:
    """The rows that the folder has, None if it is new."""
    manifest = out / "manifest.parquet"
    try:
        return folder.read(out) if manifest.exists() else None
    except DataError as error:
        how = f"remove {manifest} and run again: all images stay, those in the table become pairs"
        raise DataError(f"{str(error).partition(': ')[0]}: {how}") from error


def _older(earlier: pd.DataFrame | None, rows: pd.DataFrame, out: Path) -> pd.DataFrame:
    """What stays as it is when the rows are added: all pairs that they do not name again."""
    if earlier is None:
        raise DataError(f"{out} is no finished data set folder yet: leave out --append")
    again = earlier.set_index("pair_id").patient_id.reindex(rows.pair_id)
    other = again.notna().to_numpy() & (again.to_numpy() != rows.patient_id.to_numpy())
    if other.any():
        raise DataError(
            f"{out} has {rows.source_path[other].iloc[0]} of another patient ({int(other.sum())} such): an image is "
            "known by its path (csv: give --images-root so that paths differ) or its SOPInstanceUID (dicom)"
        )
    older = earlier[~earlier.pair_id.isin(set(rows.pair_id))]
    origin = older.source_path if "source_path" in older else older.pair_id
    return older.assign(origin=origin)


def _join(
    rows: pd.DataFrame, older: pd.DataFrame | None, out: Path, processes: int | None, funnel: Funnel
) -> pd.DataFrame:
    """New and older rows with their pictures and splits: no patient and no picture in two."""
    is_older = pd.Series(False, rows.index)
    if older is not None:
        is_older = pd.Series([True] * len(older) + [False] * len(rows))
        rows = pd.concat([older, rows], ignore_index=True).fillna("")
    rows = patients.add_pictures(rows, out, processes)
    rows = patients.keep_shown_patients(rows, funnel)
    if not _gives_splits(rows[~is_older[rows.index]]):
        return patients.split_by_patient(rows, funnel)
    _check_crossing(rows, out)
    return patients.keep_one_split(rows, funnel, is_older[rows.index])


def _kept_columns(keep: list[str], earlier: pd.DataFrame | None) -> list[str]:
    """The columns of --keep, and those that older pairs have."""
    older = [] if earlier is None else [*earlier.columns]
    return [
        name
        for name in dict.fromkeys([*keep, *older])
        if name not in [*folder.COLUMNS, *folder.KEPT]
    ]


def _note(rows: pd.DataFrame, older: pd.DataFrame | None, gone: int, funnel: Funnel) -> None:
    """Say what this run changed, and note what is to be known of the folder."""
    if older is not None:
        print(f"{len(older):,} pairs that were there before are kept")
    if gone:
        print(f"{gone:,} pairs that the table no longer has are taken out")
    unknown = int((rows["view"] == "unknown").sum())
    if unknown:
        known = "PA, AP, frontal, lateral"
        funnel.notes[f"pairs of no known view ({known}): they count as frontal"] = unknown
