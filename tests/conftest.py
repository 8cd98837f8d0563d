"""What several tests share: a small phantom data set and a smoke run trained on it, made once per test session."""

import os

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A data set folder of 160 synthetic studies."""
    from data_prep.phantom import write

    out = tmp_path_factory.mktemp("data") / "phantom"
    write(out, studies=160, seed=0, processes=2)
    return out


@pytest.fixture(scope="session")
def smoke_run(phantom, tmp_path_factory):
    """A run folder: the smoke profile, trained on `phantom`."""
    import torch

    from mcr_lib.config import resolve
    from mcr_lib.run import train_run

    run = tmp_path_factory.mktemp("runs") / "smoke"
    train_run(phantom, run, resolve("smoke"), device=torch.device("cpu"), command="tests")
    return run


@pytest.fixture(scope="session")
def openi():
    """The real Open-i copy; tests marked `real` need it."""
    from pathlib import Path

    path = os.environ.get("MCR_OPENI")
    if not path:
        pytest.skip("set MCR_OPENI to a folder with the real Open-i collection to run this test")
    return Path(path)
