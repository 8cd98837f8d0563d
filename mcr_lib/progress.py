"""Progress bars that are right in a terminal, in JupyterLab and in a batch log. Nothing else.

Bars go to stderr, so that results on stdout stay clean; in a notebook to stdout, where tqdm's own notebook widget
would leave a stale 0 % behind in batch runs. A log that is no terminal gets a line now and then, not a flood.
"""

import sys

from tqdm import tqdm


def progress(iterable=None, **options) -> tqdm:
    """A plain tqdm bar; options as tqdm takes them (desc, unit, total, initial, leave)."""
    ipython = sys.modules.get("IPython")
    notebook = getattr(ipython and ipython.get_ipython(), "kernel", None) is not None
    file = sys.stdout if notebook else sys.stderr
    interval = 0.5 if notebook or file.isatty() else 10  # seconds
    return tqdm(iterable, file=file, mininterval=interval, dynamic_ncols=True, **options)
