"""Every picture of the kit: functions from tensors, dicts and tables to a matplotlib figure. The only part that imports
matplotlib. Not here: any measuring (what is drawn was computed elsewhere), any file (Lesson.figure keeps it).

Conventions: a function takes what it draws and returns a `Picture`, WIDTH inches wide unless there is a reason; axes
have units; colour is never the only sign (labels, line styles or hatches repeat it); one colour per meaning, COLOURS.
No pyplot, so no global state: a cell shows a picture by ending in it or by `display(picture)`.
"""

from .alignment import clouds, glows, grounding, shifting
from .inputs import gallery, pairs, relative_costs, similarity, token_strips, walkthrough
from .method import frameworks, gelu_gap, mba_abm, two_orders
from .retrieval import cumulative, gallery_sizes, intervals, recalls, top_reports
from .study import gap_stages, mask_rates, retrieved_scores, study_spread
from .style import Picture, hide, overlay, png, to_gray
from .training import benchmark, forces, guesses, loss_curves, reconstruction, stacked_costs
