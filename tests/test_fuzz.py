"""`make fuzz` at small size: no reader has a traceback or loses anything; and the harness counts what it should."""

import subprocess
import sys
import tracemalloc

import pytest
from fuzz import Kind, Loss, all_kinds, run, try_case

from data_prep import raw_table
from data_prep.errors import DataError

SLOW = {"own file, manifest.parquet": 3, "weights, text": 10, "own file, YAML": 10}  # cases


@pytest.mark.parametrize("kind", list(all_kinds()), ids=lambda kind: kind.name)
def test_no_traceback_and_nothing_lost(kind, tmp_path, capfd):
    made = kind(tmp_path)
    came = {seed: try_case(made, seed) for seed in range(SLOW.get(kind.name, 40))}
    faults = {seed: found for seed, found in came.items() if found[0] not in ("read", "refused")}
    assert not faults, f'python -m tests.fuzz --case "{kind.name}" {next(iter(faults))}'
    assert {"read", "refused"} & {outcome for outcome, _ in came.values()}


def test_the_full_run_is_large_enough():
    assert sum(kind.cases for kind in all_kinds()) >= 100_000
    names = [kind.name for kind in all_kinds()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "read"),
        (DataError("one line"), "refused"),
        (DataError("two\nlines"), "traceback"),
        (Loss("less"), "loss"),
        (ValueError("x"), "traceback"),
    ],
)
def test_what_comes_of_a_case(tmp_path, error, outcome):
    class Raises(Kind):
        def case(self, rng):
            if error:
                raise error
            return False

    assert try_case(Raises(tmp_path), 0)[0] == outcome


WORKER = """
import json, os, signal, sys
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    print(json.dumps({"seed": seed}), flush=True)
    if seed in (2, 4):
        os.kill(os.getpid(), signal.SIGSEGV if seed == 2 else signal.SIGALRM)
    said = {"outcome": "read", "seed": seed, "why": "", "seconds": seed / 10, "memory": 7}
    print(json.dumps(said), flush=True)
"""


def test_a_process_that_ends_is_counted_and_the_next_case_goes_on(monkeypatch):
    def start(name, first, stop):
        command = [sys.executable, "-c", WORKER, str(first), str(stop)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(run, "start_worker", start)
    row = run.run_kind(Kind, 0, 6)
    assert (row["read"], row["signal"], row["timeout"]) == (4, 1, 1)
    assert [fault[:2] for fault in row["faults"]] == [["signal", 2], ["timeout", 4]]
    assert (row["memory_mb"], row["slowest_s"], row["slowest_seed"]) == (7, 0.5, 5)


def test_a_small_table_asks_for_little_memory(tmp_path):
    """Not for as much as the largest table may have."""
    path = tmp_path / "x.csv"
    path.write_text("image,patient_id\na.png,1\n")
    tracemalloc.start()
    try:
        raw_table.read(path, ["image", "patient_id"])
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf\x0b\x1c"]
)
def test_a_table_of_a_mark_and_nothing_else_is_empty(tmp_path, mark):
    path = tmp_path / "x.csv"
    path.write_bytes(mark)
    with pytest.raises(DataError, match="is empty"):
        raw_table.read(path, ["image", "patient_id"])
