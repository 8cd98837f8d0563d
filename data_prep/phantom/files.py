"""The phantom's studies and their files: a study from its parts, its PNG, the data set folder.

It is a drawing, not a simulation: each study is a pure function of (seed, index), and its bytes are the same on every
machine. So random numbers are raw Philox words, and pixels come only from elementwise arithmetic that IEEE rounds
exactly (+ - * / sqrt, min, max, floor, comparisons): no exp, sin or pow, no float sums, no compression. It is not
patient data and teaches nothing about patients. What is found is chosen in case.py and drawn by body.py,
anatomy.py and findings.py; the text is in report.py, the folder in data_prep/folder.py.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep import folder, sources
from data_prep.machine import progress

from . import report
from .anatomy import draw_anatomy, expose
from .body import WIDTH, Body, Canvas, body_of
from .case import (
    EASY,
    HARD,
    KINDS,
    REPORT,
    TEXTURE,
    Draw,
    Finding,
    make_findings,
    one_small_lesion,
    patient_of,
)
from .findings import PAINTERS
from .hard import draw_lookalikes, hard_body
from .hard_report import write_hard_report

GENERATOR_VERSIONS = {"easy": 2, "hard": 3}  # by difficulty
TEXT_POLICY = "findings+impression"
FINDING_CONTRAST = 2.2  # factor on the attenuation that a finding adds
VISIBLE = 0.035  # attenuation change that counts as part of a finding's box


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
    """One study. `pixels` (H, W) uint8; `labels` is empty for a normal study; `boxes`: one for each finding."""

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
    x, y = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    height = canvas.body.height
    return Box(
        finding.label,
        finding.side,
        finding.zone,
        finding.size,
        finding.severity,
        x0=float(x[0] / WIDTH),
        y0=float(y[0] / height),
        x1=float((x[-1] + 1) / WIDTH),
        y1=float((y[-1] + 1) / height),
    )


def draw_findings(
    seed: int, index: int, findings: list[Finding], body: Body | None = None
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """The study's body, or this one, with these findings: pixels (H, W) uint8 and a box for each finding."""
    canvas = Canvas(body or body_of(seed, index), Draw(seed, TEXTURE, 64 * index))
    draw_anatomy(canvas)
    draw_lookalikes(canvas, Draw(seed, TEXTURE, 64 * index + 63))
    boxes, count = [], Counter()
    for finding in findings:
        plain = canvas.attenuation.copy()
        before = plain + canvas.marks * canvas.lung
        stream = 2 + list(KINDS).index(finding.label) + len(KINDS) * count[finding.label]
        count[finding.label] += 1
        canvas.draw = Draw(seed, TEXTURE, 64 * index + stream)
        PAINTERS[finding.label](canvas, finding, canvas.draw)
        canvas.attenuation = plain + (canvas.attenuation - plain) * FINDING_CONTRAST
        boxes.append(_box(canvas, finding, before))
    return expose(canvas, Draw(seed, TEXTURE, 64 * index + 1)), tuple(boxes)


def make_study(
    seed: int, index: int, findings: str = "all", difficulty: str = "easy"
) -> PhantomStudy:
    """Study number `index` (from 0) of the data set with this seed; nothing else decides what is in it.

    findings: 'all', or 'one-small-lesion'; then the report is silent on the rest of the body, and the label says where.
    difficulty: 'easy', or 'hard' (hard.py).
    """
    patient, split = patient_of(seed, index)
    hard = difficulty == "hard"
    if findings == "all":
        found = make_findings(seed, index, HARD if hard else EASY)
        labels = tuple(dict.fromkeys(finding.label for finding in found))
    else:
        found = one_small_lesion(seed, index)
        labels = tuple(f"nodule_{finding.side}_{finding.zone}" for finding in found)
    body = hard_body(seed, index, found) if hard else body_of(seed, index)
    pixels, boxes = draw_findings(seed, index, found, body)
    mentioned = body.incidental if findings == "all" else ()
    write_report = write_hard_report if hard else report.write_report
    text = write_report(Draw(seed, REPORT, index), found, mentioned)
    return PhantomStudy(
        f"ph{index:06d}",
        f"study{index:06d}",
        f"patient{patient:06d}",
        split,
        pixels,
        *text,
        labels,
        boxes,
    )


def png_bytes(pixels: np.ndarray) -> bytes:
    """A grayscale PNG of (H, W) uint8 pixels in stored blocks: its bytes do not depend on the zlib version."""
    height, width = pixels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    stream = [b"\x78\x01"]  # zlib's header, blocks as they are, the checksum
    for start in range(0, len(raw), 65535):
        part = raw[start : start + 65535]
        is_last = start + 65535 >= len(raw)
        stream.append(struct.pack("<BHH", is_last, len(part), 65535 - len(part)) + part)
    stream.append(struct.pack(">I", zlib.adler32(raw)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", b"".join(stream)), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk: length, kind, content, checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def _write_study(
    out: Path, seed: int, findings: str, difficulty: str, index: int
) -> tuple[dict, list[dict]]:
    """Write one image, unless it is there already; its manifest row and the rows of its boxes."""
    study = make_study(seed, index, findings, difficulty)
    path, content = out / "images" / f"{study.pair_id}.png", png_bytes(study.pixels)
    if not path.exists() or path.stat().st_size != len(content):
        with folder.atomic(path) as temporary:
            temporary.write_bytes(content)
    row = {
        "pair_id": study.pair_id,
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "image_path": f"images/{path.name}",
        "view": "frontal",
        "report": sources.join_report(study.findings, study.impression, TEXT_POLICY),
        "findings": study.findings,
        "impression": study.impression,
        "labels": "|".join(study.labels) or "normal",
        "split": study.split,
    }
    return row, [{"pair_id": study.pair_id, **asdict(box)} for box in study.boxes]


def _is_complete(out: Path, source: dict, studies: int) -> bool:
    """Whether `out` already is this data set, with every image."""
    if not (out / "manifest.parquet").exists() or not (out / "boxes.parquet").exists():
        return False
    return (
        folder.read_about(out).source == source
        and not (out / "building.json").exists()
        and all((out / "images" / f"ph{index:06d}.png").exists() for index in range(studies))
    )


def write(
    out: Path,
    studies: int = 2000,
    seed: int = 0,
    processes: int | None = None,
    findings: str = "all",
    difficulty: str = "easy",
) -> None:
    """Write the data set folder `out` with studies 0 .. `studies` - 1; what is there already is kept.

    The bytes are the same for any number of `processes` (None: one per core).
    """
    out, name = Path(out), "phantom"
    version = GENERATOR_VERSIONS[difficulty]
    source = {"seed": seed, "studies": studies, "generator_version": version}
    if difficulty != "easy":
        source["difficulty"] = difficulty
        name += f", {difficulty}"
    if findings != "all":
        source["findings"] = findings
        name += f", {findings}"
    if _is_complete(out, source, studies):
        print(f"{out} is complete: {studies:,} studies")
        return
    folder.start(out, source)
    processes = min(processes or os.cpu_count() or 1, studies)
    job = partial(_write_study, out, seed, findings, difficulty)
    bar = partial(progress, total=studies, desc="phantom", unit="study")
    if processes == 1:
        done = list(bar(map(job, range(studies))))
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            done = list(bar(pool.map(job, range(studies), chunksize=8)))
    rows, boxes = [], []
    for row, its_boxes in done:
        rows.append(row)
        boxes += its_boxes
    boxes = pd.DataFrame(boxes, columns=["pair_id", *Box.__annotations__])
    with folder.atomic(out / "boxes.parquet") as temporary:
        boxes.to_parquet(temporary, index=False)
    folder.finish(
        out,
        rows,
        funnel={"studies drawn": studies, "image–report pairs": studies},
        quarantine=[],
        name=name,
        licence="CC0-1.0",
        synthetic=True,
        text_policy=TEXT_POLICY,
        source=source,
    )
