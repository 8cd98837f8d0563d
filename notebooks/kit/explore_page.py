"""The retrieval explorer as a page of its own, on this machine only: `make explore RUN=… DATA=…`.

Voilà serves it: visitors move inputs and see answers, and cannot run code. It listens on loopback, asks for the token
of the address that it prints, loads nothing from the network, and keeps no upload (it is a temporary file while it is
read). Not here: the explorer itself (kit/widgets.py).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import nbformat
import pandas as pd
import torch
import typer
from IPython.display import Markdown, display
from PIL import Image

from data_prep.commands import QUIET, option, run_app
from data_prep.run_files import check_begun, notes_on_recall
from kit.explore import Searcher
from kit.widgets import RetrievalExplorer
from mcr_lib.engine.distributed import pick_device
from mcr_lib.run import load_run
from mcr_lib.search import build_index

from .boxes import boxes_on_square, measure_grounding, prompt

UPLOAD = 64 * 2**20  # bytes of one message from the browser, at most: a large radiograph
HERE_ONLY = {  # what a browser may load: nothing from elsewhere, whatever a template or a report names
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'self' ws://127.0.0.1:*; frame-ancestors 'self'"
}
SERVED = [  # no extension for editors; one page in readiness; a page left alone for half an hour (s) ends
    "--VoilaConfiguration.extension_denylist=['jupyterlab-jupytext']",
    "--preheat_kernel=True",
    "--pool_size=1",
    "--MappingKernelManager.cull_idle_timeout=1800",
    "--MappingKernelManager.cull_interval=60",
]
MEASURED = 200  # boxes on which the maps are measured
CELL = "from kit.explore_page import show\n\nshow({run!r}, {data!r})"
app = typer.Typer(help=__doc__.splitlines()[0], **QUIET)


def show(run: str, data: str) -> None:
    """What the page consists of: a heading with what to know, and the explorer."""
    device = pick_device("auto")
    model, tokenizer = load_run(Path(run), device)
    searcher = Searcher(build_index(Path(run), Path(data), device=device), model, tokenizer)
    known = f"{len(searcher.index):,} pairs. {about_maps(searcher, data)}"
    warned = [f"⚠ {note[0].upper()}{note[1:]}." for note in notes_on_recall(Path(run))]
    display(Markdown("\n\n".join(["# Find images and reports", known, *warned])))
    explorer = RetrievalExplorer({"model": searcher}, sentence="")
    explorer.served = True
    display(explorer)


def about_maps(searcher: Searcher, data: str | Path) -> str:
    """A sentence on how far the lit patches can be trusted on these data."""
    path, table = Path(data) / "boxes.parquet", searcher.index.table
    if not path.exists():
        return "The data have no boxes, so how often the glow is at the right place was **not measured**."
    boxes = pd.read_parquet(path)
    row_of = dict(zip(table["pair_id"], table.index, strict=True))
    boxes = boxes[boxes["pair_id"].isin(row_of)].head(MEASURED)
    rows, maps = boxes["pair_id"].map(row_of), []
    for row, finding in zip(rows, boxes.itertuples(), strict=True):
        maps.append(searcher.heat(searcher.image(row), searcher.read(prompt(finding)).feature)[0])
    sizes = [Image.open(table.at[row, "image_path"]).size for row in rows]
    on_square = boxes_on_square(
        boxes[["x0", "y0", "x1", "y1"]].to_numpy(), pd.DataFrame(sizes).to_numpy()
    )
    measured = measure_grounding(torch.stack(maps), on_square)
    right, chance = 100 * measured["pointing"].mean(), 100 * measured["pointing_chance"].mean()
    return (
        f"The brightest patch touches the box of the finding that is asked for in **{right:.0f} %** of "
        f"{len(boxes)} findings of these data; chance: {chance:.0f} %."
    )


@app.command()
def main(
    run: option(Path, "run folder"),
    data: option(Path, "data set folder"),
    port: Annotated[
        int, typer.Option(help="port on this machine, or the next that is free")
    ] = 8866,
    browser: Annotated[bool, typer.Option(help="open the page here")] = True,
) -> None:
    """Serve the explorer of a run on a data set, on this machine only, until it is interrupted."""
    check_begun(run)
    build_index(
        run, data, device=pick_device("auto")
    )  # before anyone waits for it, and with its errors here
    from voila.app import Voila

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "explore.ipynb"
        code = CELL.format(run=str(run.resolve()), data=str(data.resolve()))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(notebook, page)
        Voila.launch_instance(
            [str(page), *SERVED],
            ip="127.0.0.1",
            port=port,
            auto_token=True,
            open_browser=browser,
            tornado_settings={"websocket_max_message_size": UPLOAD, "headers": HERE_ONLY},
        )


if __name__ == "__main__":
    sys.exit(run_app(app, "kit.explore_page"))
