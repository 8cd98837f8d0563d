"""The three losses: float64 gradients, brute-force values, edge cases."""

import itertools
import math

import pytest
import torch

from mcr_lib.losses import contrastive_loss, image_reconstruction_loss, text_reconstruction_loss


def unit(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64, generator=g), dim=1)


def test_contrastive_gradient_in_float64():
    i, t = unit(5, 4, 0).requires_grad_(), unit(5, 4, 1).requires_grad_()
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(contrastive_loss, (i, t, scale))


@pytest.mark.parametrize("norm_pix", [True, False])
def test_image_reconstruction_value_and_gradient_in_float64(norm_pix):
    g = torch.Generator().manual_seed(0)
    predicted = torch.randn(2, 3, 4, dtype=torch.float64, generator=g, requires_grad=True)
    patches = torch.randn(2, 3, 4, dtype=torch.float64, generator=g)
    total = 0.0
    for n, l in itertools.product(range(2), range(3)):
        target = patches[n, l]
        if norm_pix:
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
        total += (predicted[n, l] - target).square().mean() / 6
    torch.testing.assert_close(image_reconstruction_loss(predicted, patches, norm_pix), total)
    assert torch.autograd.gradcheck(
        lambda p: image_reconstruction_loss(p, patches, norm_pix), predicted
    )


def test_text_reconstruction_value_and_gradient_in_float64():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=g, requires_grad=True)
    labels = torch.tensor([[1, -100, 3], [4, 0, -100]])
    picked = [
        logits[n, m].log_softmax(0)[labels[n, m]]
        for n in range(2)
        for m in range(3)
        if labels[n, m] >= 0
    ]
    torch.testing.assert_close(text_reconstruction_loss(logits, labels), -sum(picked) / 4)
    assert torch.autograd.gradcheck(lambda x: text_reconstruction_loss(x, labels), logits)


def test_a_model_that_knows_nothing_pays_log_n():
    same = torch.ones(13, 8) / 8**0.5
    assert contrastive_loss(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(13))


def test_autocast_around_it_does_not_coarsen_the_contrastive_loss():
    i, t = unit(7, 4, 0).float(), unit(7, 4, 1).float()
    alone = contrastive_loss(i, t, torch.tensor(14.0))
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(i, t, torch.tensor(14.0)) == alone


def test_nothing_masked_costs_nothing():
    nothing = torch.randn(2, 0, 4)
    assert image_reconstruction_loss(nothing, nothing) == 0
    assert text_reconstruction_loss(torch.randn(2, 3, 5), torch.full((2, 3), -100)) == 0


@pytest.mark.parametrize("scale", [0.5, 14.0])
def test_contrastive_value_pair_by_pair_and_in_shares(scale):
    """The mean over both directions of −log of the own match's share; shares of rows add up to it."""
    i, t, total = unit(7, 4, 0), unit(7, 4, 1), 0.0
    for asking, answering in ((i, t), (t, i)):
        for n in range(7):
            weights = [math.exp(scale * float(asking[n] @ answering[m])) for m in range(7)]
            total -= math.log(weights[n] / sum(weights)) / 14
    loss = contrastive_loss(i, t, torch.tensor(scale))
    assert loss.item() == pytest.approx(total)
    shares = [contrastive_loss(i, t, torch.tensor(scale), slice(a, b)) for a, b in ((0, 3), (3, 7))]
    assert sum(shares).item() == pytest.approx(total)


def test_a_single_scored_word_is_its_own_mean():
    logits, labels = torch.randn(1, 2, 5), torch.tensor([[3, -100]])
    expected = -logits[0, 0].log_softmax(0)[3]
    torch.testing.assert_close(text_reconstruction_loss(logits, labels), expected)


def test_patches_are_normalised_unless_it_is_switched_off():
    predicted, patches = torch.zeros(2, 3, 4), 5 + torch.randn(2, 3, 4)
    by_default = image_reconstruction_loss(predicted, patches)
    assert by_default == image_reconstruction_loss(predicted, patches, True)
    assert by_default < 1 < image_reconstruction_loss(predicted, patches, False)
