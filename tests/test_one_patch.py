"""The phantom of local features: what it holds, and that it shows what notebook 02 says."""

import pytest
import torch

from kit import one_patch


@pytest.mark.parametrize("seen_by", one_patch.SEEN_BY)
def test_the_finding_is_where_it_is_said_to_be_and_as_strong_in_sum(seen_by):
    f, finding = one_patch.local_features(2000, seen_by, torch.Generator().manual_seed(0))
    along = (f @ finding[:, :, None]).squeeze(
        2
    ) / one_patch.WIDTH  # N, L: noise of variance 1/WIDTH, and the finding
    torch.testing.assert_close(finding.norm(dim=1), torch.full((2000,), one_patch.WIDTH**0.5))
    assert along.sum(1).mean() == pytest.approx(one_patch.STRENGTH, abs=0.15)
    seen = (along > one_patch.STRENGTH / 2).sum(1)
    assert (seen == (1 if seen_by == "one patch" else 0)).float().mean() > 0.99


def test_a_linear_map_and_the_mean_are_the_null_control_here_too():
    assert one_patch.recall("mean", "mba", "one patch", 3, "linear") == pytest.approx(
        one_patch.recall("mean", "abm", "one patch", 3, "linear"), abs=0.6
    )  # rounding may turn three of 500


def test_mapping_first_finds_the_patch_that_knows():
    def gain(pooling, seen_by):
        return one_patch.recall(pooling, "mba", seen_by, 1) - one_patch.recall(
            pooling, "abm", seen_by, 1
        )

    assert gain("attention", "one patch") > 20 and gain("max", "one patch") > 10
    assert gain("mean", "all patches") < 2
