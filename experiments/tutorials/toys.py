"""What the tutorials share: exact policies in the plane, checks of numbers, pictures.

A toy policy is a mixture of Gaussians, whose denoiser is known exactly on every path, so nothing is
trained and every number has a true value. With r = sigma/alpha, y = x_t/alpha and independent
entries N(m, s^2)::

    E[clean | y] = m + s^2/(s^2 + r^2) (y - m)

and a mixture averages this over its components with their posterior probabilities.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from genpolicy.composition import Particles
from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.evaluation.plot_style import png
from genpolicy.paths import KarrasPath, LinearPath, VPPath, expand_t
from genpolicy.policies import ComposedPolicy
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.sampling import RowNoise, Sampler
from genpolicy.seeding import derive_seed
from genpolicy.shapes import TaskSpec

FAST = os.environ.get("GENPOLICY_TUTORIALS") == "fast"
"""Fewer samples and steps, with wider tolerances: for the tests."""

N = 1000 if FAST else 8000
"""Samples of every experiment."""

SCALE = 0.3 if FAST else 1.0
"""Factor of all numbers of steps."""

BIAS = 0.09 if FAST else 0.03
"""What the finite steps of a sampler may add to a variance, as a part of it."""

DIFFUSION = VPPath()
FLOW = LinearPath(t_min=0.002, t_max=0.99)
EXPLODING = KarrasPath(sigma_max=80.0)
"""Paths: variance-preserving diffusion, flow matching, and the variance-exploding one of EDM."""


def ode(n_steps: int = 200) -> Sampler:
    """Return a deterministic sampler."""
    return Sampler(rule="ddim", n_steps=round(SCALE * n_steps), grid="log_snr")


def sde(n_steps: int = 500, churn: float = 1.0) -> Sampler:
    """Return a stochastic sampler; churn 1 is DDPM's ancestral one."""
    steps = round(SCALE * n_steps)
    if churn == 1.0:
        return Sampler(rule="ddpm", n_steps=steps, grid="log_snr")
    return Sampler(rule="sde", rule_options={"churn": churn}, n_steps=steps, grid="log_snr")


class GaussianMixture:
    """The exact denoiser of a mixture of Gaussians with independent entries.

    Args:
        path: path of the inputs.
        means, stds: ``(component, horizon, action)``; or with a batch axis in front.
        weights: one per component, with sum 1.
    """

    kind: ClassVar[str] = "posterior_mean"

    def __init__(self, path: Any, means: Tensor, stds: Tensor, weights: Tensor) -> None:
        self.path, self.means, self.stds, self.weights = path, means, stds, weights

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = (expand_t(v, x_t)[:, None] for v in self.path.alpha_sigma(t))
        means, variances = self.means.to(x_t.dtype), self.stds.to(x_t.dtype).square()
        spread = alpha.square() * variances + sigma.square()
        away = x_t[:, None] - alpha * means
        log_joint = -0.5 * (away.square() / spread + spread.log()).flatten(2).sum(2)
        chance = (log_joint + self.weights.to(x_t.dtype).log()).softmax(1)[:, :, None, None]
        return (chance * (means + alpha * variances / spread * away)).sum(1)


class GaussianFlowMap:
    """The exact consistency function of a Gaussian: the end of the ODE through x_t."""

    kind: ClassVar[str] = "flow_map"

    def __init__(self, path: Any, mean: Tensor, std: Tensor) -> None:
        self.path, self.mean, self.std = path, mean, std

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = (expand_t(v, x_t) for v in self.path.alpha_sigma(t))
        spread = (alpha.square() * self.std.square() + sigma.square()).sqrt()
        return self.mean + self.std / spread * (x_t - alpha * self.mean)


class ToyPolicy(DenoisingPolicy):
    """A policy with an exact denoiser; its observation is one number that does not matter."""

    def __init__(
        self,
        denoiser: Any,
        *,
        horizon: int = 1,
        action_dim: int = 2,
        center: float = 0.0,
        span: float | Sequence[float] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sampler = ode() if sampler is None else sampler
        self.rows_per_block = N
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)  # knows the device
        self.spec = TaskSpec(
            task="toy",
            obs_shapes={"situation": (1,)},
            action_dim=action_dim,
            n_obs_steps=1,
            horizon=horizon,
            n_action_steps=1,
        )
        middle = np.full(action_dim, center, np.float32)
        width = np.broadcast_to(1.0 if span is None else span, action_dim).astype(np.float32)
        mode = "identity" if span is None else "mean_std"
        action = FieldStats(mode, middle - width, middle + width, middle, width)
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        self.normalizer = Normalizer(
            action=action, obs={"situation": FieldStats("identity", zero, one, zero, one)}
        )

    @property
    def path(self) -> Any:
        return self.denoiser.path

    @property
    def kind(self) -> Any:
        return self.denoiser.kind

    def bind(self, obs: Any) -> Any:
        return self.denoiser

    def with_sampler(self, **changes: Any) -> DenoisingPolicy:
        raise NotImplementedError("give the composition its sampler")


def gaussian(mean: Any, std: Any, path: Any = DIFFUSION, **settings: Any) -> ToyPolicy:
    """Return the policy N(mean, std^2): numbers, or one per action entry."""
    return mixture([mean], std, path=path, **settings)


def mixture(
    means: Sequence[Any],
    std: Any,
    weights: Sequence[float] | None = None,
    *,
    path: Any = DIFFUSION,
    **settings: Any,
) -> ToyPolicy:
    """Return a mixture of Gaussians, the same at every step of the chunk."""
    shape = (settings.get("horizon", 1), settings.get("action_dim", 2))
    centers = torch.stack([torch.as_tensor(m, dtype=torch.float64).expand(shape) for m in means])
    widths = torch.as_tensor(std, dtype=torch.float64).expand(centers.shape)
    shares = torch.full((len(means),), 1 / len(means)) if weights is None else torch.tensor(weights)
    return ToyPolicy(GaussianMixture(path, centers, widths, shares.double()), **settings)


class GoalPolicy(ToyPolicy):
    """A policy that sees a goal ``(2,)``: each entry of the action is N(goal, std^2), N(0, 1) where
    that entry of the goal is NaN, which stands for "no condition"."""

    def __init__(self, std: float, path: Any = DIFFUSION) -> None:
        nothing = torch.zeros(1, 1, 2)
        super().__init__(GaussianMixture(path, nothing, nothing + 1.0, torch.ones(1)))
        self.std = std
        shapes = {"situation": (1,), "goal": (2,)}
        self.spec = dataclasses.replace(self.spec, obs_shapes=shapes)

    def bind(self, obs: Any) -> GaussianMixture:
        goal = obs["goal"][:, -1, None, None]  # (batch, component, horizon, action)
        means = goal.nan_to_num(0.0)
        stds = torch.where(goal.isnan(), 1.0, self.std)
        return GaussianMixture(self.path, means, stds, torch.ones(1))


def situation(n: int = N) -> dict[str, Tensor]:
    """Return observations: toy policies do not look at them."""
    return {"situation": torch.zeros(n, 1, 1)}


def sample(policy: DenoisingPolicy) -> np.ndarray:
    """Return ``N`` samples of the first action, ``(N, action)``."""
    return policy.sample(situation(), seeds=range(N))[:, 0].numpy()


def sample_particles(policy: ComposedPolicy, n_particles: int = 500) -> np.ndarray:
    """Return about ``N`` particles of a composition, in groups that do not know of each other.

    A policy with ``n_particles`` returns one fair draw of a group, which is what a robot needs. For
    moments all of a group count, since they are exchangeable.
    """
    groups = max(N // n_particles, 1)
    uniforms = RowNoise([derive_seed(0, "resample", g) for g in range(groups)], (1, 1))
    bound = policy.bind(situation(groups * n_particles))
    crowd = Particles(
        inner=bound,
        n_particles=n_particles,
        uniform=lambda k: torch.special.ndtr(uniforms.draw(k).double()).reshape(-1),
    )
    with torch.no_grad():
        chunk = policy.sampler.run(
            crowd, None, seeds=range(groups * n_particles), horizon=1, action_dim=2
        )
    return policy.normalizer.denormalize_action(chunk)[:, 0].numpy()


def normal(mean: Any, variance: Any) -> Any:
    """Return the density of a Gaussian with independent entries, for pictures."""
    m, v = np.asarray(mean, float), np.asarray(variance, float)

    def density(points: np.ndarray) -> np.ndarray:
        away = np.atleast_1d(points - m) ** 2 / v
        return np.exp(-0.5 * (away.sum(-1) if away.ndim > 1 else away))

    return density


def moments_of_sampler(
    means: Sequence[float],
    stds: Sequence[float],
    weights: Sequence[float],
    churn: float,
    sigma_max: float = 80.0,
) -> tuple[float, float]:
    """Return mean and variance that a sampler with infinitely small steps ends with.

    Members N(m_i, s_i^2) of one action entry, in variance-exploding coordinates, where the score of
    the composition is S = sum_i w_i (m_i - y)/(s_i^2 + sigma^2) and the sampler follows, with
    falling sigma, dy = -(1 + churn) sigma S dsigma plus noise of variance 2 churn sigma |dsigma|::

        dm/dsigma = (1 + churn) sigma sum_i w_i (m - m_i)/(s_i^2 + sigma^2)
        dV/dsigma = 2 (1 + churn) sigma V sum_i w_i/(s_i^2 + sigma^2) - 2 churn sigma
    """
    m, s2, w = (np.asarray(v, float) for v in (means, np.square(stds), weights))

    def slope(log_sigma: float, state: np.ndarray) -> list[float]:
        square = np.exp(2.0 * log_sigma)
        pull = (1.0 + churn) * square * w / (s2 + square)
        return [
            float((pull * (state[0] - m)).sum()),
            float(2.0 * state[1] * pull.sum() - 2.0 * churn * square),
        ]

    ends = np.log(sigma_max), np.log(1e-5)
    start = [0.0, sigma_max**2 / w.sum()]
    end = solve_ivp(slope, ends, start, method="LSODA", rtol=1e-9, atol=1e-12).y[:, -1]
    return float(end[0]), float(end[1])


def check(name: str, measured: float, expected: float, tolerance: float) -> None:
    """Print a number next to its closed form, and fail where they differ by more than allowed."""
    print(f"{name:<46} {measured:8.4f}   expected {expected:8.4f}   within {tolerance:.4f}")
    record = os.environ.get("GENPOLICY_TUTORIALS_CSV")
    if record:
        script = os.environ.get("GENPOLICY_TUTORIALS_NAME", "")
        with open(record, "a", newline="", encoding="utf-8") as file:
            row = [script, name, f"{measured:.4f}", f"{expected:.4f}", f"{tolerance:.4f}"]
            csv.writer(file, lineterminator="\n").writerow(row)
    if not abs(measured - expected) <= tolerance:
        raise AssertionError(f"{name}: {measured} is not within {tolerance} of {expected}")


def check_moments(
    name: str, values: np.ndarray, mean: float, variance: float, *, bias: float = BIAS
) -> None:
    """Check mean and variance of one action entry, up to 4 standard errors.

    Args:
        name: what the samples are.
        values: ``(n,)``.
        mean, variance: the true ones.
        bias: allowed besides, as a part of the variance; half of it of the std for the mean.
    """
    n, std = len(values), np.sqrt(variance)
    check(f"{name}: mean", float(values.mean()), mean, std * (4 / np.sqrt(n) + 0.5 * bias))
    slack = variance * (4 * np.sqrt(2 / n) + bias)
    check(f"{name}: variance", float(values.var()), variance, slack)


def check_share(name: str, is_there: np.ndarray, share: float, *, bias: float = BIAS) -> None:
    """Check a fraction of the samples, up to 4 standard errors and ``bias / 4``."""
    slack = 4 * np.sqrt(share * (1 - share) / len(is_there)) + bias / 4
    check(name, float(is_there.mean()), share, slack)


def show(figure: Figure) -> None:
    """Show a figure in a notebook; elsewhere there is no screen to show it on."""
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.display import Image, display

        if get_ipython() is not None:
            display(Image(png(figure)))
