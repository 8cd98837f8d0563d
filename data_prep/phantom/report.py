"""Reports for the drawn chest radiographs: what a radiologist might dictate about the findings of a study.

Not a language model: the sentences of templates.py, chosen and filled. A report says only what is to be seen in the
image, with the attributes that were drawn (now and then one is left out), plus the usual negatives, in the manner of
de-identified public reports (`XXXX` for a removed word).
"""

from __future__ import annotations

import re

from .case import LUNG_ZONES, Draw, Finding
from .templates import (
    ACUTE,
    ADVERBS,
    BOTH_SIDES,
    DEPTHS,
    ENDS,
    IN_ZONES,
    INCIDENTAL,
    LINES,
    MAY_BE_REMOVED,
    NEGATIVES,
    NORMAL,
    NOTHING_ACUTE,
    STOCK,
    TECHNIQUE,
    TEMPLATES,
    WORDS,
)

# Dials of the text.
STOCK_NORMAL = 0.7  # share of normal studies with one of the stock reports, word for word
NO_FINDINGS_SECTION = 0.12  # share of reports that are an impression only
ATTRIBUTE_OMITTED = 0.04  # chance, per finding, that side, zone or size goes unsaid
INCIDENTAL_MENTIONED = 0.85  # chance that a visible incidental is mentioned
DEIDENTIFIED = 0.5  # share of reports in which some words may be replaced by XXXX
STYLES = {"terse": 0.60, "standard": 0.35, "wordy": 0.05}
SENTENCES = {"terse": 1, "standard": 2, "wordy": 3}  # beside the findings, about
LONGEST = 105  # words


def say(draw: Draw, template: str, slots: dict[str, str] | None = None) -> str:
    """A sentence from a template: choose among alternatives, fill the slots, tidy up."""
    if slots is not None:
        template = re.sub(r"\{([^}]*)\}", lambda match: slots[match[1]], template)
    while "[" in template:
        template = re.sub(
            r"\[([^\[\]]*)\]", lambda match: draw.choice(match[1].split("|")), template, count=1
        )
    text = re.sub(r"\s+", " ", template).strip()
    text = re.sub(r" ([.,;])", r"\1", text)
    text = re.sub(r"a~ ?(?=[aeiouAEIOU]|ET |NG |8|11|18)", "an ", text)
    text = re.sub(r"(?<=an )ng(?= )", "NG", text).replace("a~", "a ")
    text = re.sub(r"\s+", " ", text)
    return text[:1].upper() + text[1:]


def pick(draw: Draw, templates: str) -> str:
    """One of the alternatives divided by | outside brackets."""
    depth, parts = 0, [""]
    for letter in templates:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return draw.choice(parts)


def _tell(
    draw: Draw, labels: list[str], section: int, slots: dict[str, dict[str, str]]
) -> list[str]:
    """Findings as the findings section (0) or the impression (1) has them."""
    return [say(draw, pick(draw, TEMPLATES[label][section]), slots[label]) for label in labels]


def _attributes(draw: Draw, finding: Finding) -> tuple[str, str, str]:
    """Side, zone and size or severity of a finding as they are said; now and then one is not."""
    attributes = {
        "side": finding.side,
        "zone": finding.zone,
        "steps": finding.severity or finding.size,
    }
    if draw.chance(ATTRIBUTE_OMITTED):
        may_be_unsaid = ["steps"]
        if finding.zone in LUNG_ZONES and finding.side != "bilateral":
            may_be_unsaid = ["zone", "steps", "side"]
        attributes[draw.choice(may_be_unsaid)] = ""
    return tuple(attributes.values())


def slots_of(draw: Draw, finding: Finding) -> dict[str, str]:
    """Words for the slots of a finding's templates."""
    side, zone, steps = _attributes(draw, finding)
    many = side == "bilateral" or finding.size == "multiple"
    where = _place(side, zone, finding.zone in LUNG_ZONES)
    return {
        "side": side,
        "where": where,
        "in the where": f"in {where}" if side == "bilateral" else f"in the {where}",
        "amount": "" if steps.endswith(("mm", "cm")) else WORDS.get(steps, ""),
        "amountly": ADVERBS.get(steps, ""),
        "measure": steps,
        "a": "" if many else "a~ ",
        "s": "s" if many else "",
        "is": "are" if many else "is",
        "in zones": IN_ZONES.get(zone, ""),
        "depth": DEPTHS.get(zone, ""),
        "end": ENDS.get(zone, ""),
        "line": LINES.get(zone, ""),
    }


def _place(side: str, zone: str, lesion: bool) -> str:
    """Where a finding lies; only a lesion has a place within the lung."""
    if side == "bilateral":
        return BOTH_SIDES.get(zone, "both lungs")
    if not lesion:
        return f"{side} "
    return f"{side} " + WORDS.get(f"{side} {zone}", WORDS.get(zone, "lung"))


def negative(draw: Draw, absent: list[str], count: int) -> str:
    """One sentence that denies `count` of the absent things."""
    named = [say(draw, item) for item in draw.shuffled(absent)[:count]]
    named = [item[0].lower() + item[1:] for item in named]
    last = draw.choice((" or ", ", or ")) if len(named) > 2 else " or "
    listed = named[-1]
    if len(named) > 1:
        listed = ", ".join(named[:-1]) + last + listed
    denied = "[No|There is no|No evidence of|Negative for|No visible|There is no evidence of]"
    return say(draw, f"{denied} {listed}.")


def _impression(
    draw: Draw, labels: list[str], slots: dict[str, dict[str, str]], acute: bool
) -> str:
    """The impression, as a numbered list or in a row: what is acute, and some of the rest."""
    said = [label for label in labels if label in ACUTE or draw.chance(0.5)]
    phrases = _tell(draw, said, 1, slots)
    if not acute:
        nothing = say(draw, NOTHING_ACUTE)
        phrases = [nothing, *phrases] if draw.chance(0.7) else [*phrases, nothing]
    if len(phrases) > 1 and draw.chance(0.45):
        return " ".join(f"{i}. {phrase}." for i, phrase in enumerate(phrases, 1))
    return " ".join(f"{phrase}." for phrase in phrases)


def mention(draw: Draw, incidental: tuple[str, ...]) -> list[str]:
    """Most of the incidentals, a sentence each."""
    sentences = []
    for name in incidental:
        if draw.chance(INCIDENTAL_MENTIONED):
            sentences.append(say(draw, pick(draw, INCIDENTAL[name])))
    return sentences


def _other_sentences(
    draw: Draw, findings: list[Finding], incidental: tuple[str, ...], style: str
) -> list[str]:
    """What the findings section says beside the findings: incidentals, then what is normal or not there."""
    there = {finding.label for finding in findings} | set(incidental)
    mentioned = mention(draw, incidental)
    absent = [item for item, untrue in NEGATIVES if not there & set(untrue)]
    normal = [say(draw, item) for item, untrue in NORMAL if not there & set(untrue)]
    count = SENTENCES[style] + (not findings)
    normal = draw.shuffled(normal)
    others = normal[: count - (style == "terse") + draw.integer(2)]
    if absent:
        others.append(negative(draw, absent, 1 + draw.integer(count + 1)))
    others = mentioned + draw.shuffled(others)
    if style == "wordy" and draw.chance(0.6) and "portable" not in incidental:
        others.insert(0, say(draw, TECHNIQUE))
    return others


def deidentify(draw: Draw, text: str) -> str:
    """Some harmless words replaced by XXXX, as automatic de-identification does."""

    def word(match):
        return "XXXX" if match[0] in MAY_BE_REMOVED and draw.chance(0.35) else match[0]

    return re.sub(r"[a-zA-Z]+", word, text)


def write_report(
    draw: Draw, findings: list[Finding], incidental: tuple[str, ...]
) -> tuple[str, str]:
    """Findings section (may be empty) and impression of a study.

    `findings` are what is drawn; `incidental` what else is to be seen (names in INCIDENTAL).
    """
    if not findings and draw.chance(STOCK_NORMAL):
        return draw.choice(STOCK)
    style = draw.weighted(STYLES)
    slots = {finding.label: slots_of(draw, finding) for finding in findings}
    order = [finding.label for finding in draw.shuffled(findings)]
    body = _tell(draw, order, 0, slots)
    extra = _other_sentences(draw, findings, incidental, style)
    acute = not slots.keys().isdisjoint(ACUTE)
    impression = _impression(draw, order, slots, acute)
    while len(" ".join([*body, *extra, impression]).split()) > LONGEST and extra:
        extra.pop()
    text = " ".join([*extra, *body] if draw.chance(0.35) else [*body, *extra])
    return _publish(draw, text, impression, acute)


def _publish(draw: Draw, text: str, impression: str, acute: bool) -> tuple[str, str]:
    """Both sections as a collection has them: some without findings, some with words removed."""
    if draw.chance(NO_FINDINGS_SECTION):
        impression = text if acute else f"{text} {say(draw, NOTHING_ACUTE)}."
        text = ""
    if draw.chance(DEIDENTIFIED):
        text, impression = deidentify(draw, text), deidentify(draw, impression)
    return text, impression
