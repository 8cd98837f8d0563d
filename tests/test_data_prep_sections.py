"""The sections of a MIMIC-CXR report: each awkward layout by example, and what holds for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sections import parse

F, I = "The lungs are clear.", "No acute process."
EXAMPLES = {
    "plain": (
        f"""                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // pneumonia?

 TECHNIQUE:  PA and lateral views.

 COMPARISON:  ___

 FINDINGS:

 {F}

 IMPRESSION:

 {I}
""",
        F,
        I,
    ),
    "lower-case headers": (f" Indication: cough\n Findings: {F}\n\n impression: {I}\n", F, I),
    "header without leading space": (f"INDICATION: cough\nFINDINGS: {F}\nIMPRESSION: {I}", F, I),
    "findings and impression": (
        f" HISTORY: cough\n\n FINDINGS AND IMPRESSION:  {F} {I}\n",
        f"{F} {I}",
        "",
    ),
    "findings/impression": (f" COMPARISON: None.\n FINDINGS/IMPRESSION: {F}\n", F, ""),
    "header inside a line": (f" FINDINGS: {F} IMPRESSION: {I}", F, I),
    "two findings": (
        f" CHEST FINDINGS: {F}\n\n ABDOMEN FINDINGS: No free air.\n\n IMPRESSION: {I}",
        f"{F} No free air.",
        I,
    ),
    "addendum first": (
        f""" ADDENDUM:  Discussed with Dr. ___.
 IMPRESSION: Wrong, see below.
______________________________________________________________________________
                                 FINAL REPORT
 FINDINGS: {F}

 IMPRESSION: {I}""",
        F,
        I,
    ),
    "addendum last": (f" FINDINGS: {F}\n IMPRESSION: {I}\n ADDENDUM: The line was removed.", F, I),
    "wet read": (
        f""" WET READ: ___ ___ ___ 9:14 PM
  Right upper lobe collapse.
______________________________________________________________________________
                                 FINAL REPORT
 INDICATION: cough
 IMPRESSION: {I}""",
        "",
        I,
    ),
    "only a wet read": (
        " WET READ: ___ 9:14 PM\n  Right upper lobe collapse.\n\n Second paragraph of it.",
        "",
        "",
    ),
    "no header: last paragraph": (
        f"""                                 FINAL REPORT
 PORTABLE CHEST ___

 {F}  {I}
""",
        f"{F} {I}",
        "",
    ),
    "paragraph after the comparison": (
        f" HISTORY: cough\n\n COMPARISON: None.\n\n {F}\n\n {I}",
        f"{F} {I}",
        "",
    ),
    "nothing but a header": (
        " EXAMINATION: CHEST\n\n INDICATION: cough for ___ days and fever",
        "",
        "",
    ),
    "one sentence": (f" {F} {I}", f"{F} {I}", ""),
    "film description": (f" CHEST, TWO VIEWS: {F}\n CONCLUSION: {I}", F, I),
    "film title before the report": (
        f" CHEST, PA LATERAL:\n\n INDICATION: cough\n\n FINDINGS: {F}",
        F,
        "",
    ),
    "misspelt": (f" INDICATON: cough\n FINDNGS: {F}\n IMPRESSON: {I}", F, I),
    "capitals inside the findings": (
        " FINDINGS:\n LUNGS: Clear.\n HEART: Normal.\n IMPRESSION: " + I,
        "LUNGS: Clear. HEART: Normal.",
        I,
    ),
    "a sentence that looks like a header": (
        " FINDINGS: Stable. Findings are most\n consistent with: edema.",
        "Stable. Findings are most consistent with: edema.",
        "",
    ),
    "blanks only": (" FINDINGS: ___\n IMPRESSION: ___.", "", ""),
    "blanks in the text": (" FINDINGS: Compared to ___, clear.", "Compared to ___, clear.", ""),
    "preliminary": (
        " PROVISIONAL FINDINGS IMPRESSION (PFI): Edema.\n\n                FINAL REPORT\n IMPRESSION: "
        + I,
        "",
        I,
    ),
    "recommendation after": (
        f" IMPRESSION: {I}\n RECOMMENDATION(S): CT in 3 months.\n NOTIFICATION: called.",
        "",
        I,
    ),
    "windows line ends": (f" FINDINGS: {F}\r\n\r\n IMPRESSION: {I}\r\n", F, I),
    "empty": ("", "", ""),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    text, findings, impression = EXAMPLES[name]
    assert parse(text) == (findings, impression)


@given(st.text(alphabet=st.sampled_from("FINDGSMPREO :\n_.abc\t")) | st.text())
def test_any_text_gives_clean_sections(text):
    for section in parse(text):
        assert section == " ".join(section.split())
        assert section == "" or any(character.isalpha() for character in section)


sentence = (
    st.lists(
        st.sampled_from(["lungs", "clear", "no", "effusion", "___", "heart", "is", "normal"]),
        min_size=3,
        max_size=8,
    )
    .map(" ".join)
    .filter(lambda text: text.replace("_", "").strip())
)


@given(
    sentence,
    sentence,
    st.sampled_from(["FINDINGS", "Findings", "findings"]),
    st.sampled_from(["IMPRESSION", "Impression", "CONCLUSION"]),
    st.sampled_from(["", " ", "   "]),
    st.sampled_from([" ", "\n", "\n\n "]),
    st.sampled_from(["\n", "\n\n", "\n \n"]),
    st.booleans(),
)
def test_headers_in_any_style(findings, impression, name_f, name_i, indent, gap, between, reverse):
    parts = [f"{indent}{name_f}:{gap}{findings}", f"{indent}{name_i}:{gap}{impression}"]
    text = (
        "FINAL REPORT\n INDICATION: cough"
        + between
        + between.join(parts[::-1] if reverse else parts)
    )
    assert parse(text) == (findings, impression)
