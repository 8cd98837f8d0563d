"""Fresh processes to measure in, and the memory they hold (Linux). Light: a process that imports only this is small."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mcr_lib.engine.run_folder import RunError


def run_in_own_process(context, function: Callable, name: str, *args):
    """function(name, *args) in a fresh process; RunError, with the name of what it measures, if that dies."""
    with ProcessPoolExecutor(1, mp_context=context) as own:
        try:
            return own.submit(function, name, *args).result()
        except BrokenProcessPool:
            raise RunError(
                f"the process that measured a step of {name} died, most likely out of memory; "
                "try a smaller batch size"
            ) from None


def read_memory(key: str) -> int:
    """Bytes this process has resident now (VmRSS), or had at most (VmHWM); Linux."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{key}:\s+(\d+) kB", status)[1])
