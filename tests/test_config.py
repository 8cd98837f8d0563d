"""Settings: what is unknown or does not fit is one line."""

import pytest

from kit.markup import paper_tables
from mcr_lib.config import PROFILES, ConfigError, parse_settings, read_config, resolve
from mcr_lib.paper import CHOICES


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_resolve_and_survive_a_round_trip(profile, tmp_path):
    import yaml

    config = resolve(profile)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"framwork": "mcr"}, "did you mean 'framework'"),
        ({"framework": "three-stream"}, "^framework: "),
        ({"mask_ratio": 1.5}, "^mask_ratio: "),
        ({"embed_dim": 101}, "not a multiple"),
        ({"learning_rate": "fast"}, "^learning_rate: "),
        ({"compile": "perhaps"}, "^compile: "),
    ],
)
def test_what_does_not_fit_is_one_line(settings, words):
    with pytest.raises(ConfigError, match=words) as error:
        resolve("demo", settings)
    assert "\n" not in str(error.value)


def test_settings_from_the_command_line():
    config = resolve(
        "smoke", parse_settings(["learning_rate=3e-4", "compile=false", "steps=5", "alignment=abm"])
    )
    assert config.train.learning_rate == 3e-4 and config.train.compile is False
    assert config.train.steps == 5 and config.model.alignment == "abm"
    with pytest.raises(ConfigError, match="key=value"):
        parse_settings(["steps"])
    assert (
        resolve("demo", {"epochs": 5}).train.steps is None
    )  # else the profile's steps would win without a word
    with pytest.raises(ConfigError, match="there are: smoke, demo, small, base"):
        resolve("huge")


def test_every_choice_names_real_keys():
    config = resolve("base")
    known = set(config.model.model_dump()) | set(config.train.model_dump())
    no_keys = (
        "text policy, evaluation input, protocol, identical reports, positions, initialisation"
    )
    known |= {*no_keys.split(", "), "word head", "letterbox"}
    for choice in CHOICES:
        assert known.issuperset(choice.keys), choice.keys
    assert paper_tables().count("\n| ") > 20
