"""Whose image it is, and so in which split: one spelling of each id, and no patient or picture in two splits.

Spellings that tables mix are one id: 100000.0 and 100000, ="0012" and 0012, p1 and P1, Unicode's composed and
decomposed letters, invisible characters. An id that a spreadsheet has rounded (1.0E+15) is no id. Patients who share a
picture, or whose ids differ in leading zeros alone, keep their ids and go to the same split.
"""

import hashlib
import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .images import each
from .sources import Funnel, clean_name

ROUNDED = re.compile(r"\d+[.,]\d*E[+]?\d+|\d+E[+]\d+", re.IGNORECASE)
DECIMAL = re.compile(r"(\d+)[.,]0+")
GUARDED = re.compile(r"=?\"(.*)\"|'(.*)")  # how a spreadsheet is told that a number is a text
HELD_OUT = ("test", "validate", "train")  # which of two equal pictures is kept
SHARED = 5  # patients: a picture of more is a placeholder, not a radiograph


def normal_id(text: str) -> str:
    """The one spelling of an id; "" if the text means nothing or its digits are lost."""
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFKC", text)
        kept = (c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())
        text = "".join(kept)
    text = " ".join(clean_name(text).split())
    guarded = GUARDED.fullmatch(text)
    if guarded:
        text = (guarded[1] or guarded[2] or "").strip()
    decimal = DECIMAL.fullmatch(text)
    text = decimal[1] if decimal else text
    return "" if ROUNDED.fullmatch(text) else unicodedata.normalize("NFC", text.casefold())


def keep_patients(table: pd.DataFrame, column: str, funnel: Funnel) -> pd.DataFrame:
    """The rows with a patient, the ids in `column` in their one spelling; what was merged is noted."""
    spelt = table[column].map(str.strip)
    one_of = {spelling: normal_id(spelling) for spelling in spelt.unique()}
    ids = pd.Series([one_of[spelling] for spelling in spelt], spelt.index, dtype=object)
    known = pd.Series([one for one in one_of.values() if one], dtype=object)
    merged = known.value_counts()
    if (merged > 1).any():
        funnel.notes["patients whose id was spelt in several ways"] += int((merged > 1).sum())
    rounded = spelt.map(lambda text: bool(ROUNDED.fullmatch(text)))
    reason = rounded.map(
        {True: f"{column} is rounded: 1.0E+15 has lost its digits", False: f"no {column}"}
    )
    return funnel.keep(table.assign(**{column: ids}), ids != "", "with a patient", reason)


# ------------------------------------------------------------------------------------------------------- pictures


def picture_of(path) -> str:
    """A fingerprint of what an image of ours shows, whatever its file's format; its path if it cannot be read."""
    try:
        with Image.open(path) as image:
            gray = image.convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return f"unreadable {path}"
    digest = hashlib.blake2b(repr(gray.size).encode(), digest_size=16)
    digest.update(gray.tobytes())
    return digest.hexdigest()


def add_pictures(table: pd.DataFrame, out: Path, processes: int | None) -> pd.DataFrame:
    """The table with a column `picture`: the fingerprint of each row's image.

    It is taken over from the manifest for images that are older than it.
    """
    paths = list(dict.fromkeys(table.image_path))
    known = _known_pictures(out)
    new = [path for path in paths if path not in known]
    jobs = [(str(Path(out) / path),) for path in new]
    found = dict(zip(new, each(picture_of, jobs, processes, "pictures"), strict=True))
    return table.assign(picture=table.image_path.map({**known, **found}))


def _known_pictures(out: Path) -> dict[str, str]:
    """Image path → fingerprint, of images that have not changed since the manifest was written."""
    manifest = Path(out) / "manifest.parquet"
    try:
        written = manifest.stat().st_mtime_ns
        earlier = pd.read_parquet(manifest, columns=["image_path", "picture"])
    except (OSError, ValueError):  # there is none, or one of an older version
        return {}
    known = {}
    for path, picture in earlier.itertuples(index=False):
        file = Path(out) / path
        if file.exists() and file.stat().st_mtime_ns < written:
            known[path] = picture
    return known


def keep_shown_patients(table: pd.DataFrame, funnel: Funnel) -> pd.DataFrame:
    """Without pictures that stand under more than SHARED patients."""
    patients = table.groupby("picture").patient_id.nunique()
    is_one = table.picture.map(patients) <= SHARED
    if is_one.all():
        return table
    reason = f"the same picture under more than {SHARED} patients"
    return funnel.keep(table, is_one, "pictures of few patients: pairs", reason)


def keep_one_split(
    table: pd.DataFrame, funnel: Funnel, is_older: pd.Series | bool = False
) -> pd.DataFrame:
    """For given splits: of a picture in two of them the copies in one, that of an older pair or a held-out one."""
    rank = table.split.map(HELD_OUT.index) - len(HELD_OUT) * pd.Series(is_older, table.index)
    first = rank.groupby(table.picture).transform("min") % len(HELD_OUT)
    kept = first.map(dict(enumerate(HELD_OUT)))
    good = table.split == kept
    if good.all():
        return table
    emptied = sorted({*table.split} - {*table.split[good]})
    if emptied:
        print(
            f"no pair is left in {', '.join(emptied)}: all its pictures stand in other splits too"
        )
    reason = "the same picture stands in another split: " + kept
    return funnel.keep(table, good, "pictures in one split: pairs", reason)


# --------------------------------------------------------------------------------------------------------- splits


def split_of(patient_id: str) -> str:
    """80/10/10 by a hash of the patient: the same patient gets the same split whatever else is there."""
    digest = hashlib.sha256(f"0:{patient_id}".encode()).digest()
    draw = int.from_bytes(digest[:8]) / 2**64
    if draw < 0.8:
        return "train"
    return "validate" if draw < 0.9 else "test"


def split_by_patient(table: pd.DataFrame, funnel: Funnel) -> pd.DataFrame:
    """The table with a column `split`: by patient, those who belong together together."""
    leader = join_patients(table)
    ids = pd.Series(table.patient_id.unique(), dtype=object)
    moved = int((ids.map(leader) != ids).sum())
    if moved:
        funnel.notes["patients split together with another who shares a picture or an id"] += moved
    split = {patient: split_of(leader[patient]) for patient in ids}
    return table.assign(split=[split[patient] for patient in table.patient_id])


def join_patients(table: pd.DataFrame) -> dict[str, str]:
    """Patient → the one whose split it shares: the least of all that are joined by pictures or by leading zeros."""
    patient, ids = pd.factorize(table.patient_id)
    bare, _ = pd.factorize(pd.Series(ids, dtype=object).map(_without_zeros))
    picture, _ = pd.factorize(table.picture)
    count = len(ids)
    bridges = [picture + count, bare + count + picture.max(initial=-1) + 1]
    ends = np.concatenate([patient, np.arange(count)]), np.concatenate(bridges)
    size = int(ends[1].max(initial=-1)) + 1
    graph = coo_matrix((np.ones(len(ends[0])), ends), shape=(size, size))
    _, group = connected_components(graph, directed=False)
    in_order = np.argsort(ids)
    first = pd.Series(in_order).groupby(group[in_order]).first()  # of each group the least id
    return dict(zip(ids, ids[first[group[:count]]], strict=True))


def _without_zeros(patient_id: str) -> str:
    return patient_id.lstrip("0") if patient_id.isdecimal() else patient_id
