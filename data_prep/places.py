"""Where a table's images lie: under one root, in whatever spelling a path is written; and what their copies are called.

A path that leads out of the root, absolute, by `..` or through a link, is not followed: it is left out with its reason,
and a root that holds it (/ holds everything) makes it good. Backslashes and Unicode's two spellings of a letter are
tried.
"""

import hashlib
import os
import re
import unicodedata
from functools import cache
from pathlib import Path

import pandas as pd

STEM = 120  # bytes of an image's own name that are kept in ours
OUTSIDE = "outside --images-root: name a root that holds it"


def find_images(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The rows with the file of each image, its path from the root, and why it cannot be used ("")."""
    found = {image: _find(image, os.path.abspath(root)) for image in rows.image.unique()}
    places = [found[image] for image in rows.image]
    files, relative, why_not = zip(*places, strict=True) if places else ((), (), ())
    rows = rows.assign(
        file=[Path(file) for file in files],
        source_path=pd.Series(relative, rows.index, dtype=object),
        why_not=pd.Series(why_not, rows.index, dtype=object),
        origin=rows.image.where(rows.image != "", "-"),
    )
    return rows.assign(target=rows.source_path.map(target_name))


def _find(image: str, root: str) -> tuple[str, str, str]:
    """(file, its path from the root, why not) of an image path, in the spelling in which it is there."""
    if not image:
        return "", "", "no image path"
    if "\0" in image:
        return "", "", "an image path with a zero byte"
    paths = [os.path.normpath(os.path.join(root, spelling)) for spelling in _spellings(image)]
    file = next(filter(os.path.lexists, paths), paths[0])
    real = os.path.join(_real(os.path.dirname(file)), os.path.basename(file))
    if os.path.islink(file):
        real = os.path.realpath(file)
    if not real.startswith(os.path.join(_real(root), "")):
        return file, "", OUTSIDE
    inside = os.path.join(root, "")
    relative = file[len(inside) :] if file.startswith(inside) else os.path.relpath(file, root)
    return file, relative.replace(os.sep, "/"), ""


def _spellings(image: str) -> list[str]:
    """A path as it is, with slashes for backslashes, and in Unicode's two forms; the most likely first."""
    slashed = image.replace("\\", "/")
    if image.isascii():
        return list(dict.fromkeys([slashed, image]))
    forms = [unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")]
    return list(dict.fromkeys([slashed, image, *forms]))


@cache
def _real(place: str) -> str:
    return os.path.realpath(place)


def target_name(image: str) -> str:
    """The file name of a stored image, without suffix: one for each path or other name, and never too long."""
    digest = hashlib.sha256(image.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(os.path.basename(image))[0])
    return f"{digest}_" + stem.encode()[:STEM].decode(errors="ignore")
