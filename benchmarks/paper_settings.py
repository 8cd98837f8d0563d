"""The paper's own values as settings of `train`, where a reader of its body has filled them in (mcr_lib/paper.yaml).

    python -m mcr_lib train --data data/mimic --run runs/paper $(python -m benchmarks.paper_settings)

We could not read the paper's body, so the file comes empty. Not here: what we chose instead (mcr_lib/paper.py).
"""

from __future__ import annotations

import json
import sys

import typer

from data_prep.commands import QUIET, UsageError, run_app
from mcr_lib.config import resolve
from mcr_lib.paper import CHOICES, Choice

MODULE = "benchmarks.paper_settings"
app = typer.Typer(help=__doc__.splitlines()[0], **QUIET)


def paper_settings(choices: tuple[Choice, ...]) -> str:
    """What was filled in, as `--profile base --set key=value …`. ConfigError for a key or value that cannot be."""
    filled = {}
    for choice in choices:
        filled |= choice.paper
    if not filled:
        raise UsageError(
            "mcr_lib/paper.yaml holds no value of the paper: fill in its `paper:` lines"
        )
    resolve("base", filled)
    pairs = [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in filled.items()]
    return " ".join(["--profile base", *(f"--set {pair}" for pair in pairs)])


@app.command()
def main() -> None:
    """Print the paper's values as settings of `python -m mcr_lib train`."""
    print(paper_settings(CHOICES))


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
