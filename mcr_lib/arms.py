"""The arms of the study: names and the config keys that make them. Data only; who trains them is in study.py.

An arm differs from the profile in these keys and in nothing else: same seeds, batches, masks, initial weights of what
arms share, and hyper-parameters. No arm has numbers of its own: the profile's were settled for MCR with MbA, and of
three learning rates its was on validation the best for each of the core arms, or within noise of it
(benchmarks/choose.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .config import ConfigError

FRAMEWORKS = ("contrastive", "contrastive-masked", "two-stream", "mcr")
ALIGNMENTS = ("mba", "abm")
IMAGE_MASKS, TEXT_MASKS = (0.0, 0.25, 0.5, 0.75, 0.9), (0.0, 0.25, 0.5)


@dataclass(frozen=True)
class Arm:
    """`settings`: config keys on top of the profile. With `time_of` it gets as many steps as fit into the time that
    this other arm takes for the profile's steps, by the measured seconds of a step of both (step_cost.py)."""

    name: str
    settings: dict = field(hash=False)
    time_of: str | None = None


def _core(framework: str, alignment: str, **settings) -> dict:
    return {"framework": framework, "alignment": alignment, **settings}


GROUPS: dict[str, tuple[Arm, ...]] = {
    "core": tuple(Arm(f"{f}-{a}", _core(f, a)) for f in FRAMEWORKS for a in ALIGNMENTS),
    # the same, with the steps that the time of two-stream with MbA allows
    "time": tuple(Arm(f"{f}-{a}@time", _core(f, a), "two-stream-mba") for f in FRAMEWORKS for a in ALIGNMENTS
                  if (f, a) != ("two-stream", "mba")),
    # a linear map and the mean: both orders are the same function, so any difference is noise
    "null": tuple(Arm(f"null-{a}", _core("mcr", a, projection="linear", pooling="mean")) for a in ALIGNMENTS),
    "pooling": tuple(Arm(f"pool-{p}-{a}", _core("mcr", a, pooling=p))
                     for p in ("mean", "attention", "max") for a in ALIGNMENTS),
    "projection": tuple(Arm(f"linear-{a}", _core("mcr", a, projection="linear")) for a in ALIGNMENTS),
    "mask": tuple(Arm(f"mask-{image}-{text}", _core("mcr", "mba", mask_ratio=image, mlm_probability=text))
                  for image in IMAGE_MASKS for text in TEXT_MASKS),
    # the same, with the steps that MCR's time at the paper's rates allows: what is masked is not computed
    "mask@time": tuple(Arm(f"mask-{image}-{text}@time", _core("mcr", "mba", mask_ratio=image, mlm_probability=text),
                           "mcr-mba") for image in IMAGE_MASKS for text in TEXT_MASKS if (image, text) != (0.5, 0.25)),
    # both reconstruction losses at other weights, and each alone
    "weights": tuple(Arm(f"rec-{image}-{text}", _core("mcr", "mba", image_reconstruction_weight=image,
                                                     text_reconstruction_weight=text))
                     for image, text in ((0.1, 0.1), (0.3, 0.3), (3.0, 3.0), (1.0, 0.0), (0.0, 1.0))),
}
ARMS = {arm.name: arm for group in GROUPS.values() for arm in group}


def chosen(names: str) -> list[Arm]:
    """'core,null-mba' → the arms, each once, in the order asked. Raises ConfigError for a name that is none."""
    arms: dict[str, Arm] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in GROUPS and name not in ARMS:
            raise ConfigError(f"unknown arm {name!r}; groups: {', '.join(GROUPS)}; arms: {', '.join(ARMS)}")
        arms |= {arm.name: arm for arm in GROUPS.get(name, ()) or (ARMS[name],)}
    if not arms:
        raise ConfigError("no arm named; groups: " + ", ".join(GROUPS))
    return list(arms.values())
