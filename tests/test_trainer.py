"""The loop, the batches and the checkpoints: resuming equals not having stopped; nothing is lost or half-written."""

import copy
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.cost import recovery
from benchmarks.cost.subjects import make_batch, make_trainers
from data_prep import folder as data_folder
from data_prep import machine
from mcr_lib.config import ConfigError, TrainConfig, resolve
from mcr_lib.data import IMAGE_MEAN, IMAGE_STD, PairData, TrainBatches, epoch_order, prepare_images
from mcr_lib.engine import checkpoint, compiling, precision
from mcr_lib.engine.run_folder import RunError
from mcr_lib.evaluate import evaluate_run
from mcr_lib.model import MCR
from mcr_lib.run import train_run
from mcr_lib.search import build_index
from mcr_lib.tokenizer import make_tokenizer, with_vocabulary
from mcr_lib.trainer import Trainer, learning_rate

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent
FAST = dict(steps=12, checkpoint_every=4, log_every=2, precision="fp32", batch_size=16)


def final_weights(run):
    return load_file(checkpoint.find_newest(run / "checkpoints")[0] / "model.safetensors")


def assert_same_weights(a, b):
    a, b = final_weights(a), final_weights(b)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_losses_fall_and_the_run_folder_is_complete(smoke_run):
    log = [json.loads(line) for line in (smoke_run / "metrics.jsonl").read_text().splitlines()]
    for name in ("contrastive_loss", "image_reconstruction_loss", "text_reconstruction_loss"):
        assert log[-1][name] < log[0][name], name
    manifest = json.loads((smoke_run / "manifest.json").read_text())
    for key in (
        "commit",
        "versions",
        "hardware",
        "seed",
        "weights_sha256",
        "vocabulary_sha256",
        "training_seconds",
        "peak_memory_bytes",
        "data",
        "command",
    ):
        assert manifest[key] is not None, key
    assert {p.name for p in smoke_run.iterdir()} >= {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "checkpoints",
        "tokenizer",
    }


class Stop(Exception):
    pass


def stop_at(step):
    def callback(trainer, record):
        if trainer.step >= step:
            raise Stop

    return callback


@pytest.mark.parametrize("accumulation", [1, 2])
def test_killed_and_resumed_ends_with_the_same_weights(phantom, tmp_path, accumulation):
    config = resolve("smoke", FAST | {"accumulation": accumulation})
    train_run(phantom, tmp_path / "whole", config, device=CPU)
    for last in (6, 10):  # die twice, each time some steps after a checkpoint
        with pytest.raises(Stop):
            train_run(
                phantom,
                tmp_path / "cut",
                config,
                device=CPU,
                resume=last == 10,
                callbacks=[stop_at(last)],
            )
        torch.rand(7)  # whatever else the process drew in between
    train_run(phantom, tmp_path / "cut", config, device=CPU, resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    logs = [
        [json.loads(line) for line in (tmp_path / r / "metrics.jsonl").read_text().splitlines()]
        for r in ("whole", "cut")
    ]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    assert [r["loss"] for r in logs[0]] == [r["loss"] for r in logs[1]]


def test_resume_refuses_other_settings_and_a_taken_folder(phantom, smoke_run):
    with pytest.raises(ConfigError, match="batch_size=32, now it is 8"):
        train_run(phantom, smoke_run, resolve("smoke", {"batch_size": 8}), device=CPU, resume=True)
    with pytest.raises(RunError, match=r"--resume"):
        train_run(phantom, smoke_run, resolve("smoke"), device=CPU)


def changed_data(phantom, folder, keep):
    """A copy of the data set that holds the rows of which keep(table) is true, with the hash that makes it so."""
    shutil.copytree(phantom, folder)
    table = data_folder.read(folder)
    table = table[keep(table)].reset_index(drop=True)
    table.to_parquet(folder / "manifest.parquet")
    about = data_folder.read_json(folder / "dataset.json")
    data_folder.write_json(
        folder / "dataset.json", about | {"sha256": data_folder.content_sha256(folder, table)}
    )
    return folder


def test_resume_refuses_data_that_are_other_ones_now(phantom, tmp_path):
    config = resolve("smoke", FAST)
    with pytest.raises(Stop):
        train_run(phantom, tmp_path / "run", config, device=CPU, callbacks=[stop_at(4)])
    shutil.copytree(phantom, tmp_path / "moved")
    grown = changed_data(phantom, tmp_path / "changed", lambda table: table.index != 0)
    with pytest.raises(RunError, match="was begun on other data"):
        train_run(grown, tmp_path / "run", config, device=CPU, resume=True)
    train_run(
        tmp_path / "moved", tmp_path / "run", config, device=CPU, resume=True
    )  # elsewhere, but the same


def test_resuming_a_finished_run_leaves_its_manifest(phantom, smoke_run):
    before = (smoke_run / "manifest.json").read_bytes()
    assert (
        train_run(
            phantom, smoke_run, resolve("smoke"), device=CPU, resume=True, command="again"
        ).step
        == 30
    )
    assert (smoke_run / "manifest.json").read_bytes() == before


def test_small_archives_train_and_are_searched(phantom, tmp_path, capsys):
    """One patient to validate with, of whom one view is a lateral; one pair to test; fewer pairs than a batch."""
    small = changed_data(
        phantom,
        tmp_path / "small",
        lambda table: (
            table.groupby("split").cumcount()
            < table["split"].map({"train": 12, "validate": 2, "test": 1})
        ),
    )
    table = data_folder.read(small)
    table.loc[table.index[table["split"] == "validate"][0], "view"] = "lateral"
    table.to_parquet(small / "manifest.parquet")
    train_run(small, tmp_path / "run", resolve("smoke", FAST), device=CPU)
    said = capsys.readouterr().err
    assert (
        "no pairs to validate with" in said
        and "12 pairs to train on, fewer than batch_size=16" in said
    )
    assert len(build_index(tmp_path / "run", small, device=CPU)) == 14


@pytest.fixture
def compiles_with(monkeypatch):
    """compiles_with(backend): what compile=true takes in place of inductor, whose C++ takes minutes."""

    def choose(backend):
        torch._dynamo.reset()
        monkeypatch.setattr(compiling, "BACKEND", backend)

    yield choose
    torch._dynamo.reset()


def test_one_block_of_each_kind_is_traced_for_all_layers_and_lengths(phantom, compiles_with):
    """A backend that only counts: the graphs are few, the losses those of the plain model, the names of weights too."""
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiles_with(count)
    deep = {"depth": 2, "text_depth": 2, "decoder_depth": 3, "text_decoder_depth": 3}
    config = resolve("smoke", {"batch_size": 16, "precision": "fp32", **deep})
    tokenizer = make_tokenizer(config, data_folder.read(phantom))
    config = with_vocabulary(config, tokenizer)
    batches = TrainBatches(PairData(phantom, "train", tokenizer, config.model), config.train, CPU)
    plain = MCR(config.model)
    compiled = copy.deepcopy(plain)
    compiling.compile_blocks(compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    sizes = set()
    for (batch,) in batches(0, 12):
        sizes.add((batch.input_ids.shape[1], batch.places is not None and len(batch.places)))
        expected, output = plain(batch), compiled(batch)
        for name in ("contrastive_loss", "image_reconstruction_loss", "text_reconstruction_loss"):
            torch.testing.assert_close(getattr(output, name), getattr(expected, name))
    kinds = 6  # blocks of E_v, E_r, D_v, D_r; the last ones of D_v, D_r
    assert len(graphs) == kinds < len(sizes)


def test_a_compiled_run_goes_on_uncompiled_and_ends_as_one_that_never_was(
    phantom, tmp_path, compiles_with
):
    """Through everything but the writing of code: traced, cut into forward and backward pass."""
    compiles_with("aot_eager")
    settings = FAST | {"steps": 8}
    train_run(phantom, tmp_path / "plain", resolve("smoke", settings), device=CPU)
    with pytest.raises(Stop):
        config = resolve("smoke", settings | {"compile": True})
        train_run(phantom, tmp_path / "run", config, device=CPU, callbacks=[stop_at(4)])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 4
    train_run(phantom, tmp_path / "run", resolve("smoke", settings), device=CPU, resume=True)
    assert final_weights(tmp_path / "run").keys() == final_weights(tmp_path / "plain").keys()
    apart = recovery.difference(tmp_path / "run", tmp_path / "plain")
    assert apart["loss"] < 1e-5 and apart["weight"] < 1e-4, apart


def test_a_machine_that_cannot_compile_is_told_so_in_one_line(phantom, tmp_path, compiles_with):
    def no_compiler(*_):
        raise OSError("no C++ compiler: g++")

    compiles_with(no_compiler)
    with pytest.raises(
        ConfigError, match=r"compiling failed: .*g\+\+.* --set compile=false"
    ) as error:
        config = resolve("smoke", FAST | {"compile": True})
        train_run(phantom, tmp_path / "run", config, device=CPU)
    assert "\n" not in str(error.value)


def test_a_signal_saves_and_says_how_to_go_on(phantom, tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "mcr_lib",
        "train",
        "--data",
        str(phantom),
        "--run",
        str(run),
        "--profile",
        "smoke",
        "--set",
        "steps=4000",
        "--set",
        "checkpoint_every=4000",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 240
    while (
        not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text())
        and time.time() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    said = [line for line in error.replace("\r", "\n").splitlines() if line.startswith("mcr_lib: ")]
    assert process.returncode == 1 and "Traceback" not in error
    assert len(said) == 1 and "SIGTERM" in said[0] and "--resume" in said[0]
    path, state, _ = checkpoint.find_newest(run / "checkpoints")
    assert 0 < state["step"] < 4000 and (path / "model.safetensors").exists()


def test_full_disk_is_one_line_and_the_last_checkpoint_stays(smoke_run, tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(tmp_path, 1, model, optimizer, {})

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(checkpoint.CheckpointError, match="No space left on device"):
        checkpoint.save(tmp_path, 2, model, optimizer, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_checkpoint_of_another_configuration_is_refused_in_words(smoke_run):
    path, _, _ = checkpoint.find_newest(smoke_run / "checkpoints")
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        checkpoint.load_model(path, torch.nn.Linear(2, 2))


class CountingData:
    """Stands in for PairData where only the order matters."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n


def test_every_pair_is_seen_exactly_once_per_epoch():
    n, batches = (
        53,
        TrainBatches(CountingData(53), TrainConfig(batch_size=10, epochs=7, seed=3), CPU),
    )
    seen = {}
    for step in range(53 * 7 // 10 + 1):
        pairs, epochs = batches.index(step)
        for pair, epoch in zip(pairs, epochs, strict=True):
            seen.setdefault(int(epoch), []).append(int(pair))
    for epoch in range(7):
        assert sorted(seen[epoch]) == list(range(n))
    assert seen[0] != seen[1]
    fresh = TrainBatches(CountingData(53), TrainConfig(batch_size=10, epochs=7, seed=3), CPU)
    assert np.array_equal(
        fresh.index(17)[0], batches.index(17)[0]
    )  # no state: step 17 can be asked for first


def test_epoch_order_depends_on_seed_and_epoch_only():
    assert sorted(epoch_order(1, 0, 1000)) == list(range(1000))
    assert not np.array_equal(epoch_order(1, 0, 1000), epoch_order(1, 1, 1000))
    assert not np.array_equal(epoch_order(1, 0, 1000), epoch_order(2, 0, 1000))


def test_an_error_while_reading_reaches_the_user(phantom, tmp_path, monkeypatch):
    from mcr_lib.data import PairData

    def broken(*_args, **_kwargs):
        raise OSError("the disk went away")

    monkeypatch.setattr(PairData, "read", broken)
    with pytest.raises(OSError, match="went away"):
        train_run(phantom, tmp_path / "r", resolve("smoke", FAST), device=CPU)
    assert threading.active_count() < 20


def test_augmentation_is_per_image_and_never_flips():
    pixels = torch.zeros(4, 1, 64, 64, dtype=torch.uint8)
    pixels[:, :, :, :20] = 200  # bright on the left
    noise = torch.rand(4, 6)
    images = prepare_images(pixels, 56, 1, noise)
    assert images.shape == (4, 1, 56, 56)
    assert (images[..., :10].mean((1, 2, 3)) > images[..., -10:].mean((1, 2, 3)) + 1).all()
    assert not torch.allclose(images[0], images[1])
    torch.testing.assert_close(prepare_images(pixels[1:2], 56, 1, noise[1:2])[0], images[1])


def test_plain_images_are_normalised_and_grey_weights_see_three_channels():
    pixels = torch.full((2, 1, 64, 64), 255, dtype=torch.uint8)
    assert prepare_images(pixels, 32, 1).unique().tolist() == [2.0]
    assert prepare_images(pixels, 32, 3).shape == (2, 3, 32, 32)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 9),
    side=st.integers(40, 300),
    size=st.integers(32, 224),
    seed=st.integers(0, 99),
)
def test_scaling_whole_grey_levels_is_scaling_floats_within_one_level(n, side, size, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(n, 1, side, side, generator=generator)
    smooth = F.avg_pool2d(noise, 5, 1, 2)
    pixels = torch.cat([noise, smooth]).mul(255).round().to(torch.uint8)
    plain = F.interpolate(pixels.float() / 255, size=(size, size), mode="bilinear", antialias=True)
    ours = prepare_images(pixels, size, 1) * IMAGE_STD + IMAGE_MEAN
    assert ours.shape == plain.shape
    assert (ours - plain).abs().max() <= 1.01 / 255
    assert (ours - plain).abs().mean() <= 0.4 / 255
    torch.testing.assert_close(
        prepare_images(pixels[-1:], size, 1)[0] * IMAGE_STD + IMAGE_MEAN, ours[-1]
    )


def test_learning_rate_warms_up_and_falls_to_zero():
    config = TrainConfig(warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == 1.0 and rates[100] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate(0, 5, config) == 1.0, "a warm-up of less than a step exceeds nothing"


def test_a_constant_learning_rate_warms_up_and_stays():
    config = TrainConfig(warmup=0.1, learning_rate=1.0, schedule="constant")
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:]) == {1.0}
    unwarmed = config.model_copy(update={"warmup": 0.0})
    assert learning_rate(0, 100, unwarmed) == 1.0


def test_trainer_takes_any_model_with_loss_fields(tmp_path):
    """A regression that has never heard of MCR; two tasks as two fields."""
    from dataclasses import dataclass

    @dataclass
    class Output:
        first_loss: torch.Tensor
        second_loss: torch.Tensor
        note: str = "not a loss"

    @dataclass
    class Part:
        x: torch.Tensor
        pairs: None = None

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(3))

        def forward(self, part):
            return Output((part.x @ self.w - 1).square().mean(), self.w.square().mean() * 0)

    class Batches:
        total_steps = 60

        def epoch(self, step):
            return step / 60

        def __call__(self, start, stop):
            for _ in range(start, stop):
                yield [Part(torch.eye(3))]

    seen = []
    config = TrainConfig(learning_rate=0.1, precision="fp32", weight_decay=0, log_every=10)
    trainer = Trainer(
        Model(),
        Batches(),
        config,
        run=tmp_path,
        device=CPU,
        callbacks=[lambda t, r: seen.append(r)],
    )
    trainer.fit()
    assert [r["step"] for r in seen] == [10, 20, 30, 40, 50, 60]
    assert trainer.log[-1]["first_loss"] < 0.05 and math.isfinite(trainer.log[-1]["grad_norm"])
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000060"]


def test_a_folder_with_an_older_tokenizer_is_taken_over(tmp_path):
    from mcr_lib.tokenizer import train_tokenizer, vocabulary_sha256

    words = [f"finding number {a}{b}" for a in "abcdefghijkl" for b in "mnopqrstuvwx"]
    train_tokenizer(
        ["something else entirely, about the lungs and heart", *words[:40]], 200, tmp_path / "a"
    )
    again = train_tokenizer(words, 120, tmp_path / "a")
    fresh = train_tokenizer(words, 120, tmp_path / "b")
    assert vocabulary_sha256(again) == vocabulary_sha256(fresh)


@pytest.mark.parametrize(
    "maker, amx, avx512, dtype",
    [
        ("GenuineIntel Xeon", False, True, None),
        ("GenuineIntel Xeon", True, True, torch.bfloat16),
        ("AuthenticAMD AMD EPYC", False, True, torch.bfloat16),
        ("AuthenticAMD AMD EPYC", False, False, None),
        (None, False, False, None),
    ],
)
def test_automatic_precision_is_bf16_where_that_is_faster(monkeypatch, maker, amx, avx512, dtype):
    monkeypatch.setattr(precision, "cpu_name", lambda: maker)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert precision.autocast_dtype("auto", CPU) is dtype
    assert precision.autocast_dtype("fp32", CPU) is None


class Dtypes(TorchDispatchMode):
    """Notes the types of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen |= {t.dtype for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        return out


@pytest.fixture
def old_cpu(monkeypatch):
    """A CPU that emulates bf16: AVX2 alone."""
    monkeypatch.setattr(precision, "cpu_name", lambda: "AuthenticAMD AMD EPYC 7763")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


def test_nothing_computes_in_bf16_where_it_is_emulated(old_cpu, phantom, tmp_path, capsys):
    """Training, validation, evaluation and the cost benchmark, by their defaults; who asks for it is told."""
    few = {"steps": 2, "checkpoint_every": 2, "log_every": 1, "batch_size": 8}
    config = resolve("smoke", few)
    with Dtypes() as computed:
        train_run(phantom, tmp_path / "run", config, device=CPU)
        evaluate_run(tmp_path / "run", phantom, device=CPU)
        (trainer,) = make_trainers(config.model, config.train, CPU, names=["mcr"]).values()
        trainer.train_step([make_batch(config.model, 4, CPU)])
    assert torch.float32 in computed.seen and torch.bfloat16 not in computed.seen
    assert "bf16" not in capsys.readouterr().err
    asked = config.train.model_copy(update={"precision": "bf16"})
    (trainer,) = make_trainers(config.model, asked, CPU, names=["mcr"]).values()
    assert "precision=bf16 is slow here" in capsys.readouterr().err
    with Dtypes() as computed:  # and the test can see it
        trainer.train_step([make_batch(config.model, 4, CPU)])
    assert torch.bfloat16 in computed.seen


def test_no_command_test_or_notebook_asks_for_bf16():
    """What was measured with it is on record in the results and in benchmarks/RESULTS.md."""
    asks = re.compile(r"""precision["']?\s*[=:]\s*["']?bf16""")
    folders = (ROOT / name for name in ("tests", "benchmarks", "notebooks", "data_prep"))
    paths = [*ROOT.glob("*"), *(path for folder in folders for path in folder.rglob("*"))]
    kinds, record = {".py", ".md", ".sh", ".ipynb", ".toml"}, ROOT / "benchmarks" / "RESULTS.md"
    found = []
    for path in {*paths} - {record, Path(__file__)}:
        if path.suffix in kinds:
            found += [path] if asks.search(path.read_text()) else []
    assert found == []


@pytest.mark.parametrize("native, dtype", [(True, torch.bfloat16), (False, torch.float16)])
def test_automatic_precision_on_a_gpu_that_only_emulates_bf16_is_fp16(monkeypatch, native, dtype):
    def supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert precision.autocast_dtype("auto", torch.device("cuda")) is dtype


def test_the_name_of_the_cpu(monkeypatch, tmp_path):
    one = "processor\t: {}\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel name\t: AMD EPYC\nflags\t\t: fpu vme\n\n"
    (tmp_path / "cpuinfo").write_text(one.format(0) + one.format(1))
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert machine.cpu_name.__wrapped__() == "AuthenticAMD AMD EPYC"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU implementer\t: 0x41\n")  # as ARM has it
    assert machine.cpu_name.__wrapped__() is None
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    assert machine.cpu_name.__wrapped__() is None
