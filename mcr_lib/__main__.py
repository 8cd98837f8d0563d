"""The command line: `python -m mcr_lib train | evaluate | search | export | embed | versions`. Options and printing.

The work is in run.py, evaluate.py, search.py, export.py. A user's mistake is one line on stderr and exit status 2."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer

from data_prep.commands import QUIET, UsageError, command_line, flag, notice, option, run_app, say
from data_prep.conditions import HELP
from data_prep.machine import without_home
from data_prep.provenance import libraries
from data_prep.run_files import find_training_data, notes_on_recall

app = typer.Typer(help="Masked Contrastive Reconstruction: train, evaluate, search.", **QUIET)

Data = option(Path, "data set folder, made by python -m data_prep")
Run = option(Path, "run folder")
Device = option(str, "auto, cpu, cuda, cuda:1 …")
Profile = option(
    str, "smoke (seconds), demo (minutes), small (an archive, minutes), base (ViT-B/16)"
)
Set = option(list[str], "key=value, a key of config.yaml; may be repeated", "--set")
StartFrom = option(
    Path | None, "an older run, whose model and words training goes on with", "--from"
)
Resume = flag("--resume", "go on from the newest whole checkpoint")
TrainedOn = option(Path | None, "data set folder; none: the one the run was trained on")
Split = option(str, "train, validate, test or all")
Protocol = option(str, "text-identical, exact, label-match, findings or pools")
Masked = flag("--masked", "encode masked input, as in training")
Best = flag("--best", "the checkpoint with the best validation, not the last")
Text = option(str | None, "find images for a sentence")
Image = option(Path | None, "find reports for an image file (PNG, JPEG, TIFF, DICOM)")
Without = option(str | None, "a sentence that hits should not be like")
Texts = option(Path | None, "many questions: a file with a sentence on each line")
Images = option(Path | None, "many questions: a folder of image files")
ImageWeight = Annotated[float, typer.Option(min=0, max=1, help="the image's share beside --text")]
Among = Annotated[Literal["images", "texts"] | None, typer.Option(help="what to find")]
Where = option(list[str], f"only pairs with {HELP}; may be repeated", "--where")
Per = option(str | None, "one hit per value of a column, such as patient_id or study_id")
OtherPatients = flag("--other-patients", "none of the patient whose image is asked with")
Out = option(Path | None, "write the hits as a table: .csv, .json or .parquet")
K = Annotated[int, typer.Option("-k", min=1, help="how many")]
Folder = option(Path, "a new folder")
MeasuredRun = option(Path | None, "run folder")
Embeddings = option(Path | None, "measure these vectors instead: .npz or .parquet")
Vectors = option(Path, "a file to write, .npz or .parquet")
AnySplit = option(str | None, "train, validate or test; none: all")
Onnx = flag("--onnx", "also image.onnx and text.onnx")
AsJson = flag("--json", "machine-readable")


@app.command()
def train(
    data: Data,
    run: Run,
    profile: Profile = "demo",
    settings: Set = [],  # noqa: B006 (typer copies it)
    start_from: StartFrom = None,
    resume: Resume = False,
    device: Device = "auto",
):
    """Train a model on the train split and leave a run folder."""
    from .config import parse_settings, resolve, resolve_from
    from .engine import distributed
    from .run import train_run

    def prepare():
        changed, place = parse_settings(settings), distributed.pick_device(device)
        if start_from is None:
            return resolve(profile, changed), place
        return resolve_from(start_from, profile, changed), place

    command = command_line("mcr_lib")
    with distributed.process_group():
        config, place = distributed.run_everywhere(prepare)
        trainer = train_run(data, run, config, resume=resume, device=place, command=command)
        done = f"{trainer.step} steps in {trainer.seconds:.0f} s" if trainer.step else "fitted"
        following = f"python -m mcr_lib evaluate --run {run} --data {data}"
        distributed.print_once(without_home(f"{run}: {done}; next: {following}"))


@app.command()
def evaluate(
    run: MeasuredRun = None,
    data: TrainedOn = None,
    embeddings: Embeddings = None,
    split: Split = "test",
    protocol: Protocol = "text-identical",
    masked: Masked = False,
    best: Best = False,
    device: Device = "auto",
):
    """Measure retrieval in both directions: of a run, whose numbers go to metrics.json, or of
    anyone's --embeddings: arrays image_features and text_features (N, D), unit vectors, of N pairs;
    texts and patients (N), and labels (N, 'a|b') for label-match. `embed` writes such a file."""
    from .encoder import render_text
    from .engine import distributed
    from .evaluate import evaluate_embeddings, evaluate_run

    if (run is None) == (embeddings is None):
        raise UsageError("give either --run or --embeddings")
    if embeddings is not None:
        if data or masked or best:
            raise UsageError("--data, --masked and --best need --run")
        say(render_text("metrics.txt", result=evaluate_embeddings(embeddings, protocol)))
        return
    how = {"split": split, "protocol": protocol, "masked": masked, "best": best}
    with distributed.process_group():
        place = distributed.run_everywhere(lambda: distributed.pick_device(device))
        data = data or distributed.run_on_main(lambda: find_training_data(run))
        result = evaluate_run(run, data, device=place, command=command_line("mcr_lib"), **how)
        distributed.print_once(render_text("metrics.txt", result=result))


@app.command()
def search(
    data: Data,
    run: Run,
    text: Text = None,
    image: Image = None,
    without: Without = None,
    texts: Texts = None,
    images: Images = None,
    image_weight: ImageWeight = 0.5,
    among: Among = None,
    where: Where = [],  # noqa: B006 (typer copies it)
    per: Per = None,
    other_patients: OtherPatients = False,
    k: K = 5,
    out: Out = None,
    as_json: AsJson = False,
    device: Device = "auto",
):
    """Find images for a sentence, reports for an image; for both, or many, with conditions."""
    from data_prep.questions import Question, Searching, read_questions
    from data_prep.tables_out import check_name

    from .engine.distributed import pick_device
    from .question import as_row, ask, ask_many, check_question
    from .run import load_run
    from .search import build_index

    if out is not None:
        check_name(out)
    how = Searching(k, among, where, per, other_patients)
    one = Question(text, image, without, image_weight)
    many = read_questions(one, texts, images)
    place, notes = pick_device(device), []
    model, tokenizer = load_run(run, place)
    if many is None:
        check_question(model, tokenizer, one)
    index = build_index(run, data, device=place)
    if many is None:
        hits = ask(model, tokenizer, index, one, how, notes.append)
        rows = [as_row(hit) | {"notes": notes} for hit in hits]
    else:
        rows = ask_many(model, tokenizer, index, many, how)
    for note in [*notes, *notes_on_recall(run)]:
        notice(note)
    give(rows, out, as_json)


def give(rows: list[dict], out: Path | None, as_json: bool):
    """Write the hits as a table, or print them as JSON or for reading."""
    from data_prep.tables_out import write_table

    from .encoder import render_text

    if out is not None:
        write_table(out, pd.DataFrame(rows))
        say(f"{out}: {len(rows)} rows")
    elif as_json:
        print(json.dumps(rows, indent=1))
    else:
        say(render_text("hits.txt", rows=rows).lstrip("\n"))


@app.command()
def export(run: Run, out: Folder, best: Best = False, onnx: Onnx = False):
    """Write a finished run for other people's code: hub layout, model card, ONNX."""
    from .export import export_run

    export_run(run, out, best=best, onnx=onnx)
    print(f'{out}: mcr_lib.Encoder("{out}") reads it')


@app.command()
def embed(data: Data, run: Run, out: Vectors, split: AnySplit = None, device: Device = "auto"):
    """Write the vectors of a data set's pairs, both sides, with ids and reports."""
    from data_prep.vectors import check_name, write_vectors

    from .engine.distributed import pick_device
    from .search import build_index

    check_name(out)
    index = build_index(run, data, split=split, device=pick_device(device))
    images, texts = (index.features[side].numpy() for side in ("images", "texts"))
    write_vectors(out, index.table, images, texts)
    print(f"{out}: {len(index)} pairs, {images.shape[1]} numbers each side")


@app.command()
def versions():
    """Name, version, day of installation and licence of every library used."""
    for name, version, installed, licence in libraries():
        print(f"{name:16s} {version:12s} {installed or '–':12s} {licence}")


def main() -> int:
    """Run the command that stands on the command line → its exit status."""
    return run_app(app, "mcr_lib")


if __name__ == "__main__":
    sys.exit(main())
