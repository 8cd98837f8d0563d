"""What a long run needs while it runs: its clock, the signal to stop, its log. Not here: the bar (machine.py)."""

from __future__ import annotations

import json
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from .own_files import atomic, read_log


class Clock:
    """Seconds of training, pauses not counted; and of each lap, the share spent waiting for data."""

    def __init__(self, seconds: float = 0.0):
        """seconds: what earlier processes of the run have trained already."""
        self._start = time.perf_counter() - seconds
        self.start_lap()

    @property
    def seconds(self) -> float:
        """Of training, since the run began."""
        return time.perf_counter() - self._start

    def start_lap(self) -> None:
        """A lap is what one log line is about."""
        self._lap_start, self._waited = time.perf_counter(), 0.0

    def lap(self) -> tuple[float, float]:
        """Seconds since the lap began, and the share of them that was waited."""
        elapsed = time.perf_counter() - self._lap_start
        return elapsed, self._waited / elapsed

    @contextmanager
    def waiting(self):
        """What runs in here is waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self):
        """What runs in here is no training."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start


class StopSignal:
    """Notes SIGTERM and Ctrl-C, so that they are acted on after the running step. Only the main
    thread may listen; in others the caller's own handling stays."""

    received = 0  # the signal's number

    def __enter__(self) -> StopSignal:
        self._previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:
            pass  # not the main thread
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _frame) -> None:
        self.received = number


class Logged(BaseModel):
    """What every line of metrics.jsonl says."""

    step: int


def cut_log(path: Path, step: int) -> list[dict]:
    """Drop what was logged after `step`, it will be logged again; → the records that stay. A last
    line cut short by a kill or a full disk is dropped as well. Raises DamagedFile for another."""
    advice = "restore it, or take it away to go on without its lines"
    kept = [record for record in read_log(path, Logged, advice) if record["step"] <= step]
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
    return kept
