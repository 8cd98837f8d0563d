"""Whether anybody looks at a running notebook. Not here: what is shown to them."""

from __future__ import annotations

from IPython import get_ipython


def interactive() -> bool:
    """Whether a person sits before the running notebook; False in batch (papermill, nbconvert) and outside Jupyter."""
    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))
