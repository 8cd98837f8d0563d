"""What the notebooks share: checked parameters, data and runs made once and reused, figures, tables and claims that
are kept as files beside the executed notebook.

    lesson = Lesson.begin("03_training")                # the cell after `parameters`
    run = lesson.train()                                # trains MCR + MbA, or finds it trained by an earlier notebook
    lesson.figure(fig, "losses", "The three losses while training")
    lesson.claim("The losses fall", first > last)
    lesson.answer("A flat answer costs 1.", loss > 0.9)  # a sentence of a solution

Where neither profile nor folder is given, a lesson takes the trained models of runs/demo if they are there, and else
trains small ones and says in a box that they know nothing. Not here: how a figure is drawn (plotting), what the study
found (found.py), the page that collects them (benchmarks/page.py).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from IPython import get_ipython
from IPython.display import HTML, display
from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep import phantom
from data_prep.folder import describe_data
from data_prep.machine import without_home
from data_prep.own_files import read_list, write_json
from data_prep.provenance import provenance
from data_prep.run_files import read_data
from data_prep.tables_out import guarded
from mcr_lib.config import PROFILES, ConfigError, parse_settings, read_config, resolve
from mcr_lib.engine.distributed import pick_device
from mcr_lib.engine.run_folder import check_resumable
from mcr_lib.run import train_run

from .markup import render
from .split import encode_split

ROOT = Path(__file__).resolve().parents[2]
_NOT_THERE = object()
STUDIES = {"smoke": 240, "demo": 6000, "base": 20000}  # of the phantom, where no data are given
TRAINED = ("mcr-mba", "mcr-abm")  # the run folders that the lessons share


class Parameters(BaseModel):
    """The parameters of every notebook. Text from papermill's command line is turned into the right type."""

    model_config = ConfigDict(extra="forbid")
    profile: str = ""  # empty: that of the trained models that are there, else smoke
    data: str = ""  # data set folder; empty: the phantom is generated
    out: str = ""  # folder for everything the notebook leaves; empty: runs/<profile>. Relative to the project
    seed: int = 0
    device: str = "auto"
    settings: str = ""  # keys on top of the profile's: "steps=300 dropout=0.1"


class Lesson:
    """One notebook's session: `name` is its file name without ending."""

    def __init__(self, name: str, parameters: Parameters):
        self.name, self.seed = name, parameters.seed
        self.profile = parameters.profile or trained_profile(parameters)
        if self.profile not in STUDIES:  # small is no MCR: it has nothing to train
            there = ", ".join(STUDIES)
            raise ConfigError(
                f"profile {self.profile!r}: the lessons train MCR, with one of: {there}"
            )
        self.device = pick_device(parameters.device)
        self.settings = parse_settings(parameters.settings.split())
        self.out = (ROOT / (parameters.out or f"runs/{self.profile}")).resolve()
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
            lesson = cls(name, Parameters.model_validate(given))
        except ValidationError as error:
            first = error.errors()[0]
            key = first["loc"][0]
        else:
            lesson._say_what_is_studied()
            return lesson
        if first["type"] == "extra_forbidden":
            known = ", ".join(Parameters.model_fields)
            raise ConfigError(f"unknown parameter {key!r}; a notebook takes: {known}")
        raise ConfigError(f"parameter {key}: {first['msg']}, got {first['input']!r}")

    def _say_what_is_studied(self) -> None:
        """One quiet line; where nothing is trained for long enough to know something, a box."""
        print(
            f"profile {self.profile}, seed {self.seed}, {self.device}; files in {shown_path(self.out)}"
        )
        if self.profile == "smoke":
            display(HTML(render("untrained.html", steps=PROFILES["smoke"]["steps"])))

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
        run, config = (
            self.out / name,
            resolve(self.profile, {"seed": self.seed, **self.settings, **settings}),
        )
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
        kept = guarded(table)
        if kept.columns.nlevels > 1:
            kept.columns = [" · ".join(map(str, names)) for names in kept.columns]
        kept.to_csv(path)
        self._keep({"kind": "table", "name": name, "file": path.name, "caption": caption})
        return table

    def claim(self, sentence: str, condition: bool, *, needs: str = "smoke") -> None:
        """A sentence of the text, checked where it is said. Raises AssertionError when it does not hold.

        needs: 'demo' for what only a trained model shows; in the smoke profile it is then printed as not checked.
        """
        self._check("claim", sentence, condition, needs)

    def answer(self, sentence: str, condition: bool, *, needs: str = "smoke") -> None:
        """A sentence of a solution, checked like a claim; the report page does not show it."""
        self._check("answer", sentence, condition, needs)

    def _check(self, kind: str, sentence: str, condition: bool, needs: str) -> None:
        if needs != "smoke" and self.profile == "smoke":
            print(f"○ not checked here, it takes a trained model: {sentence}")
            self._keep({"kind": kind, "sentence": sentence, "holds": None})
            return
        self._keep({"kind": kind, "sentence": sentence, "holds": bool(condition)})
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


def trained_profile(parameters: Parameters) -> str:
    """The profile of the trained models in `out` (none given: runs/demo), with the data given; smoke if there are none.

    Models of other data than the lesson's are passed over: it would refuse them.
    """
    out = ROOT / (parameters.out or "runs/demo")
    data = ROOT / parameters.data if parameters.data else out / "data"
    whole = all((out / run / "manifest.json").exists() for run in TRAINED)
    if parameters.settings or not whole or not (data / "manifest.parquet").exists():
        return "smoke"
    config, began = read_config(out / TRAINED[0] / "config.yaml"), read_data(out / TRAINED[0])
    of_these = began is None or began.sha256 == describe_data(data)["sha256"]
    return config.profile if of_these and config.train.seed == parameters.seed else "smoke"


def shown_path(path: Path) -> str:
    """A path as a reader types it: relative to the project where it lies there, else without the home folder."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else without_home(str(path)))


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


def environment() -> dict:
    """What this machine has: for the first notebook and the report page."""
    about = provenance()
    return {
        **about["versions"],
        "CPU cores": about["hardware"]["cpus"],
        "GPU": about["hardware"]["gpu"] or "none",
        "torch threads": torch.get_num_threads(),
    }
