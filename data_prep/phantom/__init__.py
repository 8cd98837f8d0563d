"""Synthetic frontal chest radiographs with findings, boxes and reports: the kit's default data set.

Who and what a study is about: case.py. The body: body.py and anatomy.py, what is found in it: findings.py, the text:
report.py and templates.py, the pixels' bytes and the data set folder: files.py. What the hard phantom adds to each of
them: hard.py and hard_report.py. It is not patient data and teaches nothing about patients.
"""

from .files import Box, PhantomStudy, draw_findings, make_study, png_bytes, write

__all__ = ["Box", "PhantomStudy", "draw_findings", "make_study", "png_bytes", "write"]
