"""Averaged weights: the average against its sum in float64, what trains and what is evaluated, and a resumed run."""

import json

import pytest
import torch

from benchmarks.cost.subjects import make_batch
from benchmarks.study import figures, runs
from benchmarks.study.averaged import GAMMA, averaged
from benchmarks.study.comparisons import COST_ARMS
from benchmarks.study.files import read_result
from benchmarks.study.methods import SigLIP
from data_prep.folder import read_json, write_json
from data_prep.run_files import RunError
from mcr_lib.config import resolve
from mcr_lib.engine.precision import autocast_dtype, precision_name
from mcr_lib.model import MCR
from mcr_lib.run import load_run, train_run
from mcr_lib.trainer import Trainer, TrainingStopped

CPU = torch.device("cpu")
PRECISION = precision_name(autocast_dtype("auto", CPU))
SHORT = {"schedule": "constant", "steps": 8, "checkpoint_every": 4, "log_every": 2}


def weights_of(model: MCR) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("kind", [MCR, SigLIP])
def test_the_average_is_the_power_function_average_of_the_weights_that_were(kind):
    model = averaged(kind)(resolve("smoke").model)
    batch = make_batch(model.config, 4, CPU)
    seen = []
    for _ in range(6):
        seen.append(weights_of(model).double())
        model(batch)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    T, newest = len(seen), weights_of(model)
    by_hand = torch.zeros_like(seen[0])
    for t, weights in enumerate(
        seen, start=1
    ):  # share of step t, times what later steps leave of it
        left = (t / T) ** (GAMMA + 1)  # the product of (1 − 1/s)^(γ+1) for s = t + 1 … T
        by_hand += (1 - (1 - 1 / t) ** (GAMMA + 1)) * left * weights
    assert torch.allclose(weights_of(model.eval()).double(), by_hand, atol=1e-5)
    assert torch.equal(weights_of(model.train()), newest), "training goes on where it was"
    assert torch.equal(weights_of(model.eval().eval().train().train()), newest)


def test_weights_loaded_to_start_from_are_not_lost_before_the_first_step():
    model = averaged(MCR)(resolve("smoke").model)
    with torch.no_grad():
        model.log_scale.fill_(1.5)
    assert model.eval().log_scale.item() == 1.5


def test_the_average_forgets_at_the_same_pace_whatever_the_length():
    """The mean step it looks back to lies at (γ+1)/(γ+2) of the training: 11 % back, of 100 steps and of 10,000."""
    for T in (100, 10_000):
        steps = torch.arange(1, T + 1).double()
        share = (1 - (1 - 1 / steps) ** (GAMMA + 1)) * (steps / T) ** (GAMMA + 1)
        assert share.sum().item() == pytest.approx(1)
        assert (share @ steps).item() / T == pytest.approx((GAMMA + 1) / (GAMMA + 2), abs=0.01)


def test_what_is_evaluated_is_the_average_and_a_resumed_run_has_the_same(phantom, tmp_path):
    config, kind = resolve("smoke", SHORT), averaged(MCR)
    train_run(phantom, tmp_path / "whole", config, device=CPU, kind=kind)

    def stop(trainer: Trainer, record: dict) -> None:
        if record["step"] == 6:
            raise TrainingStopped("here")

    with pytest.raises(TrainingStopped):
        train_run(phantom, tmp_path / "cut", config, device=CPU, kind=kind, callbacks=[stop])
    train_run(phantom, tmp_path / "cut", config, device=CPU, kind=kind, resume=True)
    whole, cut = (load_run(tmp_path / name, kind=kind)[0] for name in ("whole", "cut"))
    assert torch.equal(weights_of(whole), weights_of(cut))
    average = weights_of(whole)
    assert not torch.equal(weights_of(whole.train()), average)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    scores = [[json.loads(line).get("validation") for line in log.splitlines()] for log in logs]
    assert scores[0] == scores[1]


def study(phantom, out, **settings) -> dict:
    return runs.run_study(
        phantom,
        out,
        arms="null,mcr-mba,mcr-abm",
        seeds="1",
        profile="smoke",
        settings=settings,
        device=CPU,
        scored=2,
        with_baselines=False,
    )


def test_a_study_at_a_constant_rate_measures_the_average(phantom, tmp_path):
    costs = {name: {"seconds": [1.0, 1.0], "peak_bytes": [2, 2]} for name in COST_ARMS}
    conditions = {"device": "cpu", "batch_size": 32, "precision": PRECISION, "steps_of": {}}
    write_json(tmp_path / "cost.json", {"arms": costs, **conditions})  # nothing to be timed
    content = study(phantom, tmp_path, **SHORT)
    for order in ("mba", "abm"):
        result = read_json(tmp_path / f"results/null-{order}-seed0.json")
        assert result["config"]["train"]["schedule"] == "constant"
        assert result["both_orders"]["ranks_that_differ"] == 0
    model, _ = load_run(tmp_path / "runs/null-mba-seed0", kind=averaged(MCR))
    assert model.averaged_steps == 8
    drawn = {path.name for path in figures.write_figures(tmp_path, phantom, content, CPU)}
    assert {"fig4_pca.png", "fig5_top3.html"} <= drawn, "of these the run folders are read again"
    with pytest.raises(RunError, match="schedule='constant', now it is 'cosine'"):
        study(phantom, tmp_path, **{**SHORT, "schedule": "cosine"})
    path = tmp_path / "results/null-mba-seed0.json"
    older = read_json(path)
    del older["config"]["train"]["schedule"]
    write_json(path, older)
    assert read_result(path)["config"]["train"]["schedule"] == "cosine", "there was no other"
