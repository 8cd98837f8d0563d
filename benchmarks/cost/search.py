"""How fast evaluation and search are, how much memory they take, and that they are exact: one result file. Each part
runs in a process of its own, so that its peak memory is its own. All features are random; no data set is needed.

    python -m benchmarks.cost.search --out benchmarks/results/search_2cpu.json
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from benchmarks import ROOT
from benchmarks.cost.processes import read_memory
from data_prep.commands import QUIET, command_line, run_app
from data_prep.folder import write_json
from data_prep.provenance import provenance
from mcr_lib.index import Index
from mcr_lib.retrieval import evaluate

MODULE = "benchmarks.cost.search"
MIMIC = 377_110  # images of MIMIC-CXR
REPEATS, K = 3, 10
PART = 100_000  # rows at a time
CHECKED = 8  # queries that are compared with brute force
NINE_DECIMALS = 1e9  # scores that agree to so many are equal, and the lower row comes first

app = typer.Typer(help="How fast evaluation and search are.", **QUIET)


@dataclass(frozen=True)
class Size:
    """An index that is searched: rows of a width, stored as `dtype`, for so many queries at once."""

    rows: int
    width: int
    dtype: str
    queries: int

    def path(self, folder: Path) -> Path:
        return folder / f"index-{self.rows}"


@app.command()
def main(
    out: Annotated[Path, typer.Option()] = Path("search.json"),
    large: int = 10_000_000,
    mimic: int = MIMIC,
    size: int = 10_000,
    folder: Annotated[Path | None, typer.Option(help="for the indexes, about 8 GB")] = None,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure everything and write OUT; `large`, `mimic` and `size` are row counts."""
    sizes = {"top10": Size(mimic, 512, "float32", 1000), "large": Size(large, 128, "float16", 100)}
    if part == "evaluation":
        print(json.dumps(measure_evaluation(size)))
        return
    if part:
        print(json.dumps(measure_search(folder, sizes[part])))
        return
    counts = ["--size", str(size), "--mimic", str(mimic), "--large", str(large)]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        arguments = [*counts, "--folder", temporary]
        result = {"evaluation": _run_part("evaluation", arguments)}
        for name, index in sizes.items():
            seconds = write_index(index.path(Path(temporary)), index)
            measured = _run_part(name, arguments)
            result[name] = measured | {"write_seconds": round(seconds, 1)}
    write_json(out, {**result, "load_average": os.getloadavg(), **provenance(command_line(MODULE))})
    print(f"wrote {out}")


def _run_part(name: str, arguments: list[str]) -> dict:
    """This command once more, for one part of it → what it prints."""
    command = [sys.executable, "-m", MODULE, "--part", name, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    print(f"{name}: {done.stdout.decode().strip()}", flush=True)
    return json.loads(done.stdout)


# ----------------------------------------------------------------------------------------------------------- made up


def make_features(
    count: int, width: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Images and reports (N, D) that lie as a trained model's do: 300 clusters, a report near its image."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(300, width, generator=torch.Generator().manual_seed(0))
    images = centres[torch.randint(300, (count,), generator=generator)]
    images = F.normalize(images + torch.randn(count, width, generator=generator))
    noise = torch.randn(count, width, generator=generator).div_(width**0.5)
    return images.to(dtype), F.normalize(images + noise).to(dtype)


def make_table(count: int) -> pd.DataFrame:
    """Manifest rows; every tenth report repeats the one before it."""
    rows = range(count)
    columns = {
        "pair_id": [f"pair{n}" for n in rows],
        "patient_id": [f"p{n // 2}" for n in rows],
        "image_path": [f"images/{n}.png" for n in rows],
        "labels": "",
        "split": "train",
        "report": [f"synthetic report number {n - (n % 10 == 9)}" for n in rows],
    }
    return pd.DataFrame(columns)


def write_index(path: Path, size: Size) -> float:
    """An index of random pairs; seconds of writing (making the features not counted)."""
    dtype = getattr(torch, size.dtype)
    images = torch.empty(size.rows, size.width, dtype=dtype)
    reports = torch.empty_like(images)
    for first in range(0, size.rows, PART):
        rows = slice(first, first + PART)
        count = len(images[rows])
        images[rows], reports[rows] = make_features(count, size.width, first + 1, dtype)
    table = make_table(size.rows)
    start = time.perf_counter()
    Index(images, reports, table, "random").save(path)
    return time.perf_counter() - start


# ---------------------------------------------------------------------------------------------------------- measuring


def measure_evaluation(size: int) -> dict:
    """size × size pairs, 512-d, both directions, text-identical, 1000 resamples."""
    images, reports = make_features(size, 512, 1)
    of_text = torch.arange(size) % (9 * size // 10)
    arguments = {
        "texts": [f"report {n}" for n in of_text.tolist()],
        "labels": [""] * size,
        "clusters": [f"p{n // 2}" for n in range(size)],
    }
    before = read_memory("VmRSS")
    seconds = time_repeats(
        lambda: evaluate(images, reports[of_text], n_bootstrap=1000, **arguments)
    )
    return {
        "pairs": size,
        "width": 512,
        "seconds": seconds,
        "memory_above_features_bytes": read_memory("VmHWM") - before,
    }


def measure_search(folder: Path, size: Size) -> dict:
    """Exact top-10 among images mapped from disk, for many queries and for one."""
    path = size.path(folder)
    _, queries = make_features(size.queries, size.width, 0)
    before = read_memory("VmHWM")
    start = time.perf_counter()
    index = Index.load(path)
    load = time.perf_counter() - start
    seconds = time_repeats(lambda: index.topk(queries, K, "images"))
    seconds_for_one = time_repeats(lambda: index.search(queries[0], K, "images"))
    return {
        "rows": size.rows,
        "width": size.width,
        "stored_as": size.dtype,
        "queries": size.queries,
        "k": K,
        "load_milliseconds": round(1000 * load, 2),
        "seconds": seconds,
        "seconds_for_one_query": seconds_for_one,
        "memory_before_bytes": before,
        "peak_memory_bytes": read_memory("VmHWM"),
        "file_bytes": {"vectors": _bytes_of(path, "*.npy"), "table": _bytes_of(path, "*.parquet")},
        "equals_brute_force": equals_brute_force(index, queries[:CHECKED]),
    }


def time_repeats(work: Callable) -> list[float]:
    """Seconds of each of REPEATS calls."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(round(time.perf_counter() - start, 3))
    return seconds


def _bytes_of(path: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in path.glob(pattern))


def equals_brute_force(index: Index, queries: Tensor) -> bool:
    """The rule by brute force: all scores in float64, rounded to nine decimals, sorted, the lower row first."""
    gallery = index.features["images"]
    queries = F.normalize(queries.double())
    scores = []
    for part in gallery.split(PART):
        scores.append((queries @ part.double().T).mul_(NINE_DECIMALS).round_())
    by_score = torch.cat(scores, dim=1).sort(dim=1, descending=True, stable=True)
    return index.topk(queries, K, "images")[1].equal(by_score.indices[:, :K])


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
