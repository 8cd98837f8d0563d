"""Synthetic frontal chest radiographs with findings, boxes and reports: the kit's default data set.

It is a drawing, not a simulation: each study is a pure function of (seed, index), and its bytes are the same on
every machine. So random numbers are raw Philox words, and pixels come only from elementwise arithmetic that IEEE
rounds exactly (+ - * / sqrt, min, max, floor, comparisons): no exp, sin or pow, no float sums, no compression.
It is not patient data and teaches nothing about patients. What is found is chosen in phantom_case.py and drawn by
phantom_body.py and phantom_findings.py; the text is in phantom_report.py, the files in folder.py.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_prep import folder, phantom_report
from data_prep.phantom_body import WIDTH, Canvas, body_of, draw_anatomy, expose
from data_prep.phantom_case import KINDS, REPORT, TEXTURE, Draw, Finding, make_findings, one_small_lesion, patient_of
from data_prep.phantom_findings import PAINTERS

GENERATOR_VERSION = 2
TEXT_POLICY = "findings+impression"
FINDING_CONTRAST = 2.2                       # factor on the attenuation that a finding adds
VISIBLE = 0.035                              # attenuation change that counts as part of a finding's box


@dataclass(frozen=True)
class Box:
    """Where a finding is seen: fractions of the image's width (x) and height (y), 0 at the top left."""

    label: str
    side: str
    zone: str
    size: str
    severity: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class PhantomStudy:
    """One study. `pixels` (H, W) uint8; `labels` is empty for a normal study; `boxes` in the order of `labels`."""

    pair_id: str
    study_id: str
    patient_id: str
    split: str
    pixels: np.ndarray
    findings: str
    impression: str
    labels: tuple[str, ...]
    boxes: tuple[Box, ...]


def _box(canvas: Canvas, finding: Finding, before: np.ndarray) -> Box:
    """The rectangle around all that a finding changed."""
    seen = np.abs(canvas.attenuation + canvas.marks * canvas.lung - before) > VISIBLE
    x, y, height = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1)), canvas.body.height
    corners = x[0] / WIDTH, y[0] / height, (x[-1] + 1) / WIDTH, (y[-1] + 1) / height
    return Box(finding.label, finding.side, finding.zone, finding.size, finding.severity, *map(float, corners))


def draw_findings(seed: int, index: int, findings: list[Finding]) -> tuple[np.ndarray, tuple[Box, ...]]:
    """The study's body with these findings: pixels (H, W) uint8 and a box for each finding."""
    canvas = Canvas(body_of(seed, index), Draw(seed, TEXTURE, 64 * index))
    draw_anatomy(canvas)
    boxes = []
    for finding in findings:
        plain = canvas.attenuation.copy()
        before = plain + canvas.marks * canvas.lung
        canvas.draw = Draw(seed, TEXTURE, 64 * index + 2 + list(KINDS).index(finding.label))
        PAINTERS[finding.label](canvas, finding, canvas.draw)
        canvas.attenuation = plain + (canvas.attenuation - plain) * FINDING_CONTRAST
        boxes.append(_box(canvas, finding, before))
    return expose(canvas, Draw(seed, TEXTURE, 64 * index + 1)), tuple(boxes)


def make_study(seed: int, index: int, findings: str = "all") -> PhantomStudy:
    """Study number `index` (from 0) of the data set with this seed; nothing else decides what is in it.

    findings: 'all', or 'one-small-lesion'; then the report is silent on the rest of the body, and the label says where.
    """
    patient, split = patient_of(seed, index)
    if findings == "all":
        found, mentioned = make_findings(seed, index), body_of(seed, index).incidental
        labels = tuple(finding.label for finding in found)
    else:
        found, mentioned = one_small_lesion(seed, index), ()
        labels = tuple(f"nodule_{finding.side}_{finding.zone}" for finding in found)
    pixels, boxes = draw_findings(seed, index, found)
    text = phantom_report.write_report(Draw(seed, REPORT, index), found, mentioned)
    return PhantomStudy(
        f"ph{index:06d}", f"study{index:06d}", f"patient{patient:06d}", split, pixels, *text, labels, boxes,
    )


def png_bytes(pixels: np.ndarray) -> bytes:
    """A grayscale PNG of (H, W) uint8 pixels in stored blocks: its bytes do not depend on the zlib version."""
    height, width = pixels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = [raw[i:i + 65535] for i in range(0, len(raw), 65535)]
    stream = b"\x78\x01" + b"".join(
        struct.pack("<BHH", i == len(parts) - 1, len(part), 65535 - len(part)) + part for i, part in enumerate(parts)
    ) + struct.pack(">I", zlib.adler32(raw))
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + stream, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def _write_study(out: Path, seed: int, findings: str, index: int) -> tuple[dict, list[dict]]:
    """Write one image, unless it is there already; its manifest row and the rows of its boxes."""
    study = make_study(seed, index, findings)
    path, content = out / "images" / f"{study.pair_id}.png", png_bytes(study.pixels)
    if not path.exists() or path.stat().st_size != len(content):
        with folder.atomic(path) as temporary:
            temporary.write_bytes(content)
    row = {
        "pair_id": study.pair_id, "study_id": study.study_id, "patient_id": study.patient_id,
        "image_path": f"images/{path.name}", "view": "frontal",
        "report": folder.join_report(study.findings, study.impression, TEXT_POLICY),
        "findings": study.findings, "impression": study.impression,
        "labels": "|".join(study.labels) or "normal", "split": study.split,
    }
    return row, [{"pair_id": study.pair_id, **asdict(box)} for box in study.boxes]


def _complete(out: Path, source: dict, studies: int) -> bool:
    """Whether `out` already is this data set, with every image."""
    if not (out / "manifest.parquet").exists() or not (out / "boxes.parquet").exists():
        return False
    return (folder.read_json(out / "dataset.json")["source"] == source and not (out / "building.json").exists()
            and all((out / "images" / f"ph{index:06d}.png").exists() for index in range(studies)))


def write(out: Path, studies: int = 2000, seed: int = 0, processes: int | None = None, findings: str = "all") -> None:
    """Write the data set folder `out` with studies 0 .. `studies` - 1; what is there already is kept.

    The bytes are the same for any number of `processes` (None: one per core).
    """
    out, source = Path(out), {"seed": seed, "studies": studies, "generator_version": GENERATOR_VERSION}
    name = "phantom"
    if findings != "all":
        source, name = source | {"findings": findings}, f"phantom, {findings}"
    if _complete(out, source, studies):
        print(f"{out} is complete: {studies:,} studies")
        return
    folder.start(out, source)
    processes = min(processes or os.cpu_count() or 1, studies)
    job = partial(_write_study, out, seed, findings)
    progress = partial(tqdm, total=studies, desc="phantom", unit="study", disable=None)
    if processes == 1:
        done = list(progress(map(job, range(studies))))
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            done = list(progress(pool.map(job, range(studies), chunksize=8)))
    boxes = pd.DataFrame([box for _, rows in done for box in rows], columns=["pair_id", *Box.__annotations__])
    with folder.atomic(out / "boxes.parquet") as temporary:
        boxes.to_parquet(temporary, index=False)
    folder.finish(
        out, [row for row, _ in done], funnel={"studies drawn": studies, "image–report pairs": studies},
        quarantine=[], name=name, licence="CC0-1.0", synthetic=True, text_policy=TEXT_POLICY, source=source,
    )
