"""A folder of DICOM files, and no table (the `dicom` command): a row per image is made of the tags.

    patient     PatientID                    view    ViewPosition or ViewCodeSequence (tags.py)
    study       StudyInstanceUID             keep    any other tag, by its keyword: StudyDate
    image       SOPInstanceUID, whatever the file is called: a copy in another place is the same image
    report      of the study, by its StudyInstanceUID or AccessionNumber: that is the name of a text file, or stands in
                the column study_id of a table, which may have labels and split too

Only CR and DX: nobody has chosen these files, so a scan of a form that names no modality is none of ours. An image
whose study has no report, or several that differ, is left out with that reason. The rest is table.py's.
"""

import hashlib
import json
import os
from pathlib import Path

import pandas as pd

from . import raw_table, table
from .errors import DataError
from .images import each
from .mimic_reports import LIMIT
from .patients import normal_id
from .places import find_images, target_name
from .sources import Funnel, shown, why_no_file
from .tags import VIEW_TAGS, read_tags, view_of

MODALITIES = ("CR", "DX")
IDENTITY = ("Modality", "PatientID", "StudyInstanceUID", "AccessionNumber", "SOPInstanceUID")
OF_A_STUDY = [*table.TEXTS, "labels", "split"]


def prepare_folder(
    root: Path, reports: Path | None, out: Path, columns: list[str], choices: table.Choices
) -> None:
    """Make the data set folder `out`; the reports lie in `root` too if no other place is given."""
    funnel = Funnel()
    _check_keywords(choices.keep)
    place = reports or root
    read = _read_texts if place.is_dir() else _read_table
    texts = read(place, columns, choices, funnel)
    if texts.empty:
        raise DataError(
            f"{place} holds no report: give --reports FILE, a table with study_id and report, or --reports FOLDER of "
            "text files named AccessionNumber.txt or StudyInstanceUID.txt"
        )
    rows = _read_headers(root, out, choices, funnel)
    rows = _add_reports(rows, texts, funnel)
    rows = find_images(rows, root)
    uid = rows.SOPInstanceUID
    rows = rows.assign(target=rows.target.where(uid == "", uid.map(target_name)))
    content = json.dumps(texts.reset_index().values.tolist()).encode()
    source = {
        "command": "dicom",
        "columns": sorted(columns),
        "table_sha256": hashlib.sha256(content).hexdigest(),
    }
    table.write(rows, root, out, source, funnel, choices)


def _check_keywords(keep: list[str]) -> None:
    from pydicom.datadict import tag_for_keyword

    table.check_keep(keep)
    for keyword in keep:
        if tag_for_keyword(keyword) is None:
            raise DataError(f"--keep {keyword}: no keyword of DICOM, such as StudyDate")


# ---------------------------------------------------------------------------------------------------------- reports


def _read_table(
    path: Path, columns: list[str], choices: table.Choices, funnel: Funnel
) -> pd.DataFrame:
    """A table's reports by study."""
    own = Funnel()
    rows = table.read(path, columns, [], choices.text_policy, own, choices.encoding, ("study_id",))
    named = rows.study_id != ""
    funnel.quarantine += own.quarantine
    funnel.quarantine += [
        (f"{path.name} row {number + 1}", "no study_id") for number in rows.index[~named]
    ]
    return rows[named].set_index("study_id")[OF_A_STUDY]


def _read_texts(
    place: Path, columns: list[str], choices: table.Choices, funnel: Funnel
) -> pd.DataFrame:
    """The text files in a folder, by the study that each is named after."""
    if columns:
        raise DataError(
            f"--column names the columns of a table, and {place} is a folder of text files"
        )
    found = {}
    for path in filter(_is_text, sorted(place.rglob("*"))):
        text, why_not = _read_text(path, choices.encoding)
        if why_not:
            funnel.quarantine.append((str(path.relative_to(place)), why_not))
        else:
            found[path] = (normal_id(path.stem), text)
    texts = pd.DataFrame(found.values(), columns=["study_id", "report"], dtype=object)
    texts = texts.assign(findings="", impression="", labels="", split="")
    return table.add_texts(texts, choices.text_policy).set_index("study_id")[OF_A_STUDY]


def _is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def _read_text(path: Path, encoding: str | None) -> tuple[str, str]:
    """(the text, "") or ("", why it cannot be read)."""
    why_not = why_no_file(path)
    if why_not or path.stat().st_size > LIMIT:
        return "", f"report {why_not or 'larger than any'}"
    try:
        content = path.read_bytes()
        return content.decode(encoding or raw_table.find_encoding(content)), ""
    except LookupError:
        known = raw_table.ENCODINGS
        raise DataError(f"--encoding {encoding}: no such encoding; try {known}") from None
    except UnicodeError:
        return "", f"report not {encoding or 'UTF-8'} text: name its encoding by --encoding"
    except OSError as error:
        return "", f"report not readable: {error.strerror}"


# ----------------------------------------------------------------------------------------------------------- images


def _read_headers(root: Path, out: Path, choices: table.Choices, funnel: Funnel) -> pd.DataFrame:
    """A row for each CR or DX image in the folder."""
    names = _walk(root, out, funnel)
    keywords = (*IDENTITY, *VIEW_TAGS, *choices.keep)
    jobs = [(root / name, keywords) for name in names]
    found = list(each(read_tags, jobs, choices.processes, "headers"))
    rows = pd.DataFrame([tags or dict.fromkeys(keywords, "") for tags in found], dtype=object)
    rows = rows.assign(image=names, origin=names, is_dicom=[tags is not None for tags in found])
    funnel.steps["files"] = len(rows)
    rows = funnel.keep(rows, rows.is_dicom, "DICOM files", "no DICOM file, or a damaged one")
    modality = rows.Modality.str.upper()
    reason = (
        "DICOM of another modality: " + modality.where(modality != "", "none") + ", not CR or DX"
    )
    rows = funnel.keep(rows, modality.isin(MODALITIES), "of modality CR or DX", reason)
    uid = rows.SOPInstanceUID
    first = rows.groupby("SOPInstanceUID").image.transform("first")
    is_first = (uid == "") | (first == rows.image)
    rows = funnel.keep(rows, is_first, "each image once", "the same SOPInstanceUID as: " + first)
    views = [view_of(tags) for tags in rows[list(VIEW_TAGS)].to_dict("records")]
    study = rows.StudyInstanceUID.map(normal_id)
    return rows.assign(patient_id=rows.PatientID, study_id=study, view=views)


def _walk(root: Path, out: Path, funnel: Funnel) -> list[str]:
    """The files below `root` but for reports and what we write ourselves, by their path from it."""

    def note(error: OSError) -> None:
        place = os.path.relpath(error.filename, root)
        funnel.quarantine.append((place, f"folder not readable: {error.strerror}"))

    names = []
    for place, folders, files in os.walk(root, onerror=note):
        folders[:] = sorted(
            name for name in folders if Path(place, name).resolve() != out.resolve()
        )
        for name in sorted(files):
            path = os.path.relpath(os.path.join(place, name), root)
            if shown(path) != path:
                funnel.quarantine.append((path, "a file name that is not UTF-8"))
            elif not _is_text(Path(name)):
                names.append(path)
    if not names:
        raise DataError(f"{root} holds no DICOM file: give the folder of the archive")
    return names


def _add_reports(rows: pd.DataFrame, texts: pd.DataFrame, funnel: Funnel) -> pd.DataFrame:
    """The rows whose study has one report, with it."""
    known = {*texts.index} - {""}
    texts = texts.reset_index().drop_duplicates().set_index("study_id")
    again = texts.index.duplicated()
    several, texts = set(texts.index[again]), texts[~again]
    accession = rows.AccessionNumber.map(normal_id)
    rows = rows.assign(key=rows.study_id.where(rows.study_id.isin(known), accession))
    rows = funnel.keep(
        rows, rows.key.isin(known), "with a report of their study", "no report of its study"
    )
    unused = len(known - {*rows.key})
    if unused:
        funnel.notes["reports of studies that have no image here"] += unused
    reason = "several reports of its study that differ"
    rows = funnel.keep(rows, ~rows.key.isin(several), "with one report", reason)
    return rows.assign(**{name: texts[name].reindex(rows.key).to_numpy() for name in OF_A_STUDY})
