"""What training costs beside the step: waiting for data, packed store against decoding JPEGs, start-up time, and
whether the time per pair grows with the data set. Everything on generated data, through the library's own loaders.

Not here: the step (steps.py), retrieval (search.py). The growth data live in the page cache: what a disk adds when a
store is larger than memory is not measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks import ROOT
from data_prep import folder, images, pack, phantom
from data_prep.machine import cores
from mcr_lib.config import RunConfig, resolve
from mcr_lib.data import PairData, TrainBatches, prepare_images, store_size
from mcr_lib.run import train_run
from mcr_lib.tokenizer import train_tokenizer

ROWS = (1_000, 10_000, 100_000, 300_000)  # sizes of the growing data set
JPEG_SIZES = {"jpeg_512": (512, 624), "jpeg_full": (2544, 3056)}  # as data_prep writes; MIMIC-CXR's
START_UP = """
import json, time
times = [time.perf_counter()]
import torch
times.append(time.perf_counter())
import mcr_lib
times.append(time.perf_counter())
from mcr_lib import MCR, Trainer
times.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(times, times[1:])]))
"""


def measure_loading(
    device: torch.device, *, studies: int = 256, steps: int = 60, rows=ROWS, rounds: int = 3
) -> dict:
    """All four, in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        phantom.write(place / "phantom", studies=studies)
        return {
            "waiting": measure_waiting(place / "phantom", place / "run", device, steps),
            "reading": measure_reading(place / "phantom", device, rounds=rounds),
            "growth": [measure_growth(place / str(n), n, device) for n in rows],
            "start_up": measure_start_up(rounds),
        }


def wait_for(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_waiting(data: Path, run: Path, device: torch.device, steps: int) -> dict:
    """The share of a real run's time that its step waits for data: demo on a CPU, base on a GPU."""
    profile = "base" if device.type == "cuda" else "demo"
    settings = {"steps": steps, "log_every": max(1, steps // 3), "checkpoint_every": steps}
    trainer = train_run(data, run, resolve(profile, settings), device=device)
    later = trainer.log[1:]  # the first record holds the start of the reader
    return {
        "profile": profile,
        "batch_size": trainer.config.batch_size,
        "steps": steps,
        "share": statistics.mean(record["waiting_for_data"] for record in later),
        "pairs_per_second": statistics.mean(record["pairs_per_second"] for record in later),
    }


# ------------------------------------------------------------------------------------------------------------ reading


def measure_reading(data: Path, device: torch.device, pairs: int = 32, rounds: int = 3) -> dict:
    """Pairs per second to a normalised batch on the device, base profile.

    From the packed store and from JPEGs (quality 95) decoded and scaled on all cores: JPEGs as data_prep writes them
    (short side 512), and as large as MIMIC-CXR's downloads. In turns, medians; no augmentation, so that all three end
    in the same batch.
    """
    config = resolve("base")
    loader = _open_pairs(data, config)
    pairs = min(pairs, len(loader))
    size = store_size(config.model.img_size)

    def decode(path: Path) -> np.ndarray:
        return images.letterbox(images.read_gray(path, size), size)

    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(cores()) as pool:
        sources = [data / name for name in loader.table["image_path"].iloc[:pairs]]

        def read_jpegs(paths: list[Path]) -> None:
            pixels = torch.from_numpy(np.stack(list(pool.map(decode, paths))))[:, None]
            prepare_images(pixels.to(device), config.model.img_size, config.model.in_chans)

        calls = {"store": partial(loader.batch, np.arange(pairs), device)}
        for kind, shape in JPEG_SIZES.items():
            paths = _write_jpegs(sources, Path(place) / kind, shape)
            calls[kind] = partial(read_jpegs, paths)
        seconds = _time_calls(calls, rounds, device)
    rate = {kind: pairs / statistics.median(times) for kind, times in seconds.items()}
    return {
        "store_size": size,
        "pairs_per_second": rate,
        "ratio": rate["store"] / rate["jpeg_512"],
        "ratio_full": rate["store"] / rate["jpeg_full"],
    }


def _write_jpegs(sources: list[Path], where: Path, shape: tuple[int, int]) -> list[Path]:
    where.mkdir()
    paths = []
    for number, source in enumerate(sources):
        paths.append(where / f"{number}.jpg")
        resized = Image.open(source).resize(shape, Image.Resampling.BICUBIC)
        resized.save(paths[-1], quality=95)
    return paths


def _time_calls(
    calls: dict[str, Callable], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every call in every round, in turns, after a round that warms up."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            wait_for(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


# ------------------------------------------------------------------------------------------------------------- growth


def measure_growth(
    data: Path, n: int, device: torch.device, pairs: int = 256, steps: int = 40
) -> dict:
    """Microseconds per pair with n pairs: opening the data set, ordering an epoch, and making batches (read, noise,
    pixels to the device). The store is a sparse file: all of the way is taken, the disk's own speed is not in it."""
    config = resolve("smoke", {"batch_size": pairs, "steps": steps})
    _write_big_folder(data, n, store_size(config.model.img_size))
    start = time.perf_counter()
    loader = _open_pairs(data, config)
    opened = time.perf_counter() - start
    ordering, seconds = [], []
    for _ in range(3):
        batches = TrainBatches(loader, config.train, device)
        start = time.perf_counter()
        batches.index(0)  # orders the first epoch
        ordering.append(time.perf_counter() - start)
        start = time.perf_counter()
        for _parts in batches(0, steps):
            pass
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return {
        "pairs": n,
        "open_us": opened / n * 1e6,
        "order_us": min(ordering) / n * 1e6,
        "batch_us": min(seconds) / (steps * pairs) * 1e6,
    }


def _write_big_folder(data: Path, n: int, size: int) -> None:
    """A data set folder with n pairs of the train split, whose packed store is a sparse file of black images."""
    number = pd.Series([f"{i:07d}" for i in range(n)])
    report = "the heart is of size " + number.str[-3:] + " and the lungs are clear ."
    columns = {
        "pair_id": number,
        "study_id": number,
        "patient_id": number,
        "image_path": "images/" + number + ".png",
        "view": "frontal",
        "report": report,
        "findings": report,
        "impression": "",
        "labels": "normal",
        "split": "train",
    }
    data.mkdir()
    table = pd.DataFrame(columns)[folder.COLUMNS]
    table.to_parquet(data / "manifest.parquet", index=False)
    about = {"name": "noise", "licence": "none", "synthetic": True, "text_policy": "none"}
    folder.write_json(data / "dataset.json", about | {"sha256": f"benchmark {n}"})
    store = data / "store"
    store.mkdir()
    shape = (n, size, size)
    np.lib.format.open_memmap(store / f"{size}.npy", mode="w+", dtype=np.uint8, shape=shape)
    crc = zlib.crc32(bytes(size * size))
    rows = [pack.Row(image, None, None, "", crc) for image in table.image_path]
    pack.write_index(store / f"{size}.npy", size, rows)


def _open_pairs(data: Path, config: RunConfig) -> PairData:
    with tempfile.TemporaryDirectory() as place:
        reports = folder.read(data)["report"].head(1000)
        tokenizer = train_tokenizer(reports, config.model.vocab_size, Path(place))
    return PairData(data, "train", tokenizer, config.model)


# ----------------------------------------------------------------------------------------------------------- start-up


def measure_start_up(rounds: int = 3) -> dict:
    """Seconds of `import torch`, of `import mcr_lib` after it, and of the model and trainer (timm, transformers) after
    that; medians of fresh processes."""
    runs = []
    for _ in range(rounds):
        fresh = [sys.executable, "-c", START_UP]
        done = subprocess.run(fresh, cwd=ROOT, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout))
    torch_seconds, library_seconds, model_seconds = zip(*runs, strict=True)
    return {
        "torch_seconds": statistics.median(torch_seconds),
        "mcr_lib_seconds": statistics.median(library_seconds),
        "model_and_trainer_seconds": statistics.median(model_seconds),
    }
