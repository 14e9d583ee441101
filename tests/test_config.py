"""The builder runs only what is on its allow-list and names the nearest valid keys."""

import functools
import json
from pathlib import Path

import pytest

from genpolicy.composition import LevelWeights
from genpolicy.config import build, config_of, resolve_target
from genpolicy.errors import UsageError
from genpolicy.paths import LinearPath
from genpolicy.sampling import Sampler


def test_builds_nested_objects():
    found = build({"a": [{"_target_": "genpolicy.paths.LinearPath", "t_max": 0.9}], "b": 3})
    assert found["a"][0].t_max == 0.9
    assert found["b"] == 3


def test_partial_and_extra_arguments():
    made = build({"_target_": "genpolicy.paths.LinearPath", "_partial_": True}, t_max=0.5)
    assert isinstance(made, functools.partial)
    assert made().t_max == 0.5


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "genpolicy.files.shutil.rmtree",
        "genpolicy.paths.os",
        "genpolicy.policies.checkpoint.sha256_of",
        "genpolicy.seeding.derive_seed",
        "genpolicy.paths.nothing.LinearPath",
        "genpolicy.paths.LinearPth",
        "LinearPath",
    ],
)
def test_targets_outside_the_allow_list_are_refused(target):
    with pytest.raises(UsageError, match="_target_"):
        resolve_target(target)


def test_unknown_arguments_name_the_nearest():
    with pytest.raises(UsageError, match="did you mean 't_max'"):
        build({"_target_": "genpolicy.paths.LinearPath", "t_maxx": 0.9})


def test_what_config_of_writes_builds_an_equal_object():
    value = {
        "path": LinearPath(t_max=0.9),
        "sampler": Sampler(rule="ddpm", n_steps=3, rule_options={}),
        "schedule": LevelWeights(log_snr=[-1.0, 1.0], weights=[[0.5, 0.5], [1.0, 0.0]]),
        "list": [1, 2.5, "a", None, True],
    }
    again = build(json.loads(json.dumps(config_of(value))))
    assert again == value


@pytest.mark.parametrize("value", [len, lambda x: x, object(), Path()])
def test_config_of_refuses_what_no_file_can_hold(value):
    with pytest.raises(UsageError, match="cannot be written"):
        config_of(value)
