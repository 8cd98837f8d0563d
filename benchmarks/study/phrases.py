"""Which findings a report states, which it denies, and on which side: a matcher of phrases that knows negation, for
the colours of Fig. 5 (ground-truth semantics, semantics similar to the query, irrelevant).

Rules in the manner of NegEx (Chapman et al. 2001): a list of phrases per finding, words that deny what follows or
precedes them in the same clause, and words that look like it and do not. It is made for radiographs of the chest and
tested on the phantom's and on Open-i's labels; it is no clinical labeller and no measure of the study rests on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_AIR = r"(?:air ?space|parenchymal|alveolar|focal|lung|pulmonary)"
PHRASES = {  # finding → what it is called; the first that fits claims the words
    "pneumothorax": r"pneumothora(?:x|ces)",
    "calcified_granuloma": r"calcified (?:granulomas?|nodules?|granulomata)|granulomas?|granulomata|"
    r"granulomatous disease|dense (?:nodules?|granulomas?)",
    "edema": r"(?:(?:pulmonary|perihilar|interstitial|alveolar|overt|interstitial and alveolar) )*o?edema|"
    r"(?:pulmonary |central )?vascular (?:congestion|engorgement)|\bchf\b|congestive heart failure|"
    r"perihilar (?:airspace )?opacities",
    "pleural_effusion": r"(?:pleural )?(?:effusions?|fluid)|(?:blunting|obscuration) of the (?:\w+ )?"
    r"costophrenic (?:angles?|sulcus)|costophrenic \w+ (?:is|are) blunted",
    "fibrosis": r"(?:interstitial|pulmonary|reticular|chronic interstitial)* ?fibro(?:sis|tic)(?: changes?)?|"
    r"(?:coarse )?(?:reticular|interstitial) (?:opacities|markings)|chronic interstitial"
    r"(?: lung disease| changes?)?",
    "emphysema": r"emphysema(?:tous)?(?: changes?)?|hyper(?:inflat|expan|lucen)\w+|\bcopd\b|"
    r"(?:chronic )?obstructive (?:pulmonary|lung) disease|flattened (?:hemi)?diaphragms",
    "cardiomegaly": r"cardiomegaly|cardiac enlargement|enlarge(?:d|ment of the) (?:heart|cardiac|cardio\w*)"
    r"(?: silhouette)?|(?:heart|cardiac|cardiomediastinal)(?: (?!normal\b|not\b)\w+){0,5} enlarged|"
    r"borderline (?:heart|cardiac)(?: size)?",
    "atelectasis": r"atelecta\w+|(?:linear|platelike|plate-like|bandlike|streaky|subsegmental|discoid) opacit(?:y|ies)",
    "nodule": r"(?:(?:pulmonary|lung|solitary|suspicious|noncalcified) )*(?:nodules?|nodular (?:opacit\w+|densit\w+))|"
    r"coin lesions?",
    "mass": r"(?:(?:pulmonary|lung|rounded|lobulated|suspicious) )*mass(?:es|-?like opacity)?\b(?! effect)",
    "consolidation": rf"(?:{_AIR} )*(?:consolidations?|infiltrates?|pneumonia|airspace (?:disease|opacit\w+)|"
    r"air space (?:disease|opacit\w+))",
    "endotracheal_tube": r"endotracheal(?: tube)?|\bet tube|\bett\b|intubated",
    "enteric_tube": r"(?:enteric|nasogastric|orogastric|ng|feeding) tube",
    "pacemaker": r"pacemaker|pacing (?:device|leads?)|pacer\b|cardiac device|defibrillator|\baicd\b",
    "port": r"port-?a-?cath|(?:chest(?: wall)?|subclavian|infusion) port\b|mediport",
    "central_line": r"(?:internal jugular|ij|subclavian|jugular|central)(?: venous)? (?:catheter|line|central line)|"
    r"\bpicc(?: line| catheter)?|central line",
    "sternotomy_wires": r"sternotomy(?: wires)?|sternal wires",
    "fracture": r"fractures?",
    "opacity": rf"(?:{_AIR} )*opacit(?:y|ies)",
}
NORMAL = {  # a normal finding, said in words of its own, denies this
    "cardiomegaly": r"(?:heart(?: and mediastinum)?(?: size)?|cardiac(?: silhouette| and mediastinal contours| "
    r"contours?)?|cardio-?mediastinal (?:silhouette|contours?))\b[^.,;]{0,60}?"
    r"\b(?:normal|unremarkable)|normal heart(?: size)?",
    "opacity": r"lungs?(?: \w+){0,3} clear\b|clear lungs",
    "edema": r"(?:pulmonary )?vascular(?:ity|ature)(?: \w+){0,3} (?:normal|unremarkable)",
    "fracture": r"(?:osseous|bony|bones?)(?: \w+){0,4} (?:intact|unremarkable|without acute)",
}
RELATED = (  # findings that say similar things
    {"consolidation", "opacity", "atelectasis", "edema"},
    {"mass", "nodule", "calcified_granuloma"},
    {"fibrosis", "emphysema"},
    {"pacemaker", "port", "central_line"},
    {"endotracheal_tube", "enteric_tube"},
)
_SIDE = re.compile(r"\b(left|right|bilateral(?:ly)?|both|lingula\w*)\b")
_DENIES = re.compile(
    r"\b(?:no|not|without|negative for|(?:free|clear|absence) of|evaluation for|denies|rather than|resolved|never|"
    r"neither|nor)\b"
)
_DENIES_BACK = re.compile(
    r"^\W*(?:\w+ ){0,3}(?:(?:is|are|was|were|has|have)(?: been)? (?:not\b|absent|resolved|excluded|ruled out|no longer|"
    r"unlikely|unremarkable)|not (?:seen|identified|visualized|present|evident)|resolved|absent|ruled out)"
)
_SEEMS = re.compile(
    r"\b(?:no|not|without)(?: \w+){0,2} (?:change|changes|increase|worsening|improvement|progression)\b|"
    r"\bnot (?:excluded|ruled out|be excluded|only)\b|\bno longer\b"
)
_CLAUSE = re.compile(
    r"[.;:!?\n](?=\s|$)|\b(?:but|however|although|though|except|aside from|apart from)\b|"
    r",(?= (?:there is|there are|with|which)\b)"
)


@dataclass(frozen=True)
class Mention:
    """A finding stated (present) or denied, on which side (left, right, both, ''), and where in the text."""

    finding: str
    present: bool
    side: str
    start: int
    end: int


def find_mentions(report: str) -> list[Mention]:
    """All mentions in the order of the text; none overlap."""
    text, found = report.lower(), []
    for start, end in _clauses(text):
        found += _mentions_in_clause(text[start:end], start)
    return sorted(found, key=lambda mention: mention.start)


def _mentions_in_clause(clause: str, offset: int) -> list[Mention]:
    """The mentions of one clause, which begins at `offset` of the text; the first phrase that fits has the words."""
    found, taken = [], []
    for match, finding, is_normal in _matches(clause):
        start, end = match.span()
        if start == end or any(start < b and a < end for a, b in taken):
            continue
        taken.append((start, end))
        present = not is_normal and not _is_denied(clause, match)
        side = _nearest_side(clause, match)
        found.append(Mention(finding, present, side, offset + start, offset + end))
    return found


def _matches(clause: str) -> Iterable[tuple[re.Match, str, bool]]:
    """Where a phrase fits, its finding, and whether it says that all is normal; in the order in which they claim."""
    for patterns, is_normal in ((NORMAL, True), (PHRASES, False)):
        for finding, pattern in patterns.items():
            for match in re.finditer(pattern, clause):
                yield match, finding, is_normal


def _clauses(text: str) -> Iterable[tuple[int, int]]:
    """Start and end of each clause: a denial reaches no further."""
    start = 0
    for cut in _CLAUSE.finditer(text):
        yield start, cut.start()
        start = cut.end()
    yield start, len(text)


def _is_denied(clause: str, match: re.Match) -> bool:
    before = _SEEMS.sub(lambda m: " " * len(m[0]), clause[: match.start()])
    after = clause[match.end() :]
    return bool(_DENIES.search(before)) or bool(_DENIES_BACK.search(_SEEMS.sub("", after)))


def _nearest_side(clause: str, match: re.Match) -> str:
    """The nearest word for a side within the clause; '' if there is none."""
    words = []
    for side in _SIDE.finditer(clause):
        distance = max(side.start() - match.end(), match.start() - side.end(), 0)
        words.append((distance, side[1]))
    if not words:
        return ""
    _, word = min(words)
    if word.startswith("b"):
        return "both"
    return "left" if word.startswith("l") else word


def relation(mention: Mention, truth: list[Mention]) -> str:
    """How a retrieved report's mention stands to the query's own report: 'truth' (the same finding, stated or denied
    alike, no other side), 'similar' (the same on another side, or a related finding), 'irrelevant'."""
    alike = [own for own in truth if own.present == mention.present]
    if any(_is_same(mention, own) for own in alike):
        return "truth"
    related = {mention.finding}
    for group in RELATED:
        if mention.finding in group:
            related |= group
    return "similar" if any(own.finding in related for own in alike) else "irrelevant"


def _is_same(mention: Mention, own: Mention) -> bool:
    no_other_side = mention.side == own.side or "" in (mention.side, own.side)
    return mention.finding == own.finding and no_other_side


def cut_by_relation(report: str, own_report: str) -> list[tuple[str, str | None]]:
    """A retrieved report cut into (text, relation of that piece to the query's own report, None between mentions)."""
    truth, pieces, at = find_mentions(own_report), [], 0
    for mention in find_mentions(report):
        pieces.append((report[at : mention.start], None))
        pieces.append((report[mention.start : mention.end], relation(mention, truth)))
        at = mention.end
    pieces.append((report[at:], None))
    return [(text, kind) for text, kind in pieces if text]
