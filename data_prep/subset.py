"""`subset DIR`: the same data set with fewer training pairs, for learning curves. Validation and test stay as they are.

Patients are drawn in an order that their names decide, so a smaller subset lies within a larger one, on any machine.
Images are hard links where the file system allows, else copies. Not here: other splits, or a choice of what is hard.
"""

import hashlib
import os
import shutil
from pathlib import Path

import pandas as pd

from . import folder
from .folder import DataError


def subset(source: Path, out: Path, train: int) -> None:
    """Write `out`: all validation and test pairs of `source`, and of its training pairs the first `train`.

    Raises DataError where there are not as many.
    """
    table, about = folder.read(source), folder.read_about(source)
    training = table[table["split"] == "train"]
    if not 1 <= train <= len(training):
        raise DataError(f"--train {train}: {source} has {len(training):,} training pairs")
    order = training["patient_id"].map(_place).sort_values(kind="stable").index
    kept = pd.concat([training.loc[order[:train]], table[table["split"] != "train"]])
    name, settings = f"{about.name}, {train} training pairs", {"of": about.sha256, "train": train}
    folder.start(out, settings)
    for path in kept["image_path"].unique():
        _link(source / path, out / path)
    if (source / "boxes.parquet").exists():
        boxes = pd.read_parquet(source / "boxes.parquet")
        with folder.atomic(out / "boxes.parquet") as temporary:
            boxes[boxes["pair_id"].isin(kept["pair_id"])].to_parquet(temporary, index=False)
    folder.finish(
        out,
        kept,
        funnel={f"pairs of {about.name}": len(table), "pairs kept": len(kept)},
        quarantine=[],
        name=name,
        licence=about.licence,
        synthetic=about.synthetic,
        text_policy=about.text_policy,
        source=settings,
        extra=[column for column in table.columns if column not in folder.COLUMNS],
    )


def _place(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()


def _link(image: Path, to: Path) -> None:
    if to.exists():
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image, to)
    except OSError:  # another file system, or one without hard links
        with folder.atomic(to) as temporary:
            shutil.copyfile(image, temporary)
