"""Reports of the hard phantom: other sentences for what lies in the lung, synonyms, and denials that matter.

A denial names what the picture only seems to show (a nipple shadow is no nodule), the other side, or what was there
before; so a model that counts words is led astray. As in report.py all that is stated is to be seen.
"""

from __future__ import annotations

import re
from functools import partial

from .case import ONE_SIDE, Draw, Finding
from .report import deidentify, mention, negative, pick, say, slots_of
from .templates import ACUTE, INCIDENTAL, NEGATIVES, NOTHING_ACUTE, STOCK, TEMPLATES

STOCK_NORMAL = 0.5  # share of normal studies with a stock report
MENTIONED = 0.6  # chance that a look-alike is mentioned
OTHER_SIDE = 0.5  # chance that the other side of a finding is denied
RESOLVED = 0.25  # chance that something is said to be gone
NEGATIVE = 0.5  # chance of a list of what is not there
IMPRESSION_ONLY = 0.15
REPLACED = 0.5  # chance that a word is replaced by another
MOST_WORDS = 40  # of the findings section: a small model reads 64 tokens

_A_NODULE = "[nodule|nodular opacity|nodular density|coin lesion]"
SENTENCES = {
    "consolidation": (
        "{amount} [airspace opacity|consolidation|infiltrate] in the {where}.|In the {where} [there is|one sees] "
        "{amount} [airspace disease|consolidation|pneumonia].|{where}: {amount} [infiltrate|airspace opacity].|The "
        "{where} is the site of {amount} [consolidation|pneumonia].|[Pneumonia|Consolidation], {amount}, {where}."
    ),
    "atelectasis": (
        "{amount} [linear|platelike|bandlike|discoid] atelectasis {in the where}.|[Streaky|Bandlike|Linear] "
        "opacities {in the where}, {amount}.|Atelectasis, {amount}, {in the where}."
    ),
    "mass": (
        "{measure} [mass|masslike opacity] in the {where}.|In the {where} lies {a}mass [of|measuring] {measure}.|"
        "{where}: {measure} mass.|{a}mass [occupies|projects over] the {where} and measures {measure}.|The {where} "
        "[harbours|contains] {a}{measure} mass."
    ),
    "nodule": (
        f"{{measure}} {_A_NODULE} in the {{where}}.|In the {{where}} [there is|one sees] {{a}}{{measure}} {_A_NODULE}.|"
        f"{{where}}: {_A_NODULE} of {{measure}}.|{{a}}{_A_NODULE} projects over the {{where}}, {{measure}}.|The "
        f"{{where}} [holds|contains] {{a}}{{measure}} {_A_NODULE}."
    ),
    "calcified_granuloma": (
        "{amount} calcified granuloma{s} in the {where}.|In the {where} {amount} calcified [nodule|granuloma]{s}.|"
        "{where}: {amount} calcified granuloma{s}.|The {where} contains {a}{amount} calcified [nodule|granuloma]{s}."
    ),
    "pleural_effusion": (
        "{amount} {side} [pleural effusion|effusion]{s}.|{side} pleural effusion{s}, {amount}.|[There {is}|One sees] "
        "{a}{amount} {side} pleural effusion{s}."
    ),
    "pneumothorax": (
        "{amount} {side} pneumothorax.|{side} pneumothorax, {amount}.|[There is|One sees] {a}{amount} {side} "
        "pneumothorax.|{side} pleural line, indicating {a}{amount} pneumothorax."
    ),
}
LOOKALIKES = {  # what seems to be there, said to be what it is
    "nipple": (
        "[Nipple shadow|Round nipple shadow] over the {side} lower lung[, not a nodule|, not a mass|].|The rounded "
        "shadow at the {side} base is [the nipple|a nipple], no [nodule|pulmonary nodule]."
    ),
    "skin_fold": (
        "[Skin fold|Fold of skin] over the {side} [lung|chest][, not a pneumothorax|, no pneumothorax there|].|The "
        "line over the {side} lung is a skin fold rather than a pneumothorax."
    ),
    "rib_crossing": (
        "[Crossing ribs|Overlapping ribs] at the {side} apex[, not a nodule|, no granuloma|].|The density at the "
        "{side} apex is where ribs cross, not a [nodule|calcified granuloma]."
    ),
    "external_leads": (
        "[External|Monitoring|ECG] leads overlie the chest[, no pacemaker|, no port|].|Leads on the skin[|, not a "
        "pacing device]."
    ),
}
DENIED = {  # label: how its absence is named, of one side
    "pleural_effusion": "[pleural effusion|effusion]",
    "pneumothorax": "pneumothorax",
    "consolidation": "[consolidation|infiltrate|airspace disease]",
}
SYNONYMS = (  # pattern, what may stand in its place
    (r"\b(left|right) (pleural effusion|effusion|pneumothorax|pacemaker)\b(?!s)", r"[\2 on the \1|\1-sided \2]"),
    (r"\bupper (?:lobe|lung zone|lung)\b", "[upper zone|upper field|apex]"),
    (r"\blower (?:lobe|lung)\b", "[lower zone|lower field|basal region]"),
    (r"\bmid lung(?: zone)?\b", "[mid zone|perihilar region|mid field]"),
    (r"\bthere is\b(?! no)", "[we see|seen is|evident is]"),
    (r"\bsmall\b", "[tiny|minor|little]"),
    (r"\b(?:large|sizable)\b", "[big|extensive|sizable]"),
    (r"\bmoderate\b", "[medium|mid-sized|moderate]"),
    (r"\b(?:mild|slight)\b", "[slight|discrete|mild]"),
    (r"\b(?:severe|marked|advanced)\b", "[pronounced|gross|severe]"),
    (r"\b(?:multiple|several)\b", "[some|a few|several]"),
    (r"\b(?:patchy|hazy)\b", "[patchy|fluffy|ill-defined]"),
    (r"\b(?:dense|confluent)\b", "[solid|homogeneous|dense]"),
)  # fmt: skip


def write_hard_report(
    draw: Draw, findings: list[Finding], incidental: tuple[str, ...]
) -> tuple[str, str]:
    """Findings section (may be empty) and impression of a study, as `report.write_report`."""
    if not findings and draw.chance(STOCK_NORMAL):
        return draw.choice(STOCK)
    slots = {finding: slots_of(draw, finding) for finding in findings}
    told = []
    for finding in draw.shuffled(findings):
        label = finding.label
        told.append(
            say(draw, pick(draw, SENTENCES.get(label, TEMPLATES[label][0])), slots[finding])
        )
    rest = _lookalikes(draw, incidental) + _denials(draw, findings)
    rest += mention(draw, tuple(name for name in incidental if name in INCIDENTAL))
    while rest and len(" ".join(told + rest).split()) > MOST_WORDS:
        rest.pop()
    text = " ".join(draw.shuffled(told + rest))
    impression = _impression(draw, findings, slots)
    if text and draw.chance(IMPRESSION_ONLY):
        text, impression = "", text
    return deidentify(draw, _paraphrase(draw, text)), deidentify(
        draw, _paraphrase(draw, impression)
    )


def _lookalikes(draw: Draw, incidental: tuple[str, ...]) -> list[str]:
    """Most of what looks like a finding, said to be none."""
    sentences = []
    for name in incidental:
        kind, _, side = name.rpartition("_")
        template = LOOKALIKES.get(name) or LOOKALIKES.get(kind)
        if template and draw.chance(MENTIONED):
            sentences.append(say(draw, pick(draw, template), {"side": side}))
    return sentences


def _denials(draw: Draw, findings: list[Finding]) -> list[str]:
    """The other side of what is there, what has gone, and a list of what is not there."""
    there = {finding.label: finding for finding in findings}
    sentences = []
    for label, name in DENIED.items():
        finding = there.get(label)
        sides = {other.side for other in findings if other.label == label}
        if finding and len(sides) == 1 and finding.side in ONE_SIDE and draw.chance(OTHER_SIDE):
            other = {"left": "right", "right": "left"}[finding.side]
            sentences.append(say(draw, f"[No|There is no] {other} {name}."))
    absent = [name for label, name in DENIED.items() if label not in there]
    if absent and draw.chance(RESOLVED):
        side, gone = draw.choice(ONE_SIDE), draw.choice(absent)
        sentences.append(
            say(draw, f"[The prior|A previous|The earlier] {side} {gone} has resolved.")
        )
    others = [item for item, untrue in NEGATIVES if not there.keys() & set(untrue)]
    if others and draw.chance(NEGATIVE):
        sentences.append(negative(draw, others, 1 + draw.integer(2)))
    return draw.shuffled(sentences)


def _impression(draw: Draw, findings: list[Finding], slots: dict) -> str:
    """One of the acute findings, or that there is none."""
    acute = [finding for finding in findings if finding.label in ACUTE]
    if not acute:
        return say(draw, f"{NOTHING_ACUTE}.")
    finding = draw.choice(acute)
    return say(draw, pick(draw, TEMPLATES[finding.label][1]) + ".", slots[finding])


def _paraphrase(draw: Draw, text: str) -> str:
    """Words replaced by others that say the same, sizes in the other unit."""

    def other_unit(match):
        number, unit = match.groups()
        if draw.chance(REPLACED):
            return match[0]
        return f"{float(number) / 10:.1f} cm" if unit == "mm" else f"{round(float(number) * 10)} mm"

    for pattern, others in SYNONYMS:
        swap = partial(_replaced, draw, others)
        text = re.sub(pattern, swap, text, flags=re.IGNORECASE)
    text = re.sub(r"\b([\d.]+) (mm|cm)\b", other_unit, text)
    text = re.sub(r",(?= *[.,])", "", text)  # beside an attribute that went unsaid
    return re.sub(r"(?:^|(?<=\. ))[a-z]", lambda match: match[0].upper(), text)


def _replaced(draw: Draw, others: str, match: re.Match) -> str:
    if not draw.chance(REPLACED):
        return match[0]
    return draw.choice(match.expand(others)[1:-1].split("|"))
