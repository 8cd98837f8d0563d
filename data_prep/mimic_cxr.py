"""MIMIC-CXR-JPG images and MIMIC-CXR reports, as downloaded, to a data set folder.

Not a download script: both need a signed agreement with PhysioNet, and nothing of them may be passed on.

    jpg_root/files/p10/p10000032/s50414267/<dicom_id>.jpg     from MIMIC-CXR-JPG
    jpg_root/mimic-cxr-2.0.0-{split,metadata,chexpert,negbio}.csv.gz
    reports_root/files/p10/p10000032/s50414267.txt            from MIMIC-CXR (or mimic-cxr-reports.zip)

The official split is kept. Only the tables and texts are held in memory; images go through worker processes one
by one. What is done is not done again, so an interrupted run is simply repeated. `shard` i/n takes each n-th
patient, for job arrays; whichever shard finds all n parts done puts them together.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

from . import folder, images, patients, sections
from .folder import DataError
from .machine import progress
from .mimic_reports import Reports
from .pack import pack
from .sources import Funnel, add_reports, clean, keep_text, read_table
from .views import view_name

LICENCE = "PhysioNet Credentialed Health Data License 1.5.0: not to be redistributed"
JPG = "it comes with MIMIC-CXR-JPG on PhysioNet (credentialed)"
KEYS = ["dicom_id", "study_id", "subject_id"]
IDS = {"subject_id": r"\d+", "study_id": r"\d+", "dicom_id": r"\w[\w.-]{0,100}"}
VIEW_DESCRIPTIONS = ("ViewCodeSequence_CodeMeaning", "PerformedProcedureStepDescription")


def prepare_mimic_cxr(
    jpg_root: Path,
    reports_root: Path,
    out: Path,
    *,
    size: int,
    store_size: int,
    views: str,
    text_policy: str,
    sections_csv: Path | None,
    shard: tuple[int, int] | None,
    processes: int | None,
) -> None:
    """Make the data set folder `out`, or one part of it (see `python -m data_prep mimic-cxr --help`)."""
    faulty: list[tuple[str, str]] = []
    table, labels = read_images(jpg_root, faulty)
    reports = Reports(reports_root)
    sectioned = read_sections(sections_csv) if sections_csv else None
    source = {
        "command": "mimic-cxr",
        "size": size,
        "views": views,
        "text_policy": text_policy,
        "split_sha256": folder.file_sha256(table_path(jpg_root, "split")),
        "sections": folder.file_sha256(sections_csv) if sections_csv else "own",
    }
    folder.start(out, source)

    def prepare_part(i: int, n: int) -> tuple[pd.DataFrame, Funnel]:
        funnel = Funnel()
        funnel.quarantine += faulty if i == 1 else []  # of no patient, so named once
        patients_here = patients_of(table, reports, i, n)
        rows = table[table.subject_id.isin(patients_here)]
        rows = select_rows(rows, patients_here, reports, views, funnel)
        rows = add_texts(rows, reports, sectioned, text_policy, funnel)
        rows = keep_text(rows, text_policy, funnel)
        rows = rows.assign(
            labels=[labels.get(study, "") for study in rows.study_id],
            file=str(jpg_root) + "/" + rows.origin,
            source_path=rows.origin,
        )
        rows = images.store_all(rows, out, size, processes, funnel)
        rows = patients.add_pictures(rows, out, processes)
        return rows[[*folder.COLUMNS, *folder.KEPT, "origin"]], funnel

    made = prepare_shard(out, *shard, prepare_part) if shard else prepare_part(1, 1)
    if made is None:
        return
    rows, funnel = made
    _finish(out, rows, funnel, text_policy, source)
    if store_size:
        print(pack(out, store_size, processes))


def _finish(out: Path, rows: pd.DataFrame, funnel: Funnel, text_policy: str, source: dict) -> None:
    rows = patients.keep_shown_patients(rows, funnel)
    rows = patients.keep_one_split(rows, funnel)  # the official split is given
    with folder.locked(out / ".lock"):  # the last two shards may end at the same time
        folder.finish(
            out,
            rows,
            funnel=funnel.steps,
            quarantine=funnel.quarantine,
            name="MIMIC-CXR",
            licence=LICENCE,
            synthetic=False,
            text_policy=text_policy,
            source=source,
            notes=funnel.notes,
            extra=folder.KEPT,
        )


def patients_of(table: pd.DataFrame, reports: Reports, i: int, n: int) -> set[str]:
    """Each n-th patient of all that have an image or a report, from the i-th on."""
    everyone = {*table.subject_id, *(subject for subject, _ in reports.names)}
    return set(sorted(everyone)[i - 1 :: n])


def prepare_shard(
    out: Path, i: int, n: int, prepare_part: Callable
) -> tuple[pd.DataFrame, Funnel] | None:
    """Prepare part i of n, unless that is done; → all parts together, None while some are to come."""
    part = out / "parts" / f"{i}-of-{n}.json"
    if not part.exists():
        rows, funnel = prepare_part(i, n)
        part.parent.mkdir(exist_ok=True)
        folder.write_json(part, {"rows": rows.to_dict("list"), **vars(funnel)})
    return gather(part.parent, n)


def select_rows(
    table: pd.DataFrame, patients: set[str], reports: Reports, views: str, funnel: Funnel
) -> pd.DataFrame:
    """The images of these patients that have a wanted view and a report file."""
    studies = set(zip(table.subject_id, table.study_id, strict=True))
    for subject, study in reports.names:
        if subject in patients and (subject, study) not in studies:
            name = f"files/p{subject[:2]}/p{subject}/s{study}.txt"
            funnel.quarantine.append((name, "report without an image"))
    group = "p" + table.subject_id.str[:2]
    place = group + "/p" + table.subject_id + "/s" + table.study_id + "/" + table.dicom_id
    table = table.assign(
        pair_id=table.dicom_id,
        patient_id=table.subject_id,
        origin="files/" + place + ".jpg",
        target=group + "/" + table.dicom_id,
    )
    funnel.steps["images in the split table"] = len(table)
    if views == "frontal":
        table = funnel.keep(table, table["view"] == "frontal", "frontal", table.view_reason)
    keys = zip(table.subject_id, table.study_id, strict=True)
    there = pd.Series([key in reports.names for key in keys], table.index, dtype=bool)
    return funnel.keep(table, there, "with a report file", "report file missing")


def add_texts(
    table: pd.DataFrame, reports: Reports, sectioned: dict | None, text_policy: str, funnel: Funnel
) -> pd.DataFrame:
    """The table with findings, impression and report; each study is read once, one that cannot be is left out."""
    keys = table[["subject_id", "study_id"]].drop_duplicates()
    texts, why_not = {}, {}
    for subject, study in progress(keys.itertuples(index=False), desc="reports", total=len(keys)):
        texts[study] = sections.Sections("", "")
        if sectioned is not None:
            texts[study] = sectioned.get(study, texts[study])
            continue
        try:
            texts[study] = sections.parse(reports.text(subject, study))
        except DataError as error:
            why_not[study] = f"report not readable: {error}"
    if why_not:
        reason = table.study_id.map(why_not)
        table = funnel.keep(table, reason.isna(), "with a readable report", reason)
    own = [texts[study] for study in table.study_id]
    table = table.assign(
        findings=[text.findings for text in own], impression=[text.impression for text in own]
    )
    return add_reports(table, text_policy)


def gather(parts: Path, n: int) -> tuple[pd.DataFrame, Funnel] | None:
    """The rows and funnel of all n parts, or None while some are still to come."""
    paths = [parts / f"{i}-of-{n}.json" for i in range(1, n + 1)]
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        print(f"{n - len(missing)} of {n} parts are done; still to come: {', '.join(missing)}")
        return None
    funnel, rows = Funnel(), []
    for path in paths:
        part = folder.read_json(path)
        rows.append(pd.DataFrame(part["rows"], dtype=object))
        funnel.quarantine += map(tuple, part["quarantine"])
        funnel.notes.update(part["notes"])
        for step, count in part["steps"].items():
            funnel.steps[step] = funnel.steps.get(step, 0) + count
    return pd.concat(rows, ignore_index=True), funnel


def read_images(
    jpg_root: Path, quarantine: list[tuple[str, str]]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """One row per image (ids, split, view) in the split table, and the labels of each study."""
    if not (jpg_root / "files").is_dir():
        raise DataError(
            f"{jpg_root} has no folder files/: give the root of MIMIC-CXR-JPG to --jpg-root"
        )
    split = read_table(table_path(jpg_root, "split"), [*KEYS, "split"], JPG, quarantine)
    split = _check_ids(split, quarantine)
    columns = ["dicom_id", "ViewPosition"]
    metadata = read_table(table_path(jpg_root, "metadata"), columns, JPG, quarantine)
    descriptions = [metadata[column] for column in VIEW_DESCRIPTIONS if column in metadata.columns]
    views = map(view_of, metadata.ViewPosition, *descriptions)
    known = dict(zip(metadata.dicom_id, views, strict=True))
    found = [known.get(dicom_id, view_of("")) for dicom_id in split.dicom_id]
    table = split.assign(
        view=[view for view, _ in found], view_reason=[reason for _, reason in found]
    )
    for path in (table_path(jpg_root, "chexpert"), table_path(jpg_root, "negbio")):
        if path.exists():
            return table, read_labels(path)
    print("neither the chexpert nor the negbio table is there: labels stay empty")
    return table, {}


def _check_ids(split: pd.DataFrame, quarantine: list[tuple[str, str]]) -> pd.DataFrame:
    """The rows whose ids can stand in a path: digits, and a file name that leads nowhere else."""
    for column in ("subject_id", "study_id"):
        split = split.assign(**{column: split[column].map(patients.normal_id)})
    is_good = pd.Series(True, split.index)
    for column, pattern in IDS.items():
        is_good &= split[column].str.fullmatch(pattern, flags=re.ASCII).astype(bool)
    is_good &= ~split.dicom_id.duplicated()
    for dicom_id in split.dicom_id[~is_good]:
        quarantine.append((dicom_id, "an id that is none, or that stands there twice"))
    return split[is_good]


def table_path(jpg_root: Path, name: str) -> Path:
    """mimic-cxr-2.0.0-<name>.csv.gz, or the .csv if that was unpacked."""
    packed = jpg_root / f"mimic-cxr-2.0.0-{name}.csv.gz"
    unpacked = packed.with_suffix("")
    return unpacked if unpacked.exists() and not packed.exists() else packed


@cache
def view_of(position: str, *descriptions: str) -> tuple[str, str]:
    """(view, why it is not frontal) by ViewPosition or, where that is missing, by a description of one view."""
    if position.strip():
        view = view_name(position)
        return view, f"view is unknown: {position}" if view == "unknown" else f"view is {view}"
    views = [view_name(text) for text in descriptions]
    view = next((view for view in views if view != "unknown"), "unknown")
    return view, "view position missing" if view == "unknown" else f"view is {view}"


def read_labels(path: Path) -> dict[str, str]:
    """Study → its positive (1.0) labels; "No Finding" is "normal", unless a label stands beside it."""
    table = read_table(path, ["subject_id", "study_id"], JPG)
    table = table.assign(study_id=table.study_id.map(patients.normal_id))
    findings = table.drop_duplicates("study_id").set_index("study_id").drop(columns="subject_id")
    positive = findings.isin(["1", "1.0"])
    joined = pd.Series("", index=findings.index, dtype=object)
    for column in findings.columns.drop("No Finding", errors="ignore"):
        joined[positive[column]] += column.lower().replace(" ", "_") + "|"
    joined = joined.str.rstrip("|")
    if "No Finding" in findings:
        joined[(joined == "") & positive["No Finding"]] = "normal"
    return joined.to_dict()


def read_sections(path: Path) -> dict[str, sections.Sections]:
    """Study → sections, from the mimic_cxr_sectioned.csv of MIMIC-CXR's own script."""
    origin = "make it with create_section_files.py of MIT-LCP/mimic-cxr"
    columns = ["study", "impression", "findings", "last_paragraph"]
    texts = {}
    for row in read_table(path, columns, origin).itertuples():
        findings, impression = clean(row.findings), clean(row.impression)
        if not findings and not impression:
            findings = clean(row.last_paragraph)
        texts[row.study.removeprefix("s")] = sections.Sections(findings, impression)
    return texts
