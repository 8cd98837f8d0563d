"""The phantom's body without findings: its measures, the canvas it is drawn on, the anatomy, and the film that comes of
it. Pixels come only from elementwise arithmetic that IEEE rounds exactly (see phantom.py).

Body coordinates: `u` runs from -1 (the patient's right, left in the image) to +1 at the outer lung borders, `v` from
0 at the lung apex to about 1 at the diaphragm. Attenuation is about 0 in air, 0.2 in lung, 0.6 in the heart, 1 in
the abdomen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data_prep.phantom_case import PATIENT, STUDY, Draw, make_findings, patient_of

WIDTH, HEIGHTS = 256, (224, 304)            # pixels; the height varies from study to study
NOISE = (1.0, 3.0)                           # standard deviation, gray levels
EXPOSURE = (0.94, 1.07)                      # factor on attenuation
FILM = (0.65, 0.9)                           # film curve; smaller is more contrast in the dark parts
LARGE_HABITUS, LOW_VOLUMES, ROTATED, PORTABLE, OLD = 0.15, 0.12, 0.12, 0.15, 0.20   # shares


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


def body_of(seed: int, index: int) -> Body:
    """The body of a study: the patient's measures, and those of the day."""
    patient, study = Draw(seed, PATIENT, patient_of(seed, index)[0]), Draw(seed, STUDY, index)
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
        fy, fx = smooth(rows - np.floor(rows))[:, None], smooth(columns - np.floor(columns))[None, :]
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


def trunk_of(canvas: Canvas, right_rise: float, left_rise: float, flat: float, air: float) -> np.ndarray:
    """Attenuation (H, W) that lungs take away and the abdomen adds; sets `canvas.lung`. Rises are in v."""
    u, v, p, body = canvas.u, canvas.v, canvas.p, canvas.body
    low = np.minimum(np.maximum(v * (1 / 0.62), 0.0), 1.0)
    outer = 0.30 + 0.64 * np.sqrt(1.0 - (1.0 - low) * (1.0 - low)) - 0.05 * np.maximum(v - 0.62, 0.0)
    top = v - (p - 0.36) * (p - 0.36) * 0.9
    canvas.outer, canvas.edge = outer, np.minimum(outer - p, top * 1.2)
    right, left = body.diaphragms[0] - right_rise, body.diaphragms[1] - left_rise
    dome = right + (left - right) * smooth((u - body.shift + 0.15) * (1 / 0.3))
    canvas.dome = dome + (p - 0.42) * (p - 0.42) * (0.58 * (1.0 - flat)) + 0.09 * flat
    inner = 0.13 + 0.07 * np.maximum(1.0 - v * 3.0, 0.0)
    canvas.lung = (
        smooth((outer - p) * (1 / 0.07)) * smooth(top * (1 / 0.05)) * smooth((canvas.dome - v) * (1 / 0.045))
        * smooth((np.abs(u - body.shift) - inner) * (1 / 0.06))
    )
    depth = 0.72 + 0.28 * smooth((outer - p) * (1 / 0.4))
    abdomen = smooth((v - canvas.dome) * (1 / 0.06)) * smooth((1.12 - p) * (1 / 0.15)) * 0.33
    return abdomen - canvas.lung * depth * (0.41 + air)


def _spine(canvas: Canvas, bend: float) -> np.ndarray:
    """Attenuation (H, W) of the vertebral column; `bend` is the sideways excursion in u."""
    v = canvas.v
    arc = np.maximum(1.0 - (v - 0.5) * (v - 0.5) * (1 / 0.42), 0.0)
    across = np.abs(canvas.u - canvas.body.shift * 1.3 - arc * arc * bend)
    level = v * (1 / 0.086)
    phase = np.abs(level - np.floor(level) - 0.5) * 2.0                # 0 in the middle of a body, 1 in the disc
    body = smooth((0.105 - across) * (1 / 0.025)) * (0.08 + 0.06 * smooth((0.8 - phase) * 4.0))
    du, dv = (across - 0.06) * (1 / 0.025), phase * 2.2
    return body + bump(du * du + dv * dv) * 0.06


def heart_of(canvas: Canvas) -> np.ndarray:
    """Attenuation (H, W) that the heart adds: most where it lies in the lung."""
    half, extra = canvas.body.heart + canvas.enlarged, canvas.enlarged
    u = canvas.u - canvas.body.shift - half * 0.42
    v = canvas.v - 0.70 - u * 0.30
    r2 = u * u * (1.0 / (half * half)) + v * v * (1.0 / ((0.25 + 0.35 * extra) * (0.25 + 0.35 * extra)))
    inside = np.maximum(1.0 - r2, 0.0)
    return smooth(inside * 4.0) * (0.26 + 0.10 * inside) * (0.30 + 0.70 * canvas.lung)


def _ribs(canvas: Canvas) -> np.ndarray:
    """Attenuation (H, W) of posterior and anterior ribs: periodic bands along an arched coordinate."""
    v, p = canvas.v, canvas.p
    rows = (v - canvas.arch(p)) * (1 / 0.092)
    gap = np.abs(rows - np.floor(rows) - 0.5) * 2.0                    # 0 in the middle of a rib
    back = smooth((0.56 - gap) * 5.0) * (0.065 + 0.055 * smooth((gap - 0.2) * 4.0))
    rows = (v - (0.95 - p) * 0.36 - (0.95 - p) * (0.95 - p) * 0.2) * (1 / 0.112)
    gap = np.abs(rows - np.floor(rows) - 0.5) * 2.0
    front = smooth((0.50 - gap) * 4.0) * smooth((p - 0.36) * 4.0) * smooth((v - 0.12) * 8.0) * 0.035
    cage = smooth((canvas.outer + 0.05 - p) * 25.0) * smooth((v + 0.02) * 20.0) * smooth((1.15 - v) * 8.0)
    away = smooth((p - 0.10) * 12.0)
    return (back + front) * cage * away * (0.75 + 0.5 * p * p)


def _soft_tissue(canvas: Canvas) -> np.ndarray:
    """Attenuation (H, W) of neck, shoulders, arms, chest wall and breasts."""
    v, p, body = canvas.v, canvas.p, canvas.body
    slope = np.maximum(p - 0.26, 0.0)
    shoulder = smooth((v + 0.30 - slope * 0.20 - slope * slope * slope * 0.10) * (1 / 0.05))
    width = 1.07 + 0.22 * body.fat + 0.10 * smooth((v - 0.8) * 2.0)
    torso = shoulder * smooth((width + 0.7 * smooth((0.50 - v) * 2.2) - p) * (1 / 0.07))
    arm = shoulder * bump((p - 1.52 - 0.25 * v) * (p - 1.52 - 0.25 * v) * (1 / 0.09))
    neck = smooth((0.36 + 0.10 * body.fat - p) * (1 / 0.16))
    layer = np.maximum(np.maximum(torso, arm * 0.8), neck * 0.85) * (0.50 + 0.13 * body.fat)
    layer = layer + bump((p - 1.05) * (p - 1.05) * 8.0 + (v - 0.12) * (v - 0.12) * 14.0) * 0.10
    if body.breast:
        for sign in (-1, 1):
            r2 = canvas.ellipse(sign * 0.55, 0.74, 0.46, 0.30 + 0.05 * body.fat)
            layer += smooth((1.0 - r2) * 5.0) * (0.03 + 0.10 * smooth((v - 0.5) * 2.2)) * body.breast
    return layer * (0.92 + 0.08 * smooth((v - 0.1) * 1.5))


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
            line = curve(start, bend, end, 6)
            canvas.stroke(canvas.marks, line[:3], 0.030, 0.055 * strength)
            canvas.stroke(canvas.marks, line[1:5], 0.019, 0.055 * strength)
            canvas.stroke(canvas.marks, line[3:], 0.012, 0.055 * strength)
            for twig in range(2):
                root = line[2 + 2 * twig]
                tip = (root[0] + sign * draw.uniform(0.02, 0.15), root[1] + draw.uniform(-0.13, 0.13))
                canvas.stroke(canvas.marks, [root, tip], 0.011, 0.045 * strength)


def draw_anatomy(canvas: Canvas) -> None:
    """Draw the body without any finding."""
    body, draw, layer, shift = canvas.body, canvas.draw, canvas.attenuation, canvas.body.shift
    u, v = canvas.u, canvas.v
    layer += _soft_tissue(canvas) + trunk_of(canvas, *canvas.breath) + _ribs(canvas) + _spine(canvas, 0.0)
    layer += heart_of(canvas)
    band = 0.15 + 0.05 * smooth((v - 0.2) * 3.0)
    layer += smooth((band - np.abs(u - shift)) * (1 / 0.05)) * smooth((v + 0.05) * 6.0) * 0.07
    layer += smooth((1.0 - canvas.ellipse(shift + 0.17, 0.28, 0.105, 0.075)) * 2.0) * 0.17     # aortic knob
    layer += bump(canvas.ellipse(shift + 0.22, 0.44, 0.13, 0.10)) * 0.15                       # hila
    layer += bump(canvas.ellipse(shift - 0.21, 0.49, 0.11, 0.14)) * 0.17
    windpipe = [(shift * 0.8, -0.4), (shift * 0.8 - 0.01, 0.05), (shift * 0.8 - 0.02, 0.35)]
    canvas.stroke(layer, windpipe, 0.07, -0.13)
    for sign, end in ((-1, (-0.19, 0.44)), (1, (0.22, 0.43))):
        canvas.stroke(layer, [windpipe[-1], (shift + end[0], end[1])], 0.04, -0.09)
        collar = curve((shift * 1.5 + sign * 0.13, 0.10), (sign * 0.45, 0.09), (sign * 0.72, 0.00))
        collar += curve(collar[-1], (sign * 0.9, -0.06), (sign * 1.12, -0.04))[1:]
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
    layer -= smooth((1.0 - bubble) * 3.0) * smooth((v - canvas.dome - 0.03) * 20.0) * draw.uniform(0.15, 0.32)
    layer -= np.maximum(canvas.cloudy(9), 0.0) * smooth((v - 1.1) * 6.0) * 0.12                # bowel gas
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
        arc = curve((shift + 0.13, 0.215), (shift + 0.31, 0.21), (shift + 0.265, 0.33))
        canvas.stroke(layer, arc, 0.014, 0.20)
    if "portable" in body.incidental:
        for start in ((-0.7, 0.15), (0.75, 0.18), (0.62, 0.93)):
            place = (start[0] + draw.uniform(-0.08, 0.08), start[1] + draw.uniform(-0.06, 0.06))
            wire = curve(place, (place[0] * 0.6, place[1] + 0.35), (draw.uniform(0.9, 1.2), 1.4), 9)
            canvas.stroke(layer, [place, (place[0] + 0.001, place[1])], 0.045, 0.30)
            canvas.stroke(layer, wire, 0.011, 0.20)


def expose(canvas: Canvas, draw: Draw) -> np.ndarray:
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
