"""Grounding: the maps add up to the score where they should, boxes land where the letterbox puts the image, and the
measurement agrees with counting by hand and with drawing lots. Not here: whether a trained model points well."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data_prep.images import letterbox
from kit import grounding
from kit.boxes import (
    bootstrap_mean,
    boxes_on_square,
    coverage,
    measure_grounding,
    patch_word_table,
    prompt,
)
from mcr_lib.config import resolve
from mcr_lib.model import MCR
from mcr_lib.run import load_run


def make_model(**settings) -> MCR:
    torch.manual_seed(0)
    return MCR(resolve("smoke", settings).model).eval()


@pytest.fixture
def pair():
    """One image and one report of nine tokens."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 1, 64, 64, generator=generator)
    input_ids = torch.randint(110, 400, (1, 9), generator=generator)
    return images, input_ids, torch.ones_like(input_ids)


@pytest.mark.parametrize(
    "arm, adds_up",
    [
        (dict(alignment="mba"), True),
        (dict(alignment="abm"), False),
        (dict(alignment="abm", projection="linear"), True),
        (dict(alignment="mba", pooling="max"), True),
        (dict(alignment="mba", pooling="attention"), True),
        (dict(alignment="abm", pooling="max"), False),
    ],
)
def test_the_table_is_the_score_with_mba_whatever_the_aggregation(pair, arm, adds_up):
    model = make_model(**arm)
    if arm.get("pooling") == "attention":
        torch.nn.init.normal_(model.image_head.aggregate.query)
        torch.nn.init.normal_(model.report_head.aggregate.query)
    images, input_ids, attention_mask = pair
    patches = grounding.patch_features(model, images)
    words = grounding.word_features(model, input_ids, attention_mask)
    with torch.inference_mode():
        text = model.encode_text(input_ids, attention_mask)[0]
        score = float(model.encode_image(images)[0] @ text)
    table = patch_word_table(patches[0], words[0])
    assert table.shape == (16, 9)
    assert (float(table.mean()) == pytest.approx(score, abs=1e-5)) is adds_up
    heat = grounding.heat_map(patches, text)
    assert heat.shape == (1, 4, 4)
    assert (float(heat.mean()) == pytest.approx(score, abs=1e-5)) is adds_up


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_padding_gives_nothing(pair, pooling):
    _, input_ids, attention_mask = pair
    model = make_model(pooling=pooling)
    alone = grounding.word_features(model, input_ids, attention_mask)
    padded = [F.pad(x, (0, 5)) for x in (input_ids, attention_mask)]
    assert torch.allclose(grounding.word_features(model, *padded)[:, :9], alone, atol=1e-5)


def test_heat_map_takes_one_direction_or_one_per_image():
    patches, directions = torch.randn(3, 16, 8), torch.randn(3, 8)
    together = grounding.heat_map(patches, directions)
    for n in range(3):
        assert torch.allclose(
            together[n], grounding.heat_map(patches[n : n + 1], directions[n])[0], atol=1e-6
        )
    by_hand = float(
        patches[1, 6] @ directions[1] / patches[1].mean(0).norm()
    )  # patch 6: row 1, column 2
    assert float(together[1, 1, 2]) == pytest.approx(by_hand, rel=1e-5)


def test_masked_patches_are_left_out(pair):
    kept = torch.tensor([[0, 3, 7]])
    patches = grounding.patch_features(make_model(), pair[0], kept)
    assert patches.shape == (1, 3, 32)
    heat = grounding.heat_map(patches, torch.ones(32), kept, 16)
    assert heat.isnan().sum() == 13
    torch.testing.assert_close(
        heat.flatten()[kept[0]], patches[0] @ torch.ones(32) / patches[0].mean(0).norm()
    )


def test_words_are_found_again_in_the_text(smoke_run):
    _, tokenizer = load_run(smoke_run)
    text = "Small right  pleural effusion, XXXX unlikelyword."
    input_ids, spans, words = grounding.split_words(tokenizer, text, 96)
    assert [text[start:stop] for start, stop in spans] == [
        "Small",
        "right",
        "pleural",
        "effusion",
        ",",
        "XXXX",
        "unlikelyword",
        ".",
    ]
    assert input_ids.shape == (1, len(words)) and words[0] is None and words[-1] is None
    assert {word for word in words if word is not None} == set(range(len(spans)))
    cut, spans, words = grounding.split_words(tokenizer, "effusion " * 50, 8)
    assert cut.shape == (1, 8) and len(words) == 8 and len(spans) <= 6


def test_prompt_says_what_the_row_says():
    row = dict(label="consolidation", side="left", zone="lower", size="", severity="dense")
    assert prompt(SimpleNamespace(**row)) == "Dense left lower lobe consolidation."
    row = dict(label="pleural_effusion", side="right", zone="", size="small", severity="")
    assert prompt(SimpleNamespace(**row)) == "Small right pleural effusion."


@pytest.mark.parametrize("width, height", [(256, 301), (301, 256), (64, 64)])
def test_boxes_land_where_the_letterbox_puts_them(width, height):
    pixels = np.zeros((height, width), dtype=np.uint8)
    box = np.array([[0.25, 0.5, 0.5, 0.875]])
    x0, y0, x1, y1 = np.round(box[0] * [width, height, width, height]).astype(int)
    pixels[y0:y1, x0:x1] = 255
    size = 146
    rows, columns = np.nonzero(letterbox(Image.fromarray(pixels), size) > 127)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / size
    assert np.abs(boxes_on_square(box, np.array([[width, height]]))[0] - found).max() < 1.5 / size


def test_coverage_is_the_share_of_covered_pixels():
    side, fine = 5, 40
    boxes = np.array([[0.1, 0.2, 0.55, 0.9], [0.0, 0.0, 1.0, 1.0], [0.45, 0.45, 0.475, 0.5]])
    centres = (np.arange(side * fine) + 0.5) / (side * fine)
    for box, share in zip(boxes, coverage(boxes, side), strict=True):
        inside = ((centres >= box[1]) & (centres < box[3]))[:, None] & (
            (centres >= box[0]) & (centres < box[2])
        )
        counted = inside.reshape(side, fine, side, fine).mean(axis=(1, 3))
        assert share == pytest.approx(counted, abs=1e-9)


def test_measure_on_a_board_of_four():
    heat = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]])  # hottest first: patches 0, 2, 1, 3
    left, right = [0, 0, 0.5, 1], [0.5, 0, 1, 1]
    result = measure_grounding(heat.expand(2, -1, -1), np.array([left, right]))
    assert result["pointing"].tolist() == [1.0, 0.0] and result["pointing_chance"].tolist() == [
        0.5,
        0.5,
    ]
    assert result["iou"].tolist() == [1.0, 0.0]
    assert result["iou_chance"].tolist() == pytest.approx(
        [4 / 6 * 1 / 3 + 1 / 6] * 2
    )  # 1 of 2 right: 1/3; both: 1


def test_chance_is_what_drawing_lots_gives():
    generator = torch.Generator().manual_seed(1)
    boxes = np.tile([[0.1, 0.1, 0.45, 0.8]], (4000, 1))
    result = measure_grounding(torch.rand(4000, 4, 4, generator=generator), boxes).mean()
    assert result["pointing"] == pytest.approx(result["pointing_chance"], abs=0.03)
    assert result["iou"] == pytest.approx(result["iou_chance"], abs=0.02)


def test_a_small_box_is_one_patch():
    heat = F.one_hot(torch.tensor([5]), 16).float().reshape(1, 4, 4)
    assert measure_grounding(heat, np.array([[0.3, 0.3, 0.32, 0.32]])).iloc[
        0
    ].to_dict() == pytest.approx(
        {"pointing": 1, "pointing_chance": 1 / 16, "iou": 1, "iou_chance": 1 / 16}
    )


def test_bootstrap_resamples_patients():
    values = np.repeat([0.0, 1.0], 200)
    mean, low, high = bootstrap_mean(values, np.arange(400))
    assert mean == 0.5 and 0.4 < low < 0.5 < high < 0.6
    _, low, high = bootstrap_mean(values, pd.Series(np.repeat(np.arange(8), 50).astype(str)))
    assert high - low > 0.4  # eight patients, not four hundred
    assert bootstrap_mean(np.ones(5), list("aabbc")) == (1.0, 1.0, 1.0)
