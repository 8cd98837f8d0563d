"""A phantom of local features in which it is known who can see the finding: one patch of an image, or all of them a
little. Heads of either order are trained on it, nothing else, in half a second. It shows where mapping before
aggregation must help and where it cannot; notebook 02 and benchmarks/one_patch.py run it. Not here: images, encoders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcr_lib.config import MCRConfig
from mcr_lib.heads import AlignmentHead
from mcr_lib.losses import contrastive_loss

PATCHES, WIDTH, COMMON = 64, 32, 32  # local features of an image, their width, the common space's
STRENGTH = 4.0  # of the finding in the patch that sees it; the noise of every patch has strength 1
SEEN_BY, POOLINGS = ("one patch", "all patches"), ("mean", "max", "attention")
STEPS, BATCH, GALLERY, LEARNING_RATE, TEMPERATURE = 200, 64, 500, 6e-3, 0.07


def local_features(n: int, seen_by: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """f (n, PATCHES, WIDTH): noise of variance 1, and the finding added to one patch, or divided among all.

    And the findings themselves (n, WIDTH), vectors of length √WIDTH that the report states without noise.
    """
    finding = F.normalize(torch.randn(n, WIDTH, generator=generator), dim=1) * WIDTH**0.5
    f = torch.randn(n, PATCHES, WIDTH, generator=generator)  # n, L, D
    if seen_by == "one patch":
        f[torch.arange(n), torch.randint(PATCHES, (n,), generator=generator)] += STRENGTH * finding
    else:
        f += STRENGTH / PATCHES * finding[:, None]
    return f, finding


def recall(pooling: str, alignment: str, seen_by: str, seed: int, projection: str = "mlp") -> float:
    """Train a head and a linear map of the reports by the contrastive loss, then ask new images for their report.

    → R@1 in percent among GALLERY; chance is 100 / GALLERY. Both orders see the same fresh pairs and
    start from the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    sizes = {"common_dim": COMMON, "pooling": pooling, "projection": projection}
    head = AlignmentHead(WIDTH, MCRConfig(alignment=alignment, **sizes))
    report = nn.Linear(WIDTH, COMMON)
    optimizer = torch.optim.AdamW([*head.parameters(), *report.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    logit_scale = torch.tensor(1 / TEMPERATURE)

    def features(n: int) -> tuple[Tensor, Tensor]:
        f, finding = local_features(n, seen_by, generator)
        return F.normalize(head(f), dim=1), F.normalize(report(finding), dim=1)

    for _ in range(STEPS):
        contrastive_loss(*features(BATCH), logit_scale).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        image_features, text_features = features(GALLERY)
        found = (image_features @ text_features.T).argmax(1) == torch.arange(GALLERY)
    return 100 * float(found.float().mean())


def compare(seeds: int) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Who sees the finding → pooling → order → R@1 of every seed."""
    return {
        seen_by: {
            pooling: {
                order: [recall(pooling, order, seen_by, seed) for seed in range(seeds)]
                for order in ("mba", "abm")
            }
            for pooling in POOLINGS
        }
        for seen_by in SEEN_BY
    }
