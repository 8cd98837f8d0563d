"""What a view is called: MIMIC's and DICOM's ViewPosition, PadChest's and CheXpert's codes, words in some languages.

One vocabulary for all readers. A study's description ("XR CHEST PA AND LATERAL", "CHEST 2 VIEWS") names the views of a
study and not that of an image: unknown.

* A lateral decubitus film is frontal: it is the patient who lies on the side.
* Obliques, lordotic views named alone, ribs and swimmers are unknown.
"""

import re
import unicodedata
from functools import cache

LATERAL = set("LATERAL LAT LL RL LATERALE SEITLICH SEITL PROFIL PERFIL".split())
FRONTAL = set("FRONTAL FRONTALE AP PA FACE DECUBITUS LLD RLD APH PAH".split())
ALONE = {
    "L": "lateral",
    "S": "unknown",
}  # PadChest's L; in other words a letter is a side or a marker
LONG = re.compile(r"\b(ANTERO|POSTERO)[\s-]*(POSTERIOR|ANTERIOR)\b")
DECUBITUS = re.compile(r"\b(?:LEFT|RIGHT|L|R)?[\s-]*LAT(?:ERAL)?[\s-]*DECUB\w*\b")
SEVERAL = re.compile(
    r"\b(?:[2-9]|TWO|THREE|ZWEI|DREI|DOS|DEUX)\s*-?(?:V|VW|VWS|VIEWS?|EBENEN|PROJECTIONS?)\b"
)
OBLIQUE = set("OBLIQUE OBL LAO RAO LPO RPO LLO RLO".split())


@cache
def view_name(text: str) -> str:
    """AP, p.a., Frontal, LL, XTABLE LATERAL, seitlich, AP_horizontal … → frontal, lateral or unknown."""
    text = unicodedata.normalize("NFKC", text).upper().strip().replace(".", "")
    if text in ALONE:
        return ALONE[text]
    text = LONG.sub(lambda match: match[1][0] + match[2][0], text.replace("_", " "))
    text = DECUBITUS.sub(" DECUBITUS ", text)
    words = set(re.split(r"[^A-Z]+", text))
    is_lateral, is_frontal = bool(words & LATERAL), bool(words & FRONTAL)
    if SEVERAL.search(text) or words & OBLIQUE or is_lateral == is_frontal:
        return "unknown"  # none is named, or two are
    return "lateral" if is_lateral else "frontal"
