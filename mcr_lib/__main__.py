"""The command line: `python -m mcr_lib train | evaluate | search | versions`. Only options, printing and errors.

The work is in run.py, evaluate.py and search.py. A user's mistake is one line on stderr and exit status 2."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from data_prep.commands import QUIET, UsageError, command_line, flag, notice, option, run_app
from data_prep.provenance import libraries

app = typer.Typer(help="Masked Contrastive Reconstruction: train, evaluate, search.", **QUIET)

Data = option(Path, "data set folder, made by python -m data_prep")
Run = option(Path, "run folder")
Device = option(str, "auto, cpu, cuda, cuda:1 …")
Profile = option(str, "smoke (seconds), demo (two cores, minutes), base (the paper's scale)")
Set = option(list[str], "key=value, a key of config.yaml; may be repeated", "--set")
Resume = flag("--resume", "go on from the newest whole checkpoint")
TrainedOn = option(Path | None, "data set folder; none: the one the run was trained on")
Split = option(str, "train, validate or test")
Protocol = option(str, "text-identical, exact or label-match")
Masked = flag("--masked", "encode masked input, as in training")
Best = flag("--best", "the checkpoint with the best validation, not the last")
Text = option(str | None, "find images for a sentence")
Image = option(Path | None, "find reports for an image file (PNG, JPEG, DICOM)")
K = Annotated[int, typer.Option("-k", min=1, help="how many")]
AsJson = flag("--json", "machine-readable")


@app.command()
def train(
    data: Data,
    run: Run,
    profile: Profile = "demo",
    settings: Set = [],  # noqa: B006 (typer copies it)
    resume: Resume = False,
    device: Device = "auto",
):
    """Train a model on the train split and leave a run folder."""
    from .config import parse_settings, resolve
    from .engine import distributed
    from .run import train_run

    command = command_line("mcr_lib")
    with distributed.process_group():
        config, place = distributed.run_everywhere(
            lambda: (resolve(profile, parse_settings(settings)), distributed.pick_device(device))
        )
        trainer = train_run(data, run, config, resume=resume, device=place, command=command)
        distributed.print_once(
            f"{run}: {trainer.step} steps in {trainer.seconds:.0f} s; "
            f"next: python -m mcr_lib evaluate --run {run} --data {data}"
        )


@app.command()
def evaluate(
    run: Run,
    data: TrainedOn = None,
    split: Split = "test",
    protocol: Protocol = "text-identical",
    masked: Masked = False,
    best: Best = False,
    device: Device = "auto",
):
    """Measure retrieval in both directions; the numbers go to metrics.json."""
    from data_prep.run_files import find_training_data

    from .engine import distributed
    from .evaluate import evaluate_run

    how = {"split": split, "protocol": protocol, "masked": masked, "best": best}
    with distributed.process_group():
        place = distributed.run_everywhere(lambda: distributed.pick_device(device))
        data = data or distributed.run_on_main(lambda: find_training_data(run))
        result = evaluate_run(run, data, device=place, command=command_line("mcr_lib"), **how)
        distributed.print_once(metrics_text(result))


@app.command()
def search(
    data: Data,
    run: Run,
    text: Text = None,
    image: Image = None,
    k: K = 5,
    as_json: AsJson = False,
    device: Device = "auto",
):
    """Find images for a sentence, or reports for an image."""
    from .engine.distributed import pick_device, print_once
    from .search import search_data

    if (text is None) == (image is None):
        raise UsageError("give either --text or --image")
    notes, place = [], pick_device(device)
    hits = search_data(run, data, text=text, image=image, k=k, device=place, tell=notes.append)
    for note in notes:
        notice(note)
    if as_json:
        print(json.dumps([asdict(hit) | {"notes": notes} for hit in hits], indent=1))
        return
    for hit in hits:
        report = hit.report if len(hit.report) <= 160 else hit.report[:157] + "…"
        print_once(f"{hit.rank:3d}  {hit.score:.3f}  {hit.image_path}  [{hit.labels}]")
        print_once(f"           {' '.join(report.split())}")


@app.command()
def versions():
    """Name, version, day of installation and licence of every library used."""
    for name, version, installed, licence in libraries():
        print(f"{name:16s} {version:12s} {installed or '–':12s} {licence}")


def metrics_text(result: dict) -> str:
    """One line per measure: value, interval, chance."""
    sizes = ", ".join(f"{name} {count}" for name, count in result["gallery"].items())
    lines = [f"protocol {result['protocol']}; {sizes}; ties: {result['tie_rule']}"]
    lines += [f"NOTE: {note}" for note in result["notes"]]
    lines.append(f"{'':34s}{'value':>9s}   {'95 % interval':>17s}   {'chance':>8s}")
    for key, (low, high) in result["interval"].items():
        chance = result["chance"].get(key)
        shown = "" if chance is None else f"{chance:8.2f}"
        lines.append(f"{key:34s}{result[key]:9.2f}   {low:8.2f} … {high:6.2f}   {shown}")
    return "\n".join(lines)


def main() -> int:
    """Run the command that stands on the command line → its exit status."""
    return run_app(app, "mcr_lib")


if __name__ == "__main__":
    sys.exit(main())
