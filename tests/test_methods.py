"""Other people's objectives as arms: each against its published formula in slow loops, its gradient, and a run."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks.cost.subjects import make_batch
from benchmarks.study import figures, methods, runs, step_cost
from benchmarks.study.arms import ARMS, METHODS, parse_arms
from benchmarks.study.comparisons import COST_ARMS
from data_prep.folder import write_json
from mcr_lib.config import resolve
from mcr_lib.engine.checkpoint import CheckpointError
from mcr_lib.engine.precision import autocast_dtype, precision_name
from mcr_lib.losses import contrastive_loss
from mcr_lib.model import MCR
from mcr_lib.run import load_run

PRECISION = precision_name(autocast_dtype("auto", torch.device("cpu")))


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


SCALE, BIAS = torch.tensor(7.0).double(), torch.tensor(-3.0).double()


def test_sigmoid_loss_is_the_sum_over_pairs_of_the_paper_and_its_rows_add_up():
    images, texts = unit(5, 4), unit(5, 4, seed=1)
    by_hand = 0.0
    for n, image in enumerate(images):
        for m, text in enumerate(texts):
            sign = 1 if n == m else -1
            by_hand -= math.log(torch.sigmoid(sign * (SCALE * image @ text + BIAS))) / 5
    whole = methods.sigmoid_loss(images, texts, SCALE, BIAS)
    assert whole.item() == pytest.approx(by_hand)
    parts = [
        methods.sigmoid_loss(images, texts, SCALE, BIAS, rows=slice(a, a + 2)) for a in (0, 2, 4)
    ]
    assert sum(parts).item() == pytest.approx(by_hand)


@settings(max_examples=30, deadline=None)
@given(reports=st.lists(st.integers(0, 3), min_size=2, max_size=7))
def test_equal_reports_are_left_out_and_sharing_the_target_among_them_is_infonce(reports):
    N, ids = len(reports), torch.tensor(reports)
    images, texts = unit(N, 4), unit(4, 4, seed=1)[ids]
    logits, left_out, shared = SCALE * images @ texts.T, 0.0, 0.0
    for n in range(N):
        equal = [m for m in range(N) if reports[m] == reports[n]]
        seen = [m for m in range(N) if m == n or m not in equal]
        for of_query in (logits[n], logits[:, n]):
            left_out -= (of_query[n] - of_query[seen].logsumexp(0)).item() / (2 * N)
            shared -= of_query.log_softmax(0)[equal].mean().item() / (2 * N)
    loss = methods.contrast_without(ids[:, None] == ids, images, texts, SCALE)
    assert loss.item() == pytest.approx(left_out, abs=1e-12)
    infonce = contrastive_loss(images, texts, SCALE).item()
    assert shared == pytest.approx(infonce)
    assert (loss.item() < infonce - 1e-9) == (len(set(reports)) < N)


def test_local_contrast_is_the_formula_word_by_word_and_never_sees_padding():
    N, L, T = 3, 5, 4
    patches, words = unit(N, L, 6), unit(N, T, 6, seed=1)
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    logits = torch.zeros(N, N).double()
    for image in range(N):
        for report in range(N):
            matched = 0.0
            for word in words[report][present[report]]:
                attention = (methods.ATTENTION * patches[image] @ word).softmax(0)
                context = sum(a * patch for a, patch in zip(attention, patches[image], strict=True))
                cosine = context @ word / context.norm()
                matched += math.exp(methods.MATCHING * cosine)
            logits[image, report] = methods.CONTRAST * math.log(matched)
    own = torch.arange(N)
    by_hand = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    loss = methods.local_contrastive_loss(patches, words, present)
    assert loss.item() == pytest.approx(by_hand.item())
    other = words.clone()
    other[~present] = unit(int((~present).sum()), 6, seed=2)
    assert methods.local_contrastive_loss(patches, other, present).item() == loss.item()
    assert torch.autograd.gradcheck(
        lambda p, w: methods.local_contrastive_loss(p, w, present),
        (patches.requires_grad_(), words.requires_grad_()),
    )


def test_each_starts_from_the_weights_of_its_plain_arm_and_can_be_read_as_a_method():
    for name, (keys, kind) in METHODS.items():
        (arm,) = parse_arms(f"{name}@flops")
        assert (arm.kind, arm.budget_of, arm.plain_name) == (kind, "two-stream-mba", name)
        config = resolve("smoke", keys).model
        torch.manual_seed(0)
        own = kind(config).state_dict()
        torch.manual_seed(0)
        plain = MCR(config).state_dict()
        assert own.keys() - plain.keys() == ({"bias"} if name == "siglip" else set())
        assert all(torch.equal(own[key], weight) for key, weight in plain.items()), name


def test_a_study_trains_and_judges_them_and_draws_them_beside_the_frameworks(phantom, tmp_path):
    asked = {"arms": "mcr-mba@flops,contrastive-mba@flops,methods@flops", "seeds": "1"}
    asked |= {"settings": {"steps": 4, "batch_size": 16}, "profile": "smoke", "scored": 5}
    costs = {name: {"seconds": [1.0, 1.0], "peak_bytes": [2, 2]} for name in COST_ARMS}
    conditions = {"device": "cpu", "batch_size": 16, "precision": PRECISION, "steps_of": {}}
    write_json(tmp_path / "cost.json", {"arms": costs, **conditions})  # nothing to be timed
    asked |= {"with_baselines": False, "device": torch.device("cpu")}
    content = runs.run_study(phantom, tmp_path, **asked)
    rows = {row["measured"]: row for row in content["variants"]}
    assert rows.keys() == {f"MCR against {name}, equal FLOPs" for name in METHODS}
    results = {
        name: json.loads((tmp_path / "results" / f"{name}@flops-seed0.json").read_text())
        for name in METHODS
    }
    own_weights = {about["weights_sha256"] for about in results.values()}
    assert len(own_weights) == len(METHODS) and not any("same_as" in x for x in results.values())
    run = tmp_path / "runs" / "siglip@flops-seed0"
    assert load_run(run, kind=methods.SigLIP)[0].bias.item() != -10.0
    with pytest.raises(CheckpointError, match="bias"):
        load_run(run)
    drawn = {
        path.name for path in figures.write_figures(tmp_path, phantom, content, asked["device"])
    }
    assert "fig3_retrieved_equal_flops.png" in drawn


def test_false_negatives_of_a_batch_are_its_equal_reports():
    config = resolve("smoke", METHODS["no-false-negatives"][0]).model
    model = methods.NoFalseNegatives(config).eval()
    batch = make_batch(config, 4, torch.device("cpu"))
    plain = MCR.forward(model, batch)
    torch.testing.assert_close(model(batch).contrastive_loss, plain.contrastive_loss)
    batch.input_ids[1], batch.attention_mask[1] = batch.input_ids[3], batch.attention_mask[3]
    same = torch.eye(4).bool()
    same[1, 3] = same[3, 1] = True
    output = model(batch)
    features = output.image_features, output.text_features, output.logit_scale
    torch.testing.assert_close(output.contrastive_loss, methods.contrast_without(same, *features))
    assert output.contrastive_loss < contrastive_loss(*features) - 1e-3


def test_the_operations_of_words_against_all_images_are_those_of_the_whole_batch():
    config = resolve("smoke", METHODS["gloria"][0] | {"batch_size": 8})
    counted = step_cost.count_arm_flops(ARMS["gloria"], config)
    assert counted == pytest.approx(step_cost.count_step_flops(config, 8, methods.GLoRIA), rel=1e-6)
    assert counted > 1.02 * step_cost.count_step_flops(config)
