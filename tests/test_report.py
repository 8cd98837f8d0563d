"""The report page: whole, offline, and honest about what was not measured."""

import re

from mcr_lib import paper, report


def test_page_names_every_claim_and_loads_nothing(tmp_path):
    notebook = {"name": "00_x", "title": "X & Y", "seconds": 1.0, "error": None, "html": "n.html", "ipynb": "n.ipynb"}
    failed = {**notebook, "error": "cell 3: ValueError"}
    text = report.write(tmp_path, {"profile": "smoke"}, [notebook, failed]).read_text()
    for fact in (*paper.CLAIMS, *paper.FACTS):
        assert report.html.escape(fact.what) in text
    assert "has not measured them" in text and "stopped: cell 3" in text and "X &amp; Y" in text
    assert not re.search(r"<script|src=.https?:|<link[^>]+https?:", text)
