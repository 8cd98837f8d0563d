"""Train one model and write one result file: losses, retrieval on the test split under every protocol, and what was
reached on the way. The result files of the README come from here; numbers only, no text and no image.

    python -m benchmarks.measure --data data/phantom --run runs/phantom --out benchmarks/results/phantom_demo.json
"""

import sys
from pathlib import Path

import torch
import typer

from data_prep.commands import QUIET, command_line, option, run_app
from data_prep.folder import write_json
from mcr_lib import retrieval
from mcr_lib.__main__ import Data, Device, Profile, Run, Set
from mcr_lib.config import parse_settings, resolve
from mcr_lib.data import PairData
from mcr_lib.engine.distributed import pick_device
from mcr_lib.evaluate import evaluate_run
from mcr_lib.features import encode_pairs
from mcr_lib.run import train_run
from mcr_lib.tokenizer import load_tokenizer
from mcr_lib.trainer import Trainer

MODULE = "benchmarks.measure"
MINUTES = (
    1,
    2,
    5,
)  # of training, at which the test split is looked at: a learning curve, not a way to choose
PROTOCOLS = (  # protocol, masked input
    ("text-identical", False),
    ("text-identical", True),
    ("exact", False),
    ("label-match", False),
)
SHARED = (  # what is the same in all results of one run
    "data",
    "training",
    "versions",
    "hardware",
    "commit",
    "time",
    "weights_sha256",
    "views",
)

app = typer.Typer(help="Train one model and write one result file.", **QUIET)


@app.command()
def main(
    data: Data,
    run: Run,
    out: option(Path, "the result file to write, .json"),
    profile: Profile = "demo",
    settings: Set = [],  # noqa: B006 (typer copies it)
    device: Device = "auto",
) -> None:
    """Train with the profile's numbers, measure, write `out`."""
    command, where = command_line(MODULE), pick_device(device)
    config = resolve(profile, parse_settings(settings))
    curve = LearningCurve(data, run, where)
    trainer = train_run(data, run, config, device=where, callbacks=[curve.look], command=command)
    results = {}
    for protocol, masked in PROTOCOLS:
        name = f"{protocol}, {'masked' if masked else 'unmasked'}"
        results[name] = evaluate_run(run, data, protocol=protocol, masked=masked, device=where)
    about = next(iter(results.values()))
    own = {name: _without(result, {*SHARED, "command"}) for name, result in results.items()}
    content = {
        "command": command,
        **{key: about[key] for key in SHARED},
        "settings": settings,
        "losses": {"first": _losses(trainer.log[0]), "last": _losses(trainer.log[-1])}
        if trainer.log  # fitted encoders have none
        else {},
        "reached": curve.reached,
        "results": own,
    }
    write_json(out, content)
    print(f"wrote {out}")


class LearningCurve:
    """What the model reaches on the test split after MINUTES of training; `look` is the trainer's callback."""

    def __init__(self, data: Path, run: Path, device: torch.device):
        self.data, self.run, self.device = data, run, device
        self.reached, self.due = [], list(MINUTES)

    def look(self, trainer: Trainer, record: dict) -> None:
        if not self.due or record["seconds"] < 60 * self.due[0]:
            return
        tokenizer = load_tokenizer(self.run / "tokenizer", local=True)
        model, views = trainer.model, trainer.config.views
        pairs = PairData(self.data, "test", tokenizer, model.config, views)
        features = encode_pairs(model, pairs, self.device)
        measured = retrieval.evaluate_pairs(*features, pairs.table, n_bootstrap=0)
        recalls = {key: round(value, 2) for key, value in measured.items() if "R@" in key}
        seconds = round(record["seconds"], 1)
        reached = {"minutes": self.due.pop(0), "step": record["step"], "seconds": seconds}
        self.reached.append(reached | recalls)


def _losses(record: dict) -> dict:
    return {key: value for key, value in record.items() if key.endswith("loss")}


def _without(result: dict, keys: set[str]) -> dict:
    return {key: value for key, value in result.items() if key not in keys}


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
