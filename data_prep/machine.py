"""What this machine is, and how long work is shown on it: cores, CPU, a progress bar. Nothing of radiographs."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path

from tqdm import tqdm

_CPUINFO = Path("/proc/cpuinfo")


def cores() -> int:
    """CPU cores that this process may use; where the system does not say (macOS), the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def cpu_name() -> str | None:
    """Maker and model of the CPU as Linux gives them, None elsewhere."""
    if not _CPUINFO.exists():
        return None
    first_core = _CPUINFO.read_text().split("\n\n")[0].splitlines()
    entries = dict(line.split("\t:", 1) for line in first_core if "\t:" in line)
    entries = {key.strip(): value.strip() for key, value in entries.items()}
    words = [entries[key] for key in ("vendor_id", "model name") if key in entries]
    return " ".join(words) or None


def progress(iterable=None, **options) -> tqdm:
    """A plain tqdm bar; options as tqdm takes them (desc, unit, total, initial, leave).

    It goes to stderr, so that results on stdout stay clean; in a notebook to stdout, where tqdm's
    own widget would leave a stale 0 % behind. A log that is no terminal gets a line now and then,
    not a flood. There is none where a notebook runs in batch, and none within another but on a
    terminal: both would leave half-drawn lines behind.
    """
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    file = sys.stderr if kernel is None else sys.stdout
    terminal = kernel is None and file.isatty()
    if (tqdm._instances and not terminal) or (kernel and not kernel._allow_stdin):
        options["disable"] = True
    interval = 0.5 if kernel or terminal else 10  # seconds
    return tqdm(iterable, file=file, mininterval=interval, dynamic_ncols=True, **options)


def without_home(text: str) -> str:
    """The text with `~` for the user's home folder: what is printed or kept names nobody."""
    home = os.path.expanduser("~").rstrip("/\\")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text
