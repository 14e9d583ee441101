"""The options of the networks and encoders say the same as their constructors."""

from __future__ import annotations

import inspect

import pytest
import yaml

from genpolicy.cli.compose_config import option_names
from genpolicy.cli.configs_dir import configs_dir
from genpolicy.config import resolve_target

CHANGED = {"network/unet1d_small": {"dims": [64, 128, 256], "time_dim": 64}}
OPTIONS = [f"{group}/{name}" for group in ("network", "encoder") for name in option_names(group)]


@pytest.mark.parametrize("option", OPTIONS)
def test_values_are_the_defaults_of_the_constructor(option):
    config = yaml.safe_load((configs_dir() / f"{option}.yaml").read_text())
    parameters = inspect.signature(resolve_target(config.pop("_target_"))).parameters
    defaults = {key: parameters[key].default for key in config}
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
    assert config == {**listed, **CHANGED.get(option, {})}
