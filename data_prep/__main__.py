"""The command line: python -m data_prep phantom | openi | mimic-cxr | csv | dicom | check | datasheet | subset | pack.

Not the work: each command hands its arguments to the module of its name. How a mistake is said stands in commands.py;
`check` ends with 1 where it found problems.
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from .commands import QUIET, run_app
from .folder import DataError
from .sources import TEXT_POLICIES

HELP = "Chest X-ray/report collections to one data set folder."
app = typer.Typer(help=HELP, **QUIET)

Out = Annotated[Path, typer.Option(help="Data set folder to write; running again resumes.")]
Size = Annotated[int, typer.Option(min=32, help="Shorter side of the images kept, at most.")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Worker processes; one per core if not given.")
]
Views = Annotated[Literal["all", "frontal"], typer.Option(help="Which views to keep.")]
TextPolicy = Annotated[Literal[TEXT_POLICIES], typer.Option(help="Which sections are the report.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=NAME",
        help="The table's own name for a field: --column image=path --column patient_id=subject.",
    ),
]
Encoding = Annotated[
    str | None, typer.Option(help="Of a text that is not UTF-8: cp1252, gb18030 …")
]
Append = Annotated[
    bool, typer.Option("--append", help="What is given is a delta: pairs not in it stay.")
]
Remove = Annotated[
    bool, typer.Option("--remove", help="Take out pairs that are not given, however many.")
]
Name = Annotated[str, typer.Option(help="Name of the data set.")]
Licence = Annotated[str, typer.Option(help="Licence of the data set.")]


@app.command()
def phantom(
    out: Out,
    studies: Annotated[
        int, typer.Option(min=1, help="How many, each one image and report.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same data set.")] = 0,
    findings: Annotated[
        Literal["all", "one-small-lesion"],
        typer.Option(help="All kinds, or a nodule that one or two patches see."),
    ] = "all",
    difficulty: Annotated[
        Literal["easy", "hard"],
        typer.Option(help="hard: a linear model finds little in it; for studies, not lessons."),
    ] = "easy",
    processes: Processes = None,
) -> None:
    """Generate the synthetic default data set."""
    from .phantom import write

    write(out, studies, seed, processes, findings, difficulty)


@app.command()
def openi(
    reports: Annotated[
        Path, typer.Option(exists=True, help="Folder of XML files, or indiana_reports.csv.")
    ],
    images: Annotated[
        Path, typer.Option(exists=True, help="Folder with the PNG, JPEG or DICOM images.")
    ],
    out: Out,
    projections: Annotated[
        Path | None, typer.Option(exists=True, help="Kaggle's table of views.")
    ] = None,
    size: Size = 512,
    views: Views = "all",
    text_policy: TextPolicy = "findings+impression",
    processes: Processes = None,
) -> None:
    """Open-i (IU X-ray), official or Kaggle layout."""
    from .openi import prepare_openi

    prepare_openi(
        reports,
        images,
        out,
        projections,
        size=size,
        views=views,
        text_policy=text_policy,
        processes=processes,
    )


@app.command("mimic-cxr")
def mimic_cxr(
    jpg_root: Annotated[
        Path, typer.Option(exists=True, help="Root of MIMIC-CXR-JPG: files/ and csv.gz.")
    ],
    reports_root: Annotated[
        Path, typer.Option(exists=True, help="Root of the reports, or their zip.")
    ],
    out: Out,
    size: Size = 512,
    store_size: Annotated[
        int,
        typer.Option(
            min=0,
            help="Side of the packed store made at the end (256: what the "
            "profile base reads); 0: none.",
        ),
    ] = 256,
    views: Views = "frontal",
    text_policy: TextPolicy = "findings+impression",
    sections_csv: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="mimic_cxr_sectioned.csv of MIMIC-CXR's own script, instead of our parser.",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Part I of N, for job arrays: 1/8 … 8/8.")
    ] = None,
    processes: Processes = None,
) -> None:
    """MIMIC-CXR-JPG and the MIMIC-CXR reports, as downloaded."""
    from .mimic_cxr import prepare_mimic_cxr

    part = re.fullmatch(r"(\d+)/(\d+)", shard or "1/1")
    if not part or not 1 <= int(part[1]) <= int(part[2]):
        raise DataError(f"--shard {shard}: give I/N with 1 ≤ I ≤ N, such as 3/8")
    prepare_mimic_cxr(
        jpg_root,
        reports_root,
        out,
        size=size,
        store_size=store_size,
        views=views,
        text_policy=text_policy,
        sections_csv=sections_csv,
        shard=(int(part[1]), int(part[2])) if shard else None,
        processes=processes,
    )


@app.command("csv")
def table(
    table: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="CSV, TSV or Parquet.")],
    out: Out,
    images_root: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Where the image paths begin; the table's folder if not given."
        ),
    ] = None,
    column: Columns = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A column of the table that the manifest keeps."),
    ] = None,
    encoding: Encoding = None,
    append: Append = False,
    remove: Remove = False,
    name: Name = "own data",
    licence: Licence = "not stated",
    size: Size = 512,
    views: Views = "all",
    text_policy: TextPolicy = "findings+impression",
    processes: Processes = None,
) -> None:
    """Your own table: image, report (or findings, impression), patient_id; study_id, view, labels, split if known."""
    from .table import Choices, prepare_table

    choices = Choices(
        keep or [], encoding, append, remove, name, licence, size, views, text_policy, processes
    )
    prepare_table(table, out, images_root or table.parent, column or [], choices)


@app.command("dicom")
def dicom(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="The archive's folder.")
    ],
    out: Out,
    reports: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="A table with study_id and report, or a folder of text files, by AccessionNumber or "
            "StudyInstanceUID; if not given the text files in FOLDER.",
        ),
    ] = None,
    column: Columns = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEYWORD", help="A DICOM tag that the manifest keeps: StudyDate."),
    ] = None,
    encoding: Encoding = None,
    append: Append = False,
    remove: Remove = False,
    name: Name = "own data",
    licence: Licence = "not stated",
    size: Size = 512,
    views: Views = "all",
    text_policy: TextPolicy = "findings+impression",
    processes: Processes = None,
) -> None:
    """A folder of DICOM files (CR, DX) without a table of images: patient, study and view from the tags."""
    from .dicom_folder import prepare_folder
    from .table import Choices

    choices = Choices(
        keep or [], encoding, append, remove, name, licence, size, views, text_policy, processes
    )
    prepare_folder(folder, reports, out, column or [], choices)


@app.command()
def check(
    directory: Annotated[Path, typer.Argument(help="A data set folder or a download.")],
) -> None:
    """Say what is there and what is missing."""
    from .check import check as check_directory

    raise typer.Exit(check_directory(directory))


@app.command()
def datasheet(directory: Annotated[Path, typer.Argument(help="A data set folder.")]) -> None:
    """Print what is in a data set, where it is from and what is missing, as Markdown."""
    from .datasheet import datasheet as write

    print(write(directory))


@app.command()
def subset(
    directory: Annotated[Path, typer.Argument(help="A data set folder.")],
    out: Out,
    train: Annotated[int, typer.Option(min=1, help="Training pairs to keep.")],
) -> None:
    """The same data set with fewer training pairs, for learning curves; validation and test stay as they are."""
    from .subset import subset as write

    write(directory, out, train)


@app.command()
def pack(
    directory: Annotated[Path, typer.Argument(help="A data set folder.")],
    size: Annotated[int, typer.Option(min=16, help="Side of the square images.")] = 512,
    processes: Processes = None,
) -> None:
    """Derive the packed image store from a data set folder; of one that is there, check and repair every row."""
    from .pack import pack as pack_directory

    print(pack_directory(directory, size, processes, thorough=True))


def main(arguments: list[str] | None = None) -> int:
    """Run one command → exit status."""
    return run_app(app, "data_prep", arguments)


if __name__ == "__main__":
    sys.exit(main())
