"""What can be had without the method: chance, the most frequent report, a linear model, perfect labels. One CPU minute.

    python -m benchmarks.baselines --data data/phantom --out benchmarks/results/baselines_phantom.json

Nothing counts as a result that does not clear the linear model with its whole interval. It is a ridge CCA between
the principal components of small thumbnails and of the reports' word counts, fitted on `train`; its few settings are
chosen on `validate`, and it is scored on `test` as every model is. The oracles know more than any model may: the true
labels, or on the phantom all that was drawn (side, zone, size). They show how far labels alone can get. Not here: a
trained model (mcr_lib).
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from torch.nn.functional import normalize

from data_prep import folder
from data_prep.closed_form import ridge_cca
from data_prep.commands import QUIET, command_line, run_app
from data_prep.folder import describe_data
from data_prep.images import letterbox, read_gray
from data_prep.machine import progress
from data_prep.provenance import provenance
from mcr_lib.data import usable_rows
from mcr_lib.retrieval import evaluate_pairs

THUMBNAIL = 48  # pixels
COMPONENTS = 400  # of images and of reports, at most
DRAWS = 20  # of random orders among what an oracle cannot tell apart
app = typer.Typer(help=__doc__.splitlines()[0], **QUIET)


@dataclass(frozen=True)
class Setting:
    """What is chosen on `validate`."""

    image_components: int
    text_components: int
    ridge: float  # added to variances, as a share of their mean
    power: float  # of its canonical correlation, with which each direction is weighted


GRID = [
    Setting(*values)
    for values in itertools.product((50, 100, 200), (50, 100, 200, 400), (0.01, 0.1), (1.0, 2.0))
]


@dataclass
class Split:
    """One split: its manifest rows, its images as points, its reports as word weights."""

    table: pd.DataFrame
    images: np.ndarray  # N, COMPONENTS
    texts: np.ndarray  # N, COMPONENTS


def read_splits(data: Path, views: str = "frontal") -> dict[str, Split]:
    """Every split as principal components of thumbnails and of TF-IDF of words and pairs of words."""
    table = folder.read(data)
    rows = {split: usable_rows(table, split, views) for split in folder.SPLITS}
    paths = [data / path for path in table["image_path"]]
    wanted = np.concatenate(list(rows.values()))
    pixels = np.zeros((len(table), THUMBNAIL**2), np.float32)
    for row in progress(wanted, desc="thumbnails", unit="image"):
        pixels[row] = letterbox(read_gray(paths[row], THUMBNAIL), THUMBNAIL).ravel() / 255
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, lowercase=True)
    words.fit(table["report"].iloc[rows["train"]])
    counts = words.transform(table["report"])
    most = min(COMPONENTS, len(rows["train"]) - 1)
    image_axes = PCA(min(most, THUMBNAIL**2), random_state=0).fit(pixels[rows["train"]])
    text_axes = TruncatedSVD(min(most, counts.shape[1] - 1), random_state=0)
    text_axes.fit(counts[rows["train"]])
    return {
        split: Split(
            table.iloc[own].reset_index(drop=True),
            image_axes.transform(pixels[own]),
            text_axes.transform(counts[own]),
        )
        for split, own in rows.items()
        if len(own)
    }


class LinearCCA:
    """Ridge CCA: directions of images and reports whose projections correlate most (Hotelling 1936)."""

    def __init__(self, images: np.ndarray, texts: np.ndarray, setting: Setting):
        """images (N, ≥ image_components), texts (N, ≥ text_components): what it is fitted on."""
        self.setting = setting
        x, y = self._cut(images, texts)
        self.centres = x.mean(0), y.mean(0)
        x, y = x - self.centres[0], y - self.centres[1]
        self.maps = ridge_cca(x, y, (setting.ridge, setting.ridge), setting.power)

    def features(self, split: Split) -> tuple[Tensor, Tensor]:
        """Both sides of a split as unit vectors (N, k)."""
        sides = []
        for side, centre, projection in zip(
            self._cut(split.images, split.texts), self.centres, self.maps, strict=True
        ):
            sides.append(normalize(torch.from_numpy((side - centre) @ projection).double()))
        return sides[0], sides[1]

    def _cut(self, images: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        setting = self.setting
        return images[:, : setting.image_components], texts[:, : setting.text_components]


def fit_linear(splits: dict[str, Split]) -> tuple[LinearCCA, list[dict]]:
    """The setting that is best on `validate`, fitted on `train` → model, and every setting's RSum."""
    train, tried = splits["train"], []
    for setting in progress(GRID, desc="settings", unit="setting"):
        features = LinearCCA(train.images, train.texts, setting).features(splits["validate"])
        measured = evaluate_pairs(*features, splits["validate"].table, n_bootstrap=0)
        tried.append({**asdict(setting), "validate_rsum": measured["rsum"]})
    best = max(range(len(GRID)), key=lambda number: tried[number]["validate_rsum"])
    return LinearCCA(train.images, train.texts, GRID[best]), tried


def frequent_features(train: pd.DataFrame, table: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Every image gets the same list: the reports most frequent in training first."""
    counts = train["report"].str.lower().value_counts()
    often = counts.reindex(table["report"].str.lower(), fill_value=0).to_numpy(dtype=float)
    height = torch.from_numpy(often / max(1.0, often.max()))
    texts = torch.stack([height, (1 - height**2).sqrt()], dim=1)
    images = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(len(table), -1)
    return images, texts


def oracle_result(descriptions: pd.Series, table: pd.DataFrame) -> dict:
    """What a model could find that knows of a pair what stands in its description ('a|b'), no more.

    Means over DRAWS random orders of what the description does not tell apart.
    """
    known = descriptions.str.get_dummies("|")
    known = torch.tensor(known.to_numpy(dtype=float))
    known = normalize(torch.cat([known, (known.sum(1, keepdim=True) == 0).double()], dim=1))
    draws = []
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        noise = torch.randn(2, len(table), 32, generator=generator, dtype=torch.float64) * 1e-3
        sides = [normalize(torch.cat([known, own], dim=1)) for own in noise]
        draws.append(evaluate_pairs(*sides, table, n_bootstrap=0))
    names = [name for name, value in draws[0].items() if isinstance(value, float)]
    return {name: float(np.mean([draw[name] for draw in draws])) for name in names}


def drawn_attributes(data: Path, table: pd.DataFrame) -> pd.Series | None:
    """Of the phantom: every finding with side, zone, size and severity; None for other data."""
    path = data / "boxes.parquet"
    if not path.exists():
        return None
    boxes = pd.read_parquet(path)
    fields = ["label", "side", "zone", "size", "severity"]
    boxes["what"] = boxes[fields].agg(" ".join, axis=1)
    of_pair = boxes.groupby("pair_id")["what"].agg("|".join)
    return table["pair_id"].map(of_pair).fillna("normal")


def measure_baselines(data: Path) -> dict:
    """All baselines and ceilings of one data set, on its test split → the content of a result file."""
    splits = read_splits(data)
    test = splits["test"].table
    model, tried = fit_linear(splits)
    rows = {"linear CCA": evaluate_pairs(*model.features(splits["test"]), test)}
    chance = rows["linear CCA"].pop("chance")
    by_label = None
    if test["labels"].str.strip().any():
        by_label = evaluate_pairs(*model.features(splits["test"]), test, protocol="label-match")
        rows["linear CCA"] |= {
            name: by_label[name] for name in by_label if "precision@" in name or "mAP" in name
        }
        rows["label oracle"] = oracle_result(test["labels"], test)
    attributes = drawn_attributes(data, test)
    if attributes is not None:
        rows["attribute oracle"] = oracle_result(attributes, test)
    most_frequent = frequent_features(splits["train"].table, test)
    rows["most frequent report"] = evaluate_pairs(*most_frequent, test, n_bootstrap=0)
    rows["most frequent report"].pop("chance")
    label_chance = by_label["chance"] if by_label else {}
    return {
        "data": describe_data(data),
        "gallery": rows["linear CCA"]["gallery"],
        "chance": chance | label_chance,
        "rows": rows,
        "setting": asdict(model.setting),
        "tried": tried,
    }


def baseline_table(content: dict) -> str:
    """The rows as Markdown: R@1 and R@10 both ways, RSum with its interval."""
    lines = ["| without the method | R@1 | R@10 | RSum [95 % interval] |", "|---|---|---|---|"]
    rows = {"chance": content["chance"], **content["rows"]}
    for name, row in rows.items():
        both = []
        for measure in ("R@1", "R@10"):
            values = [row[f"{way}_{measure}"] for way in ("image_to_text", "text_to_image")]
            both.append(" / ".join(f"{value:.1f}" for value in values))
        rsum = f"{row['rsum']:.0f}"
        if row.get("interval"):
            low, high = row["interval"]["rsum"]
            rsum += f" [{low:.0f}, {high:.0f}]"
        lines.append(f"| {name} | {both[0]} | {both[1]} | {rsum} |")
    return "\n".join(lines)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="data set folder")],
    out: Annotated[Path | None, typer.Option(help="result file (JSON)")] = None,
) -> None:
    """Measure the baselines and ceilings of a data set, print them, write OUT."""
    content = measure_baselines(data) | provenance(command_line("benchmarks.baselines"))
    print(baseline_table(content))
    if out:
        folder.write_json(out, content)


if __name__ == "__main__":
    sys.exit(run_app(app, "benchmarks.baselines"))
