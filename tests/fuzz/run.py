"""Runs the cases of a kind in a process of its own, with a limit on memory and on time, and counts what comes of them.

`python -m tests.fuzz.run KIND START STOP` is such a process; it says each case's number before the case begins, so that
the case that ends it is known.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from data_prep.machine import progress

from . import all_kinds, try_case

MEMORY = 3 * 2**30  # bytes that a process may ask for
SECONDS = 60  # for one case; the machine may have other work
CHUNK = 5000  # cases of one process
SHOWN = 20  # faults of a kind that are kept


def run_kind(kind: type, start: int, stop: int) -> dict:
    """The kind's row of the table: counts, memory, time, faults."""
    counts, faults, slowest, memory, rest = Counter(), [], (0.0, start), 0, 0
    with progress(total=stop - start, desc=kind.name) as bar:
        at = start
        while at < stop:
            done, last = start_worker(kind.name, at, min(at + CHUNK, stop)), at - 1
            for line in done.stdout:
                said = json.loads(line)
                if "rest" in said:
                    rest = said["rest"]
                elif "outcome" not in said:
                    last = said["seed"]
                else:
                    bar.update()
                    counts[said["outcome"]] += 1
                    slowest = max(slowest, (said["seconds"], said["seed"]))
                    memory = max(memory, said["memory"])
                    if said["why"]:
                        faults.append([said["outcome"], said["seed"], said["why"]])
            at = last + 1
            if done.wait():
                name = "timeout" if done.returncode == -signal.SIGALRM else "signal"
                counts[name] += 1
                faults.append([name, last, f"exit status {done.returncode}"])
    return {
        "cases": stop - start,
        **{
            name: counts[name]
            for name in ("read", "refused", "traceback", "signal", "timeout", "loss")
        },
        "memory_mb": memory,
        "memory_before_mb": rest,
        "slowest_s": round(slowest[0], 2),
        "slowest_seed": slowest[1],
        "faults": faults[:SHOWN],
    }


def start_worker(name: str, start: int, stop: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.fuzz.run", name, str(start), str(stop)]
    quiet = {"stderr": subprocess.DEVNULL}  # decoders in C complain there
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **quiet)


def work(name: str, start: int, stop: int) -> None:
    """The cases, each said before it begins and when it is done."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what readers print is not ours
    kind = next(kind for kind in all_kinds() if kind.name == name)
    with tempfile.TemporaryDirectory() as folder:
        made = kind(Path(folder))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        print(json.dumps({"rest": peak()}), file=out, flush=True)
        for seed in range(start, stop):
            print(json.dumps({"seed": seed}), file=out, flush=True)
            signal.alarm(SECONDS)
            begin = time.process_time()
            outcome, why = try_case(made, seed)
            seconds = time.process_time() - begin
            said = {"seed": seed, "outcome": outcome, "why": why, "seconds": seconds}
            print(json.dumps({**said, "memory": peak()}), file=out, flush=True)


def peak() -> int:
    """MB that this process has used at most; what `resource` says would be its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
