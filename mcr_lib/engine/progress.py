"""What a run tells while it runs: its clock, metrics.jsonl, the signal to stop. Not here: the bar (data_prep)."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path


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


def append_log(path: Path, record: dict) -> None:
    """Add one line to metrics.jsonl."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def cut_log(path: Path, step: int) -> list[dict]:
    """Drop what was logged after `step`, it will be logged again; → the records that stay. A last
    line cut short by a kill or a full disk is dropped as well."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record["step"] <= step:
            kept.append(record)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
    os.replace(partial, path)
    return kept
