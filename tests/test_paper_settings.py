"""What a reader fills in of the paper becomes settings of `train`; what cannot be is refused in one line."""

import dataclasses

import pytest

from benchmarks import paper_settings
from data_prep.commands import run_app
from mcr_lib.config import ConfigError, parse_settings, resolve
from mcr_lib.paper import CHOICES


def filled(**values):
    """The choices with these values of the paper, each under the choice that names its key."""
    return tuple(
        dataclasses.replace(c, paper={k: values[k] for k in c.keys if k in values}) for c in CHOICES
    )


def test_what_is_filled_in_is_what_train_gets():
    values = {"temperature": 0.1, "betas": [0.9, 0.999], "pooling": "attention", "norm_pix": False}
    values["image_weights"] = "vit_base_patch16_224.mae"
    words = paper_settings.paper_settings(filled(**values)).split()  # as a shell splits it
    assert words[:2] == ["--profile", "base"] and set(words[2::2]) == {"--set"}
    config = resolve("base", parse_settings(words[3::2]))
    assert (config.model.temperature, config.model.pooling) == (0.1, "attention")
    assert config.train.betas == (0.9, 0.999) and config.model.norm_pix is False
    assert config.model.image_weights == values["image_weights"]


def test_a_key_or_value_that_cannot_be_and_nothing_at_all(capsys):
    wrong = (dataclasses.replace(CHOICES[0], paper={"dept": 12}),)
    with pytest.raises(ConfigError, match="did you mean 'depth'"):
        paper_settings.paper_settings(wrong)
    with pytest.raises(ConfigError, match="pooling"):
        paper_settings.paper_settings(filled(pooling="median"))
    assert not any(choice.paper for choice in CHOICES)  # nobody has read it yet
    assert run_app(paper_settings.app, paper_settings.MODULE, []) == 2
    assert "fill in its `paper:` lines" in capsys.readouterr().err
