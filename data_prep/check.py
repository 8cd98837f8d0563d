"""`check DIR`: what is in a data set folder or in a download, and what is missing and where it comes from.

Not a repair: it only reads. Exit status 0 all well, 1 problems found (each on its own line), 2 wrong use.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from . import folder, mimic_cxr, openi, patients
from .commands import say
from .folder import DataError
from .sources import read_table

MIMIC_SPLIT = {"train": 368_960, "validate": 2_991, "test": 5_159}  # images; studies about 227,800
MIMIC_IMAGES, MIMIC_REPORTS = 377_110, 227_800
OPENI_REPORTS, OPENI_IMAGES = 3_955, 7_470


class Findings:
    """Prints what is found and counts the problems."""

    def __init__(self) -> None:
        self.problems = 0

    def problem(self, line: str) -> None:
        """One thing that is wrong."""
        self.problems += 1
        say(f"PROBLEM  {line}")

    def count(self, what: str, ours: int, expected: int) -> None:
        """Our number beside the expected one."""
        difference = "as expected" if ours == expected else f"difference {ours - expected:+,}"
        print(f"{what:<38}{ours:>9,}   expected {expected:>8,}   {difference}")

    def file(self, path: Path, origin: str, required: bool = True) -> bool:
        """Whether the file is there; if not, where it comes from."""
        if path.exists():
            print(f"there    {path.name}")
        elif required:
            self.problem(f"{path.name} is missing — from {origin}")
        else:
            print(f"absent   {path.name} (not needed) — from {origin}")
        return path.exists()


def check(directory: Path) -> int:
    """Print what `directory` holds → exit status 0 or 1."""
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder: give a data set folder or a download")
    findings = Findings()
    _choose_check(directory)(directory, findings)
    print(f"{findings.problems} problem(s)" if findings.problems else "no problems")
    return 1 if findings.problems else 0


def _choose_check(directory: Path) -> Callable[[Path, Findings], None]:
    """What the folder is, by what lies in it."""

    def holds(*patterns: str) -> bool:
        return any(any(directory.glob(pattern)) for pattern in patterns)

    if holds("manifest.parquet", "building.json"):
        return _check_data_set
    has_jpg_tables = holds("mimic-cxr-2.0.0-*")
    if _has_reports(directory) and not has_jpg_tables:
        return _check_mimic_reports
    if holds("*.xml", "*/*.xml", "indiana_*.csv"):
        return _check_openi
    if has_jpg_tables or holds("files"):
        return _check_mimic_jpg
    raise DataError(
        f"{directory} is neither a data set folder (manifest.parquet) nor a download of "
        "MIMIC-CXR-JPG (files/, mimic-cxr-2.0.0-*.csv.gz), MIMIC-CXR or Open-i (*.xml); a table "
        "of your own becomes one by python -m data_prep csv --table FILE --out DIR, a folder of DICOM files by "
        "python -m data_prep dicom FOLDER --out DIR"
    )


def _check_data_set(directory: Path, findings: Findings) -> None:
    """A folder written by data_prep."""
    try:
        table = folder.read(directory)
        folder.read_about(directory)
        about = folder.read_json(directory / "dataset.json")
    except DataError as error:
        return findings.problem(str(error))
    _print_contents(table, about)
    missing = [path for path in table.image_path if not _is_filled(directory / path)]
    if missing:
        return findings.problem(
            f"{len(missing):,} image(s) missing or empty, first {missing[0]}: run the same "
            "data_prep command again"
        )
    if folder.content_sha256(directory, table) != about.get("sha256"):
        findings.problem(
            "rows or images are not those that dataset.json was written for (SHA-256): make it again"
        )
    else:
        print(f"images   all {len(table):,} are there; SHA-256 {about['sha256'][:16]}… agrees")
    _check_splits(directory, table, findings)
    if folder.counts(table) != about.get("counts"):
        findings.problem("dataset.json counts other rows than the manifest has: make it again")
    return None


def _check_splits(directory: Path, table: pd.DataFrame, findings: Findings) -> None:
    """No patient in two splits in another spelling, no picture in two splits under another name."""
    as_one = table.assign(patient_id=table.patient_id.map(patients.normal_id))
    crossing = folder.crossing_patients(as_one)
    if crossing:
        findings.problem(
            f"{len(crossing):,} patient(s) in two splits by another spelling, first {crossing[0]}: "
            "make the folder again"
        )
    shown = patients.add_pictures(table, directory, None)
    crossing = folder.crossing_pictures(shown)
    if crossing:
        findings.problem(
            f"{len(crossing):,} pair(s) show a picture that stands in another split too, first "
            f"{crossing[0]}: make the folder again"
        )
    if "picture" in table:
        other = table.pair_id[shown.picture != table.picture]
        if len(other):
            findings.problem(
                f"{len(other):,} image(s) show another picture than when they were written, first "
                f"{other.iloc[0]}: make the folder again"
            )


def _print_contents(table: pd.DataFrame, about: dict) -> None:
    """What kind of data set it is, and its rows by split, view, label and length."""
    kind = "synthetic" if about["synthetic"] else "not synthetic"
    print(
        f"data set  {about['name']}, {kind}, licence: {about['licence']}, "
        f"text: {about['text_policy']}"
    )
    counts = folder.counts(table)
    print(
        f"rows {counts['rows']:,}, studies {counts['studies']:,}, patients {counts['patients']:,}, "
        f"different reports {counts['different_reports']:,}"
    )
    if counts["different_reports"] < counts["rows"] / 50:
        print("NOTE  hardly any report differs from the others: is their column the right one?")
    for column in ("split", "view"):
        shares = [f"{value} {count:,}" for value, count in counts[column].items()]
        print(f"{column:<8}", ", ".join(shares))
    labels = Counter("|".join(table.labels).split("|"))
    del labels[""]
    print("labels  ", ", ".join(f"{label} {n:,}" for label, n in labels.most_common()) or "none")
    left_out = [f"{reason} {n:,}" for reason, n in about.get("left_out", {}).items()]
    print("left out", ", ".join(left_out) or "nothing")
    words = table.report.str.split().str.len()
    print(
        f"words per report: {words.min()} to {words.max()}, median {words.median():.0f}, 95 % ≤ "
        f"{words.quantile(0.95):.0f}; no findings {(table.findings == '').sum():,}, "
        f"no impression {(table.impression == '').sum():,}"
    )


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _has_reports(directory: Path) -> bool:
    return (
        any(directory.glob("mimic-cxr-reports*"))
        or directory.name == "mimic-cxr-reports"
        or any(directory.glob("files/p1?/p1*/s*.txt"))
    )


def _check_mimic_reports(directory: Path, findings: Findings) -> None:
    print("MIMIC-CXR reports")
    try:
        findings.count("report files", len(mimic_cxr.Reports(directory).names), MIMIC_REPORTS)
    except DataError as error:
        findings.problem(str(error))


def _check_mimic_jpg(directory: Path, findings: Findings) -> None:
    print("MIMIC-CXR-JPG")
    origin = "MIMIC-CXR-JPG on PhysioNet (credentialed)"
    there = {}
    for name in ("split", "metadata", "chexpert", "negbio"):
        path = mimic_cxr.table_path(directory, name)
        there[name] = findings.file(path, origin, required=name != "negbio")
    if not (directory / "files").is_dir():
        findings.problem(f"files/ is missing — from {origin}")
    on_disk = {path.stem for path in directory.glob("files/p1?/p*/s*/*.jpg")}
    findings.count("images in files/", len(on_disk), MIMIC_IMAGES)
    if there["split"]:
        _check_mimic_split(directory, on_disk, origin, findings)
    if _has_reports(directory):
        _check_mimic_reports(directory, findings)
    else:
        print(
            "reports  not here; mimic-cxr-reports.zip — from MIMIC-CXR on PhysioNet (credentialed)"
        )


def _check_mimic_split(directory: Path, on_disk: set[str], origin: str, findings: Findings) -> None:
    try:
        split = read_table(mimic_cxr.table_path(directory, "split"), ["dicom_id", "split"], origin)
    except DataError as error:
        return findings.problem(str(error))
    for name, expected in MIMIC_SPLIT.items():
        count = int((split.split == name).sum())
        findings.count(f"images of split {name} (about)", count, expected)
    absent = set(split.dicom_id) - on_disk
    if absent:
        what = f"{len(absent):,} image(s) of the split table are not in files/"
        findings.problem(f"{what} — from {origin}")
    return None


def _check_openi(directory: Path, findings: Findings) -> None:
    print("Open-i (Indiana University chest X-rays)")
    quarantine: list[tuple[str, str]] = []
    studies: dict[str, dict] = {}
    if any(directory.rglob("*.xml")):
        studies = openi.read_xml(directory, quarantine)
        findings.count("XML reports", len(studies), OPENI_REPORTS)
    for name in ("indiana_reports.csv", "indiana_projections.csv"):
        findings.file(
            directory / name,
            "the Kaggle copy (raddar/chest-xrays-indiana-university)",
            required=name == "indiana_reports.csv" and not studies,
        )
    try:
        found = openi.find_images(directory, quarantine)
        findings.count("images", len(found), OPENI_IMAGES)
        if studies:
            with_image = {uid for uid, _ in found.values()}
            print(f"{len(set(studies) - with_image):,} report(s) without an image")
    except DataError as error:
        findings.problem(f"{error} — from NLMCXR_png.tgz, openi.nlm.nih.gov")
    for name, reason in quarantine:
        findings.problem(f"{name}: {reason}")
