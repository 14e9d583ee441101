# %% [markdown]
# # Mixture (OR) and AND: policies superposed
#
# `compose.mixture([a, b])` samples `(p_a + p_b)/2`: each action is one policy's or the other's,
# never between. `compose.superpose_and([a, b])` samples actions that are *equally likely* under
# both. The two follow the members' log-densities along the trajectory (SuperDiff, arXiv
# 2412.17762), which works with the ancestral sampler (`rule="ddpm"`) only; anything else is
# refused.

# %%
import numpy as np
import robot
from toys import (
    DIFFUSION,
    EXPLODING,
    FAST,
    FLOW,
    check,
    check_moments,
    check_share,
    gaussian,
    mixture,
    ode,
    sample,
    sde,
    show,
)

from genpolicy import compose
from genpolicy.errors import UsageError
from genpolicy.evaluation.density_plots import draw_samples

LIMITS = np.array([[-2.0, -1.5], [2.0, 1.5]])
left, right = gaussian((-1.0, 0.0), 0.2, EXPLODING), gaussian((1.0, 0.0), 0.2, DIFFUSION)
try:
    compose.mixture([left, right], sampler=ode())
except UsageError as error:
    print(error)
else:
    raise AssertionError("a mixture with an ODE has to be refused")

# %% [markdown]
# ## OR: the shares are those of the prior
#
# Two policies far apart with a prior of 0.3 and 0.7. Nothing lies between the modes, unlike for a
# mean.

# %%
either = compose.mixture([left, right], prior=[0.3, 0.7], sampler=sde())
print(compose.explain(either))
chosen = sample(either)
check_share("left", np.abs(chosen[:, 0] + 1) < 0.7, 0.3)
check_share("right", np.abs(chosen[:, 0] - 1) < 0.7, 0.7)
check("between", float((np.abs(chosen[:, 0]) < 0.3).mean()), 0.0, 0.002)
check_moments("right mode", chosen[chosen[:, 0] > 0][:, 0], 1.0, 0.04, bias=0.1)

# %% [markdown]
# The pair of the tutorial of the mean: A goes left or right, B right. Their mixture has shares 1/4,
# 0, 3/4 near -1, between, and near 1 (their mean leaves up to 17 % between).

# %%
two = mixture([(-1.0, 0.0), (1.0, 0.0)], 0.1, path=EXPLODING)
one = gaussian((1.0, 0.0), 0.1, DIFFUSION)
union = sample(compose.mixture([two, one], sampler=sde()))
for name, center, share in (("left", -1.0, 0.25), ("between", 0.0, 0.0), ("right", 1.0, 0.75)):
    check_share(f"A or B, {name}", np.abs(union[:, 0] - center) < 0.5, share)

# %% [markdown]
# ## AND: equally likely under both
#
# For two Gaussians of width 0.5 about -1 and 1 the actions with equal likelihood are those with
# first entry 0. AND puts all samples there, with no width across; along the line they keep variance
# 0.25. The product of the two (see that tutorial) is another thing: it has variance 0.125 in both
# directions.

# %%
first, second = gaussian((-1.0, 0.0), 0.5, EXPLODING), gaussian((1.0, 0.0), 0.5, FLOW)
equal = sample(compose.superpose_and([first, second], sampler=sde()))
check("AND: largest first entry", float(np.abs(equal[:, 0]).max()), 0.0, 0.02)
check_moments("AND: second entry", equal[:, 1], 0.0, 0.25)
show(
    draw_samples(
        {"OR, prior 0.3": chosen, "A or B": union, "AND": equal},
        limits=LIMITS,
        marks=[(-1.0, 0.0), (1.0, 0.0)],
    )
)

# %% [markdown]
# With unequal widths across the line (0.5 and 0.25) equal *tracked* likelihoods are not equal true
# ones: the difference of the log-densities of the samples ends at `ln(0.25/0.5) = -0.693`.
# `correct_widths` removes this, for three evaluations per step.

# %%
thin = gaussian((1.0, 0.0), (0.25, 0.5), DIFFUSION)


def log_ratio(points):
    x = points[:, 0]
    wide_one = -0.5 * ((x + 1) / 0.5) ** 2 - np.log(0.5)
    return float(np.mean(wide_one + 0.5 * ((x - 1) / 0.25) ** 2 + np.log(0.25)))


allowed = 0.2 if FAST else 0.08
for corrected, expected in ((False, np.log(0.25 / 0.5)), (True, 0.0)):
    members = [first, thin]
    policy = compose.superpose_and(members, correct_widths=corrected, sampler=sde(600))
    ratio = log_ratio(sample(policy))
    name = "with" if corrected else "without"
    check(f"log p_a - log p_b, {name} correction", ratio, float(expected), allowed)

# %% [markdown]
# ## Push-T
#
# OR takes each chunk from one of the two shipped policies; AND keeps chunks on which they agree.

# %%
table = robot.scene()
if table is not None:
    pair = [robot.policy("diffusion"), robot.policy("flow")]
    settings = {"sampler": robot.stochastic()}
    robot.show_chunks(
        table,
        {
            "diffusion": pair[0],
            "OR": compose.mixture(pair, **settings),
            "AND": compose.superpose_and(pair, **settings),
        },
    )
