"""Reports: Open-i's XML and MIMIC-CXR's free text, valid, foreign and damaged."""

import random
from xml.sax.saxutils import escape

from data_prep import openi, sections

from . import Kind, Loss
from .damage import damage, damage_text

FINDINGS = ("Clear lungs.", "Heart < 50 % & normal.", "Größe normal.", "XXXX scar in the base.", "")
HEADINGS = (
    "FINDINGS",
    "Findings",
    "IMPRESSION",
    "CHEST, PA AND LATERAL",
    "CONCLUSION",
    "INDICATION",
)
HEADINGS += ("COMPARISON", "TECHNIQUE", "FINDINS", "WET READ", "NOTE", "FINAL ADDENDUM")
WORDS = (
    "lungs clear heart normal effusion small no acute disease pa ap 12:30 ___ Dr. (R) mm".split()
)
ENTITY = '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


class OpenI(Kind):
    name, cases = "report, Open-i XML", 15_000

    def case(self, rng):
        number, encoding = rng.randint(1, 9999), rng.choice(("utf-8", "utf-16", "iso-8859-1"))
        findings, impression = rng.choice(FINDINGS[:-1]), rng.choice(FINDINGS)
        head = f'<?xml version="1.0" encoding="{encoding}"?>'
        text = (
            f'<eCitation><uId id="CXR{number}"/><AbstractText Label="FINDINGS">{escape(findings)}</AbstractText>\n'
            f'<AbstractText Label="IMPRESSION">{escape(impression)}</AbstractText>\n<MeSH><major>normal</major></MeSH>'
            f'\n<parentImage id="CXR{number}_IM-0001-1001"/>\n</eCitation>'
        )
        valid = rng.random() < 0.3
        if not valid and rng.random() < 0.2:
            head += ENTITY
            text = text.replace("normal", "&b;")
        content = (head + text).encode(encoding)
        if not valid:
            content = damage(rng, content) if rng.random() < 0.6 else damage_text(rng, head + text)
        path, quarantine = self.folder / "1.xml", []
        path.write_bytes(content)
        studies = openi.read_xml(self.folder, quarantine)
        if len(studies) + len(quarantine) != 1:
            raise Loss(f"one file became {len(studies)} studies and {len(quarantine)} left out")
        if valid and studies.get(str(number), {}).get("findings") != findings:
            raise Loss(f"{findings!r} became {studies}")
        return bool(quarantine)


class Mimic(Kind):
    """Headings and words in any order; what stands under FINDINGS and IMPRESSION is found."""

    name, cases = "report, MIMIC-CXR text", 12_000

    def case(self, rng):
        findings, impression = sentence(rng), sentence(rng)
        parts = [
            (rng.choice(HEADINGS[5:8]), sentence(rng)),
            ("FINDINGS", findings),
            ("IMPRESSION", impression),
        ]
        text = " FINAL REPORT\n" + "".join(f" {name}:  {words}\n\n" for name, words in parts)
        valid = rng.random() < 0.3
        if not valid:
            lines = text.splitlines() + [
                f" {rng.choice(HEADINGS)}: {sentence(rng)}" for _ in range(3)
            ]
            rng.shuffle(lines)
            text = "\n".join(lines * rng.choice((1, 1, 30)))
            if rng.random() < 0.7:
                text = damage_text(rng, text).decode("utf-8", "replace")
        found = sections.parse(text)
        if valid and (found.findings, found.impression) != (findings, impression):
            raise Loss(f"{(findings, impression)} became {tuple(found)}")
        return False


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS[:9], k=rng.randint(3, 12))) + "."


KINDS = [OpenI, Mimic]
