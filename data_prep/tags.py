"""What the header of a DICOM file says beside its picture: whose it is, of which study, from which side.

Not the picture: dicom.py reads that. A header is read up to the pixels, of a deflated file as much as a picture may
have. What a table says comes first, so tags only fill what it leaves open.
"""

import os
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import pandas as pd

from .dicom import DEFLATED, is_dicom, preamble
from .gray import MAX_BYTES
from .images import each
from .patients import normal_id
from .sources import Funnel, why_no_file
from .views import view_name

VIEW_TAGS = ("ViewPosition", "ViewCodeSequence")


def begins_as_dicom(path: Path) -> bool:
    """Whether the file can be opened, is no larger than a picture may be, and begins as DICOM does."""
    try:
        is_small = not why_no_file(path) and os.path.getsize(path) <= MAX_BYTES
        return is_small and is_dicom(path)
    except OSError:
        return False


def read_tags(path: Path, keywords: tuple[str, ...]) -> dict[str, str] | None:
    """Keyword → value ("" for none) of a DICOM file; None if it is none, or damaged."""
    if not begins_as_dicom(path):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break a rule of the standard
            header = _read_header(path, [*keywords])
            return {keyword: _as_text(header.get(keyword)) for keyword in keywords}
    except (
        Exception
    ):  # pydicom raises whatever it likes; images.py says what is wrong with the file
        return None


def _read_header(path: Path, keywords: list[str]):
    """The pydicom data set, of `keywords` only."""
    import pydicom
    from pydicom.filereader import read_dataset

    only = {"force": True, "stop_before_pixels": True, "specific_tags": keywords}
    with path.open("rb") as file:
        begin = preamble(file.read(132))
        file.seek(begin)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        if meta.get("TransferSyntaxUID") == DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), MAX_BYTES)
            return pydicom.dcmread(BytesIO(content), **only)
        file.seek(begin)
        # pydicom knows no DICM that comes first; of the others it reads no more than is asked for
        return pydicom.dcmread(BytesIO(file.read()) if begin == 4 else path, **only)


def _as_text(value) -> str:
    """A tag's value; of a sequence what its first item is called; several values '|'-joined."""
    from pydicom.multival import MultiValue
    from pydicom.sequence import Sequence

    if isinstance(value, Sequence):
        return _as_text(value[0].get("CodeMeaning")) if value else ""
    if isinstance(value, MultiValue):
        return "|".join(map(str, value))
    return "" if value is None else str(value).replace("\0", "").strip()


def view_of(tags: dict[str, str]) -> str:
    """frontal, lateral or unknown: by ViewPosition, else by the meaning of ViewCodeSequence."""
    names = (view_name(tags[keyword]) for keyword in VIEW_TAGS)
    return next((name for name in names if name != "unknown"), "unknown")


def complete(rows: pd.DataFrame, funnel: Funnel, processes: int | None) -> pd.DataFrame:
    """The rows, of which each has its `file`, with patient and view from the tags where the table has none."""
    files = list(filter(begins_as_dicom, rows.file.unique()))
    if not files:
        return rows
    jobs = [(file, ("PatientID", *VIEW_TAGS)) for file in files]
    read = dict(zip(files, each(read_tags, jobs, processes, "headers"), strict=True))
    found = [read.get(file) for file in rows.file]
    patient = pd.Series([normal_id(t["PatientID"]) if t else "" for t in found], rows.index)
    view = pd.Series([view_of(tags) if tags else "unknown" for tags in found], rows.index)
    given = rows.patient_id.map(normal_id)
    takes_patient = (given == "") & (patient != "")
    takes_view = (rows["view"] == "unknown") & (view != "unknown")
    notes = {
        "rows whose patient is the DICOM tags'": takes_patient,
        "rows whose view is the DICOM tags'": takes_view,
        "rows of another patient in the table than in the DICOM tags: the table's counts": (
            (given != "") & (patient != "") & (given != patient)
        ),
        "rows of another view in the table than in the DICOM tags: the table's counts": (
            ~takes_view & (view != "unknown") & (rows["view"] != view)
        ),
    }
    for note, which in notes.items():
        if which.any():
            funnel.notes[note] += int(which.sum())
    return rows.assign(
        patient_id=rows.patient_id.where(~takes_patient, patient),
        view=rows["view"].where(~takes_view, view),
    )
