"""Every picture of the lessons: functions from tensors, dicts and tables to a matplotlib figure.

Not here: any measuring (what is drawn was computed elsewhere), any file (Lesson.figure keeps it), what all pictures
share (style.py).

Conventions: a function takes what it draws and returns a `Picture`, WIDTH inches wide unless there is a reason; axes
have units; colour is never the only sign (labels, markers, line styles or hatches repeat it); one colour per meaning,
COLOURS. Matrices, points and lines are seaborn's, always with `ax`. No pyplot, so no global state: a cell shows a
picture by ending in it or by `display(picture)`.
"""

from kit.markup import overlay

from .alignment import clouds, glows, grounding, shifting
from .inputs import gallery, pairs, relative_costs, similarity, token_strips, walkthrough
from .method import frameworks, gelu_gap, mba_abm, two_orders
from .retrieval import by_depth, cumulative, films, gallery_sizes, intervals, recalls, top_reports
from .style import Picture, hide, png, to_gray
from .training import (
    forces,
    guesses,
    line_of,
    loss_curves,
    recall_over_cost,
    reconstruction,
    schedule,
    stacked_costs,
)
