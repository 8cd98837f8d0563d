"""How each finding of the phantom is drawn onto the body, one function for each label (PAINTERS).

Body coordinates and arithmetic as in body.py. Not here: which findings there are (case.py).
"""

from __future__ import annotations

import numpy as np

from .anatomy import heart_of, trunk_of
from .body import Canvas, bump, curve, smooth
from .case import Draw, Finding

# v of a lesion
CENTRE_ZONE = {"upper": (0.20, 0.31), "middle": (0.42, 0.56), "lower": (0.68, 0.80)}


def _signs(finding: Finding) -> tuple[int, ...]:
    return {"right": (-1,), "left": (1,)}.get(finding.side, (-1, 1))


def _place(canvas: Canvas, finding: Finding, draw: Draw, sign: int) -> tuple[float, float]:
    """Body position of a lesion in its zone; on the left it stays beside the heart."""
    nearest, spread = 0.42 - 2.0 * canvas.body.spread, canvas.body.spread
    if finding.zone == "lower" and sign > 0:
        nearest = 0.60
    low, high = CENTRE_ZONE[finding.zone]
    u = sign * draw.uniform(nearest, 0.66 + 2.0 * spread)
    return u, draw.uniform(low - spread, high + spread)


def _cardiomegaly(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    before = heart_of(canvas)
    canvas.enlarged = 0.07 + 0.24 * finding.amount
    canvas.attenuation += heart_of(canvas) - before


def _breathe(canvas: Canvas, *breath: float) -> None:
    """Replace the lungs' and diaphragm's shape."""
    before = heart_of(canvas) + trunk_of(canvas, *canvas.breath)
    canvas.breath = breath
    canvas.attenuation += trunk_of(canvas, *breath) - before
    canvas.attenuation += heart_of(canvas)


def _emphysema(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    amount = finding.amount
    _breathe(canvas, -0.05 * amount, -0.05 * amount, 0.30 + 0.65 * amount, 0.03 + 0.08 * amount)
    canvas.marks *= 1.0 - 0.6 * amount
    for _ in range(int(4.5 * amount)):
        sign = draw.choice((-1, 1))
        u, v, radius = (
            sign * draw.uniform(0.4, 0.7),
            draw.uniform(0.14, 0.45),
            draw.uniform(0.09, 0.16),
        )
        r2 = canvas.ellipse(u, v, radius, radius * 0.7)
        wall = bump((r2 - 1.0) * (r2 - 1.0) * 8.0)
        canvas.attenuation += (wall * 0.11 - smooth((1.0 - r2) * 2.0) * 0.07) * canvas.lung


def _fibrosis(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    v = canvas.v
    zone = {"upper": smooth((0.46 - v) * 6.0), "lower": smooth((v - 0.5) * 6.0), "diffuse": 1.0}[
        finding.zone
    ]
    fine, coarse = np.abs(canvas.cloudy(46)), np.abs(canvas.cloudy(30))
    net = np.maximum(1.0 - fine * 3.2, 0.0) + np.maximum(1.0 - coarse * 4.0, 0.0)
    where = canvas.lung * zone * (0.55 + 0.45 * smooth((canvas.p - 0.2) * 2.0))
    canvas.attenuation += where * (net * (0.07 + 0.13 * finding.amount) + 0.07 * finding.amount)


def _edema(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    amount = finding.amount
    cloud = smooth(canvas.cloudy(24) * 0.5 + 0.4 + 0.3 * amount)
    for sign in (-1, 1):
        wing = bump(
            canvas.ellipse(canvas.body.shift + sign * 0.36, 0.56, 0.48 + 0.10 * amount, 0.46)
        )
        canvas.attenuation += wing * cloud * canvas.lung * (0.14 + 0.38 * amount)
        for _ in range(7):
            v = draw.uniform(0.62, 0.92)
            canvas.stroke(canvas.marks, [(sign * 0.89, v), (sign * 0.80, v + 0.004)], 0.011, 0.12)
    canvas.marks *= 1.2 + 0.4 * amount


def _consolidation(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    dense, sign = finding.severity == "dense", _signs(finding)[0]
    u, v = _place(canvas, finding, draw, sign)
    size = canvas.body.lesion
    r2 = canvas.ellipse(u, v, draw.uniform(0.28, 0.36) * size, draw.uniform(0.15, 0.20) * size)
    noise, least = canvas.cloudy(20), 1.0 - size  # a small one must not lie in a gap of the noise
    if dense:
        cloud = np.maximum(1.0 - r2 + noise * 0.5, (1.0 - r2) * least)
        canvas.attenuation += smooth(cloud * 1.1) * canvas.lung * 0.33
        for _ in range(3):
            start = (u + draw.uniform(-0.12, 0.02), v + draw.uniform(-0.08, 0.05))
            end = (start[0] + sign * 0.12, start[1] + draw.uniform(0.0, 0.07))
            canvas.stroke(canvas.attenuation, [start, end], 0.014, -0.10)
    else:
        cloud = np.maximum(smooth(noise * 0.9 + 0.55), least)
        canvas.attenuation += bump(r2 * 0.75) * cloud * canvas.lung * 0.30


def _atelectasis(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    for sign in _signs(finding):
        v = draw.uniform(0.74, 0.82) if finding.zone == "lower" else draw.uniform(0.48, 0.58)
        for band in range(1 if finding.severity == "mild" else 3):
            near = (
                draw.uniform(0.50, 0.56)
                if sign > 0 and finding.zone == "lower"
                else draw.uniform(0.32, 0.4)
            )
            height, slope = v - 0.06 * band, draw.uniform(-0.05, 0.05)
            line = curve(
                (sign * near, height),
                (sign * 0.6, height - 0.02),
                (sign * (near + 0.36), height + slope),
            )
            canvas.stroke(canvas.attenuation, line, 0.022 + 0.006 * finding.amount, 0.24)


def _mass(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    radius = float(finding.size.split()[0]) / 30.0  # u = 1 is about 15 cm, and half of the size
    u, v = _place(canvas, finding, draw, _signs(finding)[0])
    r2 = canvas.ellipse(u, v, radius, radius * canvas.body.half_width / canvas.body.lung_height)
    canvas.attenuation += smooth((1.0 - r2 + canvas.cloudy(14) * 0.22) * 2.5) * 0.27


def _nodule(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    radius = float(finding.size.split()[0]) / 300.0
    u, v = _place(canvas, finding, draw, _signs(finding)[0])
    canvas.stroke(canvas.attenuation, [(u, v), (u + 0.001, v)], radius * 1.15, 0.34)


def _calcified_granuloma(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    u, v = _place(canvas, finding, draw, _signs(finding)[0])
    for _ in range(1 if finding.size == "single" else 4):
        radius = draw.uniform(0.026, 0.034) * canvas.body.granule
        canvas.stroke(canvas.attenuation, [(u, v), (u + 0.001, v)], radius, 0.62)
        u, v = u + draw.choice((-1, 1)) * draw.uniform(0.06, 0.11), v + draw.uniform(-0.05, 0.05)


def _pleural_effusion(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    for sign in _signs(finding):
        level = 0.93 - 0.60 * finding.amount + draw.uniform(-0.02, 0.02)
        meniscus = level + 0.16 * smooth((0.92 - canvas.p) * 1.7)
        fluid = smooth((canvas.v - meniscus) * 12.0) * canvas.side(sign)
        canvas.attenuation += fluid * canvas.lung * 0.42 - heart_of(canvas)
        canvas.lung = canvas.lung * (1.0 - fluid)
        canvas.attenuation += heart_of(canvas)


def _pneumothorax(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    half = canvas.side(_signs(finding)[0]) * canvas.lung
    gap = canvas.edge - (0.07 + 0.40 * finding.amount) * (1.1 - 0.65 * np.maximum(canvas.v, 0.0))
    rim = smooth(gap * -60.0) * half
    canvas.attenuation += bump(gap * gap * 1600.0) * half * 0.20 - rim * 0.09
    canvas.attenuation += (half - rim) * (0.02 + 0.14 * finding.amount)
    canvas.marks *= 1.0 - rim


def _sternotomy_wires(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    for wire in range(5):
        u, v = (
            canvas.body.shift * 0.6 + draw.uniform(-0.01, 0.01),
            0.20 + 0.12 * wire + draw.uniform(-0.01, 0.01),
        )
        left, right = (u - 0.045, v), (u + 0.045, v)
        ring = curve(left, (u, v - 0.06), right, 4) + curve(right, (u, v + 0.06), left, 4)
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
        line += [
            (u + 0.03, 0.6),
            (u + 0.07, 0.9),
            *curve((u + 0.07, 0.9), (0.20, 1.16), (0.5, 1.08)),
        ]
    else:
        line += [(u + 0.03, draw.uniform(0.55, 0.66))]
    canvas.stroke(canvas.attenuation, line, 0.018, 0.42)


def _to_cava(canvas: Canvas, start, bend, tip: float) -> list[tuple[float, float]]:
    """A catheter's way from `start` to the superior vena cava, ending at v = `tip`."""
    cava = canvas.body.shift - 0.11
    return [*curve(start, bend, (cava, 0.22)), (cava - 0.01, tip)]


def _central_line(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    sign, tip = _signs(finding)[0], draw.uniform(0.40, 0.52)
    starts = {
        "jugular": ((sign * 0.24, -0.5), (sign * 0.20, 0.10)),
        "subclavian": ((sign * 0.85, 0.12), (sign * 0.45, 0.00)),
        "picc": ((sign * 0.85, 0.12), (sign * 0.45, 0.00)),
    }
    line = _to_cava(canvas, *starts[finding.zone], tip)
    if finding.zone == "picc":
        line = curve((sign * 1.45, 0.8), (sign * 1.15, 0.15), (sign * 0.85, 0.12)) + line[1:]
    canvas.stroke(canvas.attenuation, line, 0.016, 0.45)


def _port(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    sign = _signs(finding)[0]
    spread = canvas.body.spread
    place = (
        sign * draw.uniform(0.60 - spread, 0.68 + spread),
        draw.uniform(0.20 - spread, 0.26 + spread),
    )
    canvas.stroke(canvas.attenuation, [place, (place[0] + 0.001, place[1])], 0.085, 0.75)
    line = curve(place, (sign * 0.5, 0.02), (sign * 0.3, 0.03))
    canvas.stroke(
        canvas.attenuation,
        line + _to_cava(canvas, line[-1], (sign * 0.12, 0.06), 0.47)[1:],
        0.016,
        0.45,
    )


def _pacemaker(canvas: Canvas, finding: Finding, draw: Draw) -> None:
    sign, shift = _signs(finding)[0], canvas.body.shift
    spread = canvas.body.spread
    u = sign * draw.uniform(0.68 - spread, 0.76 + spread)
    v = draw.uniform(0.17 - spread, 0.23 + spread)
    du, dv = (canvas.u - u) * (1 / 0.14), (canvas.v - v) * (1 / 0.075)
    canvas.attenuation += smooth((1.0 - du * du * du * du - dv * dv * dv * dv) * 3.0) * 0.60
    path = _to_cava(canvas, (u, v - 0.05), (sign * 0.4, -0.02), 0.50)
    ventricle = curve(path[-1], (shift - 0.12, 0.86), (shift + 0.34, 0.84))
    canvas.stroke(canvas.attenuation, path + ventricle[1:], 0.016, 0.45)
    if finding.size == "dual-lead":
        atrium = curve(path[-1], (shift - 0.16, 0.72), (shift - 0.02, 0.60))
        canvas.stroke(canvas.attenuation, path + atrium[1:], 0.016, 0.45)


PAINTERS = {
    "cardiomegaly": _cardiomegaly,
    "emphysema": _emphysema,
    "fibrosis": _fibrosis,
    "edema": _edema,
    "consolidation": _consolidation,
    "atelectasis": _atelectasis,
    "mass": _mass,
    "nodule": _nodule,
    "calcified_granuloma": _calcified_granuloma,
    "pleural_effusion": _pleural_effusion,
    "pneumothorax": _pneumothorax,
    "sternotomy_wires": _sternotomy_wires,
    "endotracheal_tube": _endotracheal_tube,
    "enteric_tube": _enteric_tube,
    "central_line": _central_line,
    "port": _port,
    "pacemaker": _pacemaker,
}
