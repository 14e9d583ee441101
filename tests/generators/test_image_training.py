"""From a rendered file to an evaluated image policy: the presets of images run end to end."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from genpolicy.cli.main import main

pytestmark = [
    pytest.mark.sim,
    pytest.mark.slow,
    pytest.mark.usefixtures("off_screen"),
    pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the [robosuite] extra"),
]

SMALL = [
    "trainer.max_steps=2",
    "trainer.precision=32-true",
    "save.every=2",
    "data.batch_size=4",
    "data.val_ratio=0.0",
    "logger=none",
]
PRESETS = {
    "robomimic_lift_image_flow": ["policy.network.width=16"],
    "robomimic_lift_image_diffusion_cnn": [
        "trainer=cpu",
        "policy.encoder.backbone=small",
        "policy.network.dims=[16,32]",
        "policy.network.time_dim=16",
        "policy.sampler.n_steps=2",
    ],
    "robomimic_lift_image_diffusion_transformer": [
        "trainer=cpu",
        "policy.encoder.backbone=small",
        "policy.network.width=32",
        "policy.network.n_layers=1",
        "policy.sampler.n_steps=2",
    ],
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Two scripted demonstrations, collected from states and rendered afterwards."""
    from genpolicy.generators import make_robomimic, render_demos

    folder = tmp_path_factory.mktemp("images")
    states = make_robomimic(
        "robomimic/lift", seed=3, path=folder / "states.hdf5", n_demos=2, progress=False
    )
    return render_demos(states, folder / "images.hdf5", progress=False)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_of_images_trains_and_is_evaluated(rendered, tmp_path, preset):
    run = tmp_path / "run"
    train = [f"experiment={preset}", f"data.path={rendered}", f"run_dir={run}"]
    assert main(["train", *train, *PRESETS[preset], *SMALL]) == 0
    evaluate = [
        f"checkpoint={run}",
        "n_episodes=1",
        "n_envs=1",
        f"out={run}/e",
        "env={max_steps: 3}",
    ]
    assert main(["evaluate", *evaluate]) == 0
    result = json.loads((run / "e" / "result.json").read_text())
    assert [record["n_steps"] for record in result["records"]] == [3]
    assert {"agentview_image", "robot0_eye_in_hand_image"} <= set(
        result["policy"]["spec"]["obs_shapes"]
    )
