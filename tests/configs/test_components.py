"""Every option of every group composes, builds, and lists its constructor's settings exactly."""

import inspect
from pathlib import Path

import pytest
import yaml

from genpolicy.algorithms import OptimizerSettings
from genpolicy.cli.compose_config import compose_config, option_names
from genpolicy.cli.configs_dir import configs_dir
from genpolicy.config import COMPONENT_PACKAGES, resolve_target
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.data.normalizer import Normalizer
from genpolicy.errors import UsageError
from genpolicy.policies import build_critic, build_policy
from genpolicy.shapes import TaskSpec
from genpolicy.training.averaging import PowerEMA
from genpolicy.training.online import OnlineSettings

PACKAGES = (*COMPONENT_PACKAGES, "genpolicy.algorithms")
GROUPS = ("path", "network", "encoder", "denoiser", "sampler", "algorithm", "optimizer")
PROVIDED = {
    "path": set(),
    "network": {"action_dim", "horizon", "n_obs_steps", "obs_dim", "n_times"},
    "encoder": {"obs_shapes", "action_dim"},
    "denoiser": {"network", "path"},
    "sampler": set(),
    "algorithm": {"policy", "critic", "optimizer", "seed"},
    "optimizer": set(),
}
OPTIONS = [(group, name) for group in GROUPS for name in option_names(group)]


def _read(group, name):
    return yaml.safe_load((configs_dir() / group / f"{name}.yaml").read_text())


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=[f"{g}/{n}" for g, n in OPTIONS])
def test_an_option_lists_every_setting_of_its_constructor(group, name):
    config = _read(group, name)
    target = resolve_target(config["_target_"], packages=PACKAGES)
    parameters = set(inspect.signature(target).parameters) - PROVIDED[group]
    assert set(config) - {"_target_"} <= parameters
    missing = parameters - set(config)
    if name in {"ddpm"} and group == "path":
        missing -= {"betas", "beta_start", "beta_end"}
    assert not missing


@pytest.mark.parametrize("name", option_names("data"))
def test_data_options_list_every_setting(name):
    parameters = set(inspect.signature(WindowDataModule).parameters) - {"seed", "first_step"}
    assert set(_read("data", name)) == parameters


def test_interaction_lists_every_setting():
    config = compose_config("train", ["online=default"])["online"]
    assert set(config) - {"from"} == set(inspect.signature(OnlineSettings).parameters)
    given = {key: value for key, value in config.items() if key != "from"}
    assert OnlineSettings(**given) == OnlineSettings(task=config["task"])
    assert compose_config("train", [])["online"] is None


def test_averaging_lists_every_setting():
    config = compose_config("train", [])["ema"]
    assert set(config) == set(inspect.signature(PowerEMA).parameters)
    PowerEMA(**config)


@pytest.mark.parametrize("name", option_names("experiment"))
def test_every_experiment_composes_and_builds_its_policy(name):
    given = []
    if name.endswith("_consistency"):
        given = ["algorithm.teacher=x"]
    if name.endswith("_eda"):
        given = ["algorithm.behavior=x", "algorithm.critic_from=x"]
    if name.endswith("_mopo"):
        given = ["algorithm.dynamics_from=x"]
    config = compose_config("train", [f"experiment={name}", *given])
    data = config["data"]
    spec = TaskSpec(
        task=data["task"],
        obs_shapes=_obs_shapes(name),
        action_dim=2,
        n_obs_steps=data["n_obs_steps"],
        horizon=data["horizon"],
        n_action_steps=data["n_action_steps"],
    )
    policy = build_policy(config["policy"], spec=spec, normalizer=_normalizer())
    if config["critic"] is not None:
        critic = build_critic(config["critic"], spec=spec, normalizer=_normalizer())
        assert critic.q.n_critics == 2
    assert policy.sampler.nfe(policy.denoiser.path) >= 1
    assert (
        OptimizerSettings(
            **{k: v for k, v in config["optimizer"].items() if k != "_target_"}
        ).max_steps
        == config["trainer"]["max_steps"]
    )
    assert config["name"] == name


def _obs_shapes(experiment):
    if "image" in experiment and "pusht" not in experiment:
        side = 240 if "tool_hang" in experiment else 84
        return {"agentview_image": (side, side, 3), "robot0_eef_pos": (3,)}
    images = "pixels" in experiment or "image" in experiment
    return {"image": (96, 96, 3)} if images else {"state": (3,)}


KINDS = {
    "diffusion": ("TabulatedPath", "ParameterizedDenoiser", "ddpm", "DiffusionBC"),
    "flow": ("LinearPath", "ParameterizedDenoiser", "euler", "FlowBC"),
    "consistency": ("KarrasPath", "FlowMapDenoiser", "renoise", "ConsistencyBC"),
    "distilled": ("LinearPath", "FlowMapDenoiser", "renoise", "ConsistencyDistillation"),
}


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("of", ["robomimic_square_ph_diffusion_cnn", "robomimic_can_flow"])
def test_a_method_turns_any_experiment_into_one_of_another_kind(of, method):
    given = ["algorithm.teacher=x"] if method == "distilled" else []
    plain = compose_config("train", [f"experiment={of}"])
    config = compose_config("train", [f"experiment={of}", f"method={method}", *given])
    policy, algorithm = config["policy"], config["algorithm"]
    found = (
        policy["path"]["_target_"].split(".")[-1],
        policy["denoiser"]["_target_"].split(".")[-1],
        policy["sampler"]["rule"],
        algorithm["_target_"].split(".")[-1],
    )
    assert found == KINDS[method]
    for same in ("data", "optimizer", "trainer", "name"):
        assert config[same] == plain[same]
    assert policy["network"] == plain["policy"]["network"]
    assert config["run_dir"] != plain["run_dir"]


@pytest.mark.parametrize(("kind", "base"), [("twin", "td3_bc"), ("twin", "fql"), ("iql", "iql")])
def test_anchors_are_added_to_any_experiment(kind, base):
    assert set(option_names("cocoa")) == {"none", "twin", "iql"}
    given = [f"experiment=maze2d_umaze_{base}", f"cocoa={kind}", "cocoa.anchors=x"]
    config = compose_config("train", given)
    sizes = ("n_anchor_steps", "seeker_width", "n_models", "dynamics_width", "dynamics_layers")
    encoder = config["policy"]["encoder"]
    assert encoder["keys"] == ["state"]
    assert {k: config["critic"]["encoder"][k] for k in sizes} == {k: encoder[k] for k in sizes}
    assert config["critic"]["q"]["width"] == 128
    with pytest.raises(UsageError, match=r"cocoa\.anchors"):
        compose_config("train", given[:2])


@pytest.mark.parametrize("name", option_names("critic"))
def test_critics_list_every_setting_of_their_networks(name):
    config = _read("critic", name)
    if config.get("critic", 0) is None:
        return
    provided = {"n_obs_steps", "obs_dim", "n_actions", "action_dim"}
    for part in ("q", "value"):
        if config[part] is not None:
            parameters = set(inspect.signature(resolve_target(config[part]["_target_"])).parameters)
            assert set(config[part]) - {"_target_"} == parameters - provided
    assert set(config) == {"encoder", "q", "value", "aggregate"}


@pytest.mark.parametrize("name", [n for n in option_names("network")])
def test_every_network_builds_for_a_chunk(name):
    config = compose_config("train", [f"network={name}"])
    single = name == "anchors"  # dynamics are those of single steps
    spec = TaskSpec(
        task="pusht",
        obs_shapes={"a": (3,)},
        action_dim=2,
        n_obs_steps=1 if single else 2,
        horizon=1 if single else 16,
        n_action_steps=1 if single else 8,
    )
    small = {"dims": [8, 16, 24], "width": 16, "n_layers": 1}
    network = config["policy"]["network"]
    network.update({k: v for k, v in small.items() if k in network})
    assert (
        sum(
            p.numel()
            for p in build_policy(
                config["policy"], spec=spec, normalizer=_normalizer()
            ).parameters()
        )
        > 0
    )


def _normalizer():
    import numpy as np

    from genpolicy.data.episodes import DataSource, Episodes

    rng = np.random.default_rng(0)
    episodes = Episodes.from_arrays(
        obs={"a": rng.normal(size=(20, 3))},
        actions=rng.normal(size=(20, 2)),
        terminated=np.zeros(20, bool),
        truncated=np.zeros(20, bool),
        episode_ends=np.array([20]),
        source=DataSource(name="pusht", kind="generated"),
    )
    return Normalizer.fit(episodes)


def test_every_trainer_and_logger_composes():
    for name in option_names("trainer"):
        trainer = compose_config("train", [f"trainer={name}"])["trainer"]
        assert set(trainer) == set(compose_config("train", [])["trainer"])
    for name in option_names("logger"):
        assert set(compose_config("train", [f"logger={name}"])["logger"]) == {
            "tensorboard",
            "wandb",
        }


def test_the_wheel_ships_the_same_configs():
    text = (Path(configs_dir()).parent / "pyproject.toml").read_text()
    assert '"configs"' in text
