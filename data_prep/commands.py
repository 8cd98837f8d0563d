"""What the command lines of all three parts share: how an option is declared, how a mistake is said, how it ends.

Not here: any command. A user's mistake is one line on stderr and exit status 2, never a traceback.
"""

from __future__ import annotations

import os
import shlex
import sys
import unicodedata
from concurrent.futures import BrokenExecutor
from typing import Annotated

import typer

from .errors import KitError
from .machine import without_home

UsageError = typer.BadParameter.__base__  # what typer raises for wrong use, whichever click it has
QUIET = dict(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
INTERRUPTED = 130  # as shells have it; typer gives it as a status or as an exception, by version
OUT_OF_MEMORY = "a worker process died, most likely out of memory: run again with fewer --processes"


def option(kind: type, text: str, *names: str):
    """The type of an option with a value."""
    return Annotated[kind, typer.Option(*names, help=text)]


def flag(name: str, text: str):
    """The type of a switch that is off unless given."""
    return option(bool, text, name)


def run_app(app: typer.Typer, name: str, arguments: list[str] | None = None) -> int:
    """Run `python -m name` → exit status: 0, 1 for work that stopped, 2 for a user's mistake."""
    if arguments is None:
        arguments = sys.argv[1:] or ["--help"]
    try:
        status = app(arguments, prog_name=f"python -m {name}", standalone_mode=False) or 0
        message = "interrupted: run again to resume" if status == INTERRUPTED else ""
    except (UsageError, KitError, OSError, BrokenExecutor, KeyboardInterrupt, typer.Abort) as error:
        message, status = explain(error, name)
    if message:
        notice(f"{name}: {' '.join(message.split())}")
    return status


def say(text: str, file=None) -> None:
    """Print what holds foreign text (reports, labels, file names): a terminal obeys control characters, so none of
    them gets there."""
    shown = (
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
    print("".join(shown), file=file)


def notice(line: str) -> None:
    """Say a line on stderr: results on stdout stay clean."""
    say(without_home(line), sys.stderr)


def explain(error: BaseException, name: str) -> tuple[str, int]:
    """What a user reads of an error that is not the kit's fault, "" for nothing, and the exit status."""
    if isinstance(error, UsageError):
        command = error.ctx.command_path if error.ctx else f"python -m {name}"
        return f"{error.format_message().rstrip('.')}: see {command} --help", 2
    if isinstance(error, KitError):
        return "" if error.told_elsewhere else str(error), error.exit_status
    if isinstance(error, BrokenExecutor):
        return OUT_OF_MEMORY, 2
    if isinstance(error, OSError):
        what = f"{error.filename or 'output'}: {error.strerror or error}"
        return f"{what}: put that right, then run it again", 2
    return "interrupted: run again to resume", INTERRUPTED


def command_line(module: str) -> str:
    """The command that runs now, as result files keep it."""
    start = ["python", "-m"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        nodes, local = os.environ["GROUP_WORLD_SIZE"], os.environ["LOCAL_WORLD_SIZE"]
        # the --: up to Python 3.12 torchrun would take --run for one of its own
        start = ["torchrun", "--nnodes", nodes, "--nproc-per-node", local, "-m", "--"]
    return without_home(shlex.join([*start, module, *sys.argv[1:]]))
