"""What each part of the profile `small` is worth on an archive: one thing changed at a time, on `train` and `validate`.

    python -m benchmarks.recipe --data data/openi --out benchmarks/results/recipe_openi.json

Every study is asked by maps that know neither it nor its patient (folds by patient, both ways within the fold,
identical reports as one). A row is RSum and its difference from the profile, with intervals over patients. What an
image or a vocabulary teaches without a pair (windows, moves, the first REDUCED principal components, word pieces) is
learned once from all of these images and reports, the same for all rows; the test split is not read. Not here: the test
split, the folds of the whole collection (archive.py).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.archive import WAYS, ChosenPairs, Hits, summary
from data_prep import folder
from data_prep.closed_form import AXES, correlate, report_components
from data_prep.commands import QUIET, command_line, run_app
from data_prep.machine import progress
from data_prep.provenance import provenance
from mcr_lib import linear
from mcr_lib.config import RunConfig, resolve
from mcr_lib.data import prepare_images
from mcr_lib.tokenizer import make_tokenizer, with_vocabulary

MODULE = "benchmarks.recipe"
REDUCED = 900  # principal components of a row's images, before those of a fold
LARGE = 144  # pixels, of the images that are scaled to each row's size
JITTER = torch.tensor([0.04, 0.04, 0.03, 0.03, 0.03])  # of a copy in the fit, see linear.move
DIRECTIONS = 8  # of gradients
NEGATION = {"no", "not", "without", "negative", "absent"}
app = typer.Typer(help="Measure each part of the profile small.", **QUIET)


class Bench:
    """The pairs of train and validate, their folds, and what is learned of images alone."""

    def __init__(self, data: Path, folds: int):
        table = folder.read(data)
        known = (table["view"] != "lateral") & (table["split"] != "test")
        self.config = self.known_config(table[known])
        self.table = table[known].reset_index(drop=True)
        patients = pd.factorize(self.table["patient_id"])[0]
        self.patients, self.folds = torch.from_numpy(patients), folds
        self.fold = (np.random.default_rng(0).permutation(patients.max() + 1) % folds)[patients]
        large = self.config.model.model_copy(update={"img_size": LARGE})
        pairs = ChosenPairs(data, np.flatnonzero(known), self.tokenizer, large)
        self.pixels = torch.from_numpy(pairs.pixels[pairs.rows])[:, None]  # N, 1, S, S
        self.pieces = self.piece_numbers(pairs)
        self.encoders, self.kept = {}, {}

    def known_config(self, table: pd.DataFrame) -> RunConfig:
        config = resolve("small", {})
        self.tokenizer = make_tokenizer(config, table.assign(split="train"))
        return with_vocabulary(config, self.tokenizer)

    def piece_numbers(self, pairs: ChosenPairs) -> list[np.ndarray]:
        """The reports as the model counts them."""
        batch, words = pairs.read(np.arange(len(pairs)))[0], linear.WeightedWords(self.config.model)
        found = zip(*words.words(batch.input_ids, batch.attention_mask), strict=True)
        return [number[stands].numpy() for number, stands in found]

    def images(self, size: int) -> Tensor:
        return torch.cat([prepare_images(part, size, 1) for part in self.pixels.split(256)])

    def encoder(self, size: int = 66, cells: int = 6, seed: int = 0, rounds: int = 4):
        """The profile's image encoder with other sizes, fitted to all images but without maps."""
        key = size, seed, rounds
        if key not in self.encoders:
            sizes = {"img_size": size, "patch_size": size // 6, "common_dim": 8}
            config = self.config.model.model_copy(update=sizes)
            linear.ROUNDS = rounds
            encoder = linear.PatchHistograms(config)
            linear.learn_images(encoder, self.images(size), np.random.default_rng(seed))
            self.encoders[key] = encoder
        self.encoders[key].side = cells
        return self.encoders[key]

    def in_parts(self, size: int, describe: Callable[[Tensor], Tensor]) -> np.ndarray:
        parts = [describe(part).flatten(1) for part in self.images(size).split(64)]
        return torch.cat(parts).numpy()

    def came(self, size: int = 66, **how) -> np.ndarray:
        return self.in_parts(size, self.encoder(size, **how).histograms)

    def settled(self, size: int = 66, **how) -> np.ndarray:
        encoder = self.encoder(size, **how)
        return self.in_parts(size, lambda images: encoder.histograms(encoder.settle(images)))

    def jittered(self) -> np.ndarray:
        encoder, generator = self.encoder(), torch.Generator().manual_seed(0)

        def copy(images: Tensor) -> Tensor:
            by = JITTER * torch.randn(len(images), 5, generator=generator)
            both = linear.move(images, by), linear.move(encoder.settle(images), by)
            return torch.cat([encoder.histograms(one) for one in both], dim=2)

        return self.in_parts(66, copy)

    def gradients(self) -> np.ndarray:
        """Of settled images, in 9 × 9 cells: how much the gradients there point each way."""
        encoder = self.encoder()

        def of_cells(images: Tensor) -> Tensor:
            by = encoder.how_far_off(F.adaptive_avg_pool2d(images, 66))
            down, across = torch.gradient(linear.move(images, by)[:, 0], dim=(1, 2))
            length = torch.hypot(down, across)
            place = torch.atan2(down, across).remainder(torch.pi) / torch.pi * DIRECTIONS
            away = (place[:, None] - torch.arange(DIRECTIONS).view(-1, 1, 1)).abs()
            share = (1 - torch.minimum(away, DIRECTIONS - away)).clamp(min=0)  # N, 8, H, W
            cells = F.avg_pool2d(length[:, None] * share, LARGE // 9)
            return cells / (cells.square().sum(1, keepdim=True) + 1e-3).sqrt()

        return self.in_parts(LARGE, of_cells)

    def thumbnails(self) -> np.ndarray:
        return self.in_parts(48, lambda images: images)

    def words(self, length: int = 2, negated: bool = False) -> list[np.ndarray]:
        """The reports as numbers of whole words and their neighbours."""
        counted = CountVectorizer(ngram_range=(1, length), token_pattern=r"\S+")
        texts = [mark_negation(text) if negated else plain(text) for text in self.table["report"]]
        counts = counted.fit_transform(texts)
        return [np.repeat(row.indices, row.data) for row in counts]

    def components(self, reports: list[np.ndarray], count: int = AXES[1]) -> list:
        """What report_components gives for the known reports of each fold, kept."""
        key = id(reports), count
        if key not in self.kept:
            every = [np.flatnonzero(self.fold != fold) for fold in range(self.folds)]
            own = [report_components([reports[row] for row in rows], 0, count) for rows in every]
            self.kept[key] = own, reports
        return self.kept[key][0]

    def measure(
        self,
        images: np.ndarray,
        reports: list[np.ndarray],
        extra: np.ndarray | None = None,
        text_axes: int = AXES[1],
        **how,
    ) -> SimpleNamespace:
        """Hits of every query within its fold. images (N, P), reduced; extra: copies, for the fit."""
        copies, parts, offset = [images] + [extra] * (extra is not None), [], dict.fromkeys(WAYS, 0)
        joined = {way: ([], torch.full((len(images),), -1)) for way in WAYS}
        for fold, components in enumerate(self.components(reports, text_axes)):
            asked, known = (np.flatnonzero(side) for side in (self.fold == fold, self.fold != fold))
            fitted = np.concatenate([side[known] for side in copies])
            places = np.concatenate([components.places] * len(copies))
            components = components._replace(places=places)
            image, report = correlate(fitted, components, self.config.model.common_dim, 0, **how)
            found = Hits(
                unit((images[asked] - image.centre) @ image.map),
                unit(map_reports([reports[row] for row in asked], report)),
                self.table.iloc[asked].reset_index(drop=True),
            )
            parts.append(summary([(1.0, found)])["rsum"][0])
            for way in WAYS:
                values, query_of_pair = joined[way]
                query_of_pair[asked] = found.results[way].query_of_pair + offset[way]
                values.append(found.values[way])
                offset[way] += len(found.values[way])
        return SimpleNamespace(
            clusters=self.patients,
            values={way: torch.cat(values) for way, (values, _) in joined.items()},
            results={way: SimpleNamespace(query_of_pair=own) for way, (_, own) in joined.items()},
            folds=parts,
        )


def reduced(*blocks: np.ndarray) -> np.ndarray:
    """The first REDUCED principal components of descriptions (N, P) that stand side by side."""
    pixels = np.concatenate(blocks, axis=1)
    pixels -= pixels.mean(0)
    most = min(REDUCED, pixels.shape[1], len(pixels) - 1)
    values, axes = np.linalg.eigh(pixels @ pixels.T)  # N, N
    return axes[:, : -most - 1 : -1] * np.sqrt(values[: -most - 1 : -1].clip(0))


def unit(vectors: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(vectors).double())


def map_reports(reports: list[np.ndarray], side) -> np.ndarray:
    """Reports as word numbers → (N, k), as the model's report encoder maps them."""
    place = {number: row for row, number in enumerate(side.known)}
    mapped = []
    for numbers in reports:
        own, times = np.unique(numbers, return_counts=True)
        here = [(place[n], 1 + np.log(t)) for n, t in zip(own, times, strict=True) if n in place]
        rows = np.array([row for row, _ in here], dtype=int)
        weight = np.array([weight for _, weight in here]) * side.rarity[rows]
        share = weight / max(np.linalg.norm(weight), 1e-9)
        mapped.append(share @ side.map[rows] + side.bias)
    return np.stack(mapped)


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def mark_negation(text: str) -> str:
    """What follows a negation within its sentence is another word."""
    words = []
    for sentence in re.split(r"[.;:]", text.lower()):
        negated = False
        for word in re.findall(r"[a-z0-9]+", sentence):
            words.append(f"not_{word}" if negated else word)
            negated = negated or word in NEGATION
    return " ".join(words)


def even(*blocks: np.ndarray) -> list[np.ndarray]:
    """Each brought to the same spread."""
    return [x / np.sqrt(x.var(0).sum()) for x in blocks]


def rows_of(bench: Bench) -> dict[str, Callable]:
    """Each row by its name: what changes, everything else as in the profile."""
    came, settled, pieces = bench.came(), bench.settled(), bench.pieces
    profile = reduced(came, settled)

    def images(make: Callable) -> Callable:
        return lambda: bench.measure(reduced(*make()), pieces)

    def reports(**how) -> Callable:
        return lambda: bench.measure(profile, bench.words(**how))

    def maps(**how) -> Callable:
        return lambda: bench.measure(profile, pieces, **how)

    def with_copy():
        both = reduced(np.concatenate([np.hstack([came, settled]), bench.jittered()]))
        return bench.measure(both[: len(came)], pieces, both[len(came) :])

    return {
        "the profile": maps(),
        "images as they came alone": images(lambda: [came]),
        "settled images alone": images(lambda: [settled]),
        "thumbnails of 48 pixels alone": images(lambda: [bench.thumbnails()]),
        "oriented gradients of settled images alone": images(lambda: [bench.gradients()]),
        "and oriented gradients": images(lambda: even(came, settled, bench.gradients())),
        "correlation to the power 0.5": maps(power=0.5),
        "correlation to the power 1": maps(power=1.0),
        "correlation to the power 1.5": maps(power=1.5),
        "correlation to the power 3": maps(power=3.0),
        "200 components of images": maps(axes=200),
        "800 components of images": maps(axes=800),
        "100 components of reports": maps(text_axes=100),
        "400 components of reports": maps(text_axes=400),
        "a third of the ridge": maps(ridge=(0.1, 0.1)),
        "three times the ridge": maps(ridge=(1.0, 1.0)),
        "whole words and pairs": reports(),
        "whole words alone": reports(length=1),
        "whole words, pairs and triples": reports(length=3),
        "whole words and pairs, negated ones marked": reports(negated=True),
        "histograms without the root": images(lambda: [came**2, settled**2]),
        "4 x 4 cells": images(lambda: [bench.came(cells=4), bench.settled(cells=4)]),
        "8 x 8 cells": images(lambda: [bench.came(cells=8), bench.settled(cells=8)]),
        "and settled images in 1, 2 x 2 and 4 x 4 cells": images(
            lambda: even(came, settled, *(bench.settled(cells=n) for n in (1, 2, 4)))
        ),
        "and windows of settled images of 96 pixels": images(
            lambda: even(came, settled, bench.settled(size=96))
        ),
        "and a second set of windows": images(
            lambda: [came, settled, bench.came(seed=1), bench.settled(seed=1)]
        ),
        "settled in one round": images(lambda: [came, bench.settled(rounds=1)]),
        "a jittered copy of each image in the fit": with_copy,
    }


def table(content: dict) -> str:
    """The rows as Markdown."""
    lines = ["| changed | RSum | against the profile |", "|---|---|---|"]
    for name, row in content["rows"].items():
        values = ["{:.1f} [{:.1f}, {:.1f}]".format(*row[key]["rsum"]) for key in ("whole", "gain")]
        lines.append(f"| {name} | {values[0]} | {values[1]} |")
    return "\n".join(lines)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="data set folder")],
    out: Annotated[Path, typer.Option(help="result file (JSON)")],
    folds: int = 8,
) -> None:
    """Measure every row, write OUT, print the table."""
    bench, chosen = Bench(data, folds), None
    content: dict = {"data": folder.describe_data(data), "pairs": len(bench.table), "folds": folds}
    content |= {"rows": {}} | provenance(command_line(MODULE))
    for name, measure in progress(rows_of(bench).items(), desc="rows", unit="row"):
        row = measure()
        chosen = chosen or row
        content["rows"][name] = {
            "whole": summary([(1.0, row)]),
            "gain": summary([(1.0, row), (-1.0, chosen)]),
            "each fold's rsum": row.folds,
        }
        folder.write_json(out, content)  # what is done stays, however it ends
    print(table(content))


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
