"""Training that goes on from an older run (`train --from`): same model and words, new data, what was seen is kept.

Not here: going on with the same run (`--resume`, test_trainer.py).
"""

import json

import numpy as np
import pytest
import torch

from data_prep import phantom as phantom_data
from data_prep.commands import run_app
from mcr_lib.__main__ import app
from mcr_lib.config import read_config
from mcr_lib.run import build_model, load_run


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Another archive: other studies than the run was trained on."""
    folder = tmp_path_factory.mktemp("grown") / "data"
    phantom_data.write(folder, studies=60, seed=5)
    return folder


def train(grown, run, smoke_run, *more):
    where = ["--data", str(grown), "--run", str(run), "--from", str(smoke_run), "--device", "cpu"]
    return run_app(app, "mcr_lib", ["train", *where, "--profile", "smoke", *more])


def test_training_goes_on_with_the_older_model_and_words(grown, smoke_run, tmp_path, capsys):
    assert (
        train(grown, tmp_path / "run", smoke_run, "--set", "steps=2", "--set", "batch_size=8") == 0
    )
    config = read_config(tmp_path / "run" / "config.yaml")
    old, tokenizer = load_run(smoke_run)
    start = build_model(config).state_dict()
    assert all(torch.equal(start[name], tensor) for name, tensor in old.state_dict().items())
    new, own = load_run(tmp_path / "run")
    assert own.get_vocab() == tokenizer.get_vocab()
    assert not torch.equal(new.log_scale, old.log_scale), "it was trained"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["pretrained"].keys() == {"start_from"}
    seen = [np.load(run / "training_pictures.npy") for run in (tmp_path / "run", smoke_run)]
    assert set(seen[1]) < set(seen[0]), "what the older run has seen counts as seen"


def test_it_resumes_as_any_run(grown, smoke_run, tmp_path, capsys):
    few = ["--set", "batch_size=8", "--set", "steps=2", "--set", "checkpoint_every=1"]
    assert train(grown, tmp_path / "run", smoke_run, *few) == 0
    whole, _ = load_run(tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("*2"):
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    (tmp_path / "run" / "manifest.json").unlink()
    assert train(grown, tmp_path / "run", smoke_run, *few, "--resume") == 0
    again, _ = load_run(tmp_path / "run")
    assert all(torch.equal(again.state_dict()[k], v) for k, v in whole.state_dict().items())


def test_a_run_that_cannot_be_started_from_is_one_line(grown, smoke_run, tmp_path, capsys):
    assert train(grown, tmp_path / "run", tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert train(grown, tmp_path / "run", smoke_run, "--set", "common_dim=16") == 2
    assert not (tmp_path / "run" / "config.yaml").exists()
