"""The same network under our rules and under the schedulers of diffusers.

The network is float64. The beta tables of diffusers are float32; where a scheduler keeps its tables
in double after we ask it to, results agree to 1e-9, and otherwise to its own rounding: 2e-5 for
float32 sigmas and tables.
"""

import itertools

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, LinearPath, TabulatedPath, from_diffusers, grid
from genpolicy.sampling import (
    clip_to,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    make_rule,
    sample,
    sample_with_scheduler,
)
from tests.oracles import GaussianDenoiser, GaussianFlowMap

N_LEVELS = 100
EXACT = {"atol": 1e-9, "rtol": 1e-9}
ROUNDED = {"atol": 2e-5, "rtol": 2e-5}
PREDICTIONS = [("epsilon", "noise"), ("sample", "clean"), ("v_prediction", "v")]


class SmallNetwork(nn.Module):
    """A smooth random function of state and level."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.inner = torch.randn(8, 3, generator=draw, dtype=torch.float64) / 2
        self.outer = torch.randn(2, 8, generator=draw, dtype=torch.float64) / 3

    def forward(self, x, time, obs=None):
        level = (time / N_LEVELS).reshape(-1, 1, 1).expand(*x.shape[:2], 1)
        return torch.tanh(torch.cat([x, level], -1) @ self.inner.T) @ self.outer.T


NETWORK = SmallNetwork()


def ours(path, predicts) -> ParameterizedDenoiser:
    return ParameterizedDenoiser(
        network=NETWORK, path=path, predicts=predicts, time_scale=float(N_LEVELS), time_shift=-1.0
    )


def start(seed=1) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 2, generator=draw, dtype=torch.float64)


def in_double(scheduler):
    """Let a scheduler with a table of cumulative products compute it in double."""
    betas = torch.tensor(from_diffusers(scheduler).path.beta_table(), dtype=torch.float64)
    scheduler.betas = betas
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def theirs(scheduler, n_steps, x, **step) -> torch.Tensor:
    """The plain diffusers loop on the bare network."""
    scheduler.set_timesteps(n_steps)
    for level in scheduler.timesteps:
        time = torch.full((len(x),), float(level), dtype=torch.float64)
        x = scheduler.step(NETWORK(x, time), level, x, **step).prev_sample
    return x


class Replay:
    """Noise drawn beforehand."""

    def __init__(self, draws: list[torch.Tensor]) -> None:
        self.draws = draws

    def draw(self, index, *, stream=0):
        return self.draws[index - 1]


def generator_noise(n) -> Replay:
    """What a scheduler draws from a generator seeded with 5."""
    draw = torch.Generator().manual_seed(5)
    shape = (3, 4, 2)
    return Replay([torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(n)])


def options(**more):
    return {
        "num_train_timesteps": N_LEVELS,
        "beta_schedule": "squaredcos_cap_v2",
        "clip_sample": False,
    } | more


@pytest.mark.parametrize(("name", "predicts"), PREDICTIONS)
@pytest.mark.parametrize(("n_steps", "clip"), [(100, False), (10, False), (10, True)])
def test_ddpm(name, predicts, n_steps, clip):
    scheduler = in_double(DDPMScheduler(**options(prediction_type=name, clip_sample=clip)))
    expected = theirs(scheduler, n_steps, start(), generator=torch.Generator().manual_seed(5))
    path = from_diffusers(scheduler).path
    constrain = clip_to((-1.0, 1.0)) if clip else None
    times = grid(path, n_steps, "leading")
    got = sample(
        ours(path, predicts),
        start(),
        times,
        None,
        rule=ddpm,
        noise=generator_noise(n_steps),
        constrain=constrain,
    )
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize(("name", "predicts"), PREDICTIONS)
@pytest.mark.parametrize(
    ("spacing", "kind"), [("leading", "leading"), ("trailing", "levels"), ("linspace", "linspace")]
)
def test_ddim(name, predicts, spacing, kind):
    scheduler = in_double(DDIMScheduler(**options(prediction_type=name, timestep_spacing=spacing)))
    path = from_diffusers(scheduler).path
    # diffusers steps from every level by N // n, whatever the spacing: compare where that agrees
    n_steps = 10 if spacing != "linspace" else 100
    expected = theirs(scheduler, n_steps, start())
    got = sample(ours(path, predicts), start(), grid(path, n_steps, kind), None, rule=ddim)
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta):
    scheduler = in_double(DDIMScheduler(**options()))
    path = from_diffusers(scheduler).path
    generator = torch.Generator().manual_seed(5)
    expected = theirs(scheduler, 10, start(), eta=eta, generator=generator)
    got = sample(
        ours(path, "noise"),
        start(),
        grid(path, 10, "leading"),
        None,
        rule=make_rule("ddim", {"eta": eta}),
        noise=generator_noise(10),
    )
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_ddim_on_other_tables(schedule):
    config = options(beta_schedule=schedule, beta_start=0.001, beta_end=0.05)
    scheduler = in_double(DDIMScheduler(**config))
    path = from_diffusers(scheduler).path
    expected = theirs(scheduler, 20, start())
    got = sample(ours(path, "noise"), start(), grid(path, 20, "leading"), None, rule=ddim)
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "predicts"), PREDICTIONS)
@pytest.mark.parametrize("n_steps", [5, 25])
def test_dpm_solver_plus_plus(name, predicts, n_steps):
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=N_LEVELS,
        beta_schedule="linear",
        beta_start=0.001,
        beta_end=0.05,
        prediction_type=name,
        solver_order=2,
    )
    expected = theirs(scheduler, n_steps, start())
    path = from_diffusers(scheduler).path
    levels = scheduler.timesteps.tolist()
    times = [path.time_of_level(k) for k in levels] + [0.0]
    got = sample(ours(path, predicts), start(), times, None, rule=dpmpp_2m)
    torch.testing.assert_close(got, expected, **ROUNDED)


@pytest.mark.parametrize("n_steps", [1, 4, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler(n_steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=N_LEVELS, shift=shift)
    expected = theirs(scheduler, n_steps, start())
    denoiser = ParameterizedDenoiser(
        network=NETWORK, path=LinearPath(), predicts="velocity", time_scale=float(N_LEVELS)
    )
    times = scheduler.sigmas.tolist()
    got = sample(denoiser, start(), times, None, rule=euler)
    torch.testing.assert_close(got, expected, **ROUNDED)


# --- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_tables_are_those_of_the_scheduler(make, schedule):
    scheduler = make(num_train_timesteps=50, beta_schedule=schedule, beta_start=1e-3, beta_end=0.03)
    for source in (scheduler, {**scheduler.config, "_class_name": make.__name__}):
        settings = from_diffusers(source)
        assert settings.predicts == "noise"
        betas = torch.tensor(settings.path.beta_table())
        torch.testing.assert_close(betas, scheduler.betas, atol=1e-7, rtol=2e-6)


@pytest.mark.parametrize(("name", "predicts"), PREDICTIONS)
def test_prediction_types(name, predicts):
    assert from_diffusers(DDIMScheduler(prediction_type=name)).predicts == predicts


def test_trained_betas_and_flows():
    trained = from_diffusers(DDPMScheduler(trained_betas=[0.1, 0.2, 0.4])).path
    assert trained == TabulatedPath(betas=(0.1, 0.2, 0.4))
    flow = from_diffusers(FlowMatchEulerDiscreteScheduler())
    assert (flow.path, flow.predicts) == (LinearPath(), "velocity")
    mixed = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    assert from_diffusers(mixed) == flow


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DDIMScheduler(rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
        (DDPMScheduler(beta_schedule="sigmoid"), "beta_schedule is 'sigmoid'"),
        (EDMEulerScheduler(), "precondition='edm'"),
        ({"beta_schedule": "linear", "prediction_type": "eps"}, "prediction_type is 'eps'"),
        ({}, "beta_schedule is None"),
        (nn.Linear(1, 1), "got Linear, expected a diffusers scheduler"),
    ],
)
def test_schedulers_that_are_no_path_of_ours_are_refused(source, message):
    with pytest.raises(UsageError, match=message):
        from_diffusers(source)


# --- the adapter ----------------------------------------------------------------------------------


def test_the_adapter_is_the_plain_loop():
    scheduler = DDIMScheduler(**options())
    expected = theirs(DDIMScheduler(**options()), 10, start())
    path = from_diffusers(scheduler).path
    got = sample_with_scheduler(ours(path, "noise"), scheduler, start(), None, n_steps=10)
    torch.testing.assert_close(got, expected, **ROUNDED)
    assert scheduler.num_inference_steps is None  # it is left as it was


SCHEDULERS = [
    (DDPMScheduler, dict(clip_sample=False), 200),
    (DDIMScheduler, dict(clip_sample=False, timestep_spacing="trailing"), 50),
    (DPMSolverMultistepScheduler, dict(), 25),
    (DPMSolverMultistepScheduler, dict(prediction_type="v_prediction"), 25),
    (UniPCMultistepScheduler, dict(), 25),
    (DEISMultistepScheduler, dict(), 25),
    (PNDMScheduler, dict(skip_prk_steps=True), 50),
    (EulerDiscreteScheduler, dict(), 50),
    (EulerDiscreteScheduler, dict(prediction_type="v_prediction"), 50),
    (EulerAncestralDiscreteScheduler, dict(), 200),
    (HeunDiscreteScheduler, dict(), 25),
    (FlowMatchEulerDiscreteScheduler, dict(), 50),
    (FlowMatchHeunDiscreteScheduler, dict(), 25),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "settings", "n_steps"),
    SCHEDULERS,
    ids=[f"{i}-{make.__name__}" for i, (make, *_) in enumerate(SCHEDULERS)],
)
def test_gaussian_data_under_any_scheduler(make, settings, n_steps):
    """Initial noise of mean 0 and std 1 in the sample; what is left is their discretisation."""
    scheduler = make(**settings)
    denoiser = GaussianDenoiser(from_diffusers(scheduler).path, mean=0.3, std=0.5)
    noise = torch.randn(1000, 8, 2, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean()) / noise.std()
    torch.manual_seed(0)  # some of these schedulers draw from the global generator
    out = sample_with_scheduler(denoiser, scheduler, noise, None, n_steps=n_steps)
    assert out.mean().item() == pytest.approx(0.3, abs=0.015)
    assert out.std().item() == pytest.approx(0.5, abs=0.035)


def test_rows_keep_their_own_generators():
    scheduler = DDPMScheduler(**options())
    denoiser = GaussianDenoiser(from_diffusers(scheduler).path)
    noise = start().float()

    def run(rows):
        generators = [torch.Generator().manual_seed(10 + row) for row in rows]
        return sample_with_scheduler(
            denoiser, scheduler, noise[rows], None, n_steps=10, generators=generators
        )

    assert torch.equal(run([0, 1, 2])[[2, 0]], run([2, 0]))


def test_step_options_are_passed_on():
    scheduler = DDIMScheduler(**options())
    denoiser = GaussianDenoiser(from_diffusers(scheduler).path)
    generators = [torch.Generator().manual_seed(row) for row in range(3)]
    arguments = (denoiser, scheduler, start().float(), None)
    still = sample_with_scheduler(*arguments, n_steps=5)
    moved = sample_with_scheduler(
        *arguments, n_steps=5, generators=generators, step_options={"eta": 1.0}
    )
    assert not torch.allclose(still, moved)


def test_our_cosine_path_may_drive_their_squared_cosine_table_up_to_its_cap():
    scheduler = DDIMScheduler(**options())
    denoiser = GaussianDenoiser(CosinePath())
    table = GaussianDenoiser(from_diffusers(scheduler).path)
    both = [
        sample_with_scheduler(d, scheduler, start(), None, n_steps=10) for d in (denoiser, table)
    ]
    torch.testing.assert_close(*both, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("denoiser", "n_steps", "message"),
    [
        (GaussianDenoiser(LinearPath()), 10, "differ by .* use the path of from_diffusers"),
        (GaussianFlowMap(CosinePath()), 10, "expected 'posterior_mean'"),
        (GaussianDenoiser(CosinePath()), 0, "n_steps is 0"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(denoiser, n_steps, message):
    with pytest.raises(UsageError, match=message):
        sample_with_scheduler(denoiser, DDIMScheduler(), start(), None, n_steps=n_steps)


def test_our_ddim_on_their_path_is_their_ddim():
    """From a scheduler alone: its path, its prediction type, and the same samples."""
    for config in itertools.starmap(
        lambda schedule, name: options(beta_schedule=schedule, prediction_type=name),
        itertools.product(["linear", "squaredcos_cap_v2"], ["epsilon", "v_prediction"]),
    ):
        scheduler = DDIMScheduler(**config)
        settings = from_diffusers(scheduler)
        got = sample(
            ours(settings.path, settings.predicts),
            start(),
            grid(settings.path, 10, "leading"),
            None,
            rule=ddim,
        )
        expected = theirs(scheduler, 10, start())
        torch.testing.assert_close(got, expected, **ROUNDED)
