# %% [markdown]
# # Negation: what one policy does and another does not
#
# `compose.negation(keep, avoid, strength=g)` follows `(1 + g)` times the score of `keep` minus `g`
# times that of `avoid`. The target is `p_keep^(1+g) / p_avoid^g`; the weights sum to 1. It leaves
# the behaviour of `keep` and moves away from that of `avoid`. It is a density only where `keep` is
# the narrower one.

# %%
import numpy as np
import robot
import torch
from toys import (
    DIFFUSION,
    EXPLODING,
    FLOW,
    N,
    check,
    check_moments,
    check_share,
    gaussian,
    mixture,
    ode,
    sample,
    sample_particles,
    sde,
    show,
    situation,
)

from genpolicy import compose
from genpolicy.evaluation.density_plots import draw_samples

LIMITS = np.array([[-2.5, -1.5], [2.5, 1.5]])

# %% [markdown]
# ## Equal widths: exact
#
# `keep = N(0, 0.5^2)` and `avoid = N(1, 0.5^2)`: the target is a Gaussian of the same width with
# mean `(1 + g) 0 - g 1 = -g`, with every sampler. Strength 0 is `keep`, bit for bit.

# %%
keep, avoid = gaussian((0.0, 0.0), 0.5, DIFFUSION), gaussian((1.0, 0.0), 0.5, FLOW)
pushed = {}
for strength in (0.3, 1.0):
    policy = compose.negation(keep, avoid, strength=strength, sampler=ode())
    pushed[f"strength {strength:g}"] = sample(policy)
    check_moments(f"strength {strength:g}", pushed[f"strength {strength:g}"][:, 0], -strength, 0.25)
show(draw_samples({"keep": sample(keep), **pushed}, limits=LIMITS, marks=[(1.0, 0.0)]))

nothing = compose.negation(keep, avoid, strength=0.0)
gap = nothing.sample(situation(), seeds=range(N)) - keep.sample(situation(), seeds=range(N))
check("strength 0 is keep: largest difference", float(gap.abs().max()), 0.0, 0.0)

# %% [markdown]
# ## Choosing a mode
#
# `keep` goes left or right with equal probability, `N(+-1, 0.2^2)`; `avoid` is a wide policy about
# the right one, `N(1, 0.7^2)`. The share of the left mode under the target is integrated on a grid.
# Plain samplers follow the score and get the share wrong; particles are unbiased.

# %%
two = mixture([(-1.0, 0.0), (1.0, 0.0)], 0.2, path=EXPLODING)
right = gaussian((1.0, 0.0), 0.7, DIFFUSION)
strength = 0.3


def target(points):
    x, y = points[:, 0], points[:, 1]
    kept = np.exp(-0.5 * (y / 0.2) ** 2) * (
        np.exp(-0.5 * ((x + 1) / 0.2) ** 2) + np.exp(-0.5 * ((x - 1) / 0.2) ** 2)
    )
    avoided = np.exp(-0.5 * ((x - 1) ** 2 + y**2) / 0.7**2)
    return kept ** (1 + strength) / avoided**strength


line = np.linspace(-3, 3, 4001)
on_line = target(np.stack([line, 0 * line], 1))
left_share = on_line[line < 0].sum() / on_line.sum()
either = compose.negation(two, right, strength=strength, sampler=sde())
plain, weighted = sample(either), sample_particles(either)
print(f"left, with a plain sampler: {(plain[:, 0] < 0).mean():.3f}")
check_share("left, with particles", weighted[:, 0] < 0, left_share, bias=0.16)
show(
    draw_samples(
        {"keep": sample(two), "plain sampler": plain, "particles": weighted},
        limits=LIMITS,
        density={"plain sampler": target, "particles": target},
    )
)

# %% [markdown]
# ## Where it is no density
#
# For Gaussians the precision `(1 + g)/V_keep - g/V_avoid` has to stay positive. With a `keep` of
# width 1 and an `avoid` of width 0.3 it is `1.3/1 - 0.3/0.09 = -2`: the target cannot be normalized
# and the samples run away from `avoid`. The diagnostics say so.

# %%
wide, peak = gaussian((0.0, 0.0), 1.0, EXPLODING), gaussian((0.5, 0.0), 0.3, DIFFUSION)
print(f"precision of the target: {1.3 / 1.0**2 - 0.3 / 0.3**2:.3f}")
report = compose.diagnose(
    compose.negation(wide, peak, strength=0.3, sampler=ode()),
    {"situation": torch.zeros(500, 1, 1)},
    seeds=range(500),
)
print(*report.warnings, sep="\n")
assert any("member 1" in text for text in report.warnings)

# %% [markdown]
# ## Push-T
#
# A policy that has to avoid another one trained on the same data has nothing left to follow, so the
# strength is small: the chunks of the diffusion policy, away from those of the flow policy.

# %%
table = robot.scene()
if table is not None:
    first, second = robot.policy("diffusion"), robot.policy("flow")
    away = compose.negation(first, second, strength=0.3)
    robot.show_chunks(table, {"diffusion": first, "flow": second, "not like flow": away})
