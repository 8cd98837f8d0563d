"""Synthetic frontal chest radiographs with findings, boxes and reports: the kit's default data set.

It is a drawing, not a simulation: each study is a pure function of (seed, index), and its bytes are the same on
every machine. So random numbers are raw Philox words, and pixels come only from elementwise arithmetic that IEEE
rounds exactly (+ - * / sqrt, min, max, floor, comparisons): no exp, sin or pow, no float sums, no compression.
It is not patient data and teaches nothing about patients. The text is in `phantom_report`, the files in `folder`.

Body coordinates: `u` runs from -1 (the patient's right, left in the image) to +1 at the outer lung borders, `v` from
0 at the lung apex to about 1 at the diaphragm. Attenuation is about 0 in air, 0.2 in lung, 0.6 in the heart, 1 in
the abdomen. Left and right are the patient's.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_prep import folder, phantom_report

GENERATOR_VERSION = 2
TEXT_POLICY = "findings+impression"
WIDTH, HEIGHTS = 256, (224, 304)            # pixels; the height varies from study to study

# Dials of the data set.
CHRONIC_COUNT = {0: 0.20, 1: 0.40, 2: 0.40}  # findings that stay with the patient
ACUTE_COUNT = {0: 0.25, 1: 0.38, 2: 0.37}    # findings of one study; 0.20 * 0.25 = share of normal studies
STUDIES_OF_PATIENTS = {(1, 1, 1, 1): 0.35, (2, 1, 1): 0.35, (1, 3): 0.20, (2, 2): 0.10}   # of four studies
NOISE = (1.0, 3.0)                           # standard deviation, gray levels
EXPOSURE = (0.94, 1.07)                      # factor on attenuation
FILM = (0.65, 0.9)                           # film curve; smaller is more contrast in the dark parts
FINDING_CONTRAST = 2.2                       # factor on the attenuation that a finding adds
LARGE_HABITUS, LOW_VOLUMES, ROTATED, PORTABLE, OLD = 0.15, 0.12, 0.12, 0.15, 0.20   # shares
VISIBLE = 0.035                              # attenuation change that counts as part of a finding's box

# Streams of random numbers: what is drawn from one never changes what is drawn from another.
GROUPING, SPLIT, PATIENT, STUDY, TEXTURE, REPORT, DETAIL = range(7)


class Draw:
    """Random numbers from Philox's raw 64-bit words by exact arithmetic, one stream per (seed, stream, index)."""

    def __init__(self, seed: int, stream: int, index: int):
        self.bits = np.random.Philox(key=np.array([seed % 2**64, (stream << 48) + index], dtype=np.uint64))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((int(self.bits.random_raw()) >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """An integer in 0 .. n - 1."""
        return int(self.bits.random_raw()) * n >> 64

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def choice(self, items):
        return items[self.integer(len(items))]

    def weighted(self, weights: dict):
        """One key, with probability in proportion to its value."""
        total = 0.0
        for weight in weights.values():     # not sum(): newer Pythons round it differently
            total += weight
        rest = self.uniform(0.0, total)
        for key, weight in weights.items():
            rest -= weight
            if rest < 0:
                return key
        return key

    def shuffled(self, items) -> list:
        rest = list(items)
        return [rest.pop(self.integer(len(rest))) for _ in items]

    def grid(self, height: int, width: int) -> np.ndarray:
        """(height, width) float32, near normal with standard deviation 1: the sum of four 16-bit parts of a word."""
        words = self.bits.random_raw(height * width).reshape(height, width)
        total = sum((words >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48))
        return (total.astype(np.float32) - 131070.0) * (1 / 37837.0)


@dataclass(frozen=True)
class Kind:
    """What a finding may look like; `sizes` or `severities` run from little to much."""

    chronic: bool
    weight: float
    sides: tuple[str, ...] = ("",)
    zones: tuple[str, ...] = ("",)
    sizes: tuple[str, ...] = ("",)
    severities: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Finding:
    """One finding with its attributes; an empty string where an attribute does not apply. `amount` is in 0..1."""

    label: str
    side: str
    zone: str
    size: str
    severity: str
    amount: float


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


ONE_SIDE, ANY_SIDE = ("left", "right"), ("left", "right", "bilateral")
LUNG_ZONES = ("upper", "middle", "lower")
MILD_TO_SEVERE, SMALL_TO_LARGE = ("mild", "moderate", "severe"), ("small", "moderate", "large")

KINDS = {   # in the order in which they are drawn: what moves borders first, metal last
    "cardiomegaly": Kind(True, 3.0, severities=MILD_TO_SEVERE),
    "emphysema": Kind(True, 1.5, severities=MILD_TO_SEVERE),
    "fibrosis": Kind(True, 0.4, zones=("upper", "lower", "diffuse"), severities=MILD_TO_SEVERE),
    "edema": Kind(False, 1.0, severities=MILD_TO_SEVERE),
    "consolidation": Kind(False, 3.0, sides=ONE_SIDE, zones=LUNG_ZONES, severities=("patchy", "dense")),
    "atelectasis": Kind(False, 0.4, sides=ANY_SIDE, zones=("middle", "lower"), severities=("mild", "moderate")),
    "mass": Kind(False, 2.2, sides=ONE_SIDE, zones=LUNG_ZONES, sizes=("cm",)),
    "nodule": Kind(False, 0.5, sides=ONE_SIDE, zones=LUNG_ZONES, sizes=("mm",)),
    "calcified_granuloma": Kind(True, 0.3, sides=ONE_SIDE, zones=LUNG_ZONES, sizes=("single", "multiple")),
    "pleural_effusion": Kind(False, 3.0, sides=ANY_SIDE, sizes=SMALL_TO_LARGE),
    "pneumothorax": Kind(False, 1.6, sides=ONE_SIDE, sizes=SMALL_TO_LARGE),
    "sternotomy_wires": Kind(True, 0.4),
    "endotracheal_tube": Kind(False, 0.3, zones=("high", "mid", "low")),
    "enteric_tube": Kind(False, 0.3, zones=("esophagus", "stomach")),
    "central_line": Kind(False, 0.4, sides=ONE_SIDE, zones=("jugular", "subclavian", "picc")),
    "port": Kind(True, 1.0, sides=ONE_SIDE),
    "pacemaker": Kind(True, 2.5, sides=ONE_SIDE, sizes=("single-lead", "dual-lead")),
}
BASAL = ("pleural_effusion",)                # hides the lower zone of its side
AIR = ("emphysema", "edema", "fibrosis")                    # change both lungs as a whole
CHEST_WALL = ("pacemaker", "port", "central_line")
CENTRE_ZONE = {"upper": (0.20, 0.31), "middle": (0.42, 0.56), "lower": (0.68, 0.80)}   # v of a lesion


# ---------------------------------------------------------------------------------------------- who, and what

def _patient(seed: int, index: int) -> tuple[int, str]:
    """Patient number and split of a study.

    Patients have their studies within a group of four; of ten groups one is for the test, one for validation. So
    the shares are close to 80/10/10 for any number of studies, and no study's split depends on that number.
    """
    group = index // 4
    first = group * 4
    for size in Draw(seed, GROUPING, group).weighted(STUDIES_OF_PATIENTS):
        if index < first + size:
            break
        first += size
    order = Draw(seed, SPLIT, group // 10).shuffled(["test", "validate"] + ["train"] * 8)
    return first, order[group % 10]


def _finding(draw: Draw, label: str) -> Finding:
    kind = KINDS[label]
    steps = kind.severities if len(kind.severities) > 1 else kind.sizes
    level = draw.integer(len(steps))
    amount = (level + draw.uniform(0.12, 0.88)) / len(steps)
    side, zone = draw.choice(kind.sides), draw.choice(kind.zones)
    size = steps[level] if steps is kind.sizes else draw.choice(kind.sizes)
    if label == "nodule":
        size = f"{9 + int(19 * amount)} mm"
    elif label == "mass":
        size = f"{3.5 + int(45 * amount) / 10:.1f} cm"
    return Finding(label, side, zone, size, steps[level] if steps is kind.severities else "", amount)


def _fits(new: Finding, others: list[Finding]) -> bool:
    """Whether a finding can be seen beside the others."""
    for old in others:
        labels = (old.label, new.label)
        same_side = old.side == new.side or "bilateral" in (old.side, new.side)
        if old.label == new.label or (old.label in AIR and new.label in AIR):
            return False
        if same_side and (
            (old.zone == new.zone and old.zone in LUNG_ZONES)
            or (old.label in BASAL and (new.zone == "lower" or new.label in BASAL))
            or (new.label in BASAL and old.zone == "lower")
            or (old.label in CHEST_WALL and (new.zone == "upper" or new.label in CHEST_WALL))
            or (new.label in CHEST_WALL and old.zone == "upper")
            or ("pneumothorax" in labels and ("pleural_effusion" in labels or "mass" in labels))
        ):
            return False
    return True


def _choose(draw: Draw, chronic: bool, chosen: list[Finding]) -> list[Finding]:
    weights = {label: kind.weight for label, kind in KINDS.items() if kind.chronic == chronic}
    wanted = len(chosen) + draw.weighted(CHRONIC_COUNT if chronic else ACUTE_COUNT)
    for _ in range(30):
        if len(chosen) == wanted:
            break
        new = _finding(draw, draw.weighted(weights))
        if _fits(new, chosen):
            chosen = [*chosen, new]
    return chosen


def make_findings(seed: int, index: int) -> list[Finding]:
    """The findings of a study in drawing order: those of the patient, then those of the day."""
    patient, _ = _patient(seed, index)
    chosen = _choose(Draw(seed, DETAIL, 2 * patient), True, [])
    chosen = _choose(Draw(seed, DETAIL, 2 * index + 1), False, chosen)
    return sorted(chosen, key=lambda finding: list(KINDS).index(finding.label))


def one_small_lesion(seed: int, index: int) -> list[Finding]:
    """Instead of `make_findings`: one nodule of 9 to 27 mm and nothing else, small enough for one or two patches of 16
    pixels to see it. What tells a study from another is where it lies and how large it is."""
    return [_finding(Draw(seed, DETAIL, 2 * index + 1), "nodule")]


# --------------------------------------------------------------------------------------------------- shapes

def _smooth(t: np.ndarray) -> np.ndarray:
    t = np.minimum(np.maximum(t, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


def _bump(r2: np.ndarray) -> np.ndarray:
    """1 at r2 = 0, falling smoothly to 0 at r2 = 1."""
    inside = np.maximum(1.0 - r2, 0.0)
    return inside * inside


def _curve(a, b, c, steps: int = 7) -> list[tuple[float, float]]:
    """Points of the quadratic Bézier curve from `a` to `c`, drawn towards `b`."""
    ts = [i / steps for i in range(steps + 1)]
    return [tuple((1 - t) * (1 - t) * a[k] + 2 * t * (1 - t) * b[k] + t * t * c[k] for k in (0, 1)) for t in ts]


@dataclass(frozen=True)
class Body:
    """The patient and the way the picture was taken; lengths in pixels or in body coordinates."""

    height: int
    centre_x: float
    top_y: float
    half_width: float       # pixels for u = 1
    lung_height: float      # pixels for v = 1
    tilt: float
    shift: float            # u of the mediastinum: rotation
    fat: float              # 0 thin .. 1 large
    breast: float
    heart: float            # u, half of the heart's width
    diaphragms: tuple[float, float]   # v of the right and left dome
    incidental: tuple[str, ...]       # what a report may mention beside the findings
    exposure: float
    film: float
    noise: float


def _body(seed: int, index: int) -> Body:
    patient, study = Draw(seed, PATIENT, _patient(seed, index)[0]), Draw(seed, STUDY, index)
    large = patient.chance(LARGE_HABITUS)
    fat = patient.uniform(0.65, 1.0) if large else patient.uniform(0.0, 0.45)
    breast = patient.uniform(0.5, 1.0) if patient.chance(0.5) else 0.0
    heart = patient.uniform(0.375, 0.415)
    domes = (patient.uniform(0.87, 0.90), patient.uniform(0.92, 0.95))
    old, arch = patient.chance(OLD), patient.uniform()
    low, rotated, portable = study.chance(LOW_VOLUMES), study.chance(ROTATED), study.chance(PORTABLE)
    low = low and not any(finding.label == "emphysema" for finding in make_findings(seed, index))
    height = HEIGHTS[0] + study.integer(HEIGHTS[1] - HEIGHTS[0] + 1)
    half_width = WIDTH * (patient.uniform(0.345, 0.385) if large else patient.uniform(0.385, 0.43))
    ratio = study.uniform(1.18, 1.32) if low else study.uniform(1.58, 1.85)
    lung_height = min(half_width * ratio, 0.76 * height)
    top_y = min(study.uniform(0.09, 0.15) * height + (0.08 * height if low else 0.0), height - 1.16 * lung_height)
    shift = study.choice((-1, 1)) * study.uniform(0.085, 0.13) if rotated else study.uniform(-0.02, 0.02)
    incidental = [
        name for name, there in (
            ("large_habitus", large), ("low_volumes", low), ("portable", portable),
            ("rotated_left" if shift > 0 else "rotated_right", rotated), ("degenerative_spine", old),
            ("aortic_calcification", old and arch < 0.6),
        ) if there
    ]
    return Body(
        height, WIDTH * study.uniform(0.48, 0.52), top_y, half_width, lung_height, study.uniform(-0.06, 0.06), shift,
        fat, breast, heart, domes, tuple(incidental), study.uniform(*EXPOSURE), study.uniform(*FILM),
        study.uniform(*NOISE),
    )


class Canvas:
    """A radiograph while it is drawn.

    `attenuation` (H, W) is what the rays meet; `marks` (H, W) holds the vessels, seen only where `lung` (H, W, 0..1)
    has air; `u` (H, W) and `v` (H, 1) are body coordinates of the pixels. All float32.
    """

    def __init__(self, body: Body, draw: Draw):
        self.body, self.draw = body, draw
        rows = np.arange(body.height, dtype=np.float32)[:, None]
        columns = np.arange(WIDTH, dtype=np.float32)[None, :]
        self.v = (rows - body.top_y) / body.lung_height
        self.u = (columns - body.centre_x) / body.half_width - (self.v - 0.5) * body.tilt
        self.p = np.abs(self.u)
        self.attenuation = np.zeros((body.height, WIDTH), np.float32)
        self.marks = np.zeros_like(self.attenuation)
        self.lung = self.attenuation
        self.breath = (0.0, 0.0, 0.0, 0.0)        # right rise, left rise, flatness, extra air: see _trunk
        self.enlarged = 0.0                       # u, added to the heart's half width

    def xy(self, u: float, v: float) -> tuple[float, float]:
        """Pixel position of a body position."""
        body = self.body
        return body.centre_x + body.half_width * (u + (v - 0.5) * body.tilt), body.top_y + body.lung_height * v

    def side(self, sign: float) -> np.ndarray:
        """1 on one side of the body (+1 the patient's left), 0 on the other."""
        return (self.u * sign > 0).astype(np.float32)

    def ellipse(self, u: float, v: float, ru: float, rv: float) -> np.ndarray:
        """Squared distance from (u, v) with the radii as units: 1 on the ellipse."""
        du, dv = (self.u - u) / ru, (self.v - v) / rv
        return du * du + dv * dv

    def cloudy(self, cells: int) -> np.ndarray:
        """(H, W) smooth noise of standard deviation about 0.6, `cells` cells across the width."""
        height, step = self.body.height, WIDTH / cells
        rows, columns = np.arange(height, dtype=np.float32) / step, np.arange(WIDTH, dtype=np.float32) / step
        grid = self.draw.grid(int(height / step) + 2, cells + 2)
        i, j = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
        fy, fx = _smooth(rows - np.floor(rows))[:, None], _smooth(columns - np.floor(columns))[None, :]
        top, bottom = grid[i], grid[i + 1]
        across = top + (bottom - top) * fy
        return across[:, j] + (across[:, j + 1] - across[:, j]) * fx

    def stroke(self, layer: np.ndarray, points, radius: float, value: float) -> None:
        """Add a line of `radius` (in u) through body positions to `layer`."""
        corners = [self.xy(*point) for point in points]
        reach = max(radius * self.body.half_width, 1.0)
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        x0, x1 = max(int(min(xs) - reach), 0), min(int(max(xs) + reach) + 2, WIDTH)
        y0, y1 = max(int(min(ys) - reach), 0), min(int(max(ys) + reach) + 2, self.body.height)
        if x0 >= x1 or y0 >= y1:
            return
        x = np.arange(x0, x1, dtype=np.float32)[None, :]
        y = np.arange(y0, y1, dtype=np.float32)[:, None]
        cover = np.zeros((y1 - y0, x1 - x0), np.float32)
        for (ax, ay), (bx, by) in pairwise(corners):
            dx, dy = bx - ax, by - ay
            along = ((x - ax) * dx + (y - ay) * dy) * (1.0 / (dx * dx + dy * dy + 1e-9))
            along = np.minimum(np.maximum(along, 0.0), 1.0)
            ex, ey = x - ax - along * dx, y - ay - along * dy
            np.maximum(cover, 1.0 - (ex * ex + ey * ey) * (1.0 / (reach * reach)), out=cover)
        layer[y0:y1, x0:x1] += cover * value

    def rib_v(self, rib: int, p: float) -> float:
        """v of the middle of a posterior rib at distance `p` from the midline."""
        return (rib + 0.5) * 0.092 + self.arch(p)

    def arch(self, p):
        return (p - 0.3) * (p - 0.3) * 0.32 + p * p * p * p * 0.10 - 0.03


def _trunk(canvas: Canvas, right_rise: float, left_rise: float, flat: float, air: float) -> np.ndarray:
    """Attenuation (H, W) that lungs take away and the abdomen adds; sets `canvas.lung`. Rises are in v."""
    u, v, p, body = canvas.u, canvas.v, canvas.p, canvas.body
    low = np.minimum(np.maximum(v * (1 / 0.62), 0.0), 1.0)
    outer = 0.30 + 0.64 * np.sqrt(1.0 - (1.0 - low) * (1.0 - low)) - 0.05 * np.maximum(v - 0.62, 0.0)
    top = v - (p - 0.36) * (p - 0.36) * 0.9
    canvas.outer, canvas.edge = outer, np.minimum(outer - p, top * 1.2)
    right, left = body.diaphragms[0] - right_rise, body.diaphragms[1] - left_rise
    dome = right + (left - right) * _smooth((u - body.shift + 0.15) * (1 / 0.3))
    canvas.dome = dome + (p - 0.42) * (p - 0.42) * (0.58 * (1.0 - flat)) + 0.09 * flat
    inner = 0.13 + 0.07 * np.maximum(1.0 - v * 3.0, 0.0)
    canvas.lung = (
        _smooth((outer - p) * (1 / 0.07)) * _smooth(top * (1 / 0.05)) * _smooth((canvas.dome - v) * (1 / 0.045))
        * _smooth((np.abs(u - body.shift) - inner) * (1 / 0.06))
    )
    depth = 0.72 + 0.28 * _smooth((outer - p) * (1 / 0.4))
    abdomen = _smooth((v - canvas.dome) * (1 / 0.06)) * _smooth((1.12 - p) * (1 / 0.15)) * 0.33
    return abdomen - canvas.lung * depth * (0.41 + air)


def _spine(canvas: Canvas, bend: float) -> np.ndarray:
    """Attenuation (H, W) of the vertebral column; `bend` is the sideways excursion in u."""
    v = canvas.v
    arc = np.maximum(1.0 - (v - 0.5) * (v - 0.5) * (1 / 0.42), 0.0)
    across = np.abs(canvas.u - canvas.body.shift * 1.3 - arc * arc * bend)
    level = v * (1 / 0.086)
    phase = np.abs(level - np.floor(level) - 0.5) * 2.0                # 0 in the middle of a body, 1 in the disc
    body = _smooth((0.105 - across) * (1 / 0.025)) * (0.08 + 0.06 * _smooth((0.8 - phase) * 4.0))
    du, dv = (across - 0.06) * (1 / 0.025), phase * 2.2
    return body + _bump(du * du + dv * dv) * 0.06


def _heart(canvas: Canvas) -> np.ndarray:
    """Attenuation (H, W) that the heart adds: most where it lies in the lung."""
    half, extra = canvas.body.heart + canvas.enlarged, canvas.enlarged
    u = canvas.u - canvas.body.shift - half * 0.42
    v = canvas.v - 0.70 - u * 0.30
    r2 = u * u * (1.0 / (half * half)) + v * v * (1.0 / ((0.25 + 0.35 * extra) * (0.25 + 0.35 * extra)))
    inside = np.maximum(1.0 - r2, 0.0)
    return _smooth(inside * 4.0) * (0.26 + 0.10 * inside) * (0.30 + 0.70 * canvas.lung)


def _ribs(canvas: Canvas) -> np.ndarray:
    """Attenuation (H, W) of posterior and anterior ribs: periodic bands along an arched coordinate."""
    v, p = canvas.v, canvas.p
    rows = (v - canvas.arch(p)) * (1 / 0.092)
    gap = np.abs(rows - np.floor(rows) - 0.5) * 2.0                    # 0 in the middle of a rib
    back = _smooth((0.56 - gap) * 5.0) * (0.065 + 0.055 * _smooth((gap - 0.2) * 4.0))
    rows = (v - (0.95 - p) * 0.36 - (0.95 - p) * (0.95 - p) * 0.2) * (1 / 0.112)
    gap = np.abs(rows - np.floor(rows) - 0.5) * 2.0
    front = _smooth((0.50 - gap) * 4.0) * _smooth((p - 0.36) * 4.0) * _smooth((v - 0.12) * 8.0) * 0.035
    cage = _smooth((canvas.outer + 0.05 - p) * 25.0) * _smooth((v + 0.02) * 20.0) * _smooth((1.15 - v) * 8.0)
    away = _smooth((p - 0.10) * 12.0)
    return (back + front) * cage * away * (0.75 + 0.5 * p * p)


def _soft_tissue(canvas: Canvas) -> np.ndarray:
    """Attenuation (H, W) of neck, shoulders, arms, chest wall and breasts."""
    v, p, body = canvas.v, canvas.p, canvas.body
    slope = np.maximum(p - 0.26, 0.0)
    shoulder = _smooth((v + 0.30 - slope * 0.20 - slope * slope * slope * 0.10) * (1 / 0.05))
    width = 1.07 + 0.22 * body.fat + 0.10 * _smooth((v - 0.8) * 2.0)
    torso = shoulder * _smooth((width + 0.7 * _smooth((0.50 - v) * 2.2) - p) * (1 / 0.07))
    arm = shoulder * _bump((p - 1.52 - 0.25 * v) * (p - 1.52 - 0.25 * v) * (1 / 0.09))
    neck = _smooth((0.36 + 0.10 * body.fat - p) * (1 / 0.16))
    layer = np.maximum(np.maximum(torso, arm * 0.8), neck * 0.85) * (0.50 + 0.13 * body.fat)
    layer = layer + _bump((p - 1.05) * (p - 1.05) * 8.0 + (v - 0.12) * (v - 0.12) * 14.0) * 0.10
    if body.breast:
        for sign in (-1, 1):
            r2 = canvas.ellipse(sign * 0.55, 0.74, 0.46, 0.30 + 0.05 * body.fat)
            layer += _smooth((1.0 - r2) * 5.0) * (0.03 + 0.10 * _smooth((v - 0.5) * 2.2)) * body.breast
    return layer * (0.92 + 0.08 * _smooth((v - 0.1) * 1.5))


VESSELS = ((0.42, 0.08), (0.55, 0.13), (0.68, 0.22), (0.80, 0.36), (0.85, 0.50), (0.86, 0.64), (0.80, 0.78),
           (0.68, 0.86), (0.52, 0.86), (0.38, 0.86))


def _vessels(canvas: Canvas, draw: Draw) -> None:
    """Bronchovascular markings, from each hilum to ten places near the pleura."""
    crowded = 1.45 if "low_volumes" in canvas.body.incidental else 1.0
    strength = draw.uniform(0.8, 1.2) * crowded
    for sign, (near, level) in ((-1, (0.21, 0.48)), (1, (0.24, 0.45))):
        for p, v in VESSELS:
            start = (canvas.body.shift + sign * near, level + (v - level) * 0.25)
            end = (sign * (p + draw.uniform(-0.06, 0.06)), v + draw.uniform(-0.05, 0.05))
            bend = ((start[0] + end[0]) / 2 + draw.uniform(-0.08, 0.08), (start[1] + end[1]) / 2 + 0.06)
            line = _curve(start, bend, end, 6)
            canvas.stroke(canvas.marks, line[:3], 0.030, 0.055 * strength)
            canvas.stroke(canvas.marks, line[1:5], 0.019, 0.055 * strength)
            canvas.stroke(canvas.marks, line[3:], 0.012, 0.055 * strength)
            for twig in range(2):
                root = line[2 + 2 * twig]
                tip = (root[0] + sign * draw.uniform(0.02, 0.15), root[1] + draw.uniform(-0.13, 0.13))
                canvas.stroke(canvas.marks, [root, tip], 0.011, 0.045 * strength)


def _anatomy(canvas: Canvas) -> None:
    """Draw the body without any finding."""
    body, draw, layer, shift = canvas.body, canvas.draw, canvas.attenuation, canvas.body.shift
    u, v = canvas.u, canvas.v
    layer += _soft_tissue(canvas) + _trunk(canvas, *canvas.breath) + _ribs(canvas) + _spine(canvas, 0.0)
    layer += _heart(canvas)
    band = 0.15 + 0.05 * _smooth((v - 0.2) * 3.0)
    layer += _smooth((band - np.abs(u - shift)) * (1 / 0.05)) * _smooth((v + 0.05) * 6.0) * 0.07
    layer += _smooth((1.0 - canvas.ellipse(shift + 0.17, 0.28, 0.105, 0.075)) * 2.0) * 0.17     # aortic knob
    layer += _bump(canvas.ellipse(shift + 0.22, 0.44, 0.13, 0.10)) * 0.15                       # hila
    layer += _bump(canvas.ellipse(shift - 0.21, 0.49, 0.11, 0.14)) * 0.17
    windpipe = [(shift * 0.8, -0.4), (shift * 0.8 - 0.01, 0.05), (shift * 0.8 - 0.02, 0.35)]
    canvas.stroke(layer, windpipe, 0.07, -0.13)
    for sign, end in ((-1, (-0.19, 0.44)), (1, (0.22, 0.43))):
        canvas.stroke(layer, [windpipe[-1], (shift + end[0], end[1])], 0.04, -0.09)
        collar = _curve((shift * 1.5 + sign * 0.13, 0.10), (sign * 0.45, 0.09), (sign * 0.72, 0.00))
        collar += _curve(collar[-1], (sign * 0.9, -0.06), (sign * 1.12, -0.04))[1:]
        canvas.stroke(layer, collar, 0.045, 0.13)
        inward = 0.16 if "portable" in body.incidental else 0.0
        blade = [(sign * (1.08 - inward), 0.04), (sign * (0.86 - inward), 0.20), (sign * (0.95 - inward), 0.50)]
        canvas.stroke(layer, blade, 0.03, 0.07)
        canvas.stroke(layer, [(sign * 1.30, 0.06), (sign * 1.42, 0.6)], 0.11, 0.10)
        canvas.stroke(layer, [(sign * 1.26, 0.03), (sign * 1.27, 0.05)], 0.13, 0.12)
    canvas.stroke(layer, [(-0.93, 0.35), (-0.95, 1.15)], 0.03, 0.04)
    canvas.stroke(layer, [(0.93, 0.35), (0.95, 1.15)], 0.03, 0.04)
    size = draw.uniform(0.10, 0.2)
    bubble = canvas.ellipse(draw.uniform(0.36, 0.5), body.diaphragms[1] + 0.15, size, size * 0.5)
    layer -= _smooth((1.0 - bubble) * 3.0) * _smooth((v - canvas.dome - 0.03) * 20.0) * draw.uniform(0.15, 0.32)
    layer -= np.maximum(canvas.cloudy(9), 0.0) * _smooth((v - 1.1) * 6.0) * 0.12                # bowel gas
    layer += canvas.cloudy(18) * 0.012
    _vessels(canvas, draw)
    _incidental(canvas)


def _incidental(canvas: Canvas) -> None:
    """Draw what is not a finding of its own: worn spine, calcified arch, monitoring leads."""
    body, draw, layer, shift = canvas.body, canvas.draw, canvas.attenuation, canvas.body.shift
    if "degenerative_spine" in body.incidental:
        for disc in range(3, 11):
            for sign in (-1, 1):
                x, reach = shift * 1.3 + sign * 0.10, sign * draw.uniform(0.03, 0.07)
                canvas.stroke(layer, [(x, disc * 0.086), (x + reach, disc * 0.086 - 0.01)], 0.018, 0.22)
    if "aortic_calcification" in body.incidental:
        arc = _curve((shift + 0.13, 0.215), (shift + 0.31, 0.21), (shift + 0.265, 0.33))
        canvas.stroke(layer, arc, 0.014, 0.20)
    if "portable" in body.incidental:
        for start in ((-0.7, 0.15), (0.75, 0.18), (0.62, 0.93)):
            place = (start[0] + draw.uniform(-0.08, 0.08), start[1] + draw.uniform(-0.06, 0.06))
            wire = _curve(place, (place[0] * 0.6, place[1] + 0.35), (draw.uniform(0.9, 1.2), 1.4), 9)
            canvas.stroke(layer, [place, (place[0] + 0.001, place[1])], 0.045, 0.30)
            canvas.stroke(layer, wire, 0.011, 0.20)


# -------------------------------------------------------------------------------------------------- findings

def _signs(finding: Finding) -> tuple[int, ...]:
    return {"right": (-1,), "left": (1,)}.get(finding.side, (-1, 1))


def _place(finding: Finding, draw: Draw, sign: int) -> tuple[float, float]:
    """Body position of a lesion in its zone; on the left it stays beside the heart."""
    nearest = 0.60 if finding.zone == "lower" and sign > 0 else 0.42
    return sign * draw.uniform(nearest, 0.66), draw.uniform(*CENTRE_ZONE[finding.zone])


def _cardiomegaly(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    before = _heart(canvas)
    canvas.enlarged = 0.07 + 0.24 * finding.amount
    canvas.attenuation += _heart(canvas) - before


def _breathe(canvas: Canvas, *breath: float) -> None:
    """Replace the lungs' and diaphragm's shape."""
    before = _heart(canvas) + _trunk(canvas, *canvas.breath)
    canvas.breath = breath
    canvas.attenuation += _trunk(canvas, *breath) - before
    canvas.attenuation += _heart(canvas)


def _emphysema(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    amount = finding.amount
    _breathe(canvas, -0.05 * amount, -0.05 * amount, 0.30 + 0.65 * amount, 0.03 + 0.08 * amount)
    canvas.marks *= 1.0 - 0.6 * amount
    for _ in range(int(4.5 * amount)):
        sign = draw.choice((-1, 1))
        u, v, radius = sign * draw.uniform(0.4, 0.7), draw.uniform(0.14, 0.45), draw.uniform(0.09, 0.16)
        r2 = canvas.ellipse(u, v, radius, radius * 0.7)
        wall = _bump((r2 - 1.0) * (r2 - 1.0) * 8.0)
        canvas.attenuation += (wall * 0.11 - _smooth((1.0 - r2) * 2.0) * 0.07) * canvas.lung


def _fibrosis(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    v = canvas.v
    zone = {"upper": _smooth((0.46 - v) * 6.0), "lower": _smooth((v - 0.5) * 6.0), "diffuse": 1.0}[finding.zone]
    fine, coarse = np.abs(canvas.cloudy(46)), np.abs(canvas.cloudy(30))
    net = np.maximum(1.0 - fine * 3.2, 0.0) + np.maximum(1.0 - coarse * 4.0, 0.0)
    where = canvas.lung * zone * (0.55 + 0.45 * _smooth((canvas.p - 0.2) * 2.0))
    canvas.attenuation += where * (net * (0.07 + 0.13 * finding.amount) + 0.07 * finding.amount)


def _edema(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    amount = finding.amount
    cloud = _smooth(canvas.cloudy(24) * 0.5 + 0.4 + 0.3 * amount)
    for sign in (-1, 1):
        wing = _bump(canvas.ellipse(canvas.body.shift + sign * 0.36, 0.56, 0.48 + 0.10 * amount, 0.46))
        canvas.attenuation += wing * cloud * canvas.lung * (0.14 + 0.38 * amount)
        for _ in range(7):
            v = draw.uniform(0.62, 0.92)
            canvas.stroke(canvas.marks, [(sign * 0.89, v), (sign * 0.80, v + 0.004)], 0.011, 0.12)
    canvas.marks *= 1.2 + 0.4 * amount


def _consolidation(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    dense, sign = finding.severity == "dense", _signs(finding)[0]
    u, v = _place(finding, draw, sign)
    r2 = canvas.ellipse(u, v, draw.uniform(0.28, 0.36), draw.uniform(0.15, 0.20))
    noise = canvas.cloudy(20)
    if dense:
        canvas.attenuation += _smooth((1.0 - r2 + noise * 0.5) * 1.1) * canvas.lung * 0.33
        for _ in range(3):
            start = (u + draw.uniform(-0.12, 0.02), v + draw.uniform(-0.08, 0.05))
            end = (start[0] + sign * 0.12, start[1] + draw.uniform(0.0, 0.07))
            canvas.stroke(canvas.attenuation, [start, end], 0.014, -0.10)
    else:
        canvas.attenuation += _bump(r2 * 0.75) * _smooth(noise * 0.9 + 0.55) * canvas.lung * 0.30


def _atelectasis(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    for sign in _signs(finding):
        v = draw.uniform(0.74, 0.82) if finding.zone == "lower" else draw.uniform(0.48, 0.58)
        for band in range(1 if finding.severity == "mild" else 3):
            near = draw.uniform(0.50, 0.56) if sign > 0 and finding.zone == "lower" else draw.uniform(0.32, 0.4)
            height, slope = v - 0.06 * band, draw.uniform(-0.05, 0.05)
            line = _curve((sign * near, height), (sign * 0.6, height - 0.02), (sign * (near + 0.36), height + slope))
            canvas.stroke(canvas.attenuation, line, 0.022 + 0.006 * finding.amount, 0.24)


def _mass(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    radius = float(finding.size.split()[0]) / 30.0                     # u = 1 is about 15 cm, and half of the size
    u, v = _place(finding, draw, _signs(finding)[0])
    r2 = canvas.ellipse(u, v, radius, radius * canvas.body.half_width / canvas.body.lung_height)
    canvas.attenuation += _smooth((1.0 - r2 + canvas.cloudy(14) * 0.22) * 2.5) * 0.27


def _nodule(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    radius = float(finding.size.split()[0]) / 300.0
    u, v = _place(finding, draw, _signs(finding)[0])
    canvas.stroke(canvas.attenuation, [(u, v), (u + 0.001, v)], radius * 1.15, 0.34)


def _calcified_granuloma(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    u, v = _place(finding, draw, _signs(finding)[0])
    for _ in range(1 if finding.size == "single" else 4):
        canvas.stroke(canvas.attenuation, [(u, v), (u + 0.001, v)], draw.uniform(0.026, 0.034), 0.62)
        u, v = u + draw.choice((-1, 1)) * draw.uniform(0.06, 0.11), v + draw.uniform(-0.05, 0.05)


def _pleural_effusion(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    for sign in _signs(finding):
        level = 0.93 - 0.60 * finding.amount + draw.uniform(-0.02, 0.02)
        meniscus = level + 0.16 * _smooth((0.92 - canvas.p) * 1.7)
        fluid = _smooth((canvas.v - meniscus) * 12.0) * canvas.side(sign)
        canvas.attenuation += fluid * canvas.lung * 0.42 - _heart(canvas)
        canvas.lung = canvas.lung * (1.0 - fluid)
        canvas.attenuation += _heart(canvas)


def _pneumothorax(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    half = canvas.side(_signs(finding)[0]) * canvas.lung
    gap = canvas.edge - (0.07 + 0.40 * finding.amount) * (1.1 - 0.65 * np.maximum(canvas.v, 0.0))
    rim = _smooth(gap * -60.0) * half
    canvas.attenuation += _bump(gap * gap * 1600.0) * half * 0.20 - rim * 0.09
    canvas.attenuation += (half - rim) * (0.02 + 0.14 * finding.amount)
    canvas.marks *= 1.0 - rim


def _sternotomy_wires(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    for wire in range(5):
        u, v = canvas.body.shift * 0.6 + draw.uniform(-0.01, 0.01), 0.20 + 0.12 * wire + draw.uniform(-0.01, 0.01)
        left, right = (u - 0.045, v), (u + 0.045, v)
        ring = _curve(left, (u, v - 0.06), right, 4) + _curve(right, (u, v + 0.06), left, 4)
        canvas.stroke(canvas.attenuation, ring, 0.014, 0.50)


def _endotracheal_tube(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    u, tip = canvas.body.shift * 0.8, {"high": 0.03, "mid": 0.17, "low": 0.31}[finding.zone]
    line = [(u + 0.01, -0.5), (u, 0.0), (u - 0.01, tip + draw.uniform(-0.02, 0.02))]
    canvas.stroke(canvas.attenuation, line, 0.040, 0.34)
    canvas.stroke(canvas.attenuation, line, 0.016, -0.16)


def _enteric_tube(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    u = canvas.body.shift
    line = [(u + 0.05, -0.5), (u + 0.04, 0.1)]
    if finding.zone == "stomach":
        line += [(u + 0.03, 0.6), (u + 0.07, 0.9), *_curve((u + 0.07, 0.9), (0.20, 1.16), (0.5, 1.08))]
    else:
        line += [(u + 0.03, draw.uniform(0.55, 0.66))]
    canvas.stroke(canvas.attenuation, line, 0.018, 0.42)


def _to_cava(canvas: Canvas, start, bend, tip: float) -> list[tuple[float, float]]:
    """A catheter's way from `start` to the superior vena cava, ending at v = `tip`."""
    cava = canvas.body.shift - 0.11
    return [*_curve(start, bend, (cava, 0.22)), (cava - 0.01, tip)]


def _central_line(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    sign, tip = _signs(finding)[0], draw.uniform(0.40, 0.52)
    starts = {"jugular": ((sign * 0.24, -0.5), (sign * 0.20, 0.10)),
              "subclavian": ((sign * 0.85, 0.12), (sign * 0.45, 0.00)),
              "picc": ((sign * 0.85, 0.12), (sign * 0.45, 0.00))}
    line = _to_cava(canvas, *starts[finding.zone], tip)
    if finding.zone == "picc":
        line = _curve((sign * 1.45, 0.8), (sign * 1.15, 0.15), (sign * 0.85, 0.12)) + line[1:]
    canvas.stroke(canvas.attenuation, line, 0.016, 0.45)


def _port(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    sign = _signs(finding)[0]
    place = (sign * draw.uniform(0.60, 0.68), draw.uniform(0.20, 0.26))
    canvas.stroke(canvas.attenuation, [place, (place[0] + 0.001, place[1])], 0.085, 0.75)
    line = _curve(place, (sign * 0.5, 0.02), (sign * 0.3, 0.03))
    canvas.stroke(canvas.attenuation, line + _to_cava(canvas, line[-1], (sign * 0.12, 0.06), 0.47)[1:], 0.016, 0.45)


def _pacemaker(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    sign, shift = _signs(finding)[0], canvas.body.shift
    u, v = sign * draw.uniform(0.68, 0.76), draw.uniform(0.17, 0.23)
    du, dv = (canvas.u - u) * (1 / 0.14), (canvas.v - v) * (1 / 0.075)
    canvas.attenuation += _smooth((1.0 - du * du * du * du - dv * dv * dv * dv) * 3.0) * 0.60
    path = _to_cava(canvas, (u, v - 0.05), (sign * 0.4, -0.02), 0.50)
    ventricle = _curve(path[-1], (shift - 0.12, 0.86), (shift + 0.34, 0.84))
    canvas.stroke(canvas.attenuation, path + ventricle[1:], 0.016, 0.45)
    if finding.size == "dual-lead":
        atrium = _curve(path[-1], (shift - 0.16, 0.72), (shift - 0.02, 0.60))
        canvas.stroke(canvas.attenuation, path + atrium[1:], 0.016, 0.45)


PAINTERS = {
    "cardiomegaly": _cardiomegaly, "emphysema": _emphysema, "fibrosis": _fibrosis, "edema": _edema,
    "consolidation": _consolidation, "atelectasis": _atelectasis, "mass": _mass, "nodule": _nodule,
    "calcified_granuloma": _calcified_granuloma, "pleural_effusion": _pleural_effusion,
    "pneumothorax": _pneumothorax, "sternotomy_wires": _sternotomy_wires, "endotracheal_tube": _endotracheal_tube,
    "enteric_tube": _enteric_tube, "central_line": _central_line, "port": _port, "pacemaker": _pacemaker,
}


# ---------------------------------------------------------------------------------------------------- studies

def _expose(canvas: Canvas, draw: Draw) -> np.ndarray:
    """Gray levels (H, W) uint8: film curve, side marker, collimation, noise."""
    body, noise = canvas.body, draw.grid(canvas.body.height, WIDTH)
    dense = np.maximum(canvas.attenuation + canvas.marks * canvas.lung, 0.015)
    dense = dense * (body.exposure * (1.0 - 0.13 * body.fat))
    gray = dense / (dense + body.film) * (232.0 * (1.0 + body.film))
    gray = np.minimum(gray, 252.0) + noise * body.noise
    x, y = int(WIDTH * draw.uniform(0.90, 0.95)), int(10 + 14 * draw.uniform())
    gray[y:y + 9, x:x + 2] = gray[y + 7:y + 9, x:x + 6] = 250.0                     # the letter L
    if draw.chance(0.4):
        left, top = draw.integer(7), draw.integer(7)
        gray[:, :left] = gray[:, WIDTH - draw.integer(7):] = gray[:top] = gray[body.height - draw.integer(9):] = 4.0
    return np.floor(np.minimum(np.maximum(gray, 0.0), 255.0) + 0.5).astype(np.uint8)


def _box(canvas: Canvas, finding: Finding, before: np.ndarray) -> Box:
    """The rectangle around all that a finding changed."""
    seen = np.abs(canvas.attenuation + canvas.marks * canvas.lung - before) > VISIBLE
    x, y, height = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1)), canvas.body.height
    corners = x[0] / WIDTH, y[0] / height, (x[-1] + 1) / WIDTH, (y[-1] + 1) / height
    return Box(finding.label, finding.side, finding.zone, finding.size, finding.severity, *map(float, corners))


def draw_findings(seed: int, index: int, findings: list[Finding]) -> tuple[np.ndarray, tuple[Box, ...]]:
    """The study's body with these findings: pixels (H, W) uint8 and a box for each finding."""
    canvas = Canvas(_body(seed, index), Draw(seed, TEXTURE, 64 * index))
    _anatomy(canvas)
    boxes = []
    for finding in findings:
        plain = canvas.attenuation.copy()
        before = plain + canvas.marks * canvas.lung
        canvas.draw = Draw(seed, TEXTURE, 64 * index + 2 + list(KINDS).index(finding.label))
        PAINTERS[finding.label](canvas, finding, canvas.draw)
        canvas.attenuation = plain + (canvas.attenuation - plain) * FINDING_CONTRAST
        boxes.append(_box(canvas, finding, before))
    return _expose(canvas, Draw(seed, TEXTURE, 64 * index + 1)), tuple(boxes)


def make_study(seed: int, index: int, findings: str = "all") -> PhantomStudy:
    """Study number `index` (from 0) of the data set with this seed; nothing else decides what is in it.

    findings: 'all', or 'one-small-lesion'; then the report is silent on the rest of the body, and the label says where.
    """
    patient, split = _patient(seed, index)
    if findings == "all":
        found, mentioned = make_findings(seed, index), _body(seed, index).incidental
        labels = tuple(finding.label for finding in found)
    else:
        found, mentioned = one_small_lesion(seed, index), ()
        labels = tuple(f"nodule_{finding.side}_{finding.zone}" for finding in found)
    pixels, boxes = draw_findings(seed, index, found)
    text = phantom_report.write_report(Draw(seed, REPORT, index), found, mentioned)
    return PhantomStudy(
        f"ph{index:06d}", f"study{index:06d}", f"patient{patient:06d}", split, pixels, *text, labels, boxes,
    )


# ------------------------------------------------------------------------------------------------------ files

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
