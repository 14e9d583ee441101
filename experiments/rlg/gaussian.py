"""Which samplers of guidance reach the optimum for beta/w? Gaussians, where it is known.

    python experiments/rlg/gaussian.py

Base N(0, 1), tuned N(1, 1/4) (a quadratic reward), scale 2: the optimum for beta/2 is
N(8/7, 1/7). And the linear reward, base N(0, 1), tuned N(1, 1): N(2, 1). Writes gaussian.csv.
"""

import csv
from pathlib import Path

import torch

from genpolicy.composition import Particles, rl_guidance
from genpolicy.paths import KarrasPath, expand_t, grid
from genpolicy.sampling import make_corrector, make_rule, sample

HERE = Path(__file__).parent
PATH = KarrasPath(sigma_max=80.0)
N_ROWS, N_STEPS = 40_000, 400


class Gaussian:
    """The exact denoiser of N(mean, std^2)."""

    kind = "posterior_mean"
    path = PATH

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, x_t, t, cond=None):
        """Return E[clean | x_t]."""
        alpha, sigma = (expand_t(v, x_t) for v in self.path.alpha_sigma(t))
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)


class Noise:
    """Normals by index and stream."""

    def draw(self, index: int, *, stream: int = 0) -> torch.Tensor:
        """Return the noise of one step."""
        generator = torch.Generator().manual_seed(1_000_003 * index + stream)
        return torch.randn(N_ROWS, 1, 1, generator=generator, dtype=torch.float64)


def run(guided, *, churn: float, corrector: str | None = None, particles: bool = False):
    """Return mean and variance of the samples."""
    times = grid(PATH, N_STEPS, "log_snr")
    noise = Noise()
    if particles:

        def uniform(index: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(7_919 + index)
            return torch.rand(1, generator=generator, dtype=torch.float64)

        guided = Particles(inner=guided, n_particles=N_ROWS, uniform=uniform)
    out = sample(
        guided,
        PATH.alpha_sigma(times[0])[1] * noise.draw(0),
        times,
        None,
        rule=make_rule("sde", {"churn": churn}),
        noise=noise,
        correct=None if corrector is None else make_corrector(corrector),
    )
    return out.mean().item(), out.var().item()


def main() -> None:
    """Write the table."""
    cases = {
        "quadratic": (rl_guidance(Gaussian(0, 1), Gaussian(1, 0.5), scale=2.0), (8 / 7, 1 / 7)),
        "linear": (rl_guidance(Gaussian(0, 1), Gaussian(1, 1), scale=2.0), (2.0, 1.0)),
    }
    samplers = {
        "ODE": {"churn": 0.0},
        "SDE, churn 1": {"churn": 1.0},
        "SDE, churn 10": {"churn": 10.0},
        "SDE, churn 1, HMC": {"churn": 1.0, "corrector": "hmc"},
        "SDE, churn 1, particles": {"churn": 1.0, "particles": True},
    }
    rows = []
    for reward, (guided, target) in cases.items():
        for name, settings in samplers.items():
            mean, variance = run(guided, **settings)
            rows.append(
                {
                    "reward": reward,
                    "sampler": name,
                    "mean": f"{mean:.3f}",
                    "variance": f"{variance:.4f}",
                    "target_mean": f"{target[0]:.3f}",
                    "target_variance": f"{target[1]:.4f}",
                }
            )
            print(rows[-1], flush=True)
    with open(HERE / "gaussian.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
