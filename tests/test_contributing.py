"""CONTRIBUTING.md works as it stands: its changes are made in a copy of the kit, and its commands are run there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.S | re.M))


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], flags=re.S)


@pytest.fixture
def kit(tmp_path):
    """A copy of the kit's code."""
    for name in ("mcr_lib", "data_prep", "benchmarks"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(ROOT / "notebooks" / "kit", tmp_path / "notebooks" / "kit")
    return tmp_path


def make_change(kit: Path, change: str) -> None:
    """Each hunk's old lines must stand in the file exactly once; the new ones take their place."""
    for part in re.split(r"^--- a/.*\n", change, flags=re.M)[1:]:
        name, *hunks = re.split(r"^@@\n", part, flags=re.M)
        file = kit / name.strip().removeprefix("+++ b/")
        text = file.read_text(encoding="utf-8")
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            assert text.count(old) == 1, f"{file.name} has no such place, or several: {old}"
            text = text.replace(old, new)
        file.write_text(text, encoding="utf-8")


def run(kit: Path, *command) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(kit),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=kit,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FEW = ["--profile", "smoke", "--device", "cpu", "--set", "steps=2", "--set", "batch_size=8"]


def train_few(kit: Path, data: Path, folder: Path, *settings: str) -> None:
    more = [word for setting in settings for word in ("--set", setting)]
    run(kit, "-m", "mcr_lib", "train", "--data", data, "--run", folder, *FEW, *more)


def test_a_pooling(kit, phantom):
    (change,) = blocks("A pooling", "diff")
    make_change(kit, change)
    train, study = blocks("A pooling", "bash")[0].splitlines()
    assert "--set pooling=lse" in train and "--arm lse=pooling=lse" in study
    train_few(kit, phantom, kit / "run", "pooling=lse")
    found = run(
        kit,
        "-m",
        "mcr_lib",
        "search",
        "--data",
        phantom,
        "--run",
        kit / "run",
        "--text",
        "effusion",
        "--json",
    )
    assert len(json.loads(found)) == 5
    check = """
import torch
from mcr_lib.heads import Aggregation
x = torch.randn(2, 7, 5)
present = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
pool = Aggregation(5, "lse")
expected = torch.stack([x[n, : (7, 4)[n]].exp().mean(0).log() for n in range(2)])
torch.testing.assert_close(pool(x, present), expected)
assert pool.contributions(x, present).shape == x.shape
"""
    run(kit, "-c", check)


def test_a_loss(kit, phantom):
    (change,) = blocks("A loss", "diff")
    make_change(kit, change)
    logs = []
    for parts in (1, 2):
        folder = kit / f"run{parts}"
        train_few(kit, phantom, folder, "log_every=1", f"accumulation={parts}", "precision=fp32")
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        logs.append([json.loads(line)["distance_loss"] for line in lines])
    assert 0 < logs[0][0] < 4
    assert logs[0] == pytest.approx(logs[1], abs=1e-3), "in two parts it is the same loss"


def test_an_arm_of_the_page_can_be_read():
    from benchmarks.study.arms import parse_arms

    (command,) = blocks("An arm", "bash")
    (own,) = re.findall(r"--arm (\S+)", command)
    assert parse_arms("mcr-mba", (own,))[1].settings["common_dim"] == 256


def test_a_data_source(kit):
    for number, name in enumerate(("one.png", "two.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (300, 260), dtype=np.uint8)
        Image.fromarray(pixels).resize((520, 600)).save(kit / name)
    (kit / "make.py").write_text(blocks("A data source", "python")[0])
    run(kit, "make.py")
    (command,) = blocks("A data source", "bash")
    run(kit, *command.split()[1:])
    table = pd.read_parquet(kit / "data" / "mine" / "manifest.parquet")
    assert set(table["patient_id"]) == {"p1", "p2"}
