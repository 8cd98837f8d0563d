"""The hard phantom: the same bodies and findings, taken as carelessly as films in an archive are.

Position, size, rotation, crop and exposure vary, a finding lies anywhere in its zone, there are several small ones of
a label, and some things only look like a finding: nipples, skin folds, crossing ribs, leads on the skin. A linear
model of pixels and word counts finds little here. What is said of it stands in hard_report.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .body import WIDTH, Body, Canvas, body_of, bump, curve, smooth
from .case import POSE, Draw, Finding

LOOKALIKES = {  # chance that a study has it, on one side; on both for leads
    "nipple": 0.35,
    "skin_fold": 0.25,
    "rib_crossing": 0.30,
    "external_leads": 0.25,
}
ZOOM = (0.80, 1.10)  # factor on the patient's size in the picture
TURN = 0.14  # slope, at most
MARGIN = 5  # pixels around the lungs


def hard_body(seed: int, index: int, findings: list[Finding]) -> Body:
    """The body of a study of the hard phantom; the lungs are always within the picture."""
    body, draw = body_of(seed, index), Draw(seed, POSE, index)
    labels = {finding.label for finding in findings}
    ratio = body.lung_height / body.half_width
    seen = body.incidental
    if "emphysema" in labels and "low_volumes" in seen:
        seen, ratio = tuple(name for name in seen if name != "low_volumes"), 1.7
    half_width = body.half_width * draw.uniform(*ZOOM)
    half_width = min(max(half_width, 80.0), 116.0)
    lung_height = min(half_width * ratio, 0.80 * body.height)
    turn = draw.uniform(-TURN, TURN)
    # what the turned lungs need to the left and right of, and above and below, their middle
    across = 0.92 * half_width + abs(turn) * lung_height / 2.0
    down = lung_height / 2.0 + abs(turn) * 0.9 * half_width
    x = _middle(draw, across, WIDTH)
    y = _middle(draw, down, body.height)
    return replace(
        body,
        half_width=half_width,
        lung_height=lung_height,
        centre_x=x + turn * lung_height / 2.0,
        top_y=y - lung_height / 2.0,
        tilt=2.0 * body.tilt,
        turn=turn,
        heel=(draw.uniform(-0.10, 0.10), draw.uniform(-0.25, 0.25)),
        exposure=draw.uniform(0.78, 1.28),
        film=draw.uniform(0.5, 1.05),
        noise=draw.uniform(1.0, 5.0),
        spread=0.06,
        lesion=0.65,
        granule=1.5,
        incidental=seen + _lookalikes(draw),
    )


def _middle(draw: Draw, reach: float, length: int) -> float:
    """Where something that reaches so far to both sides may have its middle."""
    room = max(length / 2.0 - reach - MARGIN, 0.0)
    return length / 2.0 + draw.uniform(-room, room)


def _lookalikes(draw: Draw) -> tuple[str, ...]:
    names = []
    for name, share in LOOKALIKES.items():
        there, side = draw.chance(share), draw.choice(("left", "right"))
        if there:
            names.append(name if name == "external_leads" else f"{name}_{side}")
    return tuple(names)


def draw_lookalikes(canvas: Canvas, draw: Draw) -> None:
    """Draw those of the body's incidentals that look like a finding; nothing in the easy phantom."""
    for name in canvas.body.incidental:
        kind, _, side = name.rpartition("_")
        sign = {"left": 1, "right": -1}.get(side, 0)
        if name == "external_leads":
            _external_leads(canvas, draw)
        elif kind in LOOKALIKES:
            PAINTERS[kind](canvas, draw, sign)


def _nipple(canvas: Canvas, draw: Draw, sign: int) -> None:
    """A faint round shadow, sharp on its outer side only, over the lower lung."""
    u, v = sign * draw.uniform(0.52, 0.76), draw.uniform(0.62, 0.78)
    radius = draw.uniform(0.045, 0.065)
    r2 = canvas.ellipse(u, v, radius, radius * canvas.body.half_width / canvas.body.lung_height)
    outer = 0.4 + 0.6 * smooth((canvas.u * sign - abs(u)) * (1.0 / radius) + 0.5)
    canvas.attenuation += bump(r2) * outer * 0.50


def _skin_fold(canvas: Canvas, draw: Draw, sign: int) -> None:
    """A straight edge across the lung, dense on its inner side and fading; vessels go on beyond it."""
    place, slope = draw.uniform(0.45, 0.75), draw.uniform(-0.35, 0.35)
    top, bottom = draw.uniform(-0.05, 0.2), draw.uniform(0.6, 1.05)
    away = (canvas.u * sign - place) - (canvas.v - 0.4) * slope  # positive outside
    fading = smooth(away * 4.0 + 1.0) * (away < 0)
    along = smooth((canvas.v - top) * 8.0) * smooth((bottom - canvas.v) * 8.0)
    canvas.attenuation += (fading * along * 0.16).astype(np.float32)


def _rib_crossing(canvas: Canvas, draw: Draw, sign: int) -> None:
    """A dense lozenge where two ribs cross, high and to the side."""
    u, v = sign * draw.uniform(0.35, 0.72), draw.uniform(0.10, 0.34)
    du, dv = draw.uniform(0.07, 0.10), draw.uniform(0.01, 0.03)
    canvas.stroke(canvas.attenuation, [(u - du, v - dv), (u + du, v + dv)], 0.032, 0.20)
    canvas.stroke(canvas.attenuation, [(u - du, v + dv), (u + du, v - dv)], 0.032, 0.20)


def _external_leads(canvas: Canvas, draw: Draw) -> None:
    """Two to four discs on the skin, each with a wire that leaves the picture."""
    for _ in range(2 + draw.integer(3)):
        sign = draw.choice((-1, 1))
        u, v = sign * draw.uniform(0.35, 0.95), draw.uniform(0.08, 0.95)
        out = (sign * draw.uniform(1.2, 1.5), v + draw.uniform(-0.5, 0.6))
        wire = curve((u, v), (sign * 0.9, v + draw.uniform(-0.2, 0.2)), out, 9)
        canvas.stroke(canvas.attenuation, [(u, v), (u + 0.001, v)], 0.055, 0.45)
        canvas.stroke(canvas.attenuation, [(u, v), (u + 0.001, v)], 0.024, -0.25)
        canvas.stroke(canvas.attenuation, wire, 0.012, 0.35)


PAINTERS = {"nipple": _nipple, "skin_fold": _skin_fold, "rib_crossing": _rib_crossing}
