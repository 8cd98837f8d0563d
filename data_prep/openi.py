"""Open-i (Indiana University chest X-rays) to a data set folder: the official XML or the Kaggle CSV layout.

Not a labeller: labels come from the collection's own manual MeSH headings by the fixed table below.

* A study's images are the image files that carry its number, in any spelling: the official
  `CXR1_1_IM-0001-3001`, `CXR1_IM-0001-3001` and Kaggle's `1_IM-0001-3001.dcm.png` are one image.
* Views come from the projections table; without it every view is "unknown" (captions speak of the study).
* The collection has one study per patient and no patient ids, so patient_id is study_id.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from . import folder, images, patients, written
from .folder import DataError
from .sources import Funnel, add_reports, clean, keep_text, read_table, why_no_file
from .views import view_name

LICENCE = "CC BY-NC-ND 4.0"
KAGGLE = "take it from the Kaggle copy"
LABELS = {  # label ← the MeSH headings (first part of the `major` term, lower case) that give it
    "normal": ["normal"],
    "cardiomegaly": ["cardiomegaly"],
    "enlarged_heart_or_mediastinum": [
        "cardiac shadow",
        "mediastinum",
        "heart atria",
        "heart ventricles",
        "trachea, carina",
    ],
    "atelectasis": ["pulmonary atelectasis"],
    "opacity": ["opacity"],
    "consolidation": ["consolidation"],
    "airspace_disease": ["airspace disease"],
    "infiltrate": ["infiltrate"],
    "pneumonia": ["pneumonia"],
    "edema_congestion": ["pulmonary congestion", "pulmonary edema"],
    "effusion": ["pleural effusion", "hydropneumothorax", "hemothorax"],
    "pneumothorax": ["pneumothorax", "hydropneumothorax", "hemopneumothorax"],
    "nodule_mass": ["nodule", "mass"],
    "emphysema_copd": [
        "emphysema",
        "pulmonary emphysema",
        "bullous emphysema",
        "pulmonary disease, chronic obstructive",
    ],
    "fibrosis_scar": ["cicatrix", "pulmonary fibrosis", "fibrosis"],
    "granuloma": ["calcified granuloma", "granulomatous disease", "granuloma"],
    "calcinosis": ["calcinosis"],
    "atherosclerosis": ["atherosclerosis"],
    "fracture": ["fractures, bone"],
    "scoliosis_spine_degen": ["scoliosis", "osteophyte", "spondylosis", "arthritis", "kyphosis"],
    "hernia": ["hernia, hiatal", "diaphragmatic eventration"],
    "support_devices": [
        "catheters, indwelling",
        "surgical instruments",
        "implanted medical device",
        "medical device",
        "tube, inserted",
        "foreign bodies",
        "stents",
    ],
}
IMAGE_NAME = re.compile(
    r"(?:CXR)?(?:\d+_(?=\d+_IM))?0*(\d+)_(IM-[\w-]{1,100})", re.IGNORECASE | re.ASCII
)
XML_LIMIT = 10_000_000  # bytes; a report of Open-i has 10 kB


def prepare_openi(
    reports: Path,
    image_root: Path,
    out: Path,
    projections: Path | None,
    *,
    size: int,
    views: str,
    text_policy: str,
    processes: int | None,
) -> None:
    """Make the data set folder `out` (see `python -m data_prep openi --help`)."""
    funnel = Funnel()
    read_studies = read_csv if reports.is_file() else read_xml
    studies = read_studies(reports, funnel.quarantine)
    found = find_images(image_root, funnel.quarantine)
    view_of = read_projections(projections, funnel.quarantine) if projections else {}
    if not projections:
        print("no --projections table: every view is 'unknown'")
    source = {
        "command": "openi",
        "size": size,
        "views": views,
        "text_policy": text_policy,
        "layout": "csv" if reports.is_file() else "xml",
        "projections_sha256": folder.file_sha256(projections) if projections else "",
    }
    folder.start(out, source)
    table = add_reports(match(studies, found, view_of, funnel), text_policy)
    table = keep_text(table, text_policy, funnel)
    if views == "frontal":
        reason = "view is " + table["view"]
        table = funnel.keep(table, table["view"] == "frontal", "frontal", reason)
    with written.only_writer(out):
        table = images.store_all(table, out, size, processes, funnel)
        table = patients.add_pictures(table, out, processes)
        table = patients.keep_shown_patients(table, funnel)
        table = patients.split_by_patient(table, funnel)
        folder.finish(
            out,
            table.assign(source_path=table.origin),
            funnel=funnel.steps,
            quarantine=funnel.quarantine,
            name="Open-i (IU chest X-ray)",
            licence=LICENCE,
            synthetic=False,
            text_policy=text_policy,
            source=source,
            notes=funnel.notes,
            extra=folder.KEPT,
        )


def match(
    studies: dict[str, dict],
    found: dict[str, tuple[str, Path]],
    view_of: dict[str, str],
    funnel: Funnel,
) -> pd.DataFrame:
    """One row per image that has a report; what has no counterpart goes to the quarantine."""
    with_image = {uid for uid, _ in found.values()}
    named = set(view_of)
    for uid, study in studies.items():
        named.update(study["images"])
        if uid not in with_image:
            funnel.quarantine.append((f"CXR{uid}", "report without an image"))
    for image in sorted(named - set(found)):
        why = "named by a report or the projections, but not among the images"
        funnel.quarantine.append((image, why))
    funnel.steps["reports"] = len(studies)
    funnel.steps["reports with an image"] = len(with_image & set(studies))
    funnel.steps["images"] = len(found)
    rows = [_row(image, uid, path, view_of) for image, (uid, path) in found.items()]
    table = pd.DataFrame(rows)
    has_report = table.uid.isin(set(studies))
    table = funnel.keep(table, has_report, "images with a report", "image without a report")
    own = [studies[uid] for uid in table.uid]
    return table.assign(
        findings=[study["findings"] for study in own],
        impression=[study["impression"] for study in own],
        labels=[labels_of(study["mesh"]) for study in own],
    )


def _row(image: str, uid: str, path: Path, view_of: dict[str, str]) -> dict:
    """What is known of an image without its report."""
    study = f"CXR{uid}"
    return {
        "pair_id": image,
        "target": image,
        "origin": path.name,
        "file": path,
        "uid": uid,
        "study_id": study,
        "patient_id": study,
        "view": view_of.get(image, "unknown"),
    }


def read_xml(root: Path, quarantine: list[tuple[str, str]]) -> dict[str, dict]:
    """The studies in the XML files under `root`, by number; a broken file goes to `quarantine`."""
    paths = sorted(root.rglob("*.xml"))
    if not paths:
        raise DataError(
            f"no .xml report under {root}: give the unpacked NLMCXR_reports (ecgen-radiology) "
            "or indiana_reports.csv to --reports"
        )
    studies = {}
    for path in paths:
        try:
            tree = _parse_xml(path)
            uid = study_number(tree.find("uId").get("id"))
        except (SyntaxError, LookupError, ValueError, OSError, AttributeError):
            quarantine.append((path.name, "not a readable Open-i report"))
            continue
        if uid in studies:
            quarantine.append((path.name, f"a second report of CXR{uid}"))
            continue
        names = [image_key(image.get("id", "")) for image in tree.iter("parentImage")]
        studies[uid] = {
            "findings": _section(tree, "FINDINGS"),
            "impression": _section(tree, "IMPRESSION"),
            "mesh": [" ".join((major.text or "").split()) for major in tree.iter("major")],
            "images": [name for name in names if name],
        }
    return studies


def _parse_xml(path: Path) -> ElementTree.ElementTree:
    """The report. Raises one of many errors for a pipe, a folder, a foreign encoding, a damaged file."""
    if why_no_file(path) or path.stat().st_size > XML_LIMIT:
        raise ValueError("not a file of a report's size")
    return ElementTree.parse(path)


def study_number(text: str) -> str:
    """12 of CXR12, 12, 12.0 and 0012. Raises ValueError for anything else."""
    match = re.fullmatch(r"(?:CXR)?0*(\d+)", patients.normal_id(text), re.IGNORECASE | re.ASCII)
    if not match:
        raise ValueError(f"{text!r} is no study of Open-i")
    return match[1]


def _section(tree: ElementTree.ElementTree, label: str) -> str:
    """The text of all sections with this label."""
    texts = []
    for part in tree.iter("AbstractText"):
        if (part.get("Label") or "").upper() == label:
            texts.append(clean("".join(part.itertext())))
    return " ".join(filter(None, texts))


def read_csv(path: Path, quarantine: list[tuple[str, str]]) -> dict[str, dict]:
    """The studies in Kaggle's indiana_reports.csv, by number; what is no study goes to `quarantine`."""
    columns = ["uid", "MeSH", "findings", "impression"]
    studies = {}
    for row in read_table(path, columns, KAGGLE, quarantine).itertuples():
        try:
            uid = study_number(row.uid)
        except ValueError:
            quarantine.append((f"{path.name} uid {row.uid}", "no study number"))
            continue
        if uid in studies:
            quarantine.append((f"{path.name} uid {row.uid}", f"a second report of CXR{uid}"))
            continue
        studies[uid] = {
            "findings": clean(row.findings),
            "impression": clean(row.impression),
            "mesh": row.MeSH.split(";"),
            "images": [],
        }
    return studies


def read_projections(path: Path, quarantine: list[tuple[str, str]]) -> dict[str, str]:
    """Image → view, from Kaggle's indiana_projections.csv."""
    views = {}
    for row in read_table(path, ["filename", "projection"], KAGGLE, quarantine).itertuples():
        key = image_key(row.filename)
        if key:
            views[key] = view_name(row.projection)
    return views


def find_images(root: Path, quarantine: list[tuple[str, str]]) -> dict[str, tuple[str, Path]]:
    """Image → (study number, file) for the image files under `root`, in order of name."""
    if not root.is_dir():
        raise DataError(
            f"--images {root} is not a folder: give the one with the unpacked NLMCXR images"
        )
    found = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in images.SUFFIXES:
            continue
        key = image_key(path.name)
        why_not = why_no_file(path)
        if why_not:
            quarantine.append((path.name, why_not))
        elif key is None:
            quarantine.append((path.name, "not named as an Open-i image"))
        elif key in found:
            same = found[key][1].name
            quarantine.append((path.name, f"another spelling of an image: {same}"))
        else:
            found[key] = (key[3:].split("_")[0], path)
    if not found:
        raise DataError(
            f"no image named like CXR1_1_IM-0001-3001.png under {root}: give the unpacked images"
        )
    return found


def image_key(name: str) -> str | None:
    """One name for all spellings: CXR1_1_IM-0001-3001.png, 1_IM-0001-3001.dcm.png → CXR1_IM-0001-3001."""
    match = IMAGE_NAME.fullmatch(name.split(".")[0])
    return f"CXR{match[1]}_{match[2]}" if match else None


def labels_of(mesh: list[str]) -> str:
    """The MeSH terms' labels ("Opacity/lung/base/left" has the heading "Opacity"), '|'-joined."""
    headings = {term.split("/")[0].strip().lower() for term in mesh}
    return "|".join(label for label, giving in LABELS.items() if headings & set(giving))
