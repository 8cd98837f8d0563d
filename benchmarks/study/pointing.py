"""Whether a model knows where a finding is: how often the hottest patch of a text's map touches the finding's box.

The pointing game of notebooks/kit/boxes.py on the test split, for data that know their boxes (the phantom); nothing is
trained on them. A map is of the text minus the mean of all reports, so that it shows what speaks for this finding and
not for any. Not here: the maps (notebooks/kit/grounding.py), which arms are compared (comparisons.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from kit.boxes import boxes_on_square, measure_grounding, prompt
from kit.grounding import heat_map, patch_features
from mcr_lib.data import PairData
from mcr_lib.model import MCR
from mcr_lib.tokenizer import pad, tokenize

PART = 64  # boxes at a time


def measure_pointing(
    model: MCR, tokenizer, pairs: PairData, centre: Tensor, device: torch.device
) -> dict | None:
    """Per pair with findings its share of hits in percent, and of each of the N pairs the place there, −1: none.

    centre (D,): the mean of all reports' features. None for data without boxes.
    """
    path = pairs.path / "boxes.parquet"
    if not path.exists():
        return None
    row_of_pair = {pair_id: row for row, pair_id in enumerate(pairs.table["pair_id"])}
    boxes = pd.read_parquet(path)
    boxes["row"] = boxes["pair_id"].map(row_of_pair)
    boxes = boxes.dropna(subset="row").astype({"row": int}).reset_index(drop=True)
    if boxes.empty:
        return None
    measured = []
    for start in range(0, len(boxes), PART):
        part = boxes.iloc[start : start + PART]
        heat = _heat_maps(model, tokenizer, pairs, part, centre, device)
        measured.append(measure_grounding(heat, _on_square(pairs, part)))
    boxes = boxes.join(pd.concat(measured, ignore_index=True))
    of_pair = boxes.groupby("row")[["pointing", "pointing_chance"]].mean() * 100
    place = np.full(len(pairs), -1)
    place[of_pair.index] = np.arange(len(of_pair))
    return {
        "hits": of_pair["pointing"].round(5).tolist(),
        "chance": of_pair["pointing_chance"].round(5).tolist(),
        "query_of_pair": place.tolist(),
    }


@torch.inference_mode()
def _heat_maps(
    model: MCR, tokenizer, pairs: PairData, boxes: pd.DataFrame, centre: Tensor, device
) -> Tensor:
    """One map (S, S) for each box: of its image, for the sentence that names the finding."""
    prompts = [prompt(finding) for finding in boxes.itertuples()]
    ids = tokenize(tokenizer, prompts, model.config.max_text_length, most_unknown=1)
    padded = pad(ids, tokenizer.pad_token_id)
    input_ids, attention_mask = (torch.from_numpy(x).to(device) for x in padded)
    texts = model.encode_text(input_ids, attention_mask).float().cpu()
    images = pairs.batch(boxes["row"].to_numpy(), device).images
    return heat_map(patch_features(model, images).float().cpu(), texts - centre)


def _on_square(pairs: PairData, boxes: pd.DataFrame) -> np.ndarray:
    """The boxes as fractions of the square that the model sees."""
    sizes = []
    for path in pairs.table["image_path"].iloc[boxes["row"]]:
        with Image.open(Path(pairs.path) / path) as image:
            sizes.append(image.size)
    return boxes_on_square(boxes[["x0", "y0", "x1", "y1"]].to_numpy(float), np.array(sizes))
