"""What training costs beside the step: waiting for data, packed store against decoding JPEGs, start-up time, and
whether the time per pair grows with the data set. Everything on generated data, through the library's own loaders.

Not here: the step (benchmark.py), retrieval (benchmarks/search.py). The growth data live in the page cache: what a disk
adds when a store is larger than memory is not measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from data_prep import folder, images, pack, phantom

from . import run_folder
from .config import RunConfig, resolve
from .data import PairData, TrainBatches, prepare_images, store_size
from .tokenizer import train_tokenizer

ROWS = (1_000, 10_000, 100_000, 300_000)  # sizes of the growing data set


def measure(device: torch.device, *, studies: int = 256, steps: int = 60, rows=ROWS, rounds: int = 3) -> dict:
    """All four, in a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        phantom.write(place / "phantom", studies=studies)
        return {"waiting": waiting(place / "phantom", place / "run", device, steps),
                "reading": reading(place / "phantom", device, rounds=rounds),
                "growth": [growth(place / str(n), n, device) for n in rows],
                "start_up": start_up(rounds)}


def waiting(data: Path, run: Path, device: torch.device, steps: int) -> dict:
    """The share of a real run's time that its step waits for data: demo on a CPU, base on a GPU."""
    profile = "base" if device.type == "cuda" else "demo"
    settings = {"steps": steps, "log_every": max(1, steps // 3), "checkpoint_every": steps}
    trainer = run_folder.train(data, run, resolve(profile, settings), device=device)
    later = trainer.log[1:]  # the first record holds the start of the reader
    return {"profile": profile, "batch_size": trainer.config.batch_size, "steps": steps,
            "share": statistics.mean(record["waiting_for_data"] for record in later),
            "pairs_per_second": statistics.mean(record["pairs_per_second"] for record in later)}


def reading(data: Path, device: torch.device, pairs: int = 32, rounds: int = 3) -> dict:
    """Pairs per second to a normalised batch on the device, base profile, from the packed store and from JPEGs (quality
    95) decoded and scaled on all cores: JPEGs as data_prep writes them (short side 512), and as large as MIMIC-CXR's
    downloads. In turns, medians; no augmentation, so that all three end in the same batch."""
    config, sizes = resolve("base"), {"jpeg_512": (512, 624), "jpeg_full": (2544, 3056)}
    loader = _pair_data(data, config)
    pairs = min(pairs, len(loader))
    size = store_size(config.model.img_size)

    def decode(path: Path) -> np.ndarray:
        return images.letterbox(images.read_gray(path, size), size)

    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(images.cores()) as pool:
        for kind, shape in sizes.items():
            (Path(place) / kind).mkdir()
            for i, name in enumerate(loader.table["image_path"].iloc[:pairs]):
                Image.open(data / name).resize(shape, Image.Resampling.BICUBIC).save(
                    Path(place) / kind / f"{i}.jpg", quality=95)

        def from_jpeg(kind: str) -> None:
            paths = [Path(place) / kind / f"{i}.jpg" for i in range(pairs)]
            pixels = torch.from_numpy(np.stack(list(pool.map(decode, paths))))[:, None]
            prepare_images(pixels.to(device), config.model.img_size, config.model.in_chans)

        calls = {"store": lambda: loader.batch(np.arange(pairs), device),
                 **{kind: partial(from_jpeg, kind) for kind in sizes}}
        seconds = {key: [] for key in calls}
        for _ in range(rounds + 1):  # the first warms up
            for key, call in calls.items():
                start = time.perf_counter()
                call()
                _wait_for(device)
                seconds[key].append(time.perf_counter() - start)
    rate = {key: pairs / statistics.median(times[1:]) for key, times in seconds.items()}
    return {"store_size": size, "pairs_per_second": rate, "ratio": rate["store"] / rate["jpeg_512"],
            "ratio_full": rate["store"] / rate["jpeg_full"]}


def growth(data: Path, n: int, device: torch.device, pairs: int = 256, steps: int = 40) -> dict:
    """Microseconds per pair with n pairs: opening the data set, ordering an epoch, and making batches (read, noise,
    pixels to the device). The store is a sparse file: all of the way is taken, the disk's own speed is not in it."""
    config = resolve("smoke", {"batch_size": pairs, "steps": steps})
    _big_folder(data, n, store_size(config.model.img_size))
    start = time.perf_counter()
    loader = _pair_data(data, config)
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
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return {"pairs": n, "open_us": opened / n * 1e6, "order_us": min(ordering) / n * 1e6,
            "batch_us": min(seconds) / (steps * pairs) * 1e6}


def start_up(rounds: int = 3) -> dict:
    """Seconds of `import torch`, of `import mcr_lib` after it, and of the model and trainer (timm, transformers) after
    that; medians of fresh processes."""
    code = ("import time, json; t = [time.perf_counter()]; import torch; t.append(time.perf_counter()); "
            "import mcr_lib; t.append(time.perf_counter()); from mcr_lib import MCR, Trainer; "
            "t.append(time.perf_counter()); print(json.dumps([b - a for a, b in zip(t, t[1:])]))")
    runs = [json.loads(subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True,
                                      capture_output=True, text=True).stdout) for _ in range(rounds)]
    names = ("torch_seconds", "mcr_lib_seconds", "model_and_trainer_seconds")
    return dict(zip(names, map(statistics.median, zip(*runs, strict=True)), strict=True))


def _pair_data(data: Path, config: RunConfig) -> PairData:
    with tempfile.TemporaryDirectory() as place:
        reports = folder.read(data)["report"].head(1000)
        tokenizer = train_tokenizer(reports, config.model.vocab_size, Path(place))
    return PairData(data, "train", tokenizer, config.model)


def _big_folder(data: Path, n: int, size: int) -> None:
    """A data set folder with n pairs of the train split, whose packed store is a sparse file of black images."""
    number = pd.Series([f"{i:07d}" for i in range(n)])
    report = number.map(lambda i: f"the heart is of size {i[-3:]} and the lungs are clear .")
    data.mkdir()
    pd.DataFrame({"pair_id": number, "study_id": number, "patient_id": number, "image_path": number + ".png",
                  "view": "frontal", "report": report, "findings": report, "impression": "", "labels": "normal",
                  "split": "train"})[folder.COLUMNS].to_parquet(data / "manifest.parquet", index=False)
    folder.write_json(data / "dataset.json", {"sha256": f"benchmark {n}"})
    (data / "store").mkdir()
    np.lib.format.open_memmap(data / "store" / f"{size}.npy", mode="w+", dtype=np.uint8, shape=(n, size, size))
    folder.write_json(data / "store" / f"{size}.json", pack.describe(data, size))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
