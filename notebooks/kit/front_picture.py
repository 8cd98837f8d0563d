"""One picture of what a run does: a sentence, the three films it finds, and the patches that speak for it.

    python -m kit.front_picture --run RUN --data DATA --out FILE.png [--sentence TEXT]

Frames show where a phantom's findings were drawn. Not here: how it is drawn (plotting/retrieval.py), how it is found.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from PIL import Image

from data_prep.commands import QUIET, option, run_app
from kit import plotting
from kit.boxes import boxes_on_square
from kit.explore import Searcher
from mcr_lib.engine.distributed import pick_device
from mcr_lib.run import load_run
from mcr_lib.search import build_index

SENTENCE = "Large left pleural effusion."
app = typer.Typer(help=__doc__.splitlines()[0], **QUIET)


def found_films(searcher: Searcher, sentence: str, boxes: pd.DataFrame, k: int = 3) -> list[dict]:
    """The k best films for a sentence, as plotting.films takes them.

    boxes: as in boxes.parquet; of each film those are shown whose finding the sentence names.
    """
    asked = searcher.read(sentence)
    films = []
    for hit in searcher.index.search(asked.feature, k=k, among="images"):
        own = boxes[boxes["pair_id"] == hit.pair_id]
        named = [label.replace("_", " ") in sentence.lower() for label in own["label"]]
        corners = own.loc[named, ["x0", "y0", "x1", "y1"]].to_numpy(float)
        size = Image.open(searcher.index.table.at[hit.row, "image_path"]).size
        sizes = np.tile(size, (len(corners), 1))
        lit = searcher.light_up(searcher.image(hit.row), asked.feature)
        frames = boxes_on_square(corners, sizes)
        films.append({"lit": lit, "score": hit.score, "report": hit.report, "frames": frames})
    return films


def known_boxes(data: Path) -> pd.DataFrame:
    """Where the findings of a data set were drawn; no row where that is not known."""
    path = data / "boxes.parquet"
    columns = ["pair_id", "label", "x0", "y0", "x1", "y1"]
    return pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=columns)


@app.command()
def main(
    run: option(Path, "run folder"),
    data: option(Path, "data set folder"),
    out: option(Path, "a file to write, .png"),
    sentence: Annotated[str, typer.Option(help="what is looked for")] = SENTENCE,
) -> None:
    """Search the test split of a data set for a sentence, and draw what a run finds."""
    device = pick_device("auto")
    model, tokenizer = load_run(run, device)
    searcher = Searcher(build_index(run, data, split="test", device=device), model, tokenizer)
    picture = plotting.films(sentence, found_films(searcher, sentence, known_boxes(data)))
    out.write_bytes(plotting.png(picture, dpi=110))
    print(out)


if __name__ == "__main__":
    sys.exit(run_app(app, "kit.front_picture"))
