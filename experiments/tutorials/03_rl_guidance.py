# %% [markdown]
# # RL guidance: a dial between imitation and reward
#
# `compose.rl_guidance(base=a, tuned=b, scale=w)` follows `(1 - w)` times the score of the policy
# before fine-tuning plus `w` times that after (arXiv 2508.21016). Scale 0 is the base, 1 the tuned
# policy, both bit for bit; above 1 it goes on in the direction of the tuning. Where the tuned
# policy is the optimum of KL-regularised RL, `p_base exp(R/beta)`, the *target* at scale w is the
# optimum for `beta/w`. The weights sum to 1, but above 1 one of them is negative.

# %%
import numpy as np
import robot
import torch
from toys import (
    DIFFUSION,
    EXPLODING,
    N,
    check,
    check_moments,
    gaussian,
    moments_of_sampler,
    normal,
    ode,
    sample,
    sample_particles,
    sde,
    show,
    situation,
)

from genpolicy import compose, load_policy
from genpolicy.evaluation.density_plots import draw_marginals, draw_samples

# %% [markdown]
# ## A linear reward: exact
#
# Base `N(0, 1)`, reward `R(x) = k x` with k/beta = 1: the optimum is `N(1, 1)`, the same width, and
# at scale w it is `N(w, 1)`. With equal widths a sum of scores is exact at every level, so every
# sampler ends there. (The mean is short by about w/sigma_max, since sampling starts at mean 0.)

# %%
base = gaussian((0.0, 0.0), 1.0, DIFFUSION)
rewarded = gaussian((1.0, 0.0), 1.0, EXPLODING)
dial = {}
for scale in (0.0, 0.5, 1.0, 2.0):
    guided = compose.rl_guidance(base=base, tuned=rewarded, scale=scale, sampler=sde())
    dial[f"scale {scale:g}"] = sample(guided)
    check_moments(f"scale {scale:g}", dial[f"scale {scale:g}"][:, 0], scale, 1.0)
show(draw_samples(dial, limits=np.array([[-3.0, -3.0], [5.0, 3.0]]), columns=4))

ends = compose.rl_guidance(base=base, tuned=rewarded, scale=0.0)
seeds = range(N)
alone = base.sample(situation(), seeds=seeds)
check(
    "scale 0 is the base: largest difference",
    float((ends.sample(situation(), seeds=seeds) - alone).abs().max()),
    0.0,
    0.0,
)

# %% [markdown]
# ## A quadratic reward: biased without particles
#
# Base `N(0, 1)`, tuned `N(1, 0.5^2)`. At scale 2 the precision is `2/0.25 - 1 = 7` and the target
# `N(8/7, 1/7)`. A deterministic sampler ends at (1.374, 0.0625), the ancestral one at (1.250,
# 0.109), and more noise gets closer. Particles sample the target.

# %%
tuned = gaussian((1.0, 0.0), (0.5, 1.0), EXPLODING)
precision = 2.0 / 0.25 - 1.0
target = 2.0 / 0.25 / precision, 1.0 / precision
runs = {}
samplers = {"ODE": (0.0, ode()), "SDE": (1.0, sde()), "churn 3": (3.0, sde(1200, 3.0))}
for name, (churn, sampler) in samplers.items():
    guided = compose.rl_guidance(base=base, tuned=tuned, scale=2.0, sampler=sampler, reference=1)
    runs[name] = sample(guided)
    mean, variance = moments_of_sampler((0.0, 1.0), (1.0, 0.5), (-1.0, 2.0), churn)
    check_moments(f"scale 2, {name}", runs[name][:, 0], mean, variance)
crowd = compose.rl_guidance(base=base, tuned=tuned, scale=2.0, sampler=sde(), reference=1)
runs["particles"] = sample_particles(crowd)
check_moments("scale 2, particles", runs["particles"][:, 0], *target)
show(
    draw_marginals(
        {name: found[:, 0] for name, found in runs.items()},
        limits=(-0.5, 3.0),
        density=normal(*target),
        columns=4,
    )
)

# %% [markdown]
# ## How far the dial may be turned
#
# Where the tuned policy is *wider* than the base, large scales are no densities: for Gaussians the
# precision `w/V_tuned + (1 - w)/V_base` has to stay positive. For a base `N(0, 0.5^2)` and a tuned
# `N(0, 1)` this is `w < 4/3`. `compose.diagnose` warns before that: the base finds actions where it
# has no data.

# %%
calm = gaussian((0.0, 0.0), 0.5, DIFFUSION)
bold = gaussian((0.0, 0.0), 1.0, EXPLODING)
variance = moments_of_sampler((0.0, 0.0), (0.5, 1.0), (-0.2, 1.2), churn=1.0)[1]
below = sample(compose.rl_guidance(base=calm, tuned=bold, scale=1.2, sampler=sde(), reference=1))
check_moments("scale 1.2, below the limit", below[:, 0], 0.0, variance)
above = sample(compose.rl_guidance(base=calm, tuned=bold, scale=2.0, sampler=sde(), reference=1))
print(f"std at scale 1.2: {below[:, 0].std():.2f}, at scale 2.0: {above[:, 0].std():.2f}")
assert above[:, 0].std() > 2.0 * below[:, 0].std()
report = compose.diagnose(
    compose.rl_guidance(base=calm, tuned=bold, scale=2.0, sampler=ode()),
    {"situation": torch.zeros(500, 1, 1)},
    seeds=range(500),
)
print(*report.warnings, sep="\n")
assert report.warnings

# %% [markdown]
# ## A maze
#
# `maze2d-umaze-base` drives to random places, `maze2d-umaze-tuned` learned from the same data,
# weighted by the reward for being at the target (`algorithm=awr`). Paths start anywhere; the
# further the dial, the straighter they go to the target. `experiments/rlg` has 300 episodes of
# three training seeds, beside policies that were tuned so far directly.

# %%
base, tuned = (load_policy(f"maze2d-umaze-{kind}") for kind in ("base", "tuned"))
scales = (0.0, 1.0, 3.0)
ends = {scale: compose.rl_guidance(base=base, tuned=tuned, scale=scale) for scale in scales}
robot.show_paths({f"scale {scale:g}": found for scale, found in ends.items()})
start = {"state": torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(16, 1, 4)}
start["goal"] = torch.zeros(16, 1, 2)  # recorded with the data; neither policy sees it
for scale, end in ((0.0, base), (1.0, tuned)):
    gap = ends[scale].sample(start, seeds=range(16)) - end.sample(start, seeds=range(16))
    check(f"scale {scale:g} in the maze", float(gap.abs().max()), 0.0, 0.0)
