"""The phantom's anatomy without findings, drawn onto a Canvas, and the film that comes of it.

Coordinates and arithmetic as in body.py. Attenuation is about 0 in air, 0.2 in lung, 0.6 in the heart, 1 in the
abdomen. Not here: what is found in it (findings.py).
"""

from __future__ import annotations

import numpy as np

from .body import WIDTH, Canvas, bump, curve, smooth
from .case import Draw


def trunk_of(
    canvas: Canvas, right_rise: float, left_rise: float, flat: float, air: float
) -> np.ndarray:
    """Attenuation (H, W) that lungs take away and the abdomen adds; sets `canvas.lung`. Rises are in v."""
    u, v, p, body = canvas.u, canvas.v, canvas.p, canvas.body
    low = np.minimum(np.maximum(v * (1 / 0.62), 0.0), 1.0)
    outer = (
        0.30 + 0.64 * np.sqrt(1.0 - (1.0 - low) * (1.0 - low)) - 0.05 * np.maximum(v - 0.62, 0.0)
    )
    top = v - (p - 0.36) * (p - 0.36) * 0.9
    canvas.outer, canvas.edge = outer, np.minimum(outer - p, top * 1.2)
    right, left = body.diaphragms[0] - right_rise, body.diaphragms[1] - left_rise
    dome = right + (left - right) * smooth((u - body.shift + 0.15) * (1 / 0.3))
    canvas.dome = dome + (p - 0.42) * (p - 0.42) * (0.58 * (1.0 - flat)) + 0.09 * flat
    inner = 0.13 + 0.07 * np.maximum(1.0 - v * 3.0, 0.0)
    canvas.lung = (
        smooth((outer - p) * (1 / 0.07))
        * smooth(top * (1 / 0.05))
        * smooth((canvas.dome - v) * (1 / 0.045))
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
    phase = np.abs(level - np.floor(level) - 0.5) * 2.0  # 0 in the middle of a body, 1 in the disc
    body = smooth((0.105 - across) * (1 / 0.025)) * (0.08 + 0.06 * smooth((0.8 - phase) * 4.0))
    du, dv = (across - 0.06) * (1 / 0.025), phase * 2.2
    return body + bump(du * du + dv * dv) * 0.06


def heart_of(canvas: Canvas) -> np.ndarray:
    """Attenuation (H, W) that the heart adds: most where it lies in the lung."""
    half, extra = canvas.body.heart + canvas.enlarged, canvas.enlarged
    u = canvas.u - canvas.body.shift - half * 0.42
    v = canvas.v - 0.70 - u * 0.30
    r2 = u * u * (1.0 / (half * half)) + v * v * (
        1.0 / ((0.25 + 0.35 * extra) * (0.25 + 0.35 * extra))
    )
    inside = np.maximum(1.0 - r2, 0.0)
    return smooth(inside * 4.0) * (0.26 + 0.10 * inside) * (0.30 + 0.70 * canvas.lung)


def _ribs(canvas: Canvas) -> np.ndarray:
    """Attenuation (H, W) of posterior and anterior ribs: periodic bands along an arched coordinate."""
    v, p = canvas.v, canvas.p
    rows = (v - canvas.arch(p)) * (1 / 0.092)
    gap = np.abs(rows - np.floor(rows) - 0.5) * 2.0  # 0 in the middle of a rib
    back = smooth((0.56 - gap) * 5.0) * (0.065 + 0.055 * smooth((gap - 0.2) * 4.0))
    rows = (v - (0.95 - p) * 0.36 - (0.95 - p) * (0.95 - p) * 0.2) * (1 / 0.112)
    gap = np.abs(rows - np.floor(rows) - 0.5) * 2.0
    front = smooth((0.50 - gap) * 4.0) * smooth((p - 0.36) * 4.0) * smooth((v - 0.12) * 8.0) * 0.035
    cage = (
        smooth((canvas.outer + 0.05 - p) * 25.0)
        * smooth((v + 0.02) * 20.0)
        * smooth((1.15 - v) * 8.0)
    )
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
            layer += (
                smooth((1.0 - r2) * 5.0) * (0.03 + 0.10 * smooth((v - 0.5) * 2.2)) * body.breast
            )
    return layer * (0.92 + 0.08 * smooth((v - 0.1) * 1.5))


VESSELS = (
    (0.42, 0.08),
    (0.55, 0.13),
    (0.68, 0.22),
    (0.80, 0.36),
    (0.85, 0.50),
    (0.86, 0.64),
    (0.80, 0.78),
    (0.68, 0.86),
    (0.52, 0.86),
    (0.38, 0.86),
)


def _vessels(canvas: Canvas, draw: Draw) -> None:
    """Bronchovascular markings, from each hilum to ten places near the pleura."""
    crowded = 1.45 if "low_volumes" in canvas.body.incidental else 1.0
    strength = draw.uniform(0.8, 1.2) * crowded
    for sign, (near, level) in ((-1, (0.21, 0.48)), (1, (0.24, 0.45))):
        for p, v in VESSELS:
            start = (canvas.body.shift + sign * near, level + (v - level) * 0.25)
            end = (sign * (p + draw.uniform(-0.06, 0.06)), v + draw.uniform(-0.05, 0.05))
            bend = (
                (start[0] + end[0]) / 2 + draw.uniform(-0.08, 0.08),
                (start[1] + end[1]) / 2 + 0.06,
            )
            line = curve(start, bend, end, 6)
            canvas.stroke(canvas.marks, line[:3], 0.030, 0.055 * strength)
            canvas.stroke(canvas.marks, line[1:5], 0.019, 0.055 * strength)
            canvas.stroke(canvas.marks, line[3:], 0.012, 0.055 * strength)
            for twig in range(2):
                root = line[2 + 2 * twig]
                tip = (
                    root[0] + sign * draw.uniform(0.02, 0.15),
                    root[1] + draw.uniform(-0.13, 0.13),
                )
                canvas.stroke(canvas.marks, [root, tip], 0.011, 0.045 * strength)


def draw_anatomy(canvas: Canvas) -> None:
    """Draw the body without any finding."""
    body, draw, layer, shift = canvas.body, canvas.draw, canvas.attenuation, canvas.body.shift
    u, v = canvas.u, canvas.v
    layer += (
        _soft_tissue(canvas)
        + trunk_of(canvas, *canvas.breath)
        + _ribs(canvas)
        + _spine(canvas, 0.0)
    )
    layer += heart_of(canvas)
    band = 0.15 + 0.05 * smooth((v - 0.2) * 3.0)
    layer += smooth((band - np.abs(u - shift)) * (1 / 0.05)) * smooth((v + 0.05) * 6.0) * 0.07
    layer += (
        smooth((1.0 - canvas.ellipse(shift + 0.17, 0.28, 0.105, 0.075)) * 2.0) * 0.17
    )  # aortic knob
    layer += bump(canvas.ellipse(shift + 0.22, 0.44, 0.13, 0.10)) * 0.15  # hila
    layer += bump(canvas.ellipse(shift - 0.21, 0.49, 0.11, 0.14)) * 0.17
    windpipe = [(shift * 0.8, -0.4), (shift * 0.8 - 0.01, 0.05), (shift * 0.8 - 0.02, 0.35)]
    canvas.stroke(layer, windpipe, 0.07, -0.13)
    for sign, end in ((-1, (-0.19, 0.44)), (1, (0.22, 0.43))):
        canvas.stroke(layer, [windpipe[-1], (shift + end[0], end[1])], 0.04, -0.09)
        collar = curve((shift * 1.5 + sign * 0.13, 0.10), (sign * 0.45, 0.09), (sign * 0.72, 0.00))
        collar += curve(collar[-1], (sign * 0.9, -0.06), (sign * 1.12, -0.04))[1:]
        canvas.stroke(layer, collar, 0.045, 0.13)
        inward = 0.16 if "portable" in body.incidental else 0.0
        blade = [
            (sign * (1.08 - inward), 0.04),
            (sign * (0.86 - inward), 0.20),
            (sign * (0.95 - inward), 0.50),
        ]
        canvas.stroke(layer, blade, 0.03, 0.07)
        canvas.stroke(layer, [(sign * 1.30, 0.06), (sign * 1.42, 0.6)], 0.11, 0.10)
        canvas.stroke(layer, [(sign * 1.26, 0.03), (sign * 1.27, 0.05)], 0.13, 0.12)
    canvas.stroke(layer, [(-0.93, 0.35), (-0.95, 1.15)], 0.03, 0.04)
    canvas.stroke(layer, [(0.93, 0.35), (0.95, 1.15)], 0.03, 0.04)
    size = draw.uniform(0.10, 0.2)
    bubble = canvas.ellipse(draw.uniform(0.36, 0.5), body.diaphragms[1] + 0.15, size, size * 0.5)
    layer -= (
        smooth((1.0 - bubble) * 3.0)
        * smooth((v - canvas.dome - 0.03) * 20.0)
        * draw.uniform(0.15, 0.32)
    )
    layer -= np.maximum(canvas.cloudy(9), 0.0) * smooth((v - 1.1) * 6.0) * 0.12  # bowel gas
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
                canvas.stroke(
                    layer, [(x, disc * 0.086), (x + reach, disc * 0.086 - 0.01)], 0.018, 0.22
                )
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
    if body.heel != (0.0, 0.0):
        dense = dense * (1.0 + body.heel[0] * canvas.u + body.heel[1] * (canvas.v - 0.5))
    gray = dense / (dense + body.film) * (232.0 * (1.0 + body.film))
    gray = np.minimum(gray, 252.0) + noise * body.noise
    x, y = int(WIDTH * draw.uniform(0.90, 0.95)), int(10 + 14 * draw.uniform())
    gray[y : y + 9, x : x + 2] = gray[y + 7 : y + 9, x : x + 6] = 250.0  # the letter L
    if draw.chance(0.4):
        left, top = draw.integer(7), draw.integer(7)
        right, bottom = WIDTH - draw.integer(7), body.height - draw.integer(9)
        for edge in (np.s_[:, :left], np.s_[:, right:], np.s_[:top], np.s_[bottom:]):
            gray[edge] = 4.0
    return np.floor(np.minimum(np.maximum(gray, 0.0), 255.0) + 0.5).astype(np.uint8)
