"""Sampler: built from plain containers, rows, scales, bounds, counts, refusals."""

import dataclasses
import json

import pytest
import torch

from genpolicy.config import build
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, TabulatedPath, grid
from genpolicy.sampling import Pinned, RowNoise, Sampler, ddpm, sample
from tests.oracles import GaussianDenoiser, GaussianFlowMap
from tests.unchecked import unchecked

SHAPE = {"horizon": 4, "action_dim": 2}


def cond(n, dtype=torch.float64):
    return torch.zeros(n, 1, 3, dtype=dtype)


def test_it_is_built_from_json_and_back():
    sampler = Sampler(rule="ddim", rule_options={"eta": 0.5}, n_steps=7, grid="uniform")
    text = json.dumps({"_target_": "genpolicy.sampling.Sampler", **dataclasses.asdict(sampler)})
    assert build(json.loads(text)) == sampler
    explicit = build(
        {
            "_target_": "genpolicy.sampling.Sampler",
            "rule": "renoise",
            "n_steps": 2,
            "times": [1.0, 0.5, 0.0],
            "init_scale": 0.0125,
        }
    )
    assert explicit.times == (1.0, 0.5, 0.0)


def test_it_is_the_loop_with_named_parts():
    path = TabulatedPath(n_levels=20)
    oracle = GaussianDenoiser(path)
    seeds = [5, 6, 7]
    out = Sampler(rule="ddpm", n_steps=20, grid="levels").run(oracle, cond(3), seeds=seeds, **SHAPE)
    noise = RowNoise(seeds, (4, 2), dtype=torch.float64)
    sigma = path.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))[1].item()
    expected = sample(
        oracle, sigma * noise.draw(0), grid(path, 20, "levels"), cond(3), rule=ddpm, noise=noise
    )
    assert torch.equal(out, expected)


@pytest.mark.parametrize("rule", ["ddim", "ddpm", "heun", "dpmpp_2m"])
def test_a_row_does_not_depend_on_the_batch(rule):
    sampler = Sampler(rule=rule, n_steps=5)
    oracle = GaussianDenoiser(LinearPath())
    together = sampler.run(oracle, cond(8), seeds=range(8), bounds=(-1.0, 1.0), **SHAPE)
    for rows in ([2], [7, 2, 0]):
        seeds = [range(8)[row] for row in rows]
        alone = sampler.run(oracle, cond(len(rows)), seeds=seeds, bounds=(-1.0, 1.0), **SHAPE)
        assert torch.equal(alone, together[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_condition(dtype):
    out = Sampler(n_steps=2).run(
        GaussianDenoiser(LinearPath()), cond(2, dtype), seeds=[0, 1], **SHAPE
    )
    assert out.dtype == dtype
    assert out.shape == (2, 4, 2)


def test_without_a_condition_the_dtype_comes_from_elsewhere():
    oracle = GaussianDenoiser(LinearPath())
    assert Sampler().run(oracle, None, seeds=[0], **SHAPE).dtype == torch.float32
    like = torch.zeros(1, dtype=torch.float64)
    assert Sampler().run(oracle, None, seeds=[0], like=like, **SHAPE).dtype == torch.float64


def first_state(path, sampler, **options) -> torch.Tensor:
    states = []
    oracle = GaussianFlowMap(path, t_end=path.t_min)
    sampler.run(
        oracle, cond(1), seeds=[3], on_step=lambda s: states.append(s.x_t), **SHAPE, **options
    )
    return states[0]


def test_the_initial_noise_has_the_size_of_the_noise_end():
    noise = RowNoise([3], (4, 2), dtype=torch.float64).draw(0)
    karras = KarrasPath()
    first = first_state(karras, Sampler(rule="renoise", n_steps=1))
    torch.testing.assert_close(first, 80.0 * noise)
    small = Sampler(rule="renoise", n_steps=1, init_scale=1 / 80)
    torch.testing.assert_close(first_state(karras, small), noise)


def test_explicit_times_start_at_the_noise_of_their_first_time():
    noise = RowNoise([3], (4, 2), dtype=torch.float64).draw(0)
    karras = KarrasPath()
    t = karras.t_of_log_snr(-2 * torch.tensor(2.0, dtype=torch.float64).log()).item()
    sampler = Sampler(rule="renoise", n_steps=1, times=(t, 0.0))
    torch.testing.assert_close(first_state(karras, sampler), 2.0 * noise)
    # a leading grid starts below the noise end and still from its full noise, as diffusers does
    table = TabulatedPath()
    scale = table.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))[1]
    leading = Sampler(rule="renoise", n_steps=5, grid="leading")
    torch.testing.assert_close(first_state(table, leading), scale * noise)


def test_bounds_are_used_where_there_are_some():
    oracle = GaussianDenoiser(LinearPath(), mean=3.0)
    run = {"seeds": [0, 1], **SHAPE}
    for rule in ("ddim", "midpoint"):
        sampler = Sampler(rule=rule)
        assert sampler.run(oracle, cond(2), bounds=(-1.0, 1.0), **run).max() <= 1.0
        assert sampler.run(oracle, cond(2), **run).max() > 1.0
        free = dataclasses.replace(sampler, clip=False)
        assert free.run(oracle, cond(2), bounds=(-1.0, 1.0), **run).max() > 1.0
        late = dataclasses.replace(sampler, clip_denoised=False)
        expected = sampler.run(oracle, cond(2), **run).clamp(-1, 1)
        torch.testing.assert_close(late.run(oracle, cond(2), bounds=(-1.0, 1.0), **run), expected)


def test_known_entries_use_the_initial_noise():
    path = CosinePath()
    mask = torch.zeros(2, 4, 2, dtype=torch.bool)
    mask[:, 0] = True
    values = torch.full((2, 4, 2), 0.3, dtype=torch.float64)
    states = []
    sampler = Sampler(n_steps=3)
    out = sampler.run(
        GaussianDenoiser(path),
        cond(2),
        seeds=[1, 2],
        pinned=Pinned(values=values, mask=mask),
        on_step=lambda step: states.append(step),
        **SHAPE,
    )
    assert torch.equal(out[mask], values[mask])
    noise = RowNoise([1, 2], (4, 2), dtype=torch.float64).draw(0)
    alpha, sigma = path.alpha_sigma(torch.tensor(states[0].s, dtype=torch.float64))
    torch.testing.assert_close(states[0].x_s[mask], (alpha * values + sigma * noise)[mask])


@pytest.mark.parametrize(
    ("rule", "path", "expected"),
    [
        ("ddim", LinearPath(), 6),
        ("dpmpp_2m", LinearPath(), 6),
        ("heun", LinearPath(), 11),
        ("midpoint", LinearPath(), 12),
        ("renoise", KarrasPath(), 6),
    ],
)
def test_evaluations_are_counted(rule, path, expected):
    sampler = Sampler(rule=rule, n_steps=6)
    assert sampler.nfe(path) == expected
    calls = []
    base = GaussianFlowMap if rule == "renoise" else GaussianDenoiser

    class Spy(base):
        def __call__(self, x_t, t, cond=None):
            calls.append(t)
            return super().__call__(x_t, t, cond)

    sampler.run(Spy(path), cond(1), seeds=[0], **SHAPE)
    assert len(calls) == expected


def test_one_consistency_step_and_three_of_consistency_policy():
    path = KarrasPath(sigma_min=0.02)
    preset = [1 + b / 79 * (path.t_min - 1) for b in (0, 27, 54)]
    sampler = Sampler(rule="renoise", n_steps=3, times=[*preset, 0.0], init_scale=1 / 80)
    sigma = path.alpha_sigma(torch.tensor(sampler.times_on(path), dtype=torch.float64))[1]
    assert sigma.tolist() == pytest.approx([80, 12.014783, 0.885024, 0.0], rel=1e-6)
    out = sampler.run(GaussianFlowMap(path, t_end=path.t_min), cond(2), seeds=[0, 1], **SHAPE)
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "dpm"}, "did you mean"),
        ({"rule": "euler", "rule_options": {"eta": 1.0}}, "rule 'euler' has no option 'eta'"),
        ({"n_steps": 0}, "n_steps is 0, expected at least 1"),
        ({"n_steps": -1}, "n_steps is -1"),
        ({"grid": "karas"}, "did you mean 'karras'"),
        ({"grid_options": {"rho": 7.0}}, "grid 'uniform' has no option 'rho'"),
        ({"times": (1.0, 0.0)}, "set n_steps=1, or times=None"),
        ({"init_scale": -1.0}, "init_scale is -1.0"),
        ({"init_scale": float("nan")}, "init_scale is nan"),
    ],
)
def test_settings_that_make_no_sampler_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Sampler(**settings)


@pytest.mark.parametrize(
    ("sampler", "denoiser", "message"),
    [
        (Sampler(n_steps=101, grid="levels"), GaussianDenoiser(TabulatedPath()), "only 100 levels"),
        (Sampler(grid="levels"), GaussianDenoiser(LinearPath()), "needs a TabulatedPath"),
        (Sampler(grid="karras"), GaussianDenoiser(LinearPath()), "positive and finite"),
        (Sampler(n_steps=2), GaussianFlowMap(LinearPath()), "use rule='renoise'"),
        (Sampler(rule="renoise"), GaussianDenoiser(LinearPath()), "use rule='ddim'"),
        (
            Sampler(n_steps=1, times=(0.999, 0.0)),
            GaussianDenoiser(CosinePath()),
            "leave the range",
        ),
    ],
)
def test_samplers_that_do_not_fit_the_denoiser_are_refused(sampler, denoiser, message):
    with pytest.raises(UsageError, match=message):
        sampler.run(denoiser, cond(1), seeds=[0], **SHAPE)


def test_one_step_of_a_flow_map_needs_no_special_rule():
    flow_map = GaussianFlowMap(LinearPath())
    runs = [
        Sampler(rule=rule, n_steps=1).run(flow_map, cond(2), seeds=[0, 1], **SHAPE)
        for rule in ("ddim", "renoise")
    ]
    assert torch.equal(*runs)


def test_seeds_and_conditions_have_to_be_as_many():
    with pytest.raises(UsageError, match="got 3 seeds for 2 conditions"):
        Sampler().run(GaussianDenoiser(LinearPath()), cond(2), seeds=[0, 1, 2], **SHAPE)


def test_the_number_of_steps_can_be_replaced():
    sampler = Sampler(n_steps=10)
    assert dataclasses.replace(sampler, n_steps=3).times_on(LinearPath()) == pytest.approx(
        (1.0, 2 / 3, 1 / 3, 0.0)
    )
    with pytest.raises(UsageError, match="n_steps is 0"):
        dataclasses.replace(sampler, n_steps=0)


def test_unknown_settings_are_refused_by_the_builder():
    with pytest.raises(UsageError, match="did you mean 'n_steps'"):
        build({"_target_": "genpolicy.sampling.Sampler", "n_step": 3})
    with pytest.raises(TypeError):
        unchecked(Sampler)(n_step=3)
