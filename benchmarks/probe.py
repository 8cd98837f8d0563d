"""What the frozen vectors of a run are worth for findings: a linear probe, a finding's name as a question, a draft.

    python -m benchmarks.probe --data data/openi --run runs/small --out benchmarks/results/probe_openi.json

All on the test split, with intervals over patients, by the data set's own labels (Open-i: MeSH headings; the phantom:
what was drawn; MIMIC-CXR: CheXpert's). Labels with fewer than LEAST pairs in `test` or in `validate` are left out.

* `probe`: logistic regression on the image vectors, of SHARES of the training patients, its ridge chosen on `validate`;
  beside it the principal components of thumbnails. AUROC, mean over labels; who knows nothing has 50.
* `prompts`: the label's name as a sentence ranks the images: AUROC, precision@10.
* `draft`: the training report that is nearest to an image, as a draft of its report. F1 of its labels against the
  image's own, all labels together (rule-based: as good as the labels), beside other ways to a draft.

Numbers only. Not here: retrieval (archive.py).
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.archive import CPU, RESAMPLES, findings_of, with_interval
from benchmarks.baselines import Split, fit_linear, read_splits
from data_prep import folder
from data_prep.commands import QUIET, command_line, run_app
from data_prep.machine import progress
from data_prep.provenance import provenance
from mcr_lib import retrieval
from mcr_lib.evaluate import load_pairs
from mcr_lib.features import encode_pairs, encode_texts
from mcr_lib.run import load_run

MODULE = "benchmarks.probe"
LEAST = 5  # pairs of a label, in test and in validate
SHARES, DRAWS = (0.01, 0.1, 1.0), 5  # of the training patients; how often a part is drawn
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse of the ridge
app = typer.Typer(help="Measure what frozen vectors are worth for findings.", **QUIET)


def patient_weights(table: pd.DataFrame) -> Tensor:
    """(1 + B, N): how often each pair counts, once in the first row, then in resamples of patients."""
    clusters = torch.from_numpy(pd.factorize(table["patient_id"])[0])
    draws = retrieval.cluster_draws(int(clusters.max()) + 1, RESAMPLES, 0)
    return torch.cat([torch.ones_like(draws[:1]), draws])[:, clusters]


def auroc(score: np.ndarray, truth: np.ndarray, weights: Tensor) -> Tensor:
    """AUROC in percent, (1 + B,), of scores (N,) for truth (N,) of 0 and 1 under weights (1 + B, N).
    A draw without one of both gives 50."""
    has = torch.from_numpy(truth.astype(bool))
    score = torch.from_numpy(np.asarray(score, float))
    above = score[has][:, None] - score[~has][None]  # with, without
    won = (above > 0).double() + 0.5 * (above == 0).double()
    own, other = weights[:, has], weights[:, ~has]
    pairs = own.sum(1) * other.sum(1)
    share = ((own @ won) * other).sum(1) / pairs.clamp(min=1)
    return 100 * torch.where(pairs > 0, share, 0.5)


def precision(score: np.ndarray, truth: np.ndarray, weights: Tensor, k: int = 10) -> Tensor:
    """Share of the k best that are true, in percent, (1 + B,): of each resample's own k best."""
    order = np.argsort(-score, kind="stable")
    count = weights[:, order]
    taken = count.cumsum(1).clamp(max=k).diff(dim=1, prepend=torch.zeros(len(count), 1))
    return 100 * (taken @ torch.from_numpy(truth[order].astype(float))) / k


def probe(known: np.ndarray, truth: np.ndarray, asked: np.ndarray, strength: float) -> np.ndarray:
    """Scores (Q, labels) of asked (Q, D) by logistic regressions on known (N, D), truth (N, labels).
    A label that all or none of the known have gives zeros."""
    scale, scores = StandardScaler().fit(known), np.zeros((len(asked), truth.shape[1]))
    for label in np.flatnonzero(truth.any(0) & ~truth.all(0)):
        fitted = LogisticRegression(C=strength, max_iter=200)
        fitted.fit(scale.transform(known), truth[:, label])
        scores[:, label] = fitted.decision_function(scale.transform(asked))
    return scores


def measure_probe(images: dict[str, dict], tables: dict[str, pd.DataFrame], labels: list) -> dict:
    """images: kind → split → (N, D). → share → kind → mean AUROC and, of all the labels, each one's."""
    truth = {split: truth_of(table, labels) for split, table in tables.items()}
    weights, patients = patient_weights(tables["test"]), tables["train"]["patient_id"]
    once, measured = torch.ones(1, len(tables["validate"])).double(), {}
    for share in progress(SHARES, desc="shares", unit="share"):
        draws = []
        for draw in range(1 if share == 1 else DRAWS):
            distinct = patients.drop_duplicates().sample(frac=share, random_state=draw)
            draws.append(np.flatnonzero(patients.isin(distinct)))
        values = {}
        for kind, own in images.items():

            def scores(rows: np.ndarray, split: str, strength: float, own=own) -> np.ndarray:
                return probe(own["train"][rows], truth["train"][rows], own[split], strength)

            best = max(
                STRENGTHS,
                key=lambda strength: float(
                    mean_auroc(scores(draws[0], "validate", strength), truth["validate"], once)
                ),
            )
            found = [scores(rows, "test", best) for rows in draws]
            each = [mean_auroc(one, truth["test"], weights) for one in found]
            values[kind] = torch.stack(each).mean(0)
        first, second = values.values()
        row = {kind: with_interval(value) for kind, value in values.items()}
        measured[f"{100 * share:g} %"] = row | {"difference": with_interval(first - second)}
    return measured


def mean_auroc(scores: np.ndarray, truth: np.ndarray, weights: Tensor) -> Tensor:
    columns = range(truth.shape[1])
    return torch.stack([auroc(scores[:, n], truth[:, n], weights) for n in columns]).mean(0)


def truth_of(table: pd.DataFrame, labels: list) -> np.ndarray:
    return findings_of(table).reindex(columns=labels, fill_value=0).to_numpy()


def measure_prompts(
    model, tokenizer, images: np.ndarray, table: pd.DataFrame, labels: list
) -> dict:
    weights, truth, measured = patient_weights(table), truth_of(table, labels), {}
    sentences = [label.replace("_", " ") + "." for label in labels]
    scores = images @ encode_texts(model, tokenizer, sentences).numpy().T
    for n, label in enumerate(labels):
        own = scores[:, n], truth[:, n], weights
        measured[label] = {
            "images": int(truth[:, n].sum()),
            "AUROC": with_interval(auroc(*own)),
            "precision@10": with_interval(precision(*own)),
            "chance": 100 * float(truth[:, n].mean()),
        }
    mean = mean_auroc(scores, truth, weights)
    return {"mean AUROC": with_interval(mean), "labels": measured}


def label_f1(drafted: np.ndarray, truth: np.ndarray, weights: Tensor) -> Tensor:
    """F1 in percent of all labels together, (1 + B,): both (N, labels) of 0 and 1."""
    both, either = drafted * truth, drafted + truth
    hit, total = (weights @ torch.from_numpy(x.sum(1).astype(float)) for x in (both, either))
    return 100 * 2 * hit / total.clamp(min=1)


def measure_draft(
    nearest: dict[str, np.ndarray], tables: dict[str, pd.DataFrame], labels: list
) -> dict:
    """nearest: way to a draft → rows (Q,) of train, of each test image."""
    known, truth = (truth_of(tables[split], labels) for split in ("train", "test"))
    weights = patient_weights(tables["test"])
    values = {name: label_f1(known[rows], truth, weights) for name, rows in nearest.items()}
    measured = {name: with_interval(value) for name, value in values.items()}
    first = values["the model's nearest report"]
    return measured | {
        f"above {name}": with_interval(first - value)
        for name, value in values.items()
        if value is not first
    }


def drafts(model: dict, splits: dict[str, Split]) -> dict[str, np.ndarray]:
    """Rows of train that give a draft for each test image. model: split → images, texts."""
    linear, _ = fit_linear(splits)
    plain = {split: linear.features(splits[split]) for split in ("train", "test")}
    reports = splits["train"].table["report"].str.lower()
    often = int(np.argmax(reports.map(reports.value_counts())))
    asked = len(splits["test"].table)
    return {
        "the model's nearest report": best_of(model["test"][0], model["train"][1]),
        "the report of the model's nearest image": best_of(model["test"][0], model["train"][0]),
        "the linear CCA's nearest report": best_of(plain["test"][0], plain["train"][1]),
        "the most frequent report": np.full(asked, often),
        "a report drawn at random": np.random.default_rng(0).integers(0, len(reports), asked),
    }


def best_of(asked: Tensor, gallery: Tensor) -> np.ndarray:
    return (asked @ gallery.T).argmax(1).numpy()


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="data set folder")],
    run: Annotated[Path, typer.Option(help="run folder, trained on it")],
    out: Annotated[Path, typer.Option(help="result file (JSON)")],
) -> None:
    """Measure a run's vectors by the labels of a data set, write OUT."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    splits, (model, tokenizer) = read_splits(data), load_run(run)
    tables = {split: own.table for split, own in splits.items()}
    counts = [findings_of(tables[split]).sum() for split in ("test", "validate")]
    often = [set(count.index[count >= LEAST]) for count in counts]
    labels = sorted(set.intersection(*often))
    features = {
        split: encode_pairs(model, load_pairs(run, data, split, CPU)[1], CPU) for split in tables
    }
    images = {
        "the run's vectors": {split: own[0].numpy() for split, own in features.items()},
        "thumbnails' components": {split: own.images for split, own in splits.items()},
    }
    content = {
        "data": folder.describe_data(data),
        "labels": {label: int(findings_of(tables["test"])[label].sum()) for label in labels},
        "probe, mean AUROC": measure_probe(images, tables, labels),
        "prompts": measure_prompts(
            model, tokenizer, features["test"][0].numpy(), tables["test"], labels
        ),
        "draft, F1 of labels": measure_draft(drafts(features, splits), tables, labels),
    }
    folder.write_json(out, content | provenance(command_line(MODULE)))
    for share, row in content["probe, mean AUROC"].items():
        print(
            share, {kind: "{:.1f} [{:.1f}, {:.1f}]".format(*value) for kind, value in row.items()}
        )


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
