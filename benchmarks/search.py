"""How fast evaluation and search are, how much memory they take, and that they are exact: one result file. Each part
runs in a process of its own, so that its peak memory is its own. All features are random; no data set is needed.

    python benchmarks/search.py --out benchmarks/results/search_2cpu.json
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torch.nn.functional as F
import typer

from mcr_lib import run_folder
from mcr_lib.approximate import Approximate
from mcr_lib.index import Index
from mcr_lib.ranking import TIE, coarse_dtypes, error_bound
from mcr_lib.retrieval import evaluate

MIMIC = 377_110      # images of MIMIC-CXR
REPEATS = 3


def pairs(count: int, width: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and reports (N, D) that lie as a trained model's do: 300 clusters, a report near its image."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(300, width, generator=torch.Generator().manual_seed(0))
    images = centres[torch.randint(300, (count,), generator=generator)]
    images = F.normalize(images + torch.randn(count, width, generator=generator))
    noise = torch.randn(count, width, generator=generator).div_(width**0.5)
    return images.to(dtype), F.normalize(images + noise).to(dtype)


def table(first: int, count: int) -> pd.DataFrame:
    """Manifest rows; every tenth report repeats the one before it."""
    rows = range(first, first + count)
    return pd.DataFrame({"pair_id": [f"pair{n}" for n in rows], "patient_id": [f"p{n // 2}" for n in rows],
                         "image_path": [f"images/{n}.png" for n in rows], "labels": "", "split": "train",
                         "report": [f"synthetic report number {n - (n % 10 == 9)}" for n in rows]})


def timed(work) -> list[float]:
    """Seconds of each of REPEATS calls."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(round(time.perf_counter() - start, 3))
    return seconds


def memory(peak: bool = True) -> int:
    """Bytes resident: the most of this process, or now (ru_maxrss would begin with the parent's)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s*(\d+) kB", status)[1])


def write_index(path: Path, count: int, width: int, dtype: torch.dtype, part: int = 100_000) -> float:
    """An index of random pairs, built in parts; seconds of writing (making the features not counted)."""
    seconds = 0.0
    for first in range(0, count, part):
        size = min(part, count - first)
        what = (*pairs(size, width, first + 1, dtype), table(first, size), "random")
        start = time.perf_counter()
        if first == 0:
            Index(*what).save(path)
            index = Index.load(path)
        else:
            index.add(*what)
        seconds += time.perf_counter() - start
    return seconds


def bulk(path: Path) -> dict:
    return {kind: sum(f.stat().st_size for f in path.glob(pattern))
            for kind, pattern in (("vectors", "*.rows"), ("table", "*.arrow"), ("faiss", "*.ivf"))}


def oracle_agrees(index: Index, queries: torch.Tensor, k: int) -> bool:
    """The rule by brute force for a few queries: all scores in float64, sorted."""
    exact = torch.cat([(F.normalize(queries.double()) @ features.double().T).div_(TIE).round_()
                       for _, features in index.blocks("images")], dim=1)
    order = exact.sort(dim=1, descending=True, stable=True).indices[:, :k]                 # the lower row first
    return index.topk(queries, k, "images")[1].equal(order)


def measure_evaluation(folder: Path, size: int) -> dict:
    """size × size pairs, 512-d, both directions, text-identical, 1000 resamples."""
    images, reports = pairs(size, 512, 1)
    of_text = torch.arange(size) % (9 * size // 10)
    arguments = {"texts": [f"report {n}" for n in of_text.tolist()], "labels": [""] * size,
                 "clusters": [f"p{n // 2}" for n in range(size)]}
    before = memory(peak=False)
    seconds = timed(lambda: evaluate(images, reports[of_text], n_bootstrap=1000, **arguments))
    return {"pairs": size, "width": 512, "seconds": seconds, "memory_above_features_bytes": memory() - before}


def measure_search(folder: Path, size: int, width: int, n_queries: int, dtype: str) -> dict:
    """Exact top-10 among `size` images mapped from disk, for many queries and for one."""
    path, queries, before = folder / f"index-{size}", pairs(n_queries, width, 0)[1], memory()
    start = time.perf_counter()
    index = Index.load(path)
    load = time.perf_counter() - start
    seconds = timed(lambda: index.topk(queries, 10, "images"))
    one = timed(lambda: index.search(queries[0], 10, "images"))
    return {"rows": size, "width": width, "stored_as": dtype, "queries": n_queries, "k": 10,
            "load_milliseconds": round(1000 * load, 2), "seconds": seconds, "seconds_for_one_query": one,
            "memory_before_bytes": before, "peak_memory_bytes": memory(), "file_bytes": bulk(path),
            "low_precision": [str(t).removeprefix("torch.") for t in coarse_dtypes(queries)],
            "equals_brute_force": oracle_agrees(index, queries[:8], 10)}


def measure_faiss(folder: Path, size: int) -> dict:
    """FAISS over the same images: time to build, recall against exact search, time for the same queries."""
    index, queries = Index.load(folder / f"index-{size}"), pairs(1000, 512, 0)[1]
    start = time.perf_counter()
    fast = Approximate(index, "images")
    build = time.perf_counter() - start
    return {"rows": size, "parts": fast.faiss.nlist, "parts_seen": fast.faiss.nprobe, "build_seconds": round(build, 1),
            "recall@10": round(fast.recall(10), 4), "queries": 1000, "seconds": timed(lambda: fast.topk(queries, 10)),
            "seconds_for_one_query": timed(lambda: fast.topk(queries[:1], 10)), "peak_memory_bytes": memory(),
            "file_bytes": bulk(index.path)["faiss"]}


def main(out: Annotated[Path, typer.Option()] = Path("search.json"), large: int = 10_000_000, mimic: int = MIMIC,
         size: int = 10_000, folder: Annotated[Path | None, typer.Option(help="for the indexes, about 8 GB")] = None,
         part: Annotated[str | None, typer.Option(hidden=True)] = None) -> None:
    """Measure everything and write OUT; `large`, `mimic` and `size` are row counts."""
    if part:
        parts = {"evaluation": lambda: measure_evaluation(folder, size),
                 "top10": lambda: measure_search(folder, mimic, 512, 1000, "float32"),
                 "faiss": lambda: measure_faiss(folder, mimic),
                 "large": lambda: measure_search(folder, large, 128, 100, "float16")}
        print(json.dumps(parts[part]()))
        return
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        def run(name: str) -> dict:
            done = subprocess.run([sys.executable, __file__, "--part", name, "--folder", temporary, "--size", str(size),
                                   "--mimic", str(mimic), "--large", str(large)], stdout=subprocess.PIPE, check=True)
            print(f"{name}: {done.stdout.decode().strip()}", flush=True)
            return json.loads(done.stdout)

        result = {"evaluation": run("evaluation")}
        for name, rows, width, dtype in (("top10", mimic, 512, torch.float32), ("large", large, 128, torch.float16)):
            written = write_index(Path(temporary) / f"index-{rows}", rows, width, dtype)
            result[name] = run(name) | {"write_seconds": round(written, 1)}
        result["faiss"] = run("faiss")
    result["error_bound"] = {"float32": error_bound(torch.float32, 512), "bfloat16": error_bound(torch.bfloat16, 512)}
    command = shlex.join(["python", *sys.argv])
    run_folder.write_json(out, result | {"load_average": os.getloadavg()} | run_folder.provenance(command))
    print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
