"""The findings and impression of a free-text MIMIC-CXR report.

Not a language model and not complete: line-start headers in any case, with or without the leading space; the
capitals FINDINGS: and IMPRESSION: inside a line too. Decisions, each with a test:

* what follows the last FINAL REPORT line is the report, unless nothing usable does: an addendum or a wet read
  stands before it, and the text under such a header is never taken;
* several findings (or impressions) are joined in order; FINDINGS AND IMPRESSION counts as findings;
* capitals that describe the film ("CHEST, TWO VIEWS:") are a findings header, unless nothing follows them;
* other capitals within a section ("LUNGS:") are part of it;
* without either section, the paragraphs after the last header's own paragraph are the findings;
* de-identified words stay as `___`; a section of nothing else is empty.
"""

import re
from difflib import get_close_matches
from typing import NamedTuple

from .sources import clean

FINDINGS, IMPRESSION, OTHER, ASIDE, BODY = "findings", "impression", "other", "aside", "body"
NAMES = {  # header, lower case → what follows it
    "findings": FINDINGS,
    "impression": IMPRESSION,
    "impressions": IMPRESSION,
    "conclusion": IMPRESSION,
    **dict.fromkeys(
        ["wet read", "wetread", "addendum", "final addendum", "preliminary report", "pfi"], ASIDE
    ),
    **dict.fromkeys(
        [
            "indication",
            "comparison",
            "comparisons",
            "examination",
            "exam",
            "technique",
            "history",
            "procedure",
            "clinical history",
            "clinical information",
            "clinical indication",
            "patient history",
            "study",
            "date",
            "reason for exam",
            "reason for examination",
            "reason for the exam",
            "type of examination",
            "comment",
            "reference exam",
            "comparison exam",
            "comparison film",
            "notification",
            "recommendation",
            "recommendation(s)",
            "recommendations",
        ],
        OTHER,
    ),
}
FILM = re.compile(
    r"CHEST|PORTABLE|VIEW|RADIOGRAPH|\b(PA|AP|LATERAL)\b.*\b(PA|AP|LAT|LATERAL)\b|RIBS"
)
HEADER = re.compile(
    r"^[ \t]*(?P<line>[A-Za-z][\w ,/&()-]{1,70}?)[ \t]*:"
    r"|(?<=[.\s])(?P<inline>FINDINGS|IMPRESSION|CONCLUSION)[ \t]*:"
    r"|^[ \t]*(?P<bare>FINDINGS|IMPRESSION|FINAL ADDENDUM|WET READ)[ \t]*$",
    re.MULTILINE,
)
NAMED = re.compile(r"findings|impression|conclusion", re.IGNORECASE)
FINAL_REPORT = re.compile(r"^[ \t]*FINAL REPORT[ \t]*$", re.MULTILINE)
RULE = re.compile(r"^[ \t]*_{10,}[ \t]*$", re.MULTILINE)


class Sections(NamedTuple):
    """The two sections that can become the text of a pair; "" where the report has none."""

    findings: str
    impression: str


def parse(text: str) -> Sections:
    """The sections of one report."""
    text = RULE.sub("", text.replace("\r\n", "\n"))
    final = FINAL_REPORT.split(text)[-1]
    for part in (final, FINAL_REPORT.sub("", text)):
        spans = split(part)
        findings, impression = _joined(spans, FINDINGS), _joined(spans, IMPRESSION)
        if not findings and not impression:
            findings = _last_paragraphs(spans)
        if findings or impression:
            break
    return Sections(findings, impression)


def split(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each part between headers; what stands before the first header has the kind BODY."""
    spans, kind, begin = [], BODY, 0
    for match in HEADER.finditer(text):
        name = match[match.lastgroup]
        following = kind_of(name)
        if following:
            spans.append((kind, text[begin : match.start()]))
            kind, begin = following, match.end()
    return [*spans, (kind, text[begin:])]


def kind_of(name: str) -> str | None:
    """What a header begins; None if it is no header of ours and so part of the text."""
    name = " ".join(name.split())
    lower, capitals = name.lower(), name == name.upper()
    if lower in NAMES:
        return NAMES[lower]
    if "finding" in lower and ("impression" in lower or "conclusion" in lower):
        return ASIDE if "provisional" in lower else FINDINGS
    if not capitals:
        return None
    spelt = get_close_matches(lower, NAMES, n=1, cutoff=0.85)  # FINDINS, IMPRESSON, COMPARISION, …
    if spelt:
        return NAMES[spelt[0]]
    return FINDINGS if "FINDINGS" in name or FILM.search(name) else None


def has_headings(text: str) -> bool:
    """Whether a heading in the text says itself that findings or an impression follow."""
    if ":" not in text or not NAMED.search(text):
        return False
    names = (match[match.lastgroup] for match in HEADER.finditer(text))
    return any(
        NAMES.get(" ".join(name.lower().split())) in (FINDINGS, IMPRESSION) for name in names
    )


def _joined(spans: list[tuple[str, str]], kind: str) -> str:
    """The texts of one kind, in order, a repeated one once."""
    texts = [clean(text) for of_kind, text in spans if of_kind == kind]
    return " ".join(dict.fromkeys(text for text in texts if text))


def _last_paragraphs(spans: list[tuple[str, str]]) -> str:
    """Of the last part that is no aside: all paragraphs but the first, the header's or the title."""
    usable = [(kind, text) for kind, text in spans if kind != ASIDE and clean(text)]
    if not usable:
        return ""
    kind, text = usable[-1]
    first, *others = re.split(r"\n[ \t]*\n", text.strip())
    rest = clean(" ".join(others))
    if rest:
        return rest
    is_sentence = kind == BODY and len(first.split()) > 4
    return clean(first) if is_sentence else ""
