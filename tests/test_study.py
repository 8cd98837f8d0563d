"""The study end to end, in small: equal conditions for all arms, exact nulls, nothing trained twice, interruptions and
halves that add up to the whole, and result files without a word of a report in them."""

import html
import json
import os
import re
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from benchmarks import baselines
from benchmarks.cost import variants
from benchmarks.study import __main__ as study_command
from benchmarks.study import (
    comparisons,
    figures,
    interval,
    measure,
    pictures,
    runs,
    short,
    standing,
    step_cost,
    summary,
    tables,
)
from benchmarks.study.arms import ARMS, FRAMEWORKS, GROUPS, parse_arms
from benchmarks.study.plateau import growths, plateau_begins
from data_prep.commands import run_app
from data_prep.folder import locked, write_json
from kit import boxes as kit_boxes
from kit.found import learning_curves
from kit.grounding import patch_features
from kit.plotting.style import png
from mcr_lib.config import ConfigError, resolve
from mcr_lib.data import PairData, TrainBatches
from mcr_lib.engine import checkpoint
from mcr_lib.engine.precision import autocast_dtype
from mcr_lib.engine.run_folder import RunError
from mcr_lib.evaluate import evaluate_run
from mcr_lib.run import build_model, load_run
from mcr_lib.tokenizer import load_tokenizer, with_vocabulary

CPU = torch.device("cpu")
SETTINGS = {"steps": 6, "log_every": 1, "checkpoint_every": 2, "batch_size": 16}
PLAN = "mcr-mba,mcr-abm,two-stream-mba,null"
PRECISION = "bfloat16" if autocast_dtype("auto", CPU) else "float32"


def with_costs(out):
    """A folder with a cost.json, as if handed over from another machine: two-stream's steps take twice MCR's time."""
    out.mkdir(parents=True)
    costs = {
        f"{f}-{a}": {"seconds": [s, s * 1.02], "peak_bytes": [b, b + 1], "flops": s}
        for a in ("mba", "abm")
        for f, s, b in zip(FRAMEWORKS, (0.9, 0.5, 1.0, 0.5), (80, 60, 100, 70), strict=True)
    }
    write_json(
        out / "cost.json",
        {"arms": costs, "steps_of": {}, "device": "cpu", "batch_size": 16, "precision": PRECISION},
    )
    return out


@pytest.fixture(scope="module", autouse=True)
def measured_once(phantom):
    """The phantom's baselines, measured once for all studies of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "GRID", baselines.GRID[:2])
        content = baselines.measure_baselines(phantom)
        patch.setattr(runs, "measure_baselines", lambda data: content)
        yield content


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):
    out = with_costs(tmp_path_factory.mktemp("study") / "whole")
    runs.run_study(
        phantom, out, arms=PLAN, seeds="2", profile="smoke", settings=SETTINGS, device=CPU
    )
    return out


def result(out, name):
    return json.loads((out / "results" / f"{name}.json").read_text())


def test_all_arms_start_from_the_same_weights_and_see_the_same_batches_and_masks(phantom, whole):
    tokenizer = load_tokenizer(whole / "runs" / "mcr-mba-seed0" / "tokenizer")
    first = None
    for arm in GROUPS["core"]:
        config = with_vocabulary(
            resolve("smoke", {**SETTINGS, **arm.settings, "seed": 3}), tokenizer
        )
        weights = build_model(config).state_dict()
        batches = TrainBatches(
            PairData(phantom, "train", tokenizer, config.model), config.train, CPU
        )
        seen = [part for parts in batches(0, 3) for part in parts]
        first = first or (weights, seen)
        for name in weights.keys() & first[0].keys():
            assert torch.equal(weights[name], first[0][name]), (arm.name, name)
        assert any(name.startswith("image_encoder") for name in weights.keys() & first[0].keys())
        for batch, other in zip(seen, first[1], strict=True):
            for field in ("images", "input_ids", "image_noise", "text_noise", "pairs"):
                assert torch.equal(getattr(batch, field), getattr(other, field)), (arm.name, field)
    other_seed = build_model(
        config.model_copy(update={"train": config.train.model_copy(update={"seed": 4})})
    ).state_dict()
    assert not torch.equal(
        other_seed["image_head.map.0.weight"], first[0]["image_head.map.0.weight"]
    )


def test_an_arm_differs_from_the_profile_in_its_own_keys_only():
    plain = summary.flatten_config(resolve("demo").model_dump(mode="json"))
    for arm in ARMS.values():
        settings = summary.flatten_config(resolve("demo", arm.settings).model_dump(mode="json"))
        assert {k for k in plain if settings[k] != plain[k]} <= set(arm.settings), arm.name
    assert {a.name for a in GROUPS["core"]} == {
        f"{f}-{a}" for f in FRAMEWORKS for a in ("mba", "abm")
    }
    assert [arm.name for arm in parse_arms("null, mcr-mba,null-mba")] == [
        "null-mba",
        "null-abm",
        "mcr-mba",
    ]
    for claim in comparisons.COMPARISONS:
        assert all(claim.ratio or arm in ARMS for arm in claim.contrast)


def test_an_arm_of_ones_own_is_trained_and_judged_against_every_other(phantom, whole, tmp_path):
    out = tmp_path / "own"
    shutil.copytree(whole, out)
    asked = {"arms": "mcr-mba,mcr-abm", "own_arms": ("mine=common_dim=16,mask_ratio=0.25",)}
    asked |= {"seeds": "2", "profile": "smoke", "settings": SETTINGS, "device": CPU}
    content = runs.run_study(phantom, out, **asked)
    mine = result(out, "mine-seed1")
    keys = {"framework": "mcr", "alignment": "mba", "common_dim": 16, "mask_ratio": 0.25}
    assert mine["own_settings"] == content["arms"]["mine"]["settings"] == keys
    assert mine["config"]["model"]["common_dim"] == 16
    rows = {row["measured"]: row for row in content["variants"] if "own" in row["claim"]}
    others = {name for name in content["arms"] if name != "mine"}
    assert rows.keys() == {f"mine against {other}, recall" for other in others}
    rsum = [
        content["arms"][arm]["metrics"]["test, unmasked"]["rsum"] for arm in ("mine", "mcr-abm")
    ]
    effect = np.mean(rsum[0]) - np.mean(rsum[1])
    assert rows["mine against mcr-abm, recall"]["effect"] == pytest.approx(effect, abs=0.05)
    assert rows["mine against mcr-abm, recall"]["verdict"] == standing.NOT_DECIDABLE  # six steps
    assert "mine against mcr-abm" in tables.format_studies([out / "study.json"])


@pytest.mark.parametrize(
    "text", ["mine", "core=pooling=mean", "Mine=pooling=mean", "mcr-mba=dropout=0"]
)
def test_an_arm_of_ones_own_that_cannot_be_named_so(text):
    with pytest.raises(ConfigError, match=r"NAME=key=value|key=value, got"):
        parse_arms("core", (text,))


def test_null_control_is_exactly_zero_on_trained_weights(whole):
    for arm in ("null-mba", "null-abm"):
        for seed in (0, 1):
            both = result(whole, f"{arm}-seed{seed}")["both_orders"]
            assert both["ranks_that_differ"] == 0 and both["largest_metric_difference"] == 0.0
            assert both["largest_feature_difference"] < 1e-13


def test_the_null_check_would_notice_a_map_that_is_not_linear(phantom, whole):
    run = whole / "runs" / "mcr-mba-seed0"
    model, tokenizer = load_run(run)
    test = PairData(phantom, "test", tokenizer, model.config)
    both = measure.compare_orders(run, test)
    assert both["ranks_that_differ"] > 0 and both["largest_feature_difference"] > 1e-4


def test_result_files_agree_with_evaluate_and_hold_no_text(phantom, whole):
    stored = result(whole, "mcr-mba-seed1")
    run = whole / "runs" / "mcr-mba-seed1"
    for name, masked in (("unmasked", False), ("masked", True)):
        measured = evaluate_run(run, phantom, masked=masked, device=CPU)
        for key, value in stored["metrics"][f"test, {name}"].items():
            assert value == pytest.approx(measured[key]), key
        assert interval.measure_value(stored, "rsum masked" if masked else "rsum")[
            0
        ] == pytest.approx(measured["rsum"])
    unmasked = evaluate_run(run, phantom, device=CPU)
    for key in ("gap_distance", "alignment", "true_pair_cosine"):
        assert interval.measure_value(stored, key)[0] == pytest.approx(
            unmasked["modality_gap"][key], abs=2e-5
        )
    by_label = evaluate_run(run, phantom, protocol="label-match", device=CPU)
    mean = (by_label["image_to_text_mAP"] + by_label["text_to_image_mAP"]) / 2
    assert interval.measure_value(stored, "mAP")[0] == pytest.approx(mean, abs=1e-3)
    normal = PairData(phantom, "test", load_run(run)[1], resolve("smoke").model).table["labels"]
    normal = (normal == "normal").to_numpy()
    ranks = np.array(stored["test"]["ranks"]["image_to_text"])
    for name, chosen in (("normal", normal), ("abnormal", ~normal)):
        by_hand = 100 * (ranks[chosen] <= 5).mean() if chosen.any() else None
        measured = stored["metrics"].get(f"test, {name}", {}).get("image_to_text_R@5")
        assert measured == (by_hand and pytest.approx(by_hand))
    assert set(stored["gap"]) == {"start", "middle", "end"} and stored["gap"]["middle"]["step"] == 3
    assert stored["gap"]["start"] != stored["gap"]["end"]
    assert set(stored["gradient_agreement"]) == {"image", "text"}
    assert all(-1 <= v <= 1 for v in stored["gradient_agreement"].values())
    table = pd.read_parquet(phantom / "manifest.parquet")
    for path in [*(whole / "results").glob("*.json"), whole / "study.json"]:
        text = path.read_text()
        assert not any(
            value in text
            for column in ("report", "patient_id", "pair_id", "image_path")
            for value in table[column]
        )
        assert str(whole) not in text and path.stat().st_size < 120_000


def test_pointing_is_that_of_the_pointing_game_counted_by_hand(phantom, whole):
    stored = result(whole, "mcr-mba-seed0")["test"]["pointing"]
    model, tokenizer = load_run(whole / "runs" / "mcr-mba-seed0")
    test = PairData(phantom, "test", tokenizer, model.config)
    boxes = pd.read_parquet(phantom / "boxes.parquet")
    with torch.inference_mode():
        centre = torch.stack([model.encode_text(*_text(test, n)) for n in range(len(test))])
        centre = centre.mean(0)[0]
        for row, place in enumerate(stored["query_of_pair"]):
            own = boxes[boxes["pair_id"] == test.table["pair_id"].iloc[row]]
            assert (place < 0) == own.empty
            hits = []
            for box in own.itertuples():
                ids = tokenizer([kit_boxes.prompt(box)], return_tensors="pt")
                text = model.encode_text(ids["input_ids"], ids["attention_mask"])[0] - centre
                image = test.batch(np.array([row]), CPU).images
                heat = patch_features(model, image)[0] @ text
                y, x = divmod(int(heat.argmax()), 4)  # 64 pixels in patches of 16
                width, height = Image.open(phantom / test.table["image_path"].iloc[row]).size
                longer = max(width, height)
                across, down = width / longer, height / longer
                x0, x1 = (4 * ((1 - across) / 2 + across * edge) for edge in (box.x0, box.x1))
                y0, y1 = (4 * ((1 - down) / 2 + down * edge) for edge in (box.y0, box.y1))
                hits.append(x0 < x + 1 and x1 > x and y0 < y + 1 and y1 > y)
            assert not hits or stored["hits"][place] == pytest.approx(100 * np.mean(hits), abs=1e-3)
    value, influence = interval.measure_value(result(whole, "mcr-mba-seed0"), "pointing")
    assert value == pytest.approx(np.mean(stored["hits"])) and abs(influence.sum()) < 1e-9
    content = json.loads((whole / "study.json").read_text())
    rows = {row["measured"]: row for row in content["claims"]}
    assert rows["MbA against AbM, pointing at findings of MCR"]["repeats"] == 2


def _text(pairs, row):
    batch = pairs.batch(np.array([row]), CPU)
    return batch.input_ids, batch.attention_mask


def test_gradient_agreement_of_one_task_is_none_and_of_equal_tasks_one(phantom, whole):
    model, tokenizer = load_run(whole / "runs" / "mcr-mba-seed0")
    pairs = PairData(phantom, "validate", tokenizer, model.config)
    forward = type(model).forward

    def same_task(self, batch):
        output = forward(self, batch)
        output.image_reconstruction_loss = 3 * output.contrastive_loss
        output.text_reconstruction_loss = -2 * output.contrastive_loss
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", same_task)
        agreement = measure.gradient_agreement(model, pairs, 8, CPU)
    assert agreement["image"] == pytest.approx(1, abs=1e-5) and agreement["text"] == pytest.approx(
        -1, abs=1e-5
    )
    model.config = model.config.model_copy(update={"framework": "contrastive"})
    assert measure.gradient_agreement(model, pairs, 8, CPU) is None


def test_a_finished_study_does_nothing_again(phantom, whole, monkeypatch):
    before = {
        path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*") if path.is_file()
    }
    monkeypatch.setattr(runs, "train_run", lambda *_, **__: pytest.fail("trained again"))
    again = runs.run_study(
        phantom, whole, arms=PLAN, seeds="2", profile="smoke", settings=SETTINGS, device=CPU
    )
    assert before == {
        path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*") if path.is_file()
    }
    costs = json.loads((whole / "cost.json").read_text())["arms"]
    rows = comparisons.judge_comparisons(summary.read_results(whole), costs)
    assert again["claims"] == standing.hold_back(rows, again["arms"], again["baselines"])


def test_an_interrupted_study_goes_on_and_ends_with_the_same_weights(
    phantom, whole, tmp_path, monkeypatch
):
    out = with_costs(tmp_path / "cut")
    ask = dict(arms="mcr-mba,mcr-abm", seeds="1", profile="smoke", settings=SETTINGS, device=CPU)

    def stop_at_three(*_):
        def callback(trainer, record):
            if "mcr-abm" in str(trainer.run) and record["step"] == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        return callback

    with monkeypatch.context() as patch:
        patch.setattr(runs, "keep_middle_gap", stop_at_three)
        with pytest.raises(
            runs.TrainingStopped, match=r"mcr-abm, seed 0: .*the same command again"
        ):
            runs.run_study(phantom, out, **ask)
    assert (out / "results" / "mcr-mba-seed0.json").exists() and not (
        out / "results" / "mcr-abm-seed0.json"
    ).exists()
    runs.run_study(phantom, out, **ask)
    for name in ("mcr-mba-seed0", "mcr-abm-seed0"):
        assert result(out, name)["weights_sha256"] == result(whole, name)["weights_sha256"]
        assert result(out, name)["test"] == result(whole, name)["test"]


@pytest.mark.parametrize("finished", [True, False])
def test_two_processes_on_one_folder_share_the_runs(
    phantom, whole, tmp_path, monkeypatch, finished
):
    """Another process is at mcr-mba: mcr-abm comes first; then what it left unfinished, and not what it finished."""
    out, done = with_costs(tmp_path / "shared"), []

    def bring(arm, seed):
        shutil.copy(whole / "results" / f"{arm}-seed{seed}.json", out / "results")

    def do(run, *_):
        done.append(run.arm.name)
        bring(run.arm.name, run.seed)
        if finished:
            bring("mcr-mba", 0)
        other.close()

    monkeypatch.setattr(runs, "train_and_measure", do)
    (out / ".locks").mkdir()
    with ExitStack() as other:
        assert other.enter_context(locked(out / ".locks" / "mcr-mba-seed0"))
        runs.run_study(
            phantom,
            out,
            arms="mcr-mba,mcr-abm",
            seeds="1",
            profile="smoke",
            settings=SETTINGS,
            device=CPU,
        )
    assert done == ["mcr-abm"] + ["mcr-mba"] * (not finished)


def test_two_halves_merge_to_the_whole(phantom, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train_run", lambda *_, **__: pytest.fail("trained again"))
    halves = [tmp_path / "a", tmp_path / "b"]
    for n, half in enumerate(halves):
        (half / "results").mkdir(parents=True)
        shutil.copy(whole / "cost.json", half)
        for path in (whole / "results").glob(f"*-seed{n}.json"):
            shutil.copy(path, half / "results")
    merged = runs.run_study(
        phantom,
        tmp_path / "both",
        arms=PLAN,
        seeds="2",
        profile="smoke",
        settings=SETTINGS,
        device=CPU,
        merge=tuple(halves),
    )
    expected = json.loads((whole / "study.json").read_text())
    assert merged["claims"] == expected["claims"] and merged["arms"] == expected["arms"]
    with pytest.raises(RunError, match="nothing in"):
        runs.run_study(
            phantom, tmp_path / "both", profile="smoke", device=CPU, merge=(tmp_path / "none",)
        )
    other = result(halves[0], "mcr-mba-seed0") | {"weights_sha256": "0"}
    write_json(halves[0] / "results" / "mcr-mba-seed0.json", other)
    with pytest.raises(RunError, match="two different runs"):
        runs.run_study(
            phantom,
            tmp_path / "both",
            arms=PLAN,
            profile="smoke",
            settings=SETTINGS,
            device=CPU,
            merge=(halves[0],),
        )


def test_other_settings_or_data_are_refused(phantom, whole, tmp_path):
    with pytest.raises(RunError, match="batch_size=16, now it is 32"):
        runs.run_study(
            phantom,
            whole,
            arms=PLAN,
            seeds="2",
            profile="smoke",
            settings={**SETTINGS, "batch_size": 32},
            device=CPU,
        )
    copy = tmp_path / "mixed"
    shutil.copytree(whole, copy)
    changed = result(copy, "null-abm-seed1")
    changed["config"]["train"]["learning_rate"] = 0.5
    write_json(copy / "results" / "null-abm-seed1.json", changed)
    with pytest.raises(RunError, match="differ in learning_rate"):
        summary.read_results(copy)
    changed = result(copy, "mcr-abm-seed0")
    changed["data"]["sha256"] = "0"
    write_json(copy / "results" / "mcr-abm-seed0.json", changed)
    with pytest.raises(RunError, match="other data"):
        runs.run_study(
            phantom, copy, arms="mcr-abm", seeds="1", profile="smoke", settings=SETTINGS, device=CPU
        )


def test_an_arm_that_is_another_under_a_second_name_is_not_trained_again(
    phantom, whole, tmp_path, monkeypatch
):
    copy = tmp_path / "alias"
    shutil.copytree(whole, copy)
    monkeypatch.setattr(runs, "train_run", lambda *_, **__: pytest.fail("trained again"))
    runs.run_study(
        phantom,
        copy,
        arms="mask-0.5-0.25,pool-mean-mba",
        seeds="2",
        profile="smoke",
        settings=SETTINGS,
        device=CPU,
    )
    alias = result(copy, "mask-0.5-0.25-seed1")
    assert alias["same_as"] == "mcr-mba" and alias["test"] == result(copy, "mcr-mba-seed1")["test"]


def test_a_null_control_is_measured_even_where_another_arm_is_the_same(phantom, whole, tmp_path):
    copy = tmp_path / "null"
    shutil.copytree(whole, copy)
    unmarked = result(copy, "null-mba-seed0")
    del unmarked["both_orders"]
    write_json(copy / "results" / "linear-mba-seed0.json", unmarked | {"arm": "linear-mba"})
    (copy / "results" / "null-mba-seed0.json").unlink()
    runs.run_study(
        phantom, copy, arms="null", seeds="1", profile="smoke", settings=SETTINGS, device=CPU
    )
    assert result(copy, "null-mba-seed0")["both_orders"]["ranks_that_differ"] == 0


def test_a_study_without_pairs_to_validate_with_is_refused_beforehand(phantom, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    table = pd.read_parquet(data / "manifest.parquet")
    table[table["split"] != "validate"].to_parquet(data / "manifest.parquet")
    with pytest.raises(RunError, match="split 'validate' has fewer than 2"):
        runs.run_study(
            data,
            tmp_path / "out",
            arms="null",
            seeds="1",
            profile="smoke",
            settings=SETTINGS,
            device=CPU,
        )


def test_equal_time_gives_the_steps_that_fit(phantom, whole, tmp_path, monkeypatch):
    asked = []

    def measured(configs, *_):
        asked.append(configs)
        return {
            name: {
                "seconds": [
                    slow * (4 - config.model.mask_ratio + (config.model.framework == "two-stream"))
                    for slow in (1, 9, 2)
                ]
            }
            for name, config in configs.items()
        }

    monkeypatch.setattr(step_cost, "measure_step_costs", measured)
    config = resolve("smoke", {"steps": 100})
    ask = "mcr-abm@time,two-stream-abm@time,mask-0.0-0.5@time,core,mask"
    path = tmp_path / "cost.json"
    for _ in range(2):  # measured once, and what the folder was handed stays
        costs = step_cost.complete_costs(path, parse_arms(ask), config, phantom, CPU, 1)
    assert (
        [set(names) for names in asked]
        == [{"mcr-mba", "mcr-abm", "two-stream-mba", "two-stream-abm", "mask-0.0-0.5"}]
        == [set(costs["arms"])]
    )
    assert (
        asked[0]["mask-0.0-0.5"].model.mlm_probability == 0.5
        and asked[0]["mcr-abm"].model.alignment == "abm"
    )
    assert {**config.model.model_dump(), **ARMS["mcr-mba"].settings} == asked[0][
        "mcr-mba"
    ].model.model_dump()
    steps = {
        name: runs.resolve_run(ARMS[name], 0, "smoke", {"steps": 100}, costs).train.steps
        for name in (
            "mcr-abm@time",
            "two-stream-abm@time",
            "mask-0.0-0.5@time",
            "mcr-mba",
            "mask-0.0-0.5",
        )
    }
    assert steps == {
        "mcr-abm@time": 129,
        "two-stream-abm@time": 100,
        "mask-0.0-0.5@time": 88,
        "mcr-mba": 100,
        "mask-0.0-0.5": 100,
    }
    later = parse_arms("mask-0.25-0.5@time")
    step_cost.complete_costs(path, later, config, phantom, CPU, 1)
    assert set(asked[1]) == {"mask-0.25-0.5", "mcr-mba"}  # beside the arm whose time it gets
    kept = json.loads((tmp_path / "cost.json").read_text())
    assert (
        kept["arms"]["mcr-mba"] == costs["arms"]["mcr-mba"]
    )  # what was there stays: runs have their steps from it
    assert kept["steps_of"].items() > costs["steps_of"].items()
    with pytest.raises(RunError, match="measured with batch_size=16, now it is 8"):
        other = resolve("smoke", {"batch_size": 8})
        step_cost.complete_costs(whole / "cost.json", [], other, phantom, CPU, 1)


def test_a_profile_of_epochs_gets_its_steps_from_the_pairs(phantom, whole):
    """As in the README's command for MIMIC-CXR: --profile base --arms core,flops, without --set steps."""
    base = resolve("base", {"epochs": 3, "batch_size": 16})
    steps = runs.count_steps(phantom, base)
    tokenizer = load_tokenizer(whole / "runs" / "mcr-mba-seed0" / "tokenizer")
    pairs = PairData(phantom, "train", tokenizer, base.model, base.train.views)
    assert steps == TrainBatches(pairs, base.train, CPU).total_steps
    costs = {"flops": {"two-stream-mba": 3.0, "mcr-mba": 1.5}}
    run = runs.resolve_run(ARMS["mcr-mba@flops"], 0, "base", {"steps": steps}, costs)
    assert run.train.steps == 2 * steps


def test_cost_of_a_step_in_processes_of_their_own(phantom):
    configs = {f: resolve("smoke", {"batch_size": 48, "framework": f}) for f in FRAMEWORKS}
    found = step_cost.measure_step_costs(configs, phantom, CPU, repeats=2)
    assert set(found) == set(FRAMEWORKS)
    for cost in found.values():
        assert len(cost["seconds"]) == len(cost["peak_bytes"]) == 2 and min(cost["seconds"]) > 0
    flops = {f: c["flops"] for f, c in found.items()}
    assert flops["contrastive-masked"] < flops["contrastive"] < flops["two-stream"]
    assert flops["contrastive-masked"] < flops["mcr"] < flops["two-stream"]
    memory = {f: np.median(c["peak_bytes"]) for f, c in found.items()}
    assert memory["two-stream"] > memory["mcr"] > 0


@pytest.mark.parametrize("text, seeds", [("3", [0, 1, 2]), ("3-4", [3, 4]), ("2-2", [2])])
def test_seeds(text, seeds):
    assert list(runs.parse_seeds(text)) == seeds


@pytest.mark.parametrize("text", ["0", "", "4-3", "five", "1,2", "-1"])
def test_seeds_that_are_none(text):
    with pytest.raises(ConfigError, match="--seeds"):
        runs.parse_seeds(text)


def call(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmarks.study", *map(str, arguments)])
    status = run_app(study_command.app, "benchmarks.study")
    return status, *capsys.readouterr()


def test_the_command_line(phantom, whole, tmp_path, capsys, monkeypatch):
    other = tmp_path / "phantom_demo.json"
    other.write_text("{}")
    status, out, err = call(capsys, monkeypatch, "--table", whole / "study.json", other)
    assert (
        status == 0
        and "phantom (synthetic), profile smoke, 2 seeds" in out
        and "phantom_demo.json" in err
    )
    measured = [
        row
        for row in json.loads((whole / "study.json").read_text())["claims"]
        if row["effect"] is not None
    ]
    assert (
        0 < len(measured) < len(comparisons.COMPARISONS)
        and len(re.findall(r"^\|", out.split("What each arm")[0], re.M)) == len(measured) + 2
    )
    settings = [part for k, v in SETTINGS.items() for part in ("--set", f"{k}={v}")]
    status, out, _ = call(
        capsys,
        monkeypatch,
        "--data",
        phantom,
        "--out",
        whole,
        "--arms",
        PLAN,
        "--seeds",
        "2",
        "--profile",
        "smoke",
        *settings,
        "--device",
        "cpu",
    )
    assert status == 0 and "Not measured here: state of the art on MIMIC-CXR" in out
    for name in (
        "spread.png",
        "fig3_retrieved.png",
        "fig4_gap.png",
        "fig4_pca.png",
        "fig4_tsne.png",
    ):
        assert f"figures/{name}" in out and (whole / "figures" / name).read_bytes().startswith(
            b"\x89PNG"
        )
    figure = (whole / "figures" / "fig5_top3.html").read_text()
    table = pd.read_parquet(phantom / "manifest.parquet")
    shown = [
        n
        for n, report in enumerate(table["report"])
        if html.escape(report) in re.sub("<[^>]*>", "", figure)
    ]
    assert shown and set(table["split"][shown]) == {"test"} and "ground-truth semantics" in figure
    for arguments, words in (
        (["--table"], "study.json"),
        (["--table", tmp_path / "nothing.json"], "nothing.json' does not exist"),
        (["--data", phantom], "--data and --out"),
        (["--data", phantom, "--out", tmp_path / "x", "--arms", "mcr"], "unknown arm 'mcr'"),
        (["--data", phantom, "--out", tmp_path / "x", "--arms", "mcr-mab"], "mean 'mcr-mba'?"),
        (["--data", phantom, "--out", tmp_path / "x", "--seeds", "0"], "--seeds takes"),
        (["--data", tmp_path, "--out", tmp_path / "x"], "no"),
    ):
        status, _, err = call(capsys, monkeypatch, *arguments)
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "x").exists()  # nothing half-written


def test_reduced_is_a_study_of_few_steps(phantom, tmp_path, monkeypatch):
    out, asked = with_costs(tmp_path / "reduced"), {}
    monkeypatch.setattr(runs, "run_study", lambda data, out, **kwargs: asked.update(kwargs))
    runs.run_reduced_study(phantom, out, "demo", {}, device=CPU)
    assert 2 <= asked["settings"]["steps"] <= resolve("demo").train.steps / 50
    assert set(asked["arms"].split(",")) <= {a.name for a in GROUPS["core"]}


def test_checkpoints_of_the_study_are_ordinary_ones(whole):
    assert checkpoint.find_newest(whole / "runs" / "mcr-mba-seed0" / "checkpoints")[1]["step"] == 6


def test_costs_of_variants_are_relative_to_the_first_arm(phantom, tmp_path, capsys):
    variants.main(
        phantom,
        tmp_path / "cost.json",
        profile="smoke",
        arms="mcr-mba,linear-abm",
        repeats=1,
        device="cpu",
    )
    found = json.loads((tmp_path / "cost.json").read_text())
    ratio = found["arms"]["linear-abm"]["seconds"][0] / found["arms"]["mcr-mba"]["seconds"][0]
    assert found["relative_seconds"] == {"mcr-mba": 1.0, "linear-abm": pytest.approx(ratio)}
    assert f"{ratio:.3f}" in capsys.readouterr().out


def test_the_grid_of_mask_rates_is_drawn_where_it_was_run():
    runs = [
        {
            "settings": arm.settings,
            "metrics": {"test, unmasked": {"rsum": [10.0 * n, 10.0 * n + 4]}},
        }
        for n, arm in enumerate(GROUPS["mask"])
    ]
    picture = pictures.mask_rates({"equal steps": runs, "equal time": runs[:2]})
    assert len(picture.axes[1].texts) == 2 and picture.axes[1].get_title(loc="left") == "equal time"
    texts = [text.get_text() for text in picture.axes[0].texts]
    assert len(texts) == 15 and texts[7] == "72\n70–74"  # 50 %, 25 %
    assert [label.get_text() for label in picture.axes[1].get_xticklabels()] == [
        "0%",
        "25%",
        "50%",
        "75%",
        "90%",
    ]
    assert png(picture).startswith(b"\x89PNG")


def test_the_headline_names_a_gpu_only_where_it_trained(whole):
    content = json.loads((whole / "study.json").read_text())
    for run in content["trained_on"]:
        run["hardware"]["gpu"] = "H100"
    assert "H100" not in tables.headline(content) and "CPU core" in tables.headline(content)
    content["cost"]["device"] = "cuda"
    assert "on H100 in " in tables.headline(content)


def test_equal_flops_follow_from_counts_on_any_machine(phantom, tmp_path, monkeypatch):
    config = resolve("smoke", {"steps": 1000})
    plan = parse_arms("contrastive-masked-mba@flops,mcr-abm@flops,two-stream-mba")
    ready = with_costs(tmp_path / "ready") / "cost.json"
    costs = json.loads(ready.read_text()) | {"batch_size": config.train.batch_size}
    write_json(ready, costs)
    monkeypatch.setattr(
        step_cost, "measure_step_costs", lambda *_: pytest.fail("asked the stopwatch")
    )
    found = [step_cost.complete_costs(ready, plan, config, phantom, CPU, 1) for _ in range(2)]
    assert found[0] == found[1] and set(found[0]["flops"]) == {
        "contrastive-masked-mba",
        "mcr-abm",
        "two-stream-mba",
    }
    counted, spent = found[0]["flops"], {}
    for arm in plan:
        train = runs.resolve_run(arm, 0, "smoke", {"steps": 1000}, found[0]).train
        spent[arm.name] = train.steps * counted[arm.plain_name]
    assert list(spent.values()) == pytest.approx([1000 * counted["two-stream-mba"]] * 3, rel=1e-3)
    ready.unlink()
    write_json(ready, costs | {"flops": {}})
    again = step_cost.complete_costs(ready, plan, config, phantom, CPU, 1)
    assert again["flops"] == counted


def test_baselines_stand_in_the_study_and_of_other_data_are_refused(phantom, whole, tmp_path):
    content = json.loads((whole / "study.json").read_text())
    printed = tables.format_studies([whole / "study.json"])
    for name, row in content["baselines"]["rows"].items():
        assert f"| {name} |" in printed and f"{row['rsum']:.1f}" in printed
    held = [row for row in content["claims"] if row["verdict"] == standing.NOT_DECIDABLE]
    assert held and "Retrieval is not decidable here: the best arm" in printed  # six steps
    assert {row["unit"] for row in held} == {standing.POINTS}
    assert standing.CONTROL not in {row["claim"] for row in held}
    copy = tmp_path / "other"
    shutil.copytree(whole, copy)
    other = json.loads((copy / "baselines.json").read_text())
    other["data"]["sha256"] = "0"
    write_json(copy / "baselines.json", other)
    with pytest.raises(RunError, match=r"baselines\.json is of other data"):
        summary.summarise(copy, profile="smoke", settings={}, command="")


OPENI = Path("benchmarks/results/study_openi.json")
NULL = ("null-mba", "null-abm")


def test_the_short_table_and_the_forest(whole, tmp_path, capsys, monkeypatch):
    drawn, file = tmp_path / "forest.png", whole / "study.json"
    status, out, _ = call(capsys, monkeypatch, "--table", "--short", "--forest", drawn, file, OPENI)
    assert status == 0 and drawn.read_bytes().startswith(b"\x89PNG")
    tables_of = [part for part in out.split("\n\n") if part.startswith("| claim")]
    assert len(tables_of) == 2 and all(len(part.splitlines()) <= 2 + 6 for part in tables_of)
    content, openi = (json.loads(path.read_text()) for path in (file, OPENI))
    band = short.null_band(content, [])
    assert f"[{band[0]:+.1f}, {band[1]:+.1f}]" in tables_of[0]
    assert "equal time" in tables_of[1]  # of that study the arms of equal time are shown
    effects = [*short.null_effects(content), *short.null_effects(openi)]
    own = np.subtract(*(openi["arms"][name]["metrics"]["test, unmasked"]["rsum"] for name in NULL))
    assert effects[2:] == pytest.approx(own.tolist()) and len(effects) == 7
    half = stats.t.ppf(0.975, 6) * np.std(effects, ddof=1) / np.sqrt(7)
    assert (
        f"all 7 seeds together: MbA − AbM {np.mean(effects):+.1f} [{np.mean(effects) - half:+.1f}, "
        in out
    )
    without = content | {"claims": [], "arms": {}}  # its band is that of the others
    assert short.null_band(without, [content, openi])[0] == pytest.approx(np.mean(effects) - half)
    assert short.null_band(without, [without]) is None
    alone = tmp_path / "null.json"  # a study of the control alone is no panel, but widens the band
    alone.write_text(json.dumps(openi | {"arms": {name: openi["arms"][name] for name in NULL}}))
    assert len(short.forest([file, alone]).axes) == 3
    assert short.format_short([file, alone]).count("| claim |") == 1
    assert "all 7 seeds together" in short.format_short([file, alone])
    picture = short.forest([file])
    lines = {line.get_label() for line in picture.axes[2].lines}
    assert {"chance", "linear CCA", "label oracle", "attribute oracle"} <= lines
    status, _, err = call(capsys, monkeypatch, "--short", "--data", "x", "--out", "y")
    assert status == 2 and "--short and --forest go with --table" in err


def test_the_table_of_arms_means_deviations_chance_and_shares_of_two_streams_cost():
    def arm(rsum, steps):
        way = {
            f"{way}_{name}": [n, n + 2.0]
            for n, way in ((10, "image_to_text"), (20, "text_to_image"))
            for name in ("R@1", "R@10", "precision@10", "mAP")
        }
        tables = {"test, unmasked": rsum, "test, masked": [5.0, 5.0], "chance": [1.0, 1.0]}
        return {
            "steps": steps,
            "seconds": [100.0, 140.0],
            "metrics": {name: way | {"rsum": values} for name, values in tables.items()},
        }

    costs = {
        name: {"flops": 1e6 * n, "seconds": [9.0, n, 0.0], "peak_bytes": [2e6 * n] * 3}
        for n, name in ((4.0, "two-stream-mba"), (2.0, "mcr-mba"))
    }
    validated = {"steps": [30, 40, 70], "rsum": [[15, 25], [25, 35], [30, 32.5]]}
    head, chance, first, second = tables.arm_cells(
        {
            "arms": {
                "mcr-mba@time": arm([30.0, 34.0], 70) | {"validated": validated},
                "mcr-abm": arm([8.0, 8.0], 50),
            },
            "cost": {"arms": costs},
            "config": {"train": {"batch_size": 10}},
        }
    )
    assert len(head) == len(chance) == len(first) == len(second)
    assert chance == ["chance", "", *["11.0 / 21.0"] * 2, "1.0", "1.0", *[""] * 6]
    assert first[:6] == ["mcr-mba@time", "70", "11.0 / 21.0", "11.0 / 21.0", "32.0 (2.8)", "5.0"]
    assert head[6] == "added by the last doubling" and first[6] == "+25.0 %"  # 25 → 31.25
    assert first[7:9] == ["0.0014", "2.0"]  # 70 steps of 10 pairs of 2 MFLOP
    assert first[9:] == ["2 (0.50)", "2 (0.50)", "4 (0.50)"] and second[4:6] == ["8.0", "5.0"]
    assert second[6:] == ["–", "–", "2.0", "–", "–", "–"]
    assert not {"mAP by label", "RSum, abnormal"} & set(head)  # no arm has them
    nothing_found = {"steps": [1, 2], "rsum": [[0.0], [3.0]]}
    assert tables._last_doubling(nothing_found) == "–"


def test_fig_3_has_a_band_of_one_standard_deviation_over_seeds(whole):
    arms = json.loads((whole / "study.json").read_text())["arms"]
    scores = [
        result(whole, f"mcr-mba-seed{seed}")["nlg"]["text_to_image"]["ROUGE-L"] for seed in (0, 1)
    ]
    mean, half = np.mean(scores, axis=0), abs(np.subtract(*scores)) / np.sqrt(2)
    ax = pictures.retrieved_scores({"mcr-mba": arms["mcr-mba"]}).axes[2]
    assert ax.get_title(loc="left") == "ROUGE-L"
    edges = ax.collections[1].get_paths()[0].vertices[:, 1]  # the second direction's
    assert [edges.min(), edges.max()] == pytest.approx(
        [min(mean - half), max(mean + half)], rel=1e-5
    )
    results = [result(whole, f"mcr-mba-seed{seed}") for seed in (0, 1)]
    results[1]["nlg"]["image_to_text"]["METEOR"] = None  # made on a machine without Java
    both = summary.summarise_arm(results)
    assert (
        both["nlg"]["image_to_text"]["METEOR"] is None and both["nlg_sd"]["image_to_text"]["BLEU-4"]
    )
    one = summary.summarise_arm(results[:1])
    assert (
        one["nlg_sd"] is None
        and not pictures.retrieved_scores({"mcr-mba": one}).axes[0].collections
    )


def test_recall_is_drawn_against_the_operations_it_cost(whole, tmp_path):
    content = json.loads((whole / "study.json").read_text())
    logs = [whole / "runs" / f"two-stream-mba-seed{seed}" / "metrics.jsonl" for seed in (0, 1)]
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in logs]
    at_step_4 = [log[3]["validation"] for log in lines]
    about = content["arms"]["two-stream-mba"]["validated"]
    assert about["steps"] == [2, 4, 6] and about["rsum"][1] == pytest.approx(at_step_4, rel=1e-5)

    curves = learning_curves(content)
    tflop = content["cost"]["arms"]["two-stream-mba"]["flops"] * SETTINGS["batch_size"] / 1e12
    assert curves["two-stream-mba"][0] == pytest.approx([2 * tflop, 4 * tflop, 6 * tflop])
    assert not any(name.startswith("null") for name in curves)  # of these nothing was counted
    ax = pictures.recall_for_cost(content["arms"], curves, {"chance": 12.0}).axes[0]
    curve = {line.get_label(): line.get_xydata() for line in ax.get_lines()}["two-stream-mba"]
    assert curve[1] == pytest.approx([4 * tflop, np.mean(at_step_4)], rel=1e-5)

    del content["arms"]["two-stream-mba"]["validated"]  # a file of before it was kept
    curves = learning_curves(content)
    assert "two-stream-mba" not in curves and "mcr-mba" in curves
    files = figures.write_figures(tmp_path, tmp_path, content, CPU)
    assert "recall_for_cost.png" in [path.name for path in files]


def test_a_plateau_begins_where_doublings_add_less_than_a_percent():
    flat = {
        "steps": [1, 2, 4, 8, 16],
        "rsum": [[10, 10], [30, 50], [99.5, 100.5], [99, 101], [98, 102]],
    }
    assert growths(flat)[1:] == pytest.approx([3, 1.5, 0, 0]) and np.isnan(growths(flat)[0])
    assert plateau_begins(flat) == 3
    grows = flat | {"rsum": [*flat["rsum"][:4], [101, 101.1]]}
    assert plateau_begins(grows) is None, "stands still for a while, and goes on"
    falls = {"steps": [2, 4, 8], "rsum": [[8.0], [6.0], [5.0]]}
    assert plateau_begins(falls) == 1
    nothing = {"steps": [1, 2], "rsum": [[0.0], [3.0]]}
    assert plateau_begins(nothing) is None and np.isnan(growths(nothing)).all()

    def arm(validated):
        return {"validated": validated, "settings": {"framework": "mcr", "alignment": "mba"}}

    arms = {"flat": arm(flat), "grows": arm(grows)}
    curves = {}
    for name, about in arms.items():
        spent = 2.0 * np.array(about["validated"]["steps"])
        curves[name] = spent, np.array(about["validated"]["rsum"])
    ax = pictures.recall_for_cost(arms, curves, {"chance": 4.0}).axes[0]
    (ring,) = (marks for marks in ax.collections if "doubling" in marks.get_label())
    assert ring.get_offsets().tolist() == [[16.0, 100.0]]


def test_figures_of_a_study_of_mask_rates_beside_the_profiles_own(tmp_path, whole):
    """mcr-mba's settings name no rates: it stands in the grid as mask-0.5-0.25 only."""
    content = json.loads((whole / "study.json").read_text())
    mcr = content["arms"]["mcr-mba"]
    for name in ("mask-0.5-0.25", "mask-0.0-0.25", "mask-0.0-0.25@time"):
        content["arms"][name] = mcr | {"settings": ARMS[name].settings}
    files = figures.write_figures(tmp_path, tmp_path, content, CPU)
    assert {"masks.png", "spread.png", "fig3_retrieved.png"} <= {path.name for path in files}
    content["arms"] = {
        "mcr-mba@time": mcr,
        "mcr-abm@time": mcr,
    }  # Fig. 4 of a study that has equal time alone
    assert "fig4_gap_equal_time.png" in [
        p.name for p in figures.write_figures(tmp_path / "time", tmp_path, content, CPU)
    ]
    content["arms"] = {"mcr-mba": mcr}
    assert "masks.png" not in [
        path.name for path in figures.write_figures(tmp_path / "mcr", tmp_path, content, CPU)
    ]
