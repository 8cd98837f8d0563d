"""The command line: `python -m mcr_lib train | evaluate | search | reproduce`. Only options, printing and errors;
the work is in run_folder.py and reproduce.py. A user's mistake is one line on stderr and exit status 2."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

UsageError = typer.BadParameter.__base__  # what typer raises for wrong use, whichever click it was built with
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Masked Contrastive Reconstruction: train, evaluate, search.", no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="data set folder, made by python -m data_prep")]
Run = Annotated[Path, typer.Option(help="run folder")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Profile = Annotated[str, typer.Option(help="smoke (seconds), demo (two cores, minutes), base (the paper's scale)")]
Set = Annotated[list[str], typer.Option("--set", help="key=value, a key of config.yaml; may be repeated")]


@app.command()
def train(
    data: Data, run: Run, profile: Profile = "demo", settings: Set = [],  # noqa: B006 (typer copies it)
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest whole checkpoint")] = False,
    device: Device = "auto",
):
    """Train a model on the train split and leave a run folder."""
    from . import run_folder
    from .config import parse_settings, resolve

    config = resolve(profile, parse_settings(settings))
    trainer = run_folder.train(data, run, config, resume=resume, device=run_folder.pick_device(device),
                               command=_command())
    print(f"{run}: {trainer.step} steps in {trainer.seconds:.0f} s; "
          f"next: python -m mcr_lib evaluate --run {run} --data {data}")


@app.command()
def evaluate(
    data: Data, run: Run,
    split: Annotated[str, typer.Option(help="train, validate or test")] = "test",
    protocol: Annotated[str, typer.Option(help="text-identical, exact or label-match")] = "text-identical",
    masked: Annotated[bool, typer.Option("--masked", help="encode masked input, as in training")] = False,
    device: Device = "auto",
):
    """Measure retrieval in both directions; the numbers go to metrics.json."""
    from . import run_folder

    result = run_folder.evaluate(run, data, split=split, protocol=protocol, masked=masked,
                                 device=run_folder.pick_device(device), command=_command())
    print_metrics(result)


@app.command()
def search(
    data: Data, run: Run,
    text: Annotated[str | None, typer.Option(help="find images for a sentence")] = None,
    image: Annotated[Path | None, typer.Option(help="find reports for an image file (PNG, JPEG, DICOM)")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="how many")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
    device: Device = "auto",
):
    """Find images for a sentence, or reports for an image."""
    from . import run_folder

    if (text is None) == (image is None):
        raise UsageError("give either --text or --image")
    device = run_folder.pick_device(device)
    model, tokenizer = run_folder.load(run, device)
    query = run_folder.encode_query(model, tokenizer, text=text, image=image)
    index = run_folder.build_index(run, data, device=device)
    hits = index.search(query, k=k, among="images" if text else "texts", distinct=image is not None)
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits], indent=1))
        return
    for hit in hits:
        report = hit.report if len(hit.report) <= 160 else hit.report[:157] + "…"
        print(f"{hit.rank:3d}  {hit.score:.3f}  {hit.image_path}  [{hit.labels}]\n           {report}")


@app.command()
def reproduce(
    profile: Profile = "demo",
    data: Annotated[Path | None, typer.Option(help="data set folder; none: the phantom is generated")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for everything; none: runs/<profile>")] = None,
    device: Device = "auto",
):
    """Run all numbered notebooks by papermill and write index.html with every figure, table and claim."""
    from .reproduce import reproduce

    print(f"the report: {reproduce(profile, data, out, device=device, command=_command())}")


def print_metrics(result: dict) -> None:
    """One line per measure: value, interval, chance."""
    sizes = ", ".join(f"{k} {v}" for k, v in result["gallery"].items())
    print(f"protocol {result['protocol']}; {sizes}; ties: {result['tie_rule']}")
    print(f"{'':34s}{'value':>9s}   {'95 % interval':>17s}   {'chance':>8s}")
    for key, (low, high) in result["interval"].items():
        chance = result["chance"].get(key)
        print(f"{key:34s}{result[key]:9.2f}   {low:8.2f} … {high:6.2f}   {'' if chance is None else f'{chance:8.2f}'}")


def _command() -> str:
    return shlex.join(["python", "-m", "mcr_lib", *sys.argv[1:]])


def main() -> int:
    """Run the command line; returns the exit status: 0, 1 for a run that stopped, 2 for a mistake of the user's."""
    try:
        status = app(standalone_mode=False)
        return status if isinstance(status, int) else 0
    except UsageError as error:
        return _fail(error.format_message())
    except typer.Abort:
        return _fail("interrupted", 130)
    except Exception as error:
        from data_prep.folder import DataError
        from data_prep.images import ImageError

        from .checkpoint import CheckpointError
        from .config import ConfigError
        from .run_folder import RunError
        from .trainer import TrainingStopped

        if isinstance(error, (ConfigError, DataError, ImageError, CheckpointError, RunError, TrainingStopped, OSError)):
            return _fail(str(error), getattr(error, "exit_status", 2))
        raise


def _fail(message: str, status: int = 2) -> int:
    print("mcr_lib: " + " ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
