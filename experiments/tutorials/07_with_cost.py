# %% [markdown]
# # Cost: a policy that minds a constraint
#
# `compose.with_cost(policy, cost=C, scale=g)` is meant to sample `p exp(-g C)`: the policy's
# actions, leaning towards low cost. The cost is a differentiable function of the actions in
# *physical units* and of the observations; `compose.costs` has the usual ones. At each step the
# cost is evaluated at the denoised action, never at the noisy one. Without corrections the samples
# prefer low cost but not in the stated proportions; with MCMC steps they are those of the target.

# %%
import numpy as np
import robot
from toys import DIFFUSION, check_moments, check_share, gaussian, mixture, sample, sde, show

from genpolicy import compose
from genpolicy.evaluation.density_plots import draw_samples

LIMITS = np.array([[-2.0, -2.0], [2.0, 2.0]])

# %% [markdown]
# ## A waypoint: closed form
#
# `Waypoint` costs half the squared distance to a point, here (1, 0). With a policy `N(0, 0.5^2)`
# and scale 4 the target is Gaussian with precision `1/0.25 + 4 = 8`, mean `4/8 = 0.5` and variance
# 0.125.

# %%
policy = gaussian((0.0, 0.0), 0.5, DIFFUSION)
waypoint = compose.costs.Waypoint(point=(1.0, 0.0))
guided = compose.with_cost(policy, cost=waypoint, scale=4.0, sampler=sde())
print(compose.explain(guided))
plain = sample(guided)
print(f"without correction: mean {plain[:, 0].mean():.3f}, variance {plain[:, 0].var():.3f}")
corrector = {"corrector": "mala", "corrector_options": {"n_steps": 8, "step_size": 0.3}}
exact = compose.with_cost(policy, cost=waypoint, scale=4.0, sampler=sde(120), **corrector)
reached = sample(exact)
check_moments("waypoint, MALA, first entry", reached[:, 0], 0.5, 0.125)
check_moments("waypoint, MALA, second entry", reached[:, 1], 0.0, 0.125)

# %% [markdown]
# ## Keep out: an obstacle among the modes
#
# Four modes, and a disc of radius 0.6 that covers one of them half. `KeepOut` costs half the
# squared depth inside. The share of actions inside the disc under `p` and under `p exp(-g C)` is
# integrated on a grid.

# %%
corners = [(-0.8, -0.8), (-0.8, 0.8), (0.8, -0.8), (0.8, 0.8)]
four = mixture(corners, 0.3, path=DIFFUSION)
center, radius, scale = np.array([1.0, 1.0]), 0.6, 60.0
disc = compose.costs.KeepOut(center=tuple(center), radius=radius)


def density(points, g=scale):
    away = points[:, None] - np.asarray(corners)
    free = np.exp(-0.5 * (away**2).sum(-1) / 0.3**2).sum(1)
    depth = np.maximum(radius - np.linalg.norm(points - center, axis=1), 0.0)
    return free * np.exp(-0.5 * g * depth**2)


line = np.linspace(-2.5, 2.5, 601)
grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


def is_inside(points):
    return np.linalg.norm(points - center, axis=1) < radius


def share_inside(g):
    weights = density(grid, g)
    return float(weights[is_inside(grid)].sum() / weights.sum())


free = sample(four)
careful = sample(compose.with_cost(four, cost=disc, scale=scale, sampler=sde()))
corrected = sample(compose.with_cost(four, cost=disc, scale=scale, sampler=sde(120), **corrector))
check_share("inside, policy alone", is_inside(free), share_inside(0.0))
check_share("inside, MALA", is_inside(corrected), share_inside(scale))
print(f"inside, without correction: {is_inside(careful).mean():.3f}")
show(
    draw_samples(
        {"policy": free, "with cost": careful, "with cost + MALA": corrected},
        limits=LIMITS,
        density={"with cost": density, "with cost + MALA": density},
        marks=[tuple(center)],
    )
)

# %% [markdown]
# ## Push-T
#
# A disc of the table that the arm must not enter, where most chunks pass. The cost works in pixels;
# its scale is per squared pixel. `violation` measures the largest depth of every chunk.

# %%
situation = robot.scene()
if situation is not None:
    diffusion = robot.policy("diffusion")
    post = compose.costs.KeepOut(center=(230.0, 230.0), radius=35.0, margin=5.0)
    around = compose.with_cost(diffusion, cost=post, scale=0.02)
    chunks = robot.show_chunks(situation, {"diffusion": diffusion, "keep out": around})
    depth = {name: robot.depth_of(post, found, situation).mean() for name, found in chunks.items()}
    print(", ".join(f"{name}: mean depth {value:.1f} pixels" for name, value in depth.items()))
    assert depth["keep out"] < 0.5 * depth["diffusion"]
