"""benchmarks/gpu.sh at smoke sizes on a CPU: its parts compute what they should, and one that fails does not stop the
rest. What it says on a GPU is measured there, not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cost.memory import recompute_blocks
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.checks import Checks
from data_prep.commands import run_app
from mcr_lib.engine import compiling, large_batch

ROOT = Path(__file__).parent.parent
RARE = "pycocoevalcap nbconvert papermill jupytext voila ipywidgets IPython pydicom gdcm matplotlib seaborn"
WITHOUT = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {RARE.split()}:
            raise ModuleNotFoundError(f"{{name}} is not here")

sys.meta_path.insert(0, Missing())
import torch
import data_prep.__main__, mcr_lib.__main__, mcr_lib.run, mcr_lib.evaluate
import benchmarks.cost.__main__, benchmarks.cost.cold_start, benchmarks.gpu.__main__, benchmarks.study.arms
from data_prep import phantom
from benchmarks.gpu.checks import Checks

losses = Checks("smoke", torch.device("cpu")).step()
print(float(losses["loss"]))
"""
PYTHON = """#!/bin/bash
# stands in for Python: each part leaves its result, but kernels fails
case "$*" in *" kernels "*) echo "no kernels today"; exit 3 ;; esac
while [ $# -gt 0 ]; do
  if [ "$1" = --out ] || [ "$1" = --run ]; then out=$2; fi
  shift
done
case "$out" in
  *.json) echo '{}' >"$out" ;;
  ?*) mkdir -p "$out"; for f in metrics.json metrics.jsonl manifest.json; do echo '{}' >"$out/$f"; done ;;
esac
"""


@pytest.fixture(autouse=True)
def traced_only(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    yield
    torch._dynamo.reset()


def call(*arguments) -> int:
    return run_app(
        command.app, command.MODULE, [*arguments, "--profile", "smoke", "--device", "cpu"]
    )


def test_every_check_passes_here(tmp_path):
    out = tmp_path / "checks.json"
    assert call("checks", "--backend", "eager", "--out", str(out)) == 0
    said = json.loads(out.read_text())["checks"]
    assert len(said) == 6 and all(line.startswith("ok: ") for line in said.values()), said


def test_a_check_notices_a_wrong_gradient(monkeypatch):
    right = large_batch.backward
    monkeypatch.setattr(
        large_batch,
        "backward",
        lambda model, forward, parts, scale: right(
            model, forward, parts, lambda loss: 1.01 * scale(loss)
        ),
    )
    with pytest.raises(AssertionError, match="gradient of"):
        Checks("smoke", torch.device("cpu")).check_gradient_cache()


def test_kernels_and_the_largest_batch(tmp_path):
    assert call("kernels", "--batch-size", "4", "--out", str(tmp_path / "kernels.json")) == 0
    lines = json.loads((tmp_path / "kernels.json").read_text())["kernels"]
    assert lines[0]["ms"] > 0 and any("mm" in line["name"] for line in lines)
    batch = ("batch", "--smallest", "4", "--largest", "8", "--out", str(tmp_path / "batch.json"))
    assert call(*batch) == 0
    rows = json.loads((tmp_path / "batch.json").read_text())["batches"]
    ways = [(row["pairs"], row["parts"], row["recomputed"]) for row in rows]
    assert ways == [(4, 1, False), (8, 1, False), (8, 8, False), (8, 1, True)]


def test_recomputed_blocks_keep_little_for_the_gradient():
    kept = {}
    for name, prepare in (("plain", lambda model: None), ("recomputed", recompute_blocks)):
        checks, sizes = Checks("smoke", torch.device("cpu")), []

        def pack(x, sizes=sizes):
            sizes.append(x.nbytes)
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            trainer = checks.trainer()
            prepare(trainer.model)
            output = trainer.forward(trainer.batches.parts[0])
        kept[name] = sum(sizes)
        assert output.contrastive_loss.requires_grad
    assert kept["recomputed"] < 0.5 * kept["plain"], kept


def test_its_help_is_what_stands_at_its_top():
    order = ["bash", "benchmarks/gpu.sh", "--help"]
    done = subprocess.run(order, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Everything that needs a GPU")
    assert "bash benchmarks/gpu.sh [OUT]" in done.stdout and "pipefail" not in done.stdout


def run_script(out: Path, **environment) -> subprocess.CompletedProcess:
    order = ["bash", "benchmarks/gpu.sh", str(out), "--device", "cpu", "--smoke"]
    return subprocess.run(
        order, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def test_a_part_that_fails_does_not_stop_the_rest(tmp_path):
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text(PYTHON)
    python.chmod(0o755)
    done = run_script(out, PYTHON=str(python))
    rows = [line.split(" | ") for line in (out / "table.md").read_text().splitlines()[2:]]
    status = {row[0].removeprefix("| "): row[1] for row in rows}
    assert status.pop("kernels") == "3" and set(status.values()) == {"0"}, done.stdout
    assert list(status) == [
        "checks",
        "cold",
        "steps-compiled",
        "steps-eager",
        "demo",
        "base",
        "batch",
    ]
    for name in (*status, "demo.mcr", "demo.two-stream"):
        assert (out / f"{name}.json").exists() or name == "demo", name
    assert "no kernels today" in (out / "kernels.log").read_text()
    assert done.returncode == 1 and "| kernels | 3 |" in done.stdout
    again = run_script(out, PYTHON=str(python))
    assert again.returncode == 2 and "holds results already" in again.stderr


def test_what_a_gpu_machine_rarely_has_is_imported_where_it_is_used():
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'notebooks'}"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=os.environ | paths, capture_output=True, text=True
    )
    assert done.returncode == 0 and float(done.stdout) > 0, done.stderr[-2000:]
