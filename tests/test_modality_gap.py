"""The measures of the gap: closed forms against brute force in float64, known cases, and invariances."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kit.plane import project_2d
from mcr_lib.modality_gap import (
    alignment,
    gap_distance,
    gap_vector,
    modality_gap,
    relative_modality_gap,
    true_pair_cosine,
    uniformity,
)


def unit(rows, width, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64) + shift)


def dissimilarity(a, b):
    return (1 - float(a @ b)) / 2


@pytest.mark.parametrize(("count", "width"), [(2, 3), (11, 5), (19, 13)])
def test_closed_forms_equal_brute_force(count, width):
    images, texts = unit(count, width, 0, 0.3), unit(count, width, 1, -0.2)
    pairs = list(itertools.combinations(range(count), 2))
    within = [np.mean([dissimilarity(x[i], x[j]) for i, j in pairs]) for x in (images, texts)]
    between = np.mean([dissimilarity(i, t) for i, t in zip(images, texts, strict=True)])
    relative = between / (between + np.mean(within))
    assert relative_modality_gap(images, texts) == pytest.approx(relative, abs=1e-12)
    spread = np.log(
        np.mean([math.exp(-2 * float((images[i] - images[j]).square().sum())) for i, j in pairs])
    )
    for chunk in (1, 4, 1024):
        assert uniformity(images, chunk=chunk) == pytest.approx(spread, abs=1e-10)
    assert alignment(images, texts) == pytest.approx(4 * between, abs=1e-12)
    assert true_pair_cosine(images, texts) == pytest.approx(1 - 2 * between, abs=1e-12)
    centre = [sum(float(x[n, 0]) for n in range(count)) / count for x in (images, texts)]
    assert float(gap_vector(images, texts)[0]) == pytest.approx(centre[0] - centre[1])


def test_identical_features_have_no_gap():
    images = unit(11, 6)
    result = modality_gap(images, images)
    assert result["gap_distance"] == 0 and result["relative_modality_gap"] == pytest.approx(
        0, abs=1e-12
    )
    assert result["alignment"] == 0 and result["true_pair_cosine"] == pytest.approx(1)


def test_opposite_points_have_the_largest_gap():
    images = unit(1, 6).repeat(7, 1)
    result = modality_gap(images, -images)
    assert result["gap_distance"] == pytest.approx(2) and result[
        "relative_modality_gap"
    ] == pytest.approx(1)
    assert result["alignment"] == pytest.approx(4) and result["true_pair_cosine"] == pytest.approx(
        -1
    )
    assert result["uniformity"] == pytest.approx(0, abs=1e-9)


def test_one_point_for_everything_is_a_gap_of_zero_by_definition():
    images = unit(1, 6).repeat(7, 1)
    assert relative_modality_gap(images, images) == 0


def test_unrelated_modalities_without_a_gap_have_a_relative_gap_of_one_half():
    """Two independent draws of one distribution: a true pair is as far apart as any two of one modality."""
    assert relative_modality_gap(unit(4000, 8), unit(4000, 8, seed=1)) == pytest.approx(
        0.5, abs=0.01
    )


def test_uniformity_of_two_opposite_points_and_of_an_even_spread():
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert uniformity(unit(1500, 512)) == pytest.approx(-4, abs=0.05)


def test_a_rotation_changes_nothing():
    images, texts = unit(13, 9, shift=0.4), unit(13, 9, seed=1)
    rotation, _ = torch.linalg.qr(unit(9, 9, seed=2))
    before, after = modality_gap(images, texts), modality_gap(images @ rotation, texts @ rotation)
    assert after == pytest.approx(before, abs=1e-10)
    turned = gap_vector(images @ rotation, texts @ rotation)
    assert torch.allclose(turned, gap_vector(images, texts) @ rotation)


def test_the_order_of_pairs_and_the_names_of_the_modalities_change_nothing():
    images, texts, order = unit(13, 9, shift=0.4), unit(13, 9, seed=1), torch.randperm(13)
    expected = modality_gap(images, texts)
    assert modality_gap(images[order], texts[order]) == pytest.approx(expected)
    assert gap_distance(texts, images) == pytest.approx(expected["gap_distance"])
    assert relative_modality_gap(texts, images) == pytest.approx(expected["relative_modality_gap"])


def test_float32_and_bfloat16_features_give_the_same_numbers():
    images, texts = unit(19, 64, shift=0.1), unit(19, 64, seed=1)
    expected = modality_gap(images, texts)
    assert all(type(value) is float for value in expected.values())
    assert modality_gap(images.float(), texts.float()) == pytest.approx(expected, abs=1e-6)
    assert modality_gap(images.bfloat16(), texts.bfloat16()) == pytest.approx(expected, abs=1e-2)


def test_bad_input_is_one_clear_line():
    with pytest.raises(ValueError, match="image_features: expected unit vectors"):
        gap_distance(2 * unit(3, 4), unit(3, 4))
    with pytest.raises(ValueError, match="not one row per pair"):
        modality_gap(unit(3, 4), unit(3, 5))
    with pytest.raises(ValueError, match="not one row per pair"):
        relative_modality_gap(unit(3, 4), unit(2, 4))
    with pytest.raises(ValueError, match="1 of 3 rows hold non-finite"):
        alignment(unit(3, 4), unit(3, 4).index_fill(0, torch.tensor([1]), torch.nan))
    for measure in (relative_modality_gap, modality_gap, project_2d):
        with pytest.raises(ValueError, match="at least 2"):
            measure(unit(1, 4), unit(1, 4))
    with pytest.raises(ValueError, match="unknown method 'umap'"):
        project_2d(unit(3, 4), unit(3, 4), method="umap")


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projection_is_deterministic_and_keeps_pairs_together(method):
    images, texts = unit(60, 70, shift=0.3), unit(60, 70, seed=1, shift=-0.3)
    shown = project_2d(images, texts, method=method, seed=1, max_points=40)
    again = project_2d(images, texts, method=method, seed=1, max_points=40)
    assert shown.images.shape == shown.texts.shape == (40, 2) and np.array_equal(
        shown.images, again.images
    )
    assert len(set(shown.rows.tolist())) == 40 and np.array_equal(shown.texts, again.texts)
    assert not np.array_equal(shown.rows, project_2d(images, texts, seed=2, max_points=40).rows)


def test_pca_shows_the_gap_at_its_true_width():
    """Joint fit: where the gap is the largest direction, the plane keeps its width."""
    images, texts = unit(50, 20, shift=1.5), unit(50, 20, seed=1, shift=-1.5)
    shown = project_2d(images, texts)
    width = np.linalg.norm(shown.images.mean(axis=0) - shown.texts.mean(axis=0))
    assert width == pytest.approx(gap_distance(images, texts), rel=1e-3)
    assert shown.explained[0] > 0.5 and shown.rows.tolist() == list(range(50))


def test_the_smallest_projection_works():
    for method in ("pca", "tsne"):
        assert project_2d(unit(2, 3), unit(2, 3, seed=1), method=method).images.shape == (2, 2)
