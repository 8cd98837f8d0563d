"""The command line: `python -m mcr_lib train | evaluate | search | study | benchmark | reproduce`. Only options,
printing and errors; the work is in run_folder.py, study.py, benchmark.py and reproduce.py. A user's mistake is one line
on stderr and exit status 2."""

from __future__ import annotations

import json
import os
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
    from . import distributed, run_folder
    from .config import parse_settings, resolve

    with distributed.process_group():
        config, place = distributed.together(
            lambda: (resolve(profile, parse_settings(settings)), run_folder.pick_device(device)))
        trainer = run_folder.train(data, run, config, resume=resume, device=place, command=_command())
        if distributed.rank() == 0:
            print(f"{run}: {trainer.step} steps in {trainer.seconds:.0f} s; "
                  f"next: python -m mcr_lib evaluate --run {run} --data {data}")


@app.command()
def evaluate(
    run: Run,
    data: Annotated[Path | None, typer.Option(help="data set folder; none: the one the run was trained on")] = None,
    split: Annotated[str, typer.Option(help="train, validate or test")] = "test",
    protocol: Annotated[str, typer.Option(help="text-identical, exact or label-match")] = "text-identical",
    masked: Annotated[bool, typer.Option("--masked", help="encode masked input, as in training")] = False,
    best: Annotated[bool, typer.Option("--best", help="the checkpoint with the best validation, not the last")] = False,
    device: Device = "auto",
):
    """Measure retrieval in both directions; the numbers go to metrics.json."""
    from . import distributed, run_folder

    with distributed.process_group():
        place = distributed.together(lambda: run_folder.pick_device(device))
        data = data or distributed.main_does(lambda: run_folder.data_of(run))
        result = run_folder.evaluate(run, data, split=split, protocol=protocol, masked=masked, best=best, device=place,
                                     command=_command())
        if distributed.rank() == 0:
            print_metrics(result)


@app.command()
def search(
    data: Data, run: Run,
    text: Annotated[str | None, typer.Option(help="find images for a sentence")] = None,
    image: Annotated[Path | None, typer.Option(help="find reports for an image file (PNG, JPEG, DICOM)")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="how many")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
    faiss: Annotated[bool, typer.Option("--faiss", help="approximate (extra faiss), its recall printed")] = False,
    device: Device = "auto",
):
    """Find images for a sentence, or reports for an image."""
    from . import index_build, run_folder

    if (text is None) == (image is None):
        raise UsageError("give either --text or --image")
    device = run_folder.pick_device(device)
    model, tokenizer = run_folder.load(run, device)
    query = run_folder.encode_query(model, tokenizer, text=text, image=image)
    index = index_build.build_index(run, data, device=device)
    among, distinct = ("images", False) if text else ("texts", True)
    if faiss:
        from .approximate import Approximate

        try:
            fast = Approximate(index, among, distinct)
        except ValueError as error:
            raise UsageError(str(error)) from None
        print(f"faiss: recall@{k} against exact search {fast.recall(k):.3f}", file=sys.stderr)
        hits = index.hits(*fast.topk(query[None], k))[0]
    else:
        hits = index.search(query, k=k, among=among, distinct=distinct)
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits], indent=1))
        return
    for hit in hits:
        report = hit.report if len(hit.report) <= 160 else hit.report[:157] + "…"
        print(f"{hit.rank:3d}  {hit.score:.3f}  {hit.image_path}  [{hit.labels}]\n           {report}")


@app.command()
def study(
    files: Annotated[list[Path] | None, typer.Argument(help="with --table: study.json files")] = None,
    data: Annotated[Path | None, typer.Option(help="data set folder, made by python -m data_prep")] = None,
    out: Annotated[Path | None, typer.Option(help="the study's folder; what is in it is not done again")] = None,
    seeds: Annotated[str, typer.Option(help="how many, each for every arm; or a part of them: 3-4")] = "5",
    arms: Annotated[str, typer.Option(help="arms or groups (core, time, null, pooling, projection, mask, mask@time, "
                                           "weights), by commas")] = "core",
    profile: Profile = "demo", settings: Set = [],  # noqa: B006 (typer copies it)
    merge: Annotated[list[Path], typer.Option(help="another study's folder, made on another machine")] = [],  # noqa: B006
    table: Annotated[bool, typer.Option("--table", help="print what study.json FILES say, as Markdown")] = False,
    device: Device = "auto",
):
    """Train arms × seeds, resumably, and judge every claim of the paper: OUT/study.json."""
    from . import claim_table

    if table:
        if not files:
            raise UsageError("--table takes study.json files: study --table benchmarks/results/*.json")
        print(claim_table.tables(files))
        return
    if data is None or out is None or files:
        raise UsageError("study takes --data and --out (or --table and FILES)")
    from . import run_folder, study_figures
    from . import study as the_study
    from .config import parse_settings

    where = run_folder.pick_device(device)
    content = the_study.study(data, out, arms=arms, seeds=seeds, profile=profile, settings=parse_settings(settings),
                              device=where, command=_command(), merge=tuple(merge))
    print(claim_table.tables([out / "study.json"]))
    for path in study_figures.write(out, data, content, where):
        print(path)


@app.command()
def benchmark(
    files: Annotated[list[Path] | None, typer.Argument(help="with --table: result files")] = None,
    out: Annotated[Path | None, typer.Option(help="result file (JSON); a picture (PNG) goes beside it")] = None,
    profile: Profile = "base", settings: Set = [],  # noqa: B006 (typer copies it)
    batch_size: Annotated[list[int], typer.Option(min=2, help="pairs per step, may be repeated; none: 8 on a CPU, on "
                                                  "CUDA 64, 128 … until memory is full")] = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="timed rounds A B C, A B C …")] = 3,
    table: Annotated[bool, typer.Option("--table", help="print result FILES as Markdown, measure nothing")] = False,
    device: Device = "auto",
):
    """Measure steps of all frameworks and peers, memory, data handling; say which targets are met."""
    from . import benchmark_table

    if table != bool(files):
        raise UsageError("FILES and --table go together: benchmark --table benchmarks/results/benchmark_*.json")
    if files:
        contents = {file: json.loads(file.read_text()) for file in files}
        for file, content in contents.items():
            if "steps" not in content or "targets" not in content:
                raise UsageError(f"{file} is not a result of python -m mcr_lib benchmark")
        print("\n\n".join(benchmark_table.markdown(content) for content in contents.values()))
        return
    from . import benchmark as the_benchmark
    from . import plotting, run_folder
    from .config import parse_settings

    if out:
        out.parent.mkdir(parents=True, exist_ok=True)  # a place that cannot be written to is known now, not at the end
    result = the_benchmark.benchmark(run_folder.pick_device(device), profile=profile, settings=parse_settings(settings),
                                     batch_sizes=batch_size or None, rounds=rounds, command=_command())
    print(benchmark_table.markdown(result))
    if out:
        run_folder.write_json(out, result)
        out.with_suffix(".png").write_bytes(plotting.png(plotting.benchmark(result)))


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
    start = ["python", "-m"]
    if "TORCHELASTIC_RUN_ID" in os.environ:  # the --: up to Python 3.12 torchrun would take --run for one of its own
        start = ["torchrun", "--nnodes", os.environ["GROUP_WORLD_SIZE"], "--nproc-per-node",
                 os.environ["LOCAL_WORLD_SIZE"], "-m", "--"]
    return shlex.join([*start, "mcr_lib", *sys.argv[1:]])


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
        from .distributed import EndedElsewhere, ProcessLost, rank
        from .run_folder import RunError
        from .trainer import TrainingStopped

        if isinstance(error, EndedElsewhere) or (isinstance(error, TrainingStopped) and rank() > 0):
            return error.exit_status  # another process says it
        if isinstance(error, (ConfigError, DataError, ImageError, CheckpointError, RunError, TrainingStopped,
                              ProcessLost, OSError)):
            return _fail(str(error), getattr(error, "exit_status", 2))
        raise


def _fail(message: str, status: int = 2) -> int:
    print("mcr_lib: " + " ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
