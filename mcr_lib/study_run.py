"""What the study measures of one finished run: ranks query by query, the gap at start, middle and end of training, the
curves of Fig. 3, and of the null control its weights read in both orders. Numbers only: no text, no patient's name.
Not here: which runs there are (study.py), and what follows from them (claims.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import nlg, retrieval, run_folder
from .config import RunConfig, read_config
from .data import PairData
from .modality_gap import gap_vector, modality_gap
from .model import MCR
from .run_folder import write_json
from .tokenizer import load_tokenizer
from .trainer import Trainer


def keep_middle(data: Path, run: Path, device: torch.device):
    """A callback that leaves the gap on the validation split at half of the steps, in RUN/gap_middle.json."""
    where = run / "gap_middle.json"

    def look(trainer: Trainer, record: dict) -> None:
        if not where.exists() and record["step"] >= trainer.batches.total_steps / 2:
            pairs = PairData(data, "validate", load_tokenizer(run / "tokenizer"), trainer.model.config,
                             trainer.config.views)
            gap = modality_gap(*run_folder.encode(trainer.model, pairs, device))
            write_json(where, {"step": record["step"], **gap})

    return look


def initial_model(config: RunConfig) -> MCR:
    """The model as training found it: a function of the seed, and the same for all arms in what they share."""
    torch.manual_seed(config.train.seed)
    model = MCR(config.model)
    if config.model.image_weights:
        model.image_encoder.load_weights(config.model.image_weights)
    if config.model.text_weights:
        model.report_encoder.load_weights(config.model.text_weights)
    return model.eval()


def measure(data: Path, run: Path, device: torch.device, *, null: bool = False, scored: int = nlg.MOST) -> dict:
    """All that the study measures of a finished run, ready for JSON; verdict.measure reads its intervals from `test`.

    null: the run is of the null control; then its weights are read in both orders too. scored: queries whose retrieved
    reports are scored.
    """
    model, tokenizer = run_folder.load(run, device)
    config = read_config(run / "config.yaml")
    test, validate = (PairData(data, split, tokenizer, config.model, config.train.views)
                      for split in ("test", "validate"))
    texts, labels = test.table["report"].tolist(), test.table["labels"].tolist()
    features = {name: run_folder.encode(model, test, device, masked=masked)
                for name, masked in (("unmasked", False), ("masked", True))}
    ranked = {name: retrieval.query_ranks(*pair, texts=texts, labels=labels) for name, pair in features.items()}
    per_query = {
        "patient_of_pair": test.table["patient_id"].factorize()[0].tolist(),
        "text_of_pair": retrieval.merge_texts(texts)[0].tolist(),
        "ranks": {way: r.ranks.tolist() for way, r in ranked["unmasked"].items()},
        "ranks masked": {way: r.ranks.tolist() for way, r in ranked["masked"].items()},
        "pairs": _pair_values(*features["unmasked"]),
    }
    metrics = {f"test, {name}": _means(result) for name, result in ranked.items()}
    metrics["chance"] = retrieval.chance(ranked["unmasked"])
    if any(label.strip() for label in labels):
        by_label = retrieval.query_ranks(*features["unmasked"], texts=texts, labels=labels, protocol="label-match")
        per_query["label_query_of_pair"] = by_label["image_to_text"].query_of_pair.tolist()
        per_query["average_precision"] = {way: [round(v, 5) for v in r.average_precision.tolist()]
                                          for way, r in by_label.items()}
        metrics["test, label-match"] = _means(by_label)
        metrics["chance, label-match"] = retrieval.chance(by_label)
    at_end = run_folder.encode(model, validate, device)
    metrics["validate, unmasked"] = _means(retrieval.query_ranks(
        *at_end, texts=validate.table["report"].tolist(), labels=validate.table["labels"].tolist()))
    gap = {"start": modality_gap(*run_folder.encode(initial_model(config).to(device), validate, device)),
           "end": modality_gap(*at_end)}
    middle = run / "gap_middle.json"
    if middle.exists():
        gap["middle"] = json.loads(middle.read_text())
    result = {
        "config": config.model_dump(mode="json"), "data": run_folder.describe_data(data),
        "training": run_folder.read_manifest(run), "weights_sha256": run_folder.weights_sha256(run),
        "protocol": "text-identical; label-match for mAP and precision", "tie_rule": retrieval.TIE_RULE,
        "metrics": metrics, "gap": gap, "test": per_query,
        "nlg": nlg.curves(*features["unmasked"], test.table, most=scored),
        "gradient_agreement": gradient_agreement(model, validate, config.train.batch_size, device),
    }
    return result | ({"both_orders": both_orders(run, test, texts, labels)} if null else {})


def gradient_agreement(model: MCR, pairs: PairData, batch_size: int, device: torch.device,
                       batches: int = 8) -> dict[str, float] | None:
    """Whether the tasks pull the encoders one way: the cosine of the gradient of L_vrc with that of the reconstruction
    loss that reaches the encoder (L_mim: E_v, L_mrm: E_r), mean over batches of at most 64 pairs; None for an
    arm of one task.

    1: the same way; 0: unrelated; below 0: against each other, which is what 'competition of tasks' means.
    """
    if not model.config.reconstructs:
        return None
    model.eval()
    towers = {"image": (model.image_encoder, "image_reconstruction_loss"),
              "text": (model.report_encoder, "text_reconstruction_loss")}
    cosines: dict[str, list[float]] = {name: [] for name in towers}
    batch_size = min(batch_size, 64)  # float32, graph kept: 256 pairs of two-stream at ViT-B are 93 GB by arithmetic
    for start in range(0, min(len(pairs) - 1, batches * batch_size), batch_size):
        batch = pairs.batch(np.arange(start, min(start + batch_size, len(pairs))), device)
        output = model(batch)
        for name, (encoder, loss) in towers.items():
            weights = list(encoder.parameters())
            flat = [torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in zip(
                torch.autograd.grad(task, weights, retain_graph=True, allow_unused=True), weights, strict=True)])
                for task in (output.contrastive_loss, getattr(output, loss))]
            cosines[name].append(float(F.cosine_similarity(*flat, dim=0)))
    return {name: float(np.mean(values)) for name, values in cosines.items()}


def _means(ranked: dict[str, retrieval.QueryRanks]) -> dict[str, float]:
    ones = {way: torch.ones(1, len(result.rows)).double() for way, result in ranked.items()}
    return {name: float(value) for name, value in retrieval.summarise(ranked, ones).items()}


def _pair_values(image_features: torch.Tensor, text_features: torch.Tensor) -> dict[str, list[float]]:
    """Per pair (N): values whose mean is the gap's length, the alignment, the cosine of true pairs."""
    images, texts = image_features.double(), text_features.double()
    gap = gap_vector(image_features, text_features).cpu()
    along = (images - texts) @ (gap / gap.norm())  # the gap vector is the mean of the differences
    values = {"gap_distance": along, "alignment": (images - texts).square().sum(1),
              "true_pair_cosine": (images * texts).sum(1)}
    return {name: [round(v, 5) for v in value.tolist()] for name, value in values.items()}


@torch.inference_mode()
def both_orders(run: Path, test: PairData, texts: list[str], labels: list[str]) -> dict:
    """The null control proper: one trained model, its own weights read in both orders, in float64.

    Where map and aggregation are linear the two are one function, and every difference must be exactly 0.
    """
    ranked, features = [], []
    for alignment in ("mba", "abm"):
        model, _ = run_folder.load(run)
        model.image_head.alignment = model.report_head.alignment = alignment
        model.double().image_encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))
        features.append(torch.cat(run_folder.encode(model, test, torch.device("cpu"))))
        half = len(features[-1]) // 2
        ranked.append(retrieval.query_ranks(features[-1][:half], features[-1][half:], texts=texts, labels=labels))
    first, second = (_means(r) for r in ranked)
    return {
        "ranks_that_differ": sum(int((ranked[0][way].ranks != ranked[1][way].ranks).sum()) for way in ranked[0]),
        "largest_metric_difference": max(abs(first[name] - second[name]) for name in first),
        "largest_feature_difference": float((features[0] - features[1]).abs().max()),
    }
