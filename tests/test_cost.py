"""The three measures of cost, against numbers known by hand."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kit import cost


def test_flops_of_a_linear_layer_with_and_without_numbers():
    layer = nn.Linear(5, 7)
    assert cost.flops(layer, torch.zeros(3, 5)) == 2 * 3 * 5 * 7
    with torch.device("meta"):
        assert cost.flops(nn.Linear(5, 7), torch.empty(3, 5)) == 2 * 3 * 5 * 7


def test_flops_of_attention_do_not_depend_on_its_kernel():
    q = torch.randn(2, 3, 11, 8, requires_grad=True)

    def attend(backend):
        with sdpa_kernel(backend):
            return cost.flops(torch.nn.functional.scaled_dot_product_attention, q, q, q)

    products = 2 * 2 * (2 * 3) * 11 * 11 * 8  # two products, a multiply-add counts as two
    assert attend(SDPBackend.MATH) == attend(SDPBackend.FLASH_ATTENTION) == products


def test_kept_bytes_counts_each_storage_once_and_no_weights():
    layer = nn.Linear(5, 7, bias=False)
    x = torch.zeros(3, 5, requires_grad=True)
    assert (
        cost.kept_bytes(layer, layer, x) == 3 * 5 * 4
    )  # the input is kept for the weight's gradient
    assert cost.kept_bytes(layer, lambda x: layer(x) + layer(x), x) == 3 * 5 * 4
    assert (
        cost.kept_bytes(layer, lambda x: layer(x).exp(), x) == 3 * 5 * 4 + 3 * 7 * 4
    )  # exp keeps its result
    with torch.no_grad():
        assert cost.kept_bytes(layer, layer, x) == 0
    # a backward pass frees what was kept; the next forward pass may get the same addresses, and keeps as much again
    once = cost.kept_bytes(layer, lambda: layer(x * 1).exp().sum().backward())
    assert (
        cost.kept_bytes(layer, lambda: [layer(x * 1).exp().sum().backward() for _ in range(3)])
        == 3 * once
    )


def test_seconds_is_the_shortest_of_some_calls():
    seen = []
    assert cost.seconds(seen.append, 1, repeats=3) > 0
    assert len(seen) == 4  # one to warm up
