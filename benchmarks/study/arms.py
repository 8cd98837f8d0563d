"""The arms of the study: names and the config keys that make them. Data only; runs.py trains them.

An arm differs from the profile in these keys, other people's methods in their loss as well, and in nothing else: same
seeds, batches, masks, initial weights of what arms share, and hyper-parameters. No arm has numbers of its own but for
SigLIP's first temperature: the profile's were settled for MCR with MbA, and of three learning rates its was on
validation the best for each of the core arms, or within noise of it (RESULTS.md). search.py looks further.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from benchmarks.study.methods import GLoRIA, NoFalseNegatives, SigLIP
from mcr_lib.config import ConfigError, parse_settings
from mcr_lib.model import MCR

FRAMEWORKS = ("contrastive", "contrastive-masked", "two-stream", "mcr")
ALIGNMENTS = ("mba", "abm")
IMAGE_MASKS, TEXT_MASKS = (0.0, 0.25, 0.5, 0.75, 0.9), (0.0, 0.25, 0.5)
MASKS = tuple(product(IMAGE_MASKS, TEXT_MASKS))
PAPERS_MASKS = (0.5, 0.25)
WEIGHTS = ((0.1, 0.1), (0.3, 0.3), (3.0, 3.0), (1.0, 0.0), (0.0, 1.0))  # of L_mim, of L_mrm


@dataclass(frozen=True)
class Arm:
    """`settings`: config keys on top of the profile; `kind`: the model, or what has another loss (methods.py).

    With `budget_of` it gets as many steps as cost what the profile's steps cost this other arm (step_cost.py): by the
    counted operations of a step of both where its name ends with @flops, by measured seconds where with @time.
    """

    name: str
    settings: dict = field(hash=False)
    budget_of: str | None = None
    kind: type[MCR] = MCR

    @property
    def plain_name(self) -> str:
        """The arm whose step it takes."""
        return self.name.partition("@")[0]

    @property
    def budget(self) -> str:
        """What is equal: flops, time, or nothing but the steps ('')."""
        return self.name.partition("@")[2]


def _settings(framework: str, alignment: str, **more) -> dict:
    return {"framework": framework, "alignment": alignment, **more}


def _mask_settings(image: float, text: float) -> dict:
    return _settings("mcr", "mba", mask_ratio=image, mlm_probability=text)


def _weight_settings(image: float, text: float) -> dict:
    weights = {"image_reconstruction_weight": image, "text_reconstruction_weight": text}
    return _settings("mcr", "mba", **weights)


def _equal_to_two_stream(budget: str) -> tuple[Arm, ...]:
    return tuple(
        Arm(f"{f}-{a}@{budget}", _settings(f, a), "two-stream-mba")
        for f, a in product(FRAMEWORKS, ALIGNMENTS)
        if (f, a) != ("two-stream", "mba")
    )


# method → its keys and its model; all map first, as MCR does
METHODS = {
    "siglip": (_settings("contrastive", "mba", temperature=0.1), SigLIP),
    "no-false-negatives": (_settings("contrastive", "mba"), NoFalseNegatives),
    "gloria": (_settings("contrastive", "mba"), GLoRIA),
    # half of the image, the whole report, and only the image rebuilt
    "maco": (_settings("mcr", "mba", mlm_probability=0.0, text_reconstruction_weight=0.0), MCR),
}

GROUPS: dict[str, tuple[Arm, ...]] = {
    "core": tuple(Arm(f"{f}-{a}", _settings(f, a)) for f, a in product(FRAMEWORKS, ALIGNMENTS)),
    # the same, with the steps that the operations of two-stream with MbA allow, or its time
    "flops": _equal_to_two_stream("flops"),
    "time": _equal_to_two_stream("time"),
    # a linear map and the mean: both orders are the same function, so any difference is noise
    "null": tuple(
        Arm(f"null-{a}", _settings("mcr", a, projection="linear", pooling="mean"))
        for a in ALIGNMENTS
    ),
    "pooling": tuple(
        Arm(f"pool-{p}-{a}", _settings("mcr", a, pooling=p))
        for p, a in product(("mean", "attention", "max"), ALIGNMENTS)
    ),
    "projection": tuple(
        Arm(f"linear-{a}", _settings("mcr", a, projection="linear")) for a in ALIGNMENTS
    ),
    "mask": tuple(Arm(f"mask-{i}-{t}", _mask_settings(i, t)) for i, t in MASKS),
    # the same, with the steps that MCR's time at the paper's rates allows: what is masked is not computed
    "mask@time": tuple(
        Arm(f"mask-{i}-{t}@time", _mask_settings(i, t), "mcr-mba")
        for i, t in MASKS
        if (i, t) != PAPERS_MASKS
    ),
    # both reconstruction losses at other weights, and each alone
    "weights": tuple(Arm(f"rec-{i}-{t}", _weight_settings(i, t)) for i, t in WEIGHTS),
    "methods": tuple(Arm(name, keys, kind=kind) for name, (keys, kind) in METHODS.items()),
    "methods@flops": tuple(
        Arm(f"{name}@flops", keys, "two-stream-mba", kind) for name, (keys, kind) in METHODS.items()
    ),
}
ARMS = {arm.name: arm for group in GROUPS.values() for arm in group}


def parse_arms(names: str, own: Sequence[str] = ()) -> list[Arm]:
    """'core,null-mba' → the arms, each once, in the order asked, then the own ones ('mine=pooling=mean,dropout=0.1').

    An own arm is MCR with MbA but for its keys. Raises ConfigError for a name that is none.
    """
    asked: dict[str, Arm] = {}
    for name in filter(None, map(str.strip, names.split(","))):
        if name in GROUPS:
            asked |= {arm.name: arm for arm in GROUPS[name]}
        elif name in ARMS:
            asked[name] = ARMS[name]
        else:
            close = difflib.get_close_matches(name, [*GROUPS, *ARMS], n=1)
            known = f"did you mean {close[0]!r}?" if close else f"groups: {', '.join(GROUPS)}"
            raise ConfigError(
                f"unknown arm {name!r}; {known}; one of your own: --arm NAME=key=value"
            )
    asked |= {arm.name: arm for arm in map(_parse_own, own)}
    if not asked:
        raise ConfigError("no arm named; groups: " + ", ".join(GROUPS))
    return list(asked.values())


def _parse_own(text: str) -> Arm:
    name, _, pairs = text.partition("=")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) or name in ARMS or name in GROUPS:
        raise ConfigError(
            f"--arm takes NAME=key=value,key=value with a new name of a-z, 0-9, -; got {text!r}"
        )
    return Arm(name, _settings("mcr", "mba") | parse_settings(pairs.split(",")))


def with_draws(arms: Sequence[Arm], search: dict) -> list[Arm]:
    """The arms with the settings that were best for each in search.json (search.py); what was not searched for stays
    as it is."""
    changed = []
    for arm in arms:
        found = search["arms"].get(arm.name)
        settings = search["draws"][found["best"]] if found else {}
        changed.append(dataclasses.replace(arm, settings=settings | arm.settings))
    return changed


def arm_of(result: dict) -> Arm:
    """The arm of a result file: one of ARMS, one of them with other settings, or somebody's own; what is not in ARMS
    stands in the file."""
    known, own = ARMS.get(result["arm"]), result.get("own_settings")
    if known is None:
        return Arm(result["arm"], own)
    return known if own is None else dataclasses.replace(known, settings=own)


def own_settings(arm: Arm) -> dict:
    """What a result file must say of an arm for `arm_of` to find it again."""
    return {} if arm == ARMS.get(arm.name) else {"own_settings": arm.settings}
