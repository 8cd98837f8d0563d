"""The benchmark at small sizes: what it counts against hand-counted numbers, peers against the kit's own model, what it
says of its numbers on invented ones. That the numbers are fast is not tested: they are measured."""

import copy
import importlib.util
import json
import multiprocessing
import os
import signal

import pytest
import torch

from benchmarks.cost import __main__ as command
from benchmarks.cost import loading, memory, processes, steps, subjects, tables
from benchmarks.cost.figure import draw_costs
from data_prep.commands import run_app
from kit import cost
from kit.plotting.style import png
from mcr_lib.config import resolve
from mcr_lib.engine.run_folder import RunError
from mcr_lib.trainer import named_losses

CPU = torch.device("cpu")
CONFIG = resolve("smoke", {"max_text_length": 32, "compile": False, "precision": "fp32"})
HAS_OPEN_CLIP = importlib.util.find_spec("open_clip") is not None


@pytest.fixture(scope="module")
def everyone():
    torch.manual_seed(0)
    return subjects.make_trainers(CONFIG.model, CONFIG.train, CPU)


def test_subjects_share_weights_and_optimizer_states_but_no_step(everyone):
    mcr, two, contrastive = (everyone[name].model for name in ("mcr", "two-stream", "contrastive"))
    assert [m.config.framework for m in (mcr, two, contrastive)] == [
        "mcr",
        "two-stream",
        "contrastive",
    ]
    own, shared = dict(mcr.named_parameters()), dict(contrastive.named_parameters())
    assert shared and all(own[name] is parameter for name, parameter in shared.items())
    assert everyone["two-stream"].optimizer.state is everyone["mcr"].optimizer.state
    assert not any(
        t.is_meta for trainer in everyone.values() for t in trainer.model.state_dict().values()
    )
    assert (
        everyone["plain mcr"].model.two_stream is False
        and everyone["plain two-stream"].model.two_stream is True
    )


def test_a_shared_step_is_the_step_of_an_own_model(everyone):
    """Losses of an arm with borrowed weights equal those of a model of its own with a copy of them."""
    batch = subjects.make_batch(CONFIG.model, 5, CPU)
    builders = {subject.name: subject.build for subject in subjects.list_subjects(CONFIG.model)}
    for name in ("contrastive-masked", "two-stream"):
        own = builders[name]()
        own.load_state_dict(copy.deepcopy(everyone[name].model.state_dict()))
        expected, got = named_losses(own.train()(batch)), named_losses(everyone[name].model(batch))
        assert expected.keys() == got.keys()
        for key in expected:
            torch.testing.assert_close(got[key], expected[key])


@pytest.mark.parametrize("kind", ["full", "openi"])
def test_batch_lengths(kind):
    config = CONFIG.model.model_copy(update={"max_text_length": 128})
    batch = subjects.make_batch(config, 101, CPU, subjects.LENGTHS[kind])
    lengths = batch.attention_mask.sum(1)
    assert batch.input_ids.shape[1] % 8 == 0 and batch.input_ids.shape[1] - lengths.max() < 8
    assert ((batch.input_ids == config.special_token_ids[0]) == (batch.attention_mask == 0)).all()
    if kind == "full":
        assert (lengths == 128).all() and batch.places is None
    else:
        assert abs(lengths.float().mean() - 49) < 3 and abs(lengths.median() - 42) <= 1
        assert batch.attention_mask.flatten()[batch.places].all()
        assert len(batch.places) == lengths.sum() < 0.4 * 101 * 128  # it pays


def test_counted_flops_are_three_forward_passes_and_scale_with_the_pairs(everyone):
    """Every matrix product of the forward pass has two in the backward pass, except where the input needs no gradient:
    the patch embedding."""
    model, trainer = CONFIG.model, everyone["contrastive"]
    batch = subjects.make_batch(model, 4, CPU)
    with torch.no_grad():
        forward = cost.flops(trainer.model, batch)
    embedding = 2 * 4 * model.num_patches * model.patch_size**2 * model.in_chans * model.embed_dim
    counted = steps.count_step(trainer, model, 4, CPU, None)
    assert counted["flops"] == pytest.approx(3 * forward - embedding, rel=0.02)
    assert counted["kept_bytes"] > 0
    twice = steps.count_step(trainer, model, 16, CPU, None)
    assert twice["flops"] == 2 * steps.count_step(trainer, model, 8, CPU, None)["flops"]


def test_every_subject_learns(everyone):
    """A peer that did not train would be a fast one."""
    batch = subjects.make_batch(CONFIG.model, 6, CPU)
    for name, trainer in everyone.items():
        parameters = [p for p in trainer.model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in parameters]
        trainer.step = trainer.batches.total_steps // 20  # past the warm-up of the rate
        losses, grad_norm = trainer.train_step([batch])
        trainer.step = 0
        assert torch.isfinite(losses["loss"]) and grad_norm > 0, name
        moved = sum(bool((a != b).any()) for a, b in zip(before, parameters, strict=True))
        assert moved >= 0.9 * len(parameters), (
            f"{name}: {moved} of {len(parameters)} parameters moved"
        )


def test_the_plain_model_is_the_kits_model(everyone):
    """With the same encoder weights the plain peer's local features are the kit's: the comparison is of equals."""
    mcr, plain = everyone["mcr"].model, everyone["plain mcr"].model
    batch = subjects.make_batch(CONFIG.model, 3, CPU, subjects.LENGTHS["openi"])
    ids_keep = batch.image_noise.argsort(1)[:, :8].sort(1).values
    state = {k: v.clone() for k, v in plain.state_dict().items()}
    try:
        plain.vit.load_state_dict(mcr.image_encoder.vit.state_dict())
        plain.bert.load_state_dict(mcr.report_encoder.bert.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(
                plain.encode_image(batch.images, ids_keep),
                mcr.image_encoder(batch.images, ids_keep),
                atol=1e-4,
                rtol=1e-4,
            )
            got, expected = (
                f(batch.input_ids, batch.attention_mask)
                for f in (plain.encode_text, mcr.report_encoder)
            )
            present = batch.attention_mask.bool()
            torch.testing.assert_close(got[present], expected[present], atol=1e-4, rtol=1e-4)
    finally:
        plain.load_state_dict(state)


@pytest.mark.skipif(
    not HAS_OPEN_CLIP, reason="open_clip is not installed: make benchmark installs it"
)
def test_open_clip_has_the_same_two_encoders(everyone):
    """Its towers hold as many weights as ours, up to three input channels, class token projections and norms."""
    ours, theirs = everyone["mcr"].model, everyone["open_clip"].model.clip
    D, text_D = CONFIG.model.embed_dim, CONFIG.model.text_embed_dim
    blocks = sum(p.numel() for p in ours.image_encoder.vit.blocks.parameters())
    assert sum(p.numel() for p in theirs.visual.transformer.parameters()) == blocks
    bert = sum(p.numel() for p in ours.report_encoder.bert.parameters())
    assert sum(p.numel() for p in theirs.text.transformer.parameters()) == bert
    assert (
        theirs.visual.conv1.weight.shape[0] == D and theirs.text.proj[0].weight.shape[1] == text_D
    )
    flops = {
        name: steps.count_step(everyone[name], CONFIG.model, 4, CPU, None)["flops"]
        for name in ("open_clip", "open_clip, patch dropout 0.5")
    }
    assert flops["open_clip, patch dropout 0.5"] < 0.85 * flops["open_clip"]


def test_rounds_are_interleaved():
    seen = []
    calls = [lambda name=name: seen.append(name) for name in "abc"]
    seconds = steps.time_in_turns(calls, 3, CPU)
    assert "".join(seen) == "abcabcabc" and [len(times) for times in seconds] == [3, 3, 3]


def test_peak_memory_of_an_own_process_is_what_a_step_keeps_and_its_gradients():
    config, pairs = (
        resolve("smoke", {"compile": False, "precision": "fp32", "embed_dim": 192, "depth": 6}),
        128,
    )
    peak = memory.measure_peak_on_cpu("mcr", config, pairs)
    trainer = subjects.make_trainers(config.model, config.train, CPU, names=["mcr"])["mcr"]
    kept = steps.count_step(trainer, config.model, pairs, CPU, None)["kept_bytes"]
    assert 0.8 * kept < peak < 2 * kept + 3 * sum(p.nbytes for p in trainer.model.parameters())


def _killed(name):
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is full


def test_a_measuring_process_that_is_killed_is_named_and_not_waited_for():
    with pytest.raises(RunError, match="a step of two-stream died"):
        processes.run_in_own_process(multiprocessing.get_context("spawn"), _killed, "two-stream")


@pytest.fixture(scope="module")
def data_costs():
    return loading.measure_loading(CPU, studies=24, steps=6, rows=(300, 900), rounds=1)


def test_costs_of_data(data_costs):
    assert 0 <= data_costs["waiting"]["share"] < 1 and data_costs["waiting"]["pairs_per_second"] > 0
    rate = data_costs["reading"]["pairs_per_second"]
    assert rate["store"] > rate["jpeg_512"] > rate["jpeg_full"] > 0
    assert [row["pairs"] for row in data_costs["growth"]] == [300, 900]
    assert all(value > 0 for row in data_costs["growth"] for value in row.values())
    assert all(seconds > 0 for seconds in data_costs["start_up"].values())


def _invented(**changes) -> dict:
    """A result with round numbers: two-stream takes 2.2 times MCR's step in the median of paired rounds."""

    def row(name, seconds, lengths="full", batch_size=8, peak=10e9):
        return {
            "name": name,
            "lengths": lengths,
            "batch_size": batch_size,
            "tokens": 128,
            "seconds": seconds,
            "median": sorted(seconds)[1],
            "pairs_per_second": 8 / sorted(seconds)[1],
            "flops": 100e9,
            "floor_seconds": 0.5,
            "over_floor": 2.0,
            "precision": "float32",
            "peak_bytes": peak,
        }

    steps = [
        row("mcr", [9.0, 9.0, 9.0], batch_size=4),
        row("mcr", [1.0, 1.0, 2.0], peak=4e9),
        row("mcr", [0.5, 0.5, 0.5], "openi"),
        row("two-stream", [2.0, 2.2, 4.6]),
        row("two-stream", [1.5, 1.5, 1.5], "openi"),
        row("plain mcr", [2.0, 2.0, 2.0]),
        row("plain two-stream", [4.0, 4.0, 4.0]),
    ]
    data = {
        "waiting": {"profile": "demo", "share": 0.01},
        "reading": {"ratio": 5.0, "ratio_full": 20.0},
        "start_up": {"mcr_lib_seconds": 0.1},
        "growth": [
            {"pairs": 1000, "batch_us": 28.0, "order_us": 0.0},
            {"pairs": 300_000, "batch_us": 34.0, "order_us": 1.0},
        ],
    }
    return {
        "device": "cpu",
        "steps": steps,
        "data": data,
        "profile": "base",
        "time": "2030-01-01T00:00:00Z",
        "commit": "abc",
        "command": "python -m benchmarks.cost",
        "hardware": {"gpu": None, "cpus": 2},
    } | changes


def test_ratios_are_paired_by_round_and_of_the_largest_batch():
    found = tables.compute_ratios(_invented())
    assert found["two-stream / mcr, time"] == {
        "value": pytest.approx(2.2),
        "low": 2.0,
        "high": pytest.approx(2.3),
    }
    assert found["two-stream / mcr, time, reports of Open-i's lengths"]["value"] == 3
    assert found["mcr / two-stream, memory"]["value"] == pytest.approx(0.4)
    assert not any("open_clip" in name for name in found)


def test_targets_met_missed_and_not_measurable():
    result = _invented()
    rows = {row["what"].split(",")[0]: row for row in reversed(tables.check_targets(result))}
    assert rows["two-stream / MCR"]["met"] is True
    assert rows["step time / floor"]["met"] is False
    assert rows["step time / floor"]["missed_by_factor"] == pytest.approx(2 / 1.5)
    assert (
        rows["packed store to device batch / decoding data_prep's JPEGs (short side 512)"][
            "missed_by_factor"
        ]
        == 2
    )
    assert rows["packed store to device batch / decoding JPEGs of MIMIC-CXR's size"]["met"] is True
    (growth,) = [row for what, row in rows.items() if what.startswith("cost growth")]
    assert growth["measured"] == pytest.approx(1.25)
    gpu = rows["model FLOPs utilisation"]
    assert gpu["met"] is None and gpu["why"] == "needs CUDA"
    assert rows["MCR / open_clip"]["why"].endswith("make benchmark")
    text = tables.format_result(result | {"targets": list(rows.values())})
    assert "missed by a factor of 1.33" in text and "| – | needs CUDA |" in text


def test_projection_of_the_paper_scale_run():
    result = _invented(device="cuda:0")
    for row in result["steps"]:
        row |= {"pairs_per_second": 4000.0, "utilisation": 0.6}
    (row,) = [row for row in tables.check_targets(result) if row["what"].startswith("projection")]
    assert row["measured"] == pytest.approx(368_960 * 50 / 4000 / 3600) and row["met"] is True


def test_picture_and_table_of_result_files(tmp_path, capsys):
    result = _invented()
    result["targets"] = tables.check_targets(result)
    assert png(draw_costs(result)).startswith(b"\x89PNG")
    (tmp_path / "a.json").write_text(json.dumps(result))
    assert call("--table", str(tmp_path / "a.json")) == 0
    assert "| two-stream / MCR, time per step | ≥ 2.1 | 2.2 | met |" in capsys.readouterr().out
    assert call("--table") == 2
    assert "FILES and --table" in capsys.readouterr().err
    (tmp_path / "b.json").write_text("{}")
    assert call("--table", str(tmp_path / "b.json")) == 2
    assert "b.json is not a result of" in capsys.readouterr().err


def call(*arguments) -> int:
    return run_app(command.app, "benchmarks.cost", list(arguments))
