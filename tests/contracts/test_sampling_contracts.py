"""What every path, prediction type, rule and denoiser has to do; a new one adds its row here."""

import dataclasses
import inspect
import json
from typing import get_args

import pytest
import torch
from torch import nn

import genpolicy.denoisers
import genpolicy.paths
from genpolicy.config import build
from genpolicy.denoisers import (
    Denoiser,
    FlowMapDenoiser,
    ParameterizedDenoiser,
    TrajectoryDenoiser,
)
from genpolicy.paths import (
    CosinePath,
    KarrasPath,
    LinearPath,
    Path,
    Prediction,
    TabulatedPath,
    VPPath,
    check_prediction,
    convert,
    grid,
)
from genpolicy.sampling import RULES, Sampler, sample
from tests.oracles import GaussianDenoiser, GaussianFlowMap, sample_moments

PATHS = {
    "LinearPath": LinearPath(t_min=0.001, t_max=0.999),
    "CosinePath": CosinePath(),
    "VPPath": VPPath(),
    "KarrasPath": KarrasPath(),
    "TabulatedPath": TabulatedPath(),
}
PREDICTIONS = get_args(Prediction)
SCORE_RULES = [name for name in RULES if name != "renoise"]

# Error of the std that a rule reaches in 40 steps equal in log-SNR on Gaussian data of std 0.2, on
# any path. First-order rules narrow the data: that is their discretisation, not a fault.
LARGEST_STD_ERROR = {
    "ddim": 0.018,
    "euler": 0.018,
    "ddpm": 0.032,
    "heun": 0.003,
    "midpoint": 0.003,
    "dpmpp_2m": 0.003,
    "sde": 0.032,
}


def classes_of(package, protocol_names=("Path", "Denoiser", "TrackingDenoiser")):
    public = {name: getattr(package, name) for name in package.__all__}
    return {n: c for n, c in public.items() if inspect.isclass(c) and n not in protocol_names}


def test_every_public_path_is_in_the_table():
    found = {name for name in classes_of(genpolicy.paths) if name.endswith("Path")}
    assert found == set(PATHS)


def test_every_rule_is_in_the_table():
    assert set(LARGEST_STD_ERROR) == set(SCORE_RULES)


@pytest.mark.parametrize("name", PATHS)
def test_paths_are_paths_and_rebuild_from_json(name):
    path = PATHS[name]
    assert isinstance(path, Path)
    config = {"_target_": f"genpolicy.paths.{name}", **dataclasses.asdict(path)}
    assert build(json.loads(json.dumps(config))) == path
    assert hash(path) == hash(dataclasses.replace(path))


class Exact(nn.Module):
    """A network that predicts exactly for Gaussian data."""

    def __init__(self, path, predicts) -> None:
        super().__init__()
        self.path, self.predicts = path, predicts

    def forward(self, x, time, obs):
        t = time / 1000.0
        clean = GaussianDenoiser(self.path)(x, t)
        return convert(clean, x, t, path=self.path, predicts="clean", to=self.predicts)


@pytest.mark.parametrize("rule", SCORE_RULES)
@pytest.mark.parametrize("name", PATHS)
def test_every_rule_reproduces_gaussian_data_on_every_path(name, rule):
    path = PATHS[name]
    mean, std = sample_moments(GaussianDenoiser(path), grid(path, 40, "log_snr"), RULES[rule])
    assert mean == pytest.approx(0.5, abs=3e-3)
    assert std == pytest.approx(0.2, abs=LARGEST_STD_ERROR[rule])


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("name", PATHS)
def test_every_rule_gives_the_same_from_every_prediction(name, predicts):
    path = PATHS[name]
    check_prediction(path, predicts)
    denoiser = ParameterizedDenoiser(network=Exact(path, predicts), path=path, predicts=predicts)
    times = grid(path, 6, "log_snr")
    for rule in SCORE_RULES:
        expected = sample_moments(GaussianDenoiser(path), times, RULES[rule])
        assert sample_moments(denoiser, times, RULES[rule]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", PATHS)
def test_multistep_consistency_reproduces_gaussian_data(name):
    path = PATHS[name]
    for n_steps in (1, 2, 4):
        moments = sample_moments(
            GaussianFlowMap(path), grid(path, n_steps, "log_snr"), RULES["renoise"]
        )
        assert moments == pytest.approx((0.5, 0.2), abs=3e-3)


class RowNetwork(nn.Module):
    """Depends on all it sees, row by row, without a matrix product."""

    def forward(self, x, time, obs):
        level = time.reshape(len(x), -1).sum(1).reshape(-1, 1, 1) / 1000.0
        bias = 0.0 if obs is None else obs.mean((1, 2)).reshape(-1, 1, 1)
        return torch.tanh(x.roll(1, 1) + level + bias) - 0.3 * x


def all_denoisers() -> dict[str, Denoiser]:
    network = RowNetwork()
    made: dict[str, Denoiser] = {
        "edm": ParameterizedDenoiser(
            network=network, path=KarrasPath(), predicts="clean", precondition="edm"
        ),
        "flow map, none": FlowMapDenoiser(network=network, path=LinearPath(), boundary="none"),
        "flow map, linear": FlowMapDenoiser(network=network, path=LinearPath(), boundary="linear"),
    }
    for predicts in PREDICTIONS:
        made[predicts] = ParameterizedDenoiser(
            network=network, path=CosinePath(), predicts=predicts
        )
    for name, path in PATHS.items():
        made[f"flow map, {name}"] = FlowMapDenoiser(network=network, path=path)
        made[f"trajectory, {name}"] = TrajectoryDenoiser(network=network, path=path)
    return made


DENOISERS = all_denoisers()


def test_every_public_denoiser_is_in_the_table():
    kinds = {type(denoiser).__name__ for denoiser in DENOISERS.values()}
    modules = {n for n, c in classes_of(genpolicy.denoisers).items() if issubclass(c, nn.Module)}
    assert kinds == modules


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_denoisers_keep_shape_dtype_and_rows_apart(name, dtype):
    denoiser = DENOISERS[name]
    assert isinstance(denoiser, Denoiser)
    assert denoiser.kind in ("posterior_mean", "flow_map")
    path = denoiser.path
    x = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    t = torch.linspace(path.t_min + 0.01, path.t_max, 5, dtype=dtype)
    cond = torch.linspace(-1, 1, 5, dtype=dtype).reshape(5, 1, 1)
    out = denoiser(x, t, cond)
    assert out.shape == x.shape
    assert out.dtype == dtype
    assert bool(torch.isfinite(out).all())
    for rows in ([3], [4, 0]):
        assert torch.equal(denoiser(x[rows], t[rows], cond[rows]), out[rows])
    changed = cond.clone()
    changed[1] = 9.0
    moved = (denoiser(x, t, changed) != out).flatten(1).any(1)
    assert moved.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("rule", RULES)
def test_every_denoiser_under_every_rule_runs_or_says_why_not(name, rule):
    """Compatible pairs sample finite chunks with rows independent; others raise UsageError."""
    denoiser = DENOISERS[name]
    fits = (rule == "renoise") == (denoiser.kind == "flow_map")
    kind = "karras" if isinstance(denoiser.path, KarrasPath) else "uniform"
    sampler = Sampler(rule=rule, n_steps=3, grid=kind)
    cond = torch.zeros(3, 1, 2)
    run = {"horizon": 4, "action_dim": 2, "bounds": (-1.0, 1.0)}
    if not fits:
        with pytest.raises(genpolicy.errors.UsageError, match="does not fit"):
            sampler.run(denoiser, cond, seeds=[1, 2, 3], **run)
        return
    out = sampler.run(denoiser, cond, seeds=[1, 2, 3], **run)
    assert bool(torch.isfinite(out).all())
    assert out.abs().max() <= 1.0
    assert torch.equal(sampler.run(denoiser, cond[:1], seeds=[2], **run), out[1:2])


@pytest.mark.parametrize("name", PATHS)
def test_point_data_is_reached_exactly(name):
    """Where all clean actions are equal, every rule lands on them in any number of steps."""
    path = PATHS[name]
    oracle = GaussianDenoiser(path, mean=0.7, std=0.0)
    x = torch.randn(3, 4, 2, dtype=torch.float64)
    for rule in SCORE_RULES:
        noise = _Zeros()
        out = sample(oracle, x, grid(path, 3, "log_snr"), None, rule=RULES[rule], noise=noise)
        torch.testing.assert_close(out, torch.full_like(out, 0.7), atol=1e-9, rtol=0)


class _Zeros:
    def draw(self, index, *, stream=0):
        return torch.zeros(3, 4, 2, dtype=torch.float64)
