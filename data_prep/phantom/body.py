"""The phantom's body before anything is drawn: its measures, and the canvas it is drawn on.

Pixels come only from elementwise arithmetic that IEEE rounds exactly (see files.py). Body coordinates: `u` runs from -1
(the patient's right, left in the image) to +1 at the outer lung borders, `v` from 0 at the lung apex to about 1 at the
diaphragm. Not here: what is drawn (anatomy.py, findings.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .case import PATIENT, STUDY, Draw, make_findings, patient_of

WIDTH, HEIGHTS = 256, (224, 304)  # pixels; the height varies from study to study
NOISE = (1.0, 3.0)  # standard deviation, gray levels
EXPOSURE = (0.94, 1.07)  # factor on attenuation
FILM = (0.65, 0.9)  # film curve; smaller is more contrast in the dark parts
LARGE_HABITUS, LOW_VOLUMES, ROTATED, PORTABLE, OLD = 0.15, 0.12, 0.12, 0.15, 0.20  # shares


def smooth(t: np.ndarray) -> np.ndarray:
    """From 0 at t ≤ 0 to 1 at t ≥ 1, without a corner."""
    t = np.minimum(np.maximum(t, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


def bump(r2: np.ndarray) -> np.ndarray:
    """1 at r2 = 0, falling smoothly to 0 at r2 = 1."""
    inside = np.maximum(1.0 - r2, 0.0)
    return inside * inside


def curve(a, b, c, steps: int = 7) -> list[tuple[float, float]]:
    """Points of the quadratic Bézier curve from `a` to `c`, drawn towards `b`."""
    ts = [i / steps for i in range(steps + 1)]
    return [
        tuple((1 - t) * (1 - t) * a[k] + 2 * t * (1 - t) * b[k] + t * t * c[k] for k in (0, 1))
        for t in ts
    ]


@dataclass(frozen=True)
class Body:
    """The patient and the way the picture was taken; lengths in pixels or in body coordinates."""

    height: int
    centre_x: float
    top_y: float
    half_width: float  # pixels for u = 1
    lung_height: float  # pixels for v = 1
    tilt: float
    shift: float  # u of the mediastinum: rotation
    fat: float  # 0 thin .. 1 large
    breast: float
    heart: float  # u, half of the heart's width
    diaphragms: tuple[float, float]  # v of the right and left dome
    incidental: tuple[str, ...]  # what a report may mention beside the findings
    exposure: float
    film: float
    noise: float
    # how the hard phantom differs (hard.py); the easy one has these
    turn: float = 0.0  # slope of the whole body in the picture
    heel: tuple[float, float] = (0.0, 0.0)  # exposure's change per u and per v
    spread: float = 0.0  # in u and v, how much further from its usual place a finding may lie
    lesion: float = 1.0  # factor on the size of a consolidation
    granule: float = 1.0  # factor on the size of a granuloma


@dataclass(frozen=True)
class _Patient:
    """What stays the same from one study of a patient to the next; as in Body."""

    large: bool
    fat: float
    breast: float
    heart: float
    diaphragms: tuple[float, float]
    old: bool
    calcified: bool
    half_width: float


def _draw_patient(draw: Draw) -> _Patient:
    large = draw.chance(LARGE_HABITUS)
    fat = draw.uniform(0.65, 1.0) if large else draw.uniform(0.0, 0.45)
    breast = draw.uniform(0.5, 1.0) if draw.chance(0.5) else 0.0
    heart = draw.uniform(0.375, 0.415)
    domes = (draw.uniform(0.87, 0.90), draw.uniform(0.92, 0.95))
    old, arch = draw.chance(OLD), draw.uniform()
    half_width = WIDTH * (draw.uniform(0.345, 0.385) if large else draw.uniform(0.385, 0.43))
    return _Patient(large, fat, breast, heart, domes, old, old and arch < 0.6, half_width)


def body_of(seed: int, index: int) -> Body:
    """The body of a study: the patient's measures, and those of the day."""
    patient = _draw_patient(Draw(seed, PATIENT, patient_of(seed, index)[0]))
    study = Draw(seed, STUDY, index)
    low, rotated = study.chance(LOW_VOLUMES), study.chance(ROTATED)
    portable = study.chance(PORTABLE)
    low = low and not any(finding.label == "emphysema" for finding in make_findings(seed, index))
    height = HEIGHTS[0] + study.integer(HEIGHTS[1] - HEIGHTS[0] + 1)
    ratio = study.uniform(1.18, 1.32) if low else study.uniform(1.58, 1.85)
    lung_height = min(patient.half_width * ratio, 0.76 * height)
    top_y = study.uniform(0.09, 0.15) * height + (0.08 * height if low else 0.0)
    reach = (0.085, 0.13) if rotated else (-0.02, 0.02)
    shift = (study.choice((-1, 1)) if rotated else 1) * study.uniform(*reach)
    seen = {
        "large_habitus": patient.large,
        "low_volumes": low,
        "portable": portable,
        "rotated_left" if shift > 0 else "rotated_right": rotated,
        "degenerative_spine": patient.old,
        "aortic_calcification": patient.calcified,
    }
    return Body(  # in this order: what follows is drawn as it is named
        height=height,
        centre_x=WIDTH * study.uniform(0.48, 0.52),
        top_y=min(top_y, height - 1.16 * lung_height),
        half_width=patient.half_width,
        lung_height=lung_height,
        tilt=study.uniform(-0.06, 0.06),
        shift=shift,
        fat=patient.fat,
        breast=patient.breast,
        heart=patient.heart,
        diaphragms=patient.diaphragms,
        incidental=tuple(name for name, there in seen.items() if there),
        exposure=study.uniform(*EXPOSURE),
        film=study.uniform(*FILM),
        noise=study.uniform(*NOISE),
    )


class Canvas:
    """A radiograph while it is drawn.

    `attenuation` (H, W) is what the rays meet; `marks` (H, W) holds the vessels, seen only where `lung` (H, W, 0..1)
    has air; `u` (H, W) and `v` (H, 1; H, W in a turned picture) are body coordinates of the pixels. All float32.
    """

    def __init__(self, body: Body, draw: Draw):
        self.body, self.draw = body, draw
        rows = np.arange(body.height, dtype=np.float32)[:, None]
        columns = np.arange(WIDTH, dtype=np.float32)[None, :]
        down, across = rows - body.top_y, columns - body.centre_x
        self.cos = 1.0 / math.sqrt(1.0 + body.turn * body.turn)
        self.sin = body.turn * self.cos
        if body.turn:
            down, across = (
                down * self.cos - across * self.sin,
                across * self.cos + down * self.sin,
            )
        self.v = down / body.lung_height
        self.u = across / body.half_width - (self.v - 0.5) * body.tilt
        self.p = np.abs(self.u)
        self.attenuation = np.zeros((body.height, WIDTH), np.float32)
        self.marks = np.zeros_like(self.attenuation)
        self.lung = self.attenuation
        self.breath = (
            0.0,
            0.0,
            0.0,
            0.0,
        )  # right rise, left rise, flatness, extra air: see trunk_of
        self.enlarged = 0.0  # u, added to the heart's half width

    def xy(self, u: float, v: float) -> tuple[float, float]:
        """Pixel position of a body position."""
        body = self.body
        across, down = body.half_width * (u + (v - 0.5) * body.tilt), body.lung_height * v
        x = body.centre_x + (across * self.cos - down * self.sin)
        return x, body.top_y + (down * self.cos + across * self.sin)

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
        rows, columns = (
            np.arange(height, dtype=np.float32) / step,
            np.arange(WIDTH, dtype=np.float32) / step,
        )
        grid = self.draw.grid(int(height / step) + 2, cells + 2)
        i, j = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
        fy, fx = (
            smooth(rows - np.floor(rows))[:, None],
            smooth(columns - np.floor(columns))[None, :],
        )
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

    def arch(self, p):
        return (p - 0.3) * (p - 0.3) * 0.32 + p * p * p * p * 0.10 - 0.03
