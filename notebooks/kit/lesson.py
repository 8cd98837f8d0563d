"""What the notebooks share: checked parameters, data and runs made once and reused, figures, tables and claims that
are kept as files beside the executed notebook.

    lesson = Lesson.begin("03_training")                # the cell after `parameters`
    run = lesson.train()                                # trains MCR + MbA, or finds it trained by an earlier notebook
    lesson.figure(fig, "losses", "The three losses while training")
    lesson.claim("The losses fall", first > last)

Not here: how a figure is drawn (plotting), the page that collects them (benchmarks/page.py).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from IPython import get_ipython
from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep import phantom
from data_prep.own_files import read_list, write_json
from data_prep.provenance import provenance
from data_prep.tables_out import guarded
from mcr_lib.config import PROFILES, ConfigError, resolve
from mcr_lib.engine.distributed import pick_device
from mcr_lib.engine.run_folder import check_resumable
from mcr_lib.run import train_run

from .split import encode_split

ROOT = Path(__file__).resolve().parents[2]
_NOT_THERE = object()
STUDIES = {"smoke": 240, "demo": 6000, "base": 20000}  # of the phantom, where no data are given


class Parameters(BaseModel):
    """The parameters of every notebook. Text from papermill's command line is turned into the right type."""

    model_config = ConfigDict(extra="forbid")
    profile: str = "smoke"
    data: str = ""  # data set folder; empty: the phantom is generated
    out: str = ""  # folder for everything the notebook leaves; empty: runs/<profile>. Relative to the project
    seed: int = 0
    device: str = "auto"


class Lesson:
    """One notebook's session: `name` is its file name without ending."""

    def __init__(self, name: str, parameters: Parameters):
        if parameters.profile not in PROFILES:
            raise ConfigError(
                f"unknown profile {parameters.profile!r}; there are: {', '.join(PROFILES)}"
            )
        self.name, self.profile, self.seed = name, parameters.profile, parameters.seed
        self.device = pick_device(parameters.device)
        self.out = (ROOT / (parameters.out or f"runs/{parameters.profile}")).resolve()
        self.folder = self.out / "lessons" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._records: list[dict] = []
        self._given = parameters.data
        self._keep()

    @classmethod
    def begin(cls, name: str, given: dict | None = None) -> Lesson:
        """Check the parameters of the notebook that calls, or those `given`, and begin.

        Raises ConfigError in one line for an unknown name (papermill only warns) or a value that
        does not fit.
        """
        given = notebook_parameters() if given is None else given
        try:
            return cls(name, Parameters.model_validate(given))
        except ValidationError as error:
            first = error.errors()[0]
            key = first["loc"][0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(Parameters.model_fields)
            raise ConfigError(f"unknown parameter {key!r}; a notebook takes: {known}")
        raise ConfigError(f"parameter {key}: {first['msg']}, got {first['input']!r}")

    @property
    def data(self) -> Path:
        """The data set folder: the given one, or the phantom in `out/data`, generated on first use."""
        if self._given:
            return (ROOT / self._given).resolve()
        folder = self.out / "data"
        if not (folder / "manifest.parquet").exists():
            phantom.write(folder, studies=STUDIES[self.profile], seed=0)
        return folder

    def train(self, name: str = "mcr-mba", callbacks=(), **settings) -> Path:
        """The run folder `out/name`, trained with the profile and `settings`; only if it is not there whole yet.
        Raises RunError, ConfigError if what is there is of other data or settings."""
        run, config = self.out / name, resolve(self.profile, {"seed": self.seed, **settings})
        started = (run / "config.yaml").exists()
        if started:
            check_resumable(run, self.data, config)
        if not (run / "manifest.json").exists():
            train_run(
                self.data,
                run,
                config,
                device=self.device,
                resume=started,
                callbacks=callbacks,
                command=f"notebook {self.name}",
            )
        return run

    def features(self, run: Path, split: str = "test", masked: bool = False):
        """(model, pairs, image_features, text_features) of a run on a split of the lesson's data."""
        split = encode_split(run, self.data, split, self.device, masked=masked)
        return split.model, split.pairs, split.image_features, split.text_features

    def figure(self, figure, name: str, caption: str):
        """Keep a matplotlib figure as PNG, for the report page, and return it so that the notebook shows it."""
        path = self.folder / f"{name}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight")
        self._keep({"kind": "figure", "name": name, "file": path.name, "caption": caption})
        return figure

    def table(self, table, name: str, caption: str):
        """Keep a pandas table as CSV, for the report page, and return it so that the notebook shows it."""
        path = self.folder / f"{name}.csv"
        guarded(table).to_csv(path)
        self._keep({"kind": "table", "name": name, "file": path.name, "caption": caption})
        return table

    def claim(self, sentence: str, condition: bool, *, needs: str = "smoke") -> None:
        """A sentence of the text, checked where it is said. Raises AssertionError when it does not hold.

        needs: 'demo' for what only a trained model shows; in the smoke profile it is then printed as not checked.
        """
        if needs != "smoke" and self.profile == "smoke":
            print(f"○ not checked in the smoke profile: {sentence}")
            self._keep({"kind": "claim", "sentence": sentence, "holds": None})
            return
        self._keep({"kind": "claim", "sentence": sentence, "holds": bool(condition)})
        if not condition:
            raise AssertionError(f"this run does not bear out: {sentence}")
        print(f"✓ {sentence}")

    def number(self, name: str, value: float, caption: str) -> float:
        """Keep a single measured value for the report page."""
        self._keep({"kind": "number", "name": name, "value": float(value), "caption": caption})
        return value

    def _keep(self, record: dict | None = None) -> None:
        if record:
            self._records.append(record)
        write_json(self.folder / "records.json", self._records)


def notebook_parameters() -> dict:
    """What the notebook itself has named so far: the cell `parameters`, and what papermill put below it.

    What IPython's own start-up files have named is passed over, unless the notebook names it anew. Where the cell that
    begins the lesson is run a second time, by hand, so are the names that other cells made.
    """
    shell = get_ipython()
    own = {
        name: value
        for name, value in shell.user_ns.items()
        if not name.startswith("_") and shell.user_ns_hidden.get(name, _NOT_THERE) is not value
    }
    if any(isinstance(value, Lesson) for value in own.values()):
        return {name: own[name] for name in Parameters.model_fields if name in own}
    return {name: x for name, x in own.items() if not isinstance(x, type | ModuleType)}


def collected(out: Path) -> dict[str, list[dict]]:
    """notebook name → its records, in order, for every notebook that left some under `out`."""
    return {
        path.parent.name: read_list(path, "run the notebook again")
        for path in sorted(Path(out).glob("lessons/*/records.json"))
    }


def interactive() -> bool:
    """Whether a person sits before the running notebook; False in batch (papermill, nbconvert) and outside Jupyter."""
    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))


def environment() -> dict:
    """What this machine has: for the first notebook and the report page."""
    about = provenance()
    return {
        **about["versions"],
        "CPU cores": about["hardware"]["cpus"],
        "GPU": about["hardware"]["gpu"] or "none",
        "torch threads": torch.get_num_threads(),
    }
