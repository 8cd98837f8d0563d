"""What the study measures of one finished run: ranks query by query, the gap at start, middle and end of training, the
curves of Fig. 3, and of the null control its weights read in both orders. Numbers only: no text, no patient's name.
Not here: which runs there are (runs.py), and what follows from them (comparisons.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.study import fine, text_scores
from benchmarks.study.files import read_gap
from benchmarks.study.pointing import measure_pointing
from data_prep.folder import describe_data, write_json
from data_prep.own_files import read_log
from data_prep.run_files import read_manifest
from data_prep.running import Logged
from mcr_lib import retrieval
from mcr_lib.config import read_config
from mcr_lib.data import PairData
from mcr_lib.engine.checkpoint import weights_sha256
from mcr_lib.features import encode_pairs
from mcr_lib.modality_gap import gap_vector, modality_gap
from mcr_lib.model import MCR
from mcr_lib.run import build_model, load_run
from mcr_lib.tokenizer import load_tokenizer
from mcr_lib.trainer import Trainer

MOST_PAIRS = (
    64  # of a batch whose graph is kept: 256 pairs of two-stream at ViT-B are 93 GB by arithmetic
)


def keep_middle_gap(data: Path, run: Path, device: torch.device):
    """A callback that leaves the gap on the validation split at half of the steps, in RUN/gap_middle.json."""
    where = run / "gap_middle.json"

    def keep(trainer: Trainer, record: dict) -> None:
        if where.exists() or record["step"] < trainer.batches.total_steps / 2:
            return
        tokenizer = load_tokenizer(run / "tokenizer", local=True)
        pairs = PairData(data, "validate", tokenizer, trainer.model.config, trainer.config.views)
        gap = modality_gap(*encode_pairs(trainer.model, pairs, device))
        write_json(where, {"step": record["step"], **gap})

    return keep


def measure_run(
    data: Path,
    run: Path,
    device: torch.device,
    *,
    kind: type[MCR] = MCR,
    null: bool = False,
    scored: int = text_scores.MOST,
) -> dict:
    """All that the study measures of a finished run, ready for JSON; interval.measure_value reads `test`.

    kind: the class of its model. null: the run is of the null control; then its weights are read in both orders too.
    scored: queries whose retrieved reports are scored.
    """
    model, tokenizer = load_run(run, device, kind=kind)
    config = read_config(run / "config.yaml")
    test = PairData(data, "test", tokenizer, config.model, config.train.views)
    validate = PairData(data, "validate", tokenizer, config.model, config.train.views)
    whole = encode_pairs(model, test, device)
    metrics, per_query = _measure_test(test, whole, encode_pairs(model, test, device, masked=True))
    pointing = measure_pointing(model, tokenizer, test, whole[1].float().cpu().mean(0), device)
    for name, of_pairs in {"pointing": pointing, **_measure_fine(test, whole)}.items():
        if of_pairs and of_pairs["hits"]:
            per_query[name] = of_pairs
            metrics[f"test, {name}"] = {
                name: float(np.mean(of_pairs["hits"])),
                "chance": float(np.mean(of_pairs["chance"])),
            }
    at_end = encode_pairs(model, validate, device)
    metrics["validate, unmasked"] = _mean_metrics(_rank(validate, at_end))
    at_start = encode_pairs(build_model(config, kind).eval().to(device), validate, device)
    gap = {"start": modality_gap(*at_start), "end": modality_gap(*at_end)}
    middle = run / "gap_middle.json"
    if middle.exists():
        gap["middle"] = read_gap(middle)
    result = {
        "config": config.model_dump(mode="json"),
        "data": describe_data(data),
        "training": read_manifest(run).of_training(),
        "weights_sha256": weights_sha256(run),
        "validated": read_validated(run),
        "protocol": "text-identical; label-match for mAP and precision",
        "tie_rule": retrieval.TIE_RULE,
        "metrics": metrics,
        "gap": gap,
        "test": per_query,
        "nlg": text_scores.score_curves(*whole, test.table, most=scored),
        "gradient_agreement": gradient_agreement(model, validate, config.train.batch_size, device),
    }
    if null:
        result["both_orders"] = compare_orders(run, test, kind)
    return result


def read_validated(run: Path) -> list[list[float]]:
    """[step, RSum on `validate` of whole input], of every checkpoint of a run."""
    log = read_log(run / "metrics.jsonl", Logged, "restore it, or train the run again")
    return [[line["step"], line["validation"]] for line in log if "validation" in line]


# --------------------------------------------------------------------------------------------------------- retrieval


def _rank(pairs: PairData, features: tuple[Tensor, Tensor], **how) -> dict:
    """Both directions, query by query, of the pairs' own reports and labels; how: protocol."""
    texts, labels = pairs.table["report"].tolist(), pairs.table["labels"].tolist()
    return retrieval.query_ranks(*features, texts=texts, labels=labels, **how)


def _measure_test(
    test: PairData, whole: tuple[Tensor, Tensor], masked: tuple[Tensor, Tensor]
) -> tuple[dict, dict]:
    """Of features of whole and of masked input: the metrics under each protocol, and what is kept query by query."""
    ranked, ranked_masked = _rank(test, whole), _rank(test, masked)
    metrics = {
        "test, unmasked": _mean_metrics(ranked),
        "test, masked": _mean_metrics(ranked_masked),
        "chance": retrieval.chance(ranked),
    }
    per_query = {
        "patient_of_pair": test.table["patient_id"].factorize()[0].tolist(),
        "text_of_pair": retrieval.merge_texts(test.table["report"].tolist())[0].tolist(),
        "ranks": {way: queries.ranks.tolist() for way, queries in ranked.items()},
        "ranks masked": {way: queries.ranks.tolist() for way, queries in ranked_masked.items()},
        "pairs": _pair_values(*whole),
    }
    if any(label.strip() for label in test.table["labels"]):
        by_label = _rank(test, whole, protocol="label-match")
        per_query["label_query_of_pair"] = by_label["image_to_text"].query_of_pair.tolist()
        per_query["average_precision"] = {
            way: _round(queries.average_precision) for way, queries in by_label.items()
        }
        metrics["test, label-match"] = _mean_metrics(by_label)
        metrics["chance, label-match"] = retrieval.chance(by_label)
        normal = (test.table["labels"].str.strip() == "normal").to_numpy()
        for name, chosen in (("normal", normal), ("abnormal", ~normal)):
            if chosen.any():
                metrics[f"test, {name}"] = _mean_metrics(ranked, torch.tensor(chosen))
    return metrics, per_query


def _measure_fine(test: PairData, features: tuple[Tensor, Tensor]) -> dict[str, dict]:
    labels = test.table["labels"].tolist()
    numbers = retrieval.merge_texts(test.table["report"].tolist())[0]
    return {
        "alike": fine.measure_alike(*features, numbers, labels),
        "label_f1": fine.measure_label_f1(*features, labels),
    }


def _mean_metrics(
    ranked: dict[str, retrieval.QueryRanks], chosen: Tensor | None = None
) -> dict[str, float]:
    """Means over all queries, or over those behind which a chosen pair (N,) stands; the gallery is whole."""
    weights = {}
    for way, queries in ranked.items():
        weights[way] = torch.ones(1, len(queries.rows)).double()
        if chosen is not None:
            weights[way] = torch.zeros_like(weights[way])
            of_chosen = queries.query_of_pair[chosen]
            weights[way][:, of_chosen[of_chosen >= 0]] = 1.0
    return {name: float(value) for name, value in retrieval.summarise(ranked, weights).items()}


def _pair_values(image_features: Tensor, text_features: Tensor) -> dict[str, list[float]]:
    """Per pair (N): values whose mean is the gap's length, the alignment, the cosine of true pairs."""
    images, texts = image_features.double(), text_features.double()
    gap = gap_vector(image_features, text_features).cpu()
    along = (images - texts) @ (gap / gap.norm())  # the gap vector is the mean of the differences
    return {
        "gap_distance": _round(along),
        "alignment": _round((images - texts).square().sum(1)),
        "true_pair_cosine": _round((images * texts).sum(1)),
    }


def _round(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


# ---------------------------------------------------------------------------------------------------------- gradients


def gradient_agreement(
    model: MCR, pairs: PairData, batch_size: int, device: torch.device, batches: int = 8
) -> dict[str, float] | None:
    """Whether the tasks pull the encoders one way: the cosine of the gradient of L_vrc with that of the reconstruction
    loss that reaches the encoder (L_mim: E_v, L_mrm: E_r), mean over batches; None for an arm of one task.

    1: the same way; 0: unrelated; below 0: against each other, which is what 'competition of tasks' means.
    """
    if not model.config.reconstructs:
        return None
    model.eval()
    towers = {
        "image": (list(model.image_encoder.parameters()), "image_reconstruction_loss"),
        "text": (list(model.report_encoder.parameters()), "text_reconstruction_loss"),
    }
    cosines: dict[str, list[float]] = {name: [] for name in towers}
    batch_size = min(batch_size, MOST_PAIRS)
    for start in range(0, min(len(pairs) - 1, batches * batch_size), batch_size):
        rows = np.arange(start, min(start + batch_size, len(pairs)))
        output = model(pairs.batch(rows, device))
        for name, (weights, reconstruction) in towers.items():
            contrast = _gradient(output.contrastive_loss, weights)
            rebuilding = _gradient(getattr(output, reconstruction), weights)
            cosines[name].append(float(F.cosine_similarity(contrast, rebuilding, dim=0)))
    return {name: float(np.mean(values)) for name, values in cosines.items()}


def _gradient(loss: Tensor, weights: list[Tensor]) -> Tensor:
    """The gradient of a loss for all the weights, as one vector (P,); 0 where the loss does not depend on one."""
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    parts = []
    for weight, gradient in zip(weights, gradients, strict=True):
        gradient = torch.zeros_like(weight) if gradient is None else gradient
        parts.append(gradient.flatten())
    return torch.cat(parts)


# -------------------------------------------------------------------------------------------------- the null control


@dataclass
class _Reading:
    """One order's view of the test split, in float64."""

    features: Tensor  # 2N, D: images, then reports
    ranked: dict[str, retrieval.QueryRanks]
    metrics: dict[str, float]


@torch.inference_mode()
def compare_orders(run: Path, test: PairData, kind: type[MCR] = MCR) -> dict:
    """The null control proper: one trained model, its own weights read in both orders, in float64.

    Where map and aggregation are linear the two are one function, and every difference must be exactly 0.
    """
    mba, abm = (_read_in_order(run, test, order, kind) for order in ("mba", "abm"))
    return {
        "ranks_that_differ": sum(
            int((mba.ranked[way].ranks != abm.ranked[way].ranks).sum()) for way in mba.ranked
        ),
        "largest_metric_difference": max(
            abs(value - abm.metrics[name]) for name, value in mba.metrics.items()
        ),
        "largest_feature_difference": float((mba.features - abm.features).abs().max()),
    }


def _read_in_order(run: Path, test: PairData, alignment: str, kind: type[MCR]) -> _Reading:
    model, _ = load_run(run, kind=kind)
    model.image_head.alignment = model.report_head.alignment = alignment
    model.double().image_encoder.register_forward_pre_hook(_images_to_double)
    features = encode_pairs(model, test, torch.device("cpu"))
    ranked = _rank(test, features)
    return _Reading(torch.cat(features), ranked, _mean_metrics(ranked))


def _images_to_double(_module, inputs: tuple) -> tuple:
    images, *rest = inputs
    return (images.double(), *rest)
