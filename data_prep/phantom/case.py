"""Who is in the phantom data set and what is found: patients, splits and findings of each study.

By a random number generator whose words are the same on every machine. Left and right are the patient's. Not here:
how it looks (body.py, findings.py), how it is said (report.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHRONIC_COUNT = {0: 0.20, 1: 0.40, 2: 0.40}  # findings that stay with the patient
ACUTE_COUNT = {0: 0.25, 1: 0.38, 2: 0.37}  # of one study; 0.20 * 0.25 = share of normal studies
STUDIES_OF_PATIENTS = {(1, 1, 1, 1): 0.35, (2, 1, 1): 0.35, (1, 3): 0.20, (2, 2): 0.10}  # of four
# Streams of random numbers: what is drawn from one never changes what is drawn from another.
GROUPING, SPLIT, PATIENT, STUDY, TEXTURE, REPORT, DETAIL, POSE = range(8)


class Draw:
    """Random numbers from Philox's raw 64-bit words by exact arithmetic, one stream per (seed, stream, index)."""

    def __init__(self, seed: int, stream: int, index: int):
        self.bits = np.random.Philox(
            key=np.array([seed % 2**64, (stream << 48) + index], dtype=np.uint64)
        )

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((int(self.bits.random_raw()) >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """An integer in 0 .. n - 1."""
        return int(self.bits.random_raw()) * n >> 64

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def choice(self, items):
        return items[self.integer(len(items))]

    def weighted(self, weights: dict):
        """One key, with probability in proportion to its value."""
        total = 0.0
        for weight in weights.values():  # not sum(): newer Pythons round it differently
            total += weight
        rest = self.uniform(0.0, total)
        for key, weight in weights.items():
            rest -= weight
            if rest < 0:
                return key
        return key

    def shuffled(self, items) -> list:
        rest = list(items)
        return [rest.pop(self.integer(len(rest))) for _ in items]

    def grid(self, height: int, width: int) -> np.ndarray:
        """(height, width) float32, near normal with standard deviation 1: the sum of four 16-bit parts of a word."""
        words = self.bits.random_raw(height * width).reshape(height, width)
        total = sum((words >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48))
        return (total.astype(np.float32) - 131070.0) * (1 / 37837.0)


@dataclass(frozen=True)
class Kind:
    """What a finding may look like; `sizes` or `severities` run from little to much."""

    chronic: bool
    weight: float
    sides: tuple[str, ...] = ("",)
    zones: tuple[str, ...] = ("",)
    sizes: tuple[str, ...] = ("",)
    severities: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Finding:
    """One finding with its attributes; an empty string where an attribute does not apply. `amount` is in 0..1."""

    label: str
    side: str
    zone: str
    size: str
    severity: str
    amount: float


ONE_SIDE, ANY_SIDE = ("left", "right"), ("left", "right", "bilateral")
LUNG_ZONES = ("upper", "middle", "lower")
MILD_TO_SEVERE, SMALL_TO_LARGE = ("mild", "moderate", "severe"), ("small", "moderate", "large")
KINDS = {  # in the order in which they are drawn: what moves borders first, metal last
    "cardiomegaly": Kind(True, 3.0, severities=MILD_TO_SEVERE),
    "emphysema": Kind(True, 1.5, severities=MILD_TO_SEVERE),
    "fibrosis": Kind(True, 0.4, zones=("upper", "lower", "diffuse"), severities=MILD_TO_SEVERE),
    "edema": Kind(False, 1.0, severities=MILD_TO_SEVERE),
    "consolidation": Kind(
        False, 3.0, sides=ONE_SIDE, zones=LUNG_ZONES, severities=("patchy", "dense")
    ),
    "atelectasis": Kind(
        False, 0.4, sides=ANY_SIDE, zones=("middle", "lower"), severities=("mild", "moderate")
    ),
    "mass": Kind(False, 2.2, sides=ONE_SIDE, zones=LUNG_ZONES, sizes=("cm",)),
    "nodule": Kind(False, 0.5, sides=ONE_SIDE, zones=LUNG_ZONES, sizes=("mm",)),
    "calcified_granuloma": Kind(
        True, 0.3, sides=ONE_SIDE, zones=LUNG_ZONES, sizes=("single", "multiple")
    ),
    "pleural_effusion": Kind(False, 3.0, sides=ANY_SIDE, sizes=SMALL_TO_LARGE),
    "pneumothorax": Kind(False, 1.6, sides=ONE_SIDE, sizes=SMALL_TO_LARGE),
    "sternotomy_wires": Kind(True, 0.4),
    "endotracheal_tube": Kind(False, 0.3, zones=("high", "mid", "low")),
    "enteric_tube": Kind(False, 0.3, zones=("esophagus", "stomach")),
    "central_line": Kind(False, 0.4, sides=ONE_SIDE, zones=("jugular", "subclavian", "picc")),
    "port": Kind(True, 1.0, sides=ONE_SIDE),
    "pacemaker": Kind(True, 2.5, sides=ONE_SIDE, sizes=("single-lead", "dual-lead")),
}


@dataclass(frozen=True)
class Mix:
    """How many findings a study has, and how often each label is one of them."""

    chronic: dict[int, float]
    acute: dict[int, float]
    weights: dict[str, float]
    repeated: tuple[str, ...] = ()  # may be there more than once, at different places
    most: int = 1  # of one label


EASY = Mix(CHRONIC_COUNT, ACUTE_COUNT, {label: kind.weight for label, kind in KINDS.items()})
HARD = Mix(
    chronic={0: 0.36, 1: 0.46, 2: 0.18},
    acute={0: 0.15, 1: 0.33, 2: 0.32, 3: 0.20},
    weights={
        "cardiomegaly": 0.8,
        "emphysema": 0.3,
        "fibrosis": 0.25,
        "edema": 0.3,
        "consolidation": 4.0,
        "atelectasis": 0.7,
        "mass": 1.5,
        "nodule": 5.0,
        "calcified_granuloma": 4.0,
        "pleural_effusion": 1.0,
        "pneumothorax": 0.6,
        "sternotomy_wires": 0.25,
        "endotracheal_tube": 0.2,
        "enteric_tube": 0.2,
        "central_line": 0.25,
        "port": 0.3,
        "pacemaker": 0.3,
    },
    repeated=("consolidation", "mass", "nodule", "calcified_granuloma"),
    most=3,
)
BASAL = ("pleural_effusion",)  # hides the lower zone of its side
AIR = ("emphysema", "edema", "fibrosis")  # change both lungs as a whole
CHEST_WALL = ("pacemaker", "port", "central_line")


def patient_of(seed: int, index: int) -> tuple[int, str]:
    """Patient number and split of a study.

    Patients have their studies within a group of four; of ten groups one is for the test, one for validation. So
    the shares are close to 80/10/10 for any number of studies, and no study's split depends on that number.
    """
    group = index // 4
    first = group * 4
    for size in Draw(seed, GROUPING, group).weighted(STUDIES_OF_PATIENTS):
        if index < first + size:
            break
        first += size
    order = Draw(seed, SPLIT, group // 10).shuffled(["test", "validate"] + ["train"] * 8)
    return first, order[group % 10]


def _draw_finding(draw: Draw, label: str) -> Finding:
    kind = KINDS[label]
    steps = kind.severities if len(kind.severities) > 1 else kind.sizes
    level = draw.integer(len(steps))
    amount = (level + draw.uniform(0.12, 0.88)) / len(steps)
    side, zone = draw.choice(kind.sides), draw.choice(kind.zones)
    size = steps[level] if steps is kind.sizes else draw.choice(kind.sizes)
    if label == "nodule":
        size = f"{9 + int(19 * amount)} mm"
    elif label == "mass":
        size = f"{3.5 + int(45 * amount) / 10:.1f} cm"
    severity = steps[level] if steps is kind.severities else ""
    return Finding(label, side, zone, size, severity, amount)


def _fits(new: Finding, others: list[Finding], mix: Mix) -> bool:
    """Whether a finding can be seen beside the others."""
    alike = [old for old in others if old.label == new.label]
    if len(alike) >= (mix.most if new.label in mix.repeated else 1):
        return False
    return not any(_exclude(new, old) for old in others)


def _exclude(a: Finding, b: Finding) -> bool:
    """Whether two findings cannot be told apart in one picture."""
    if a.label in AIR and b.label in AIR:
        return True
    if a.side != b.side and "bilateral" not in (a.side, b.side):
        return False
    same_zone = a.zone == b.zone and a.zone in LUNG_ZONES
    return same_zone or _hides(a, b) or _hides(b, a)


def _hides(finding: Finding, other: Finding) -> bool:
    """Whether a finding lies where another of its side would be."""
    if finding.label in BASAL:
        return other.zone == "lower" or other.label in BASAL
    if finding.label in CHEST_WALL:
        return other.zone == "upper" or other.label in CHEST_WALL
    return finding.label == "pneumothorax" and other.label in ("pleural_effusion", "mass")


def _choose(draw: Draw, chronic: bool, chosen: list[Finding], mix: Mix) -> list[Finding]:
    weights = {name: mix.weights[name] for name, kind in KINDS.items() if kind.chronic == chronic}
    wanted = len(chosen) + draw.weighted(mix.chronic if chronic else mix.acute)
    for _ in range(30):
        if len(chosen) == wanted:
            break
        new = _draw_finding(draw, draw.weighted(weights))
        if _fits(new, chosen, mix):
            chosen = [*chosen, new]
    return chosen


def make_findings(seed: int, index: int, mix: Mix = EASY) -> list[Finding]:
    """The findings of a study in drawing order: those of the patient, then those of the day."""
    patient, _ = patient_of(seed, index)
    chosen = _choose(Draw(seed, DETAIL, 2 * patient), True, [], mix)
    chosen = _choose(Draw(seed, DETAIL, 2 * index + 1), False, chosen, mix)
    return sorted(chosen, key=lambda finding: list(KINDS).index(finding.label))


def one_small_lesion(seed: int, index: int) -> list[Finding]:
    """Instead of `make_findings`: one nodule of 9 to 27 mm and nothing else.

    Small enough for one or two patches of 16 pixels to see it. What tells a study from another is
    where it lies and how large it is.
    """
    return [_draw_finding(Draw(seed, DETAIL, 2 * index + 1), "nodule")]
