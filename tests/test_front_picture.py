"""The README's picture is made by a command: it shows what the search finds, and frames what the sentence names."""

import numpy as np
import pandas as pd
import torch
from PIL import Image

from data_prep.commands import run_app
from kit import front_picture
from kit.explore import Searcher
from mcr_lib.run import load_run
from mcr_lib.search import build_index

CPU = torch.device("cpu")


def test_it_shows_what_the_search_finds_and_frames_what_is_named(smoke_run, phantom, tmp_path):
    index = build_index(smoke_run, phantom, split="test", device=CPU)
    searcher = Searcher(index, *load_run(smoke_run))
    boxes = pd.read_parquet(phantom / "boxes.parquet")
    label = boxes.loc[boxes["pair_id"].isin(index.table["pair_id"]), "label"].mode()[0]
    sentence = f"Large {label.replace('_', ' ')}."
    films = front_picture.found_films(searcher, sentence, boxes, k=len(index))
    hits = index.search(searcher.read(sentence).feature, k=len(index), among="images")
    assert [film["report"] for film in films] == [hit.report for hit in hits]
    named = boxes["label"].eq(label) & boxes["pair_id"].isin(index.table["pair_id"])
    assert sum(len(film["frames"]) for film in films) == named.sum() > 0
    assert any(len(film["frames"]) == 0 for film in films)
    assert all(np.all((film["frames"] >= 0) & (film["frames"] <= 1)) for film in films)
    gray = films[0]["lit"].std(axis=2)
    assert gray.max() > 0, "patches glow in colour"
    out = tmp_path / "front.png"
    arguments = ["--run", str(smoke_run), "--data", str(phantom), "--out", str(out)]
    assert run_app(front_picture.app, "kit.front_picture", arguments) == 0
    assert Image.open(out).width > 900 and out.stat().st_size < 300_000


def test_a_wrong_folder_is_one_line(phantom, tmp_path, capsys):
    arguments = ["--run", str(tmp_path), "--data", str(phantom), "--out", str(tmp_path / "x.png")]
    assert run_app(front_picture.app, "kit.front_picture", arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
