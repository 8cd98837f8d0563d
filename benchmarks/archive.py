"""What a profile is worth on an archive of some thousand studies, beside the plain baseline, by named protocols.

    python -m benchmarks.archive --data data/openi --out benchmarks/results/archive_openi.json

* `split`: the data set's own test split, several seeds, both ways, identical reports as one; the mean over seeds, and
  how far it is above the linear CCA of thumbnails (baselines.py), with intervals over patients.
* `exact`, `findings`, `pools`: the same models with the own pair alone as the answer; image → distinct findings
  sections; and among 100 images or reports at a time with any label in common as the answer.
* `folds`: every study is asked by a model that has seen neither it nor its patient, image → all distinct reports of
  the collection, and both ways within the fold. On it: the labels of the first report found (F1), and of each label
  how well "label" as a sentence ranks the images (AUROC, precision@10).

Numbers only, no text and no image. Not here: arms of the method (study/).
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from benchmarks.baselines import LinearCCA, Setting, Split, fit_linear, read_splits
from data_prep import folder
from data_prep.commands import QUIET, command_line, run_app
from data_prep.machine import progress
from data_prep.provenance import provenance
from mcr_lib import linear, retrieval
from mcr_lib.__main__ import Set
from mcr_lib.config import RunConfig, parse_settings, resolve
from mcr_lib.data import PairData
from mcr_lib.features import encode_pairs, encode_texts
from mcr_lib.ranking import KS, merge_texts, ranks
from mcr_lib.run import build_model, load_run, train_run
from mcr_lib.tokenizer import make_tokenizer, with_vocabulary

MODULE = "benchmarks.archive"
RESAMPLES, POOL = 1000, 100
WAYS = ("image_to_text", "text_to_image")
CPU = torch.device("cpu")
app = typer.Typer(help="Measure a profile on an archive.", **QUIET)


class ChosenPairs(PairData):
    """Rows of a data set by their numbers, whatever split they are of."""

    def __init__(self, data: Path, rows: np.ndarray, tokenizer, model):
        super().__init__(data, "train", tokenizer, model)
        self.choose(rows, folder.read(data).iloc[rows], tokenizer)


class Hits:
    """Per query, whether it was found among the first K, in both directions; several add up."""

    def __init__(self, images: Tensor, texts: Tensor, table: pd.DataFrame):
        asked = {"texts": table["report"].tolist(), "labels": table["labels"].tolist()}
        self.results = retrieval.query_ranks(images, texts, **asked)
        self.clusters = torch.from_numpy(pd.factorize(table["patient_id"])[0])
        found = {way: result.ranks[:, None] for way, result in self.results.items()}
        self.values = {way: (rank <= torch.tensor(KS)).double() for way, rank in found.items()}


def summary(rows: list[tuple[float, Hits]]) -> dict:
    """Weighted sum of some Hits of the same queries: R@K both ways and RSum, with intervals over
    patients. rows: (weight, hits); weights that add up to 1 are a mean, to 0 a difference."""
    first = rows[0][1]
    draws = retrieval.cluster_draws(int(first.clusters.max()) + 1, RESAMPLES, 0)
    draws = torch.cat([torch.ones_like(draws[:1]), draws])
    table = {}
    for way in WAYS:
        weights = retrieval.query_weights(draws, first.clusters, first.results[way].query_of_pair)
        values = sum(weight * hits.values[way] for weight, hits in rows)  # Q, K
        means = 100 * (weights @ values) / weights.sum(1, keepdim=True)  # 1 + B, K
        table |= {f"{way}_R@{k}": means[:, column] for column, k in enumerate(KS)}
    table["rsum"] = torch.stack(list(table.values())).sum(0)
    return {name: with_interval(values) for name, values in table.items()}


def with_interval(values: Tensor) -> list[float]:
    """values (1 + B,), the whole and its resamples → [value, low, high] of 95 %."""
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return [float(values[0]), low, high]


def measure_split(
    data: Path, splits: dict[str, Split], config: RunConfig, seeds: int, runs: Path
) -> tuple[dict, Setting]:
    """Several seeds on the data set's own splits → all numbers, and the baseline's setting."""
    baseline, _ = fit_linear(splits)
    table = splits["test"].table
    plain, models, other, seconds = Hits(*baseline.features(splits["test"]), table), [], [], []
    for seed in range(seeds):
        train = config.train.model_copy(update={"seed": seed})
        run, begun = runs / f"seed{seed}", perf_counter()
        train_run(data, run, config.model_copy(update={"train": train}), device=CPU)
        seconds.append(perf_counter() - begun)
        model, tokenizer = load_run(run)
        images, texts = encode_pairs(model, PairData(data, "test", tokenizer, model.config), CPU)
        models.append(Hits(images, texts, table))
        other.append(other_protocols(model, tokenizer, images, texts, table))
    share = [(1 / seeds, hits) for hits in models]
    measured = {
        "gallery": len(table),
        "mean of seeds": summary(share),
        "each seed's rsum": [summary([(1.0, hits)])["rsum"] for hits in models],
        "linear CCA": summary([(1.0, plain)]),
        "above linear CCA": summary([*share, (-1.0, plain)]),
        "seconds of fitting or training": seconds,
    }
    names = other[0].keys()
    measured |= {name: float(np.mean([one[name] for one in other])) for name in names}
    return measured, baseline.setting


def other_protocols(model, tokenizer, images: Tensor, texts: Tensor, table: pd.DataFrame) -> dict:
    """The same features by label, by the own pair alone, by findings, and in pools of POOL."""
    measured, how = {}, {"n_bootstrap": 0}
    for protocol in ("label-match", "exact"):
        found = retrieval.evaluate_pairs(images, texts, table, protocol=protocol, **how)
        wanted = [
            name for name in found if "precision@10" in name or "mAP" in name or "_R@" in name
        ]
        measured |= {f"{protocol} {name}": found[name] for name in wanted}
    has = (table["findings"].str.strip() != "").to_numpy()
    sections = table["findings"][has].str.lower().tolist()
    group, first = merge_texts(sections)
    asked = encode_texts(model, tokenizer, [sections[row] for row in first])
    rank = ranks(images[torch.tensor(has)], asked, group, torch.arange(len(first)))
    measured |= {
        f"findings image_to_text_R@{k}": 100 * float((rank <= k).double().mean()) for k in KS
    }
    order, pools = np.random.default_rng(0).permutation(len(table)), []
    for start in range(0, max(1, len(order) - POOL + 1), POOL):
        rows = order[start : start + POOL]
        part = images[rows], texts[rows], table.iloc[rows].reset_index(drop=True)
        pools.append(retrieval.evaluate_pairs(*part, protocol="label-match", **how))
    for name in (f"{way}_precision@{k}" for way in WAYS for k in KS):
        measured[f"pools of {POOL} {name}"] = float(np.mean([pool[name] for pool in pools]))
    return measured


def measure_folds(
    data: Path, points: dict[str, Split], config: RunConfig, folds: int, setting: Setting
) -> dict:
    """Every study asked by a model that knows neither it nor its patient."""
    table = folder.read(data)
    frontal = np.flatnonzero(table["view"] != "lateral")
    patients = pd.factorize(table["patient_id"].iloc[frontal])[0]
    fold_of_patient = np.random.default_rng(0).permutation(patients.max() + 1) % folds
    fold_of = fold_of_patient[patients]  # of each frontal
    own_table = table.iloc[frontal].reset_index(drop=True)
    group, first = merge_texts(own_table["report"].tolist())
    whole = {"model": np.zeros(len(frontal)), "linear CCA": np.zeros(len(frontal))}
    best = {name: np.zeros(len(frontal), int) for name in whole}
    within = {name: [] for name in whole}
    prompts = []
    for fold in progress(range(folds), desc="folds", unit="fold"):
        asked = np.flatnonzero(fold_of == fold)
        model, tokenizer = fit_fold(data, table, frontal[fold_of != fold], config)
        pairs = ChosenPairs(data, frontal, tokenizer, model.config)
        features = {"model": encode_pairs(model, pairs, CPU)}
        features["linear CCA"] = cca_of_fold(points, own_table, fold_of != fold, setting)
        for name, (images, texts) in features.items():
            texts = texts[first]
            whole[name][asked] = ranks(images[asked], texts, group[asked], torch.arange(len(first)))
            best[name][asked] = first[(images[asked] @ texts.T).argmax(1)]
            within[name].append((images[asked], texts[group[asked]], own_table.iloc[asked]))
        prompts.append(
            ask_labels(model, tokenizer, features["model"][0][asked], own_table.iloc[asked])
        )
    return fold_numbers(own_table, whole, best, within, prompts, len(first))


def fit_fold(data: Path, table: pd.DataFrame, rows: np.ndarray, config: RunConfig):
    """A model and its vocabulary from some rows alone."""
    reports = table.iloc[rows].assign(split="train")
    tokenizer = make_tokenizer(config, reports)
    known = with_vocabulary(config, tokenizer)
    model = build_model(known)
    linear.fit(model, ChosenPairs(data, rows, tokenizer, known.model), known.train.seed)
    return model.eval(), tokenizer


def cca_of_fold(points: dict[str, Split], table: pd.DataFrame, known: np.ndarray, setting: Setting):
    """The baseline fitted on the known rows → features of all. Its axes and words are those of the
    split `train`, which knows some studies of the fold: in its favour."""
    every = pd.concat([split.table for split in points.values()])
    order = pd.Series(range(len(every)), every["pair_id"].to_numpy())[table["pair_id"]].to_numpy()
    sides = [
        np.concatenate([getattr(split, side) for split in points.values()])[order]
        for side in ("images", "texts")
    ]
    model = LinearCCA(sides[0][known], sides[1][known], setting)
    return model.features(Split(table, *sides))


def ask_labels(model, tokenizer, images: Tensor, table: pd.DataFrame) -> pd.DataFrame:
    """Of each label with at least five images: its images, AUROC and precision@10 of its name as a
    sentence."""
    truth, rows = findings_of(table), []
    for label in truth.columns[truth.sum() >= 5]:
        sentence = encode_texts(model, tokenizer, [label.replace("_", " ") + "."])[0]
        score, own = (images @ sentence).numpy(), truth[label].to_numpy()
        top = own[np.argsort(-score, kind="stable")[:10]].mean()
        rows.append((label, int(own.sum()), roc_auc_score(own, score), 100 * top, 100 * own.mean()))
    return pd.DataFrame(rows, columns=["label", "images", "AUROC", "precision@10", "chance"])


def findings_of(table: pd.DataFrame) -> pd.DataFrame:
    """The labels of each pair as 0 and 1, a column each; 'normal' and no label are no findings."""
    return table["labels"].str.get_dummies("|").drop(columns=["normal", ""], errors="ignore")


def fold_numbers(table, whole, best, within, prompts, distinct: int) -> dict:
    """What the folds gave, together."""
    clusters = torch.from_numpy(pd.factorize(table["patient_id"])[0])
    draws = retrieval.cluster_draws(int(clusters.max()) + 1, RESAMPLES, 0)
    weights = torch.cat([torch.ones_like(draws[:1]), draws])[:, clusters]  # 1 + B, N
    hits = {
        name: {f"R@{k}": torch.from_numpy(rank <= k).double() for k in KS}
        for name, rank in whole.items()
    }
    hits["above linear CCA"] = {k: hits["model"][k] - hits["linear CCA"][k] for k in hits["model"]}
    measured: dict = {"gallery": {"images": len(table), "distinct_texts": distinct}}
    measured["image_to_text, all reports"] = {
        name: {
            k: with_interval(100 * (weights @ one) / weights.sum(1)) for k, one in values.items()
        }
        for name, values in hits.items()
    } | {"chance": {f"R@{k}": 100 * k / distinct for k in KS}}
    labels = findings_of(table).to_numpy()
    most = int(
        np.argmax(table["report"].str.lower().map(table["report"].str.lower().value_counts()))
    )
    drafts = {**best, "most frequent report": np.full(len(table), most)}
    drafts["another study's report"] = np.random.default_rng(0).permutation(len(table))
    measured["F1 of the first report's labels"] = {
        name: 100 * f1_score(labels, labels[rows], average="micro") for name, rows in drafts.items()
    }
    folds = {
        name: [Hits(i, t, own.reset_index(drop=True)) for i, t, own in parts]
        for name, parts in within.items()
    }
    measured["rsum within a fold"] = {
        name: float(np.mean([summary([(1.0, one)])["rsum"][0] for one in parts]))
        for name, parts in folds.items()
    }
    asked = pd.concat(prompts).groupby("label")
    means = asked[["AUROC", "precision@10", "chance"]].mean().assign(images=asked["images"].sum())
    measured["labels as sentences"] = means.round(3).to_dict("index")
    return measured


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="data set folder")],
    out: Annotated[Path, typer.Option(help="result file (JSON)")],
    runs: Annotated[Path, typer.Option(help="where its run folders go")] = Path("runs/archive"),
    profile: str = "small",
    settings: Set = [],  # noqa: B006 (typer copies it)
    seeds: int = 5,
    folds: Annotated[int, typer.Option(help="0: none; only with fitted encoders")] = 5,
) -> None:
    """Measure a profile on an archive by every protocol, write OUT."""
    config = resolve(profile, parse_settings(settings))
    splits = read_splits(data)
    measured, setting = measure_split(data, splits, config, seeds, runs)
    content = {"data": folder.describe_data(data), "config": config.model_dump(mode="json")}
    content["split"] = measured
    if folds and config.model.encoders == "linear":
        content["folds"] = measure_folds(data, splits, config, folds, setting)
    folder.write_json(out, content | provenance(command_line(MODULE)))
    rsum = measured["mean of seeds"]["rsum"]
    print(f"{out}: RSum {rsum[0]:.0f} [{rsum[1]:.0f}, {rsum[2]:.0f}], mean of {seeds} seeds")


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
