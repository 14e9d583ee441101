# %% [markdown]
# # Mean: several policies vote with their scores
#
# `compose.mean([a, b], weights=[w, 1 - w])` follows `w` times the score of `a` plus `1 - w` times
# that of `b` at every step (General Policy Composition, arXiv 2510.01068). The weights are at least
# 0 and sum to 1. What is *meant* is the geometric mean of the densities, `p_a^w p_b^(1-w)`. What a
# sampler *returns* is that only where the members have equal widths. This page shows all three
# cases: where it is exact, where it is off by a known amount, and where it puts actions at a place
# that no member would ever choose.
#
# The toy policies are exact: mixtures of Gaussians in the plane, on three different noising paths.

# %%
import numpy as np
import robot
import torch
from toys import (
    DIFFUSION,
    EXPLODING,
    FLOW,
    check,
    check_moments,
    check_share,
    gaussian,
    mixture,
    moments_of_sampler,
    normal,
    ode,
    sample,
    sde,
    show,
)

from genpolicy import compose
from genpolicy.evaluation.density_plots import draw_marginals, draw_samples

LIMITS = np.array([[-3.0, -2.0], [3.0, 2.0]])

# %% [markdown]
# ## Equal widths: exact with every sampler
#
# Two policies `N(-1, 0.5^2)` and `N(1, 0.5^2)` in the first entry, one trained as a diffusion model
# and one as a flow. Their geometric mean with equal weights is `N(0, 0.5^2)`: the means are
# averaged, the variance of 0.25 stays.

# %%
left = gaussian((-1.0, 0.0), 0.5, DIFFUSION)
right = gaussian((1.0, 0.0), 0.5, FLOW)
both = compose.mean([left, right], weights=[0.5, 0.5], sampler=ode())
print(compose.explain(both))

# %%
by_ode = sample(both)
by_sde = sample(compose.mean([left, right], [0.5, 0.5], sampler=sde()))
check_moments("equal widths, ODE", by_ode[:, 0], 0.0, 0.25)
check_moments("equal widths, SDE", by_sde[:, 0], 0.0, 0.25)
show(
    draw_samples(
        {"left": sample(left), "right": sample(right), "mean": by_ode},
        limits=LIMITS,
        density={"mean": normal((0.0, 0.0), (0.25, 0.25))},
    )
)

# %% [markdown]
# ## Unequal widths: biased, by a known amount
#
# With `N(-1, 1)` and `N(1, 0.25^2)` the geometric mean is `N(0.882, 0.118)`: the narrow policy is
# sure of itself and counts more. A plain sampler misses it, because the sum of scores at a noise
# level is not the score of the noised mean. For Gaussians the error can be integrated exactly
# (`toys.moments_of_sampler`): a deterministic sampler ends at mean 0.425, variance 0.250, the
# ancestral one at 0.600 and 0.185. With MCMC steps at every level (`corrector="mala"`) the samples
# are those of the target.

# %%
wide, narrow = gaussian((-1.0, 0.0), 1.0, EXPLODING), gaussian((1.0, 0.0), 0.25, DIFFUSION)
precision = 0.5 / 1.0**2 + 0.5 / 0.25**2
target = (0.5 * -1.0 / 1.0**2 + 0.5 * 1.0 / 0.25**2) / precision, 1.0 / precision
print(f"target: mean {target[0]:.4f}, variance {target[1]:.4f}")

runs = {}
for name, churn, sampler in (("ODE", 0.0, ode()), ("SDE", 1.0, sde())):
    runs[name] = sample(compose.mean([wide, narrow], [0.5, 0.5], sampler=sampler))
    mean, variance = moments_of_sampler((-1.0, 1.0), (1.0, 0.25), (0.5, 0.5), churn)
    check_moments(f"unequal widths, {name}", runs[name][:, 0], mean, variance)
corrected = compose.mean(
    [wide, narrow],
    [0.5, 0.5],
    sampler=sde(120),
    corrector="mala",
    corrector_options={"n_steps": 6, "step_size": 0.5},
)
runs["SDE + MALA"] = sample(corrected)
check_moments("unequal widths, SDE + MALA", runs["SDE + MALA"][:, 0], *target)
show(
    draw_marginals(
        {name: found[:, 0] for name, found in runs.items()},
        limits=(-1.5, 2.5),
        density=normal(target[0], target[1]),
    )
)

# %% [markdown]
# ## Two modes: actions between them
#
# Policy A goes left or right, `1/2 N(-1, 0.1^2) + 1/2 N(1, 0.1^2)`; policy B always right. The
# geometric mean has practically all its mass on the right. The sampler averages the two directions
# at noise levels where A is still open to both, and some of the actions end *in between*, where no
# policy has data: 17 % with a deterministic sampler, about 4 % with noise (from runs with 2000
# steps). On a robot, between left and right may stand the obstacle.

# %%
two = mixture([(-1.0, 0.0), (1.0, 0.0)], 0.1, path=EXPLODING)
one = gaussian((1.0, 0.0), 0.1, DIFFUSION)
modes = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
voted = {
    "ODE": compose.mean([two, one], [0.5, 0.5], sampler=ode()),
    "SDE": compose.mean([two, one], [0.5, 0.5], sampler=sde()),
}
found = {name: sample(policy) for name, policy in voted.items()}
for name, between, right_share in (("ODE", 0.171, 0.829), ("SDE", 0.041, 0.959)):
    points = found[name]
    print(name, compose.mass_between(torch.tensor(points), modes, radius=0.5))
    near = np.abs(points[:, 0]) < 0.5
    check_share(f"between the modes, {name}", near, between)
    check_share(f"right, {name}", np.abs(points[:, 0] - 1.0) < 0.5, right_share)
show(draw_samples({"A": sample(two), **found}, limits=LIMITS, marks=modes.tolist()))

# %% [markdown]
# `compose.diagnose` finds this without knowing the modes: it noises the finished actions and asks
# each member to denoise them. An action where the member has no data is pulled away, so the error
# is larger than on the member's own samples. It also shows at which steps the members disagree.

# %%
report = compose.diagnose(voted["ODE"], {"situation": torch.zeros(500, 1, 1)}, seeds=range(500))
print("\n".join(str(report).splitlines()[-9:]))
assert report.ratios[0].max() > 1.3  # A: the actions in between
same = compose.mean([one, gaussian((1.0, 0.0), 0.1, FLOW)], [0.5, 0.5], sampler=ode())
quiet = compose.diagnose(same, {"situation": torch.zeros(500, 1, 1)}, seeds=range(500))
check("ratio for members that agree", float(quiet.ratios.max()), 1.0, 0.05)

# %% [markdown]
# ## Push-T
#
# The shipped flow and diffusion policies at one situation, where the T can be passed above or
# below, and their mean. They learned from the same demonstrations, so they agree nearly everywhere,
# and the diagnostics have nothing to warn of.

# %%
situation = robot.scene()
if situation is not None:
    flow, diffusion = robot.policy("flow"), robot.policy("diffusion")
    mean = compose.mean([flow, diffusion], [0.5, 0.5])
    robot.show_chunks(situation, {"flow": flow, "diffusion": diffusion, "mean": mean})
    report = compose.diagnose(mean, situation.obs, seeds=range(robot.N_CHUNKS))
    print(report)
