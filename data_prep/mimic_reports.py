"""MIMIC-CXR's report files: in a folder, or in the zip they are downloaded as. Not here: what is in a report."""

import re
import zipfile
import zlib
from pathlib import Path

from .errors import DataError
from .sources import why_no_file

TEXT = "mimic-cxr-reports.zip comes with MIMIC-CXR on PhysioNet (credentialed)"
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
LIMIT = 10_000_000  # bytes; a report has 1 kB


class Reports:
    """The report files, in a folder or in the zip they are downloaded as; `names`: (subject, study) → place."""

    def __init__(self, root: Path) -> None:
        place = _find_reports(root)
        self.archive = _open_zip(place) if place.is_file() else None
        found = self.archive.namelist() if self.archive else (place / "files").rglob("s*.txt")
        self.names: dict[tuple[str, str], str] = {}
        for name in map(str, found):
            match = re.search(r"p([0-9]+)/s([0-9]+)\.txt$", name)
            if match:
                self.names[match[1], match[2]] = name
        if not self.names:
            raise DataError(f"no report like files/p10/p10000032/s50414267.txt in {place}; {TEXT}")

    def text(self, subject: str, study: str) -> str:
        """One report's text; `DataError` if it cannot be read."""
        name = self.names[subject, study]
        try:
            data = self._member(name) if self.archive else self._file(Path(name))
        except (OSError, ValueError, *BROKEN_ZIP) as error:
            raise DataError(" ".join(str(error).split())) from error
        return data.decode("utf-8", errors="replace")

    def _member(self, name: str) -> bytes:
        if self.archive.getinfo(name).file_size > LIMIT:
            raise ValueError("larger than any report")
        with self.archive.open(name) as file:
            return file.read(LIMIT)

    def _file(self, path: Path) -> bytes:
        why_not = why_no_file(path)
        if why_not or path.stat().st_size > LIMIT:
            raise ValueError(why_not or "larger than any report")
        return path.read_bytes()


def _find_reports(root: Path) -> Path:
    """The folder that holds files/, or the zip."""
    for place in (root, root / "mimic-cxr-reports", root / "mimic-cxr-reports.zip"):
        if (place / "files").is_dir() or place.is_file():
            return place
    raise DataError(
        f"{root} has neither files/ nor mimic-cxr-reports.zip: give --reports-root; {TEXT}"
    )


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, ValueError, *BROKEN_ZIP) as error:
        raise DataError(
            f"{path} is not a readable zip ({error}): download it again; {TEXT}"
        ) from error
