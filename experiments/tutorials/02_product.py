# %% [markdown]
# # Product: what every expert allows
#
# `compose.product([a, b])` is meant to sample `p_a p_b`: actions that both experts find likely. The
# weights of the scores sum to 2, not to 1, and that changes everything: a sampler without noise
# collapses to a point, one with noise comes out too narrow, and only MCMC steps (a *corrector*) or
# weighted particles sample the product. The library refuses the first and says what the others are.

# %%
import numpy as np
import robot
from toys import (
    DIFFUSION,
    EXPLODING,
    FLOW,
    check_moments,
    gaussian,
    moments_of_sampler,
    normal,
    ode,
    sample,
    sample_particles,
    sde,
    show,
)

from genpolicy import compose
from genpolicy.errors import UsageError
from genpolicy.evaluation.density_plots import draw_densities, draw_samples

LIMITS = np.array([[-2.0, -2.0], [2.0, 2.0]])

# %% [markdown]
# ## A deterministic sampler is refused
#
# With the sum of two scores, the probability-flow ODE ends with variance 0.

# %%
left, right = gaussian((-1.0, 0.0), 0.5, DIFFUSION), gaussian((1.0, 0.0), 0.5, FLOW)
try:
    compose.product([left, right], sampler=ode())
except UsageError as error:
    print(error)
else:
    raise AssertionError("a product with an ODE has to be refused")

# %% [markdown]
# ## Noise alone is biased
#
# For two experts of width s = 0.5 the product has variance s^2/2 = 0.125. A sampler with `churn` c
# times the noise of the forward process ends at `s^2 c/(2(1 + c) - 1)`: 0.083 for the ancestral
# sampler (c = 1), 0.107 for c = 3. More noise gets closer, and needs more and smaller steps.

# %%
for churn, n_steps in ((1.0, 500), (3.0, 1200)):
    noisy = compose.product([left, right], sampler=sde(n_steps, churn))
    limit = 0.25 * churn / (2 * (1 + churn) - 1)
    check_moments(f"product, churn {churn:g}", sample(noisy)[:, 0], 0.0, limit)
print(compose.explain(noisy))

# %% [markdown]
# ## With a corrector, or with particles, it is the product
#
# At each level the sampler reaches, a corrector makes a few moves that leave the density of that
# level as it is. `mala` accepts or rejects each move and is unbiased, `ula` never rejects and is a
# little too wide. Particles run several samplers side by side, weigh them and draw anew.
#
# Two experts that each know one direction well: a horizontal and a vertical one. Their product is
# `N(0, 1/(1/1 + 1/0.2^2))` in both entries, variance 0.0385.

# %%
flat = gaussian((0.0, 0.0), (1.0, 0.2), EXPLODING)
tall = gaussian((0.0, 0.0), (0.2, 1.0), DIFFUSION)
variance = 1.0 / (1.0 / 1.0**2 + 1.0 / 0.2**2)
_, too_narrow = moments_of_sampler((0.0, 0.0), (1.0, 0.2), (1.0, 1.0), churn=1.0)

none = sample(compose.product([flat, tall], sampler=sde()))
check_moments("experts, SDE alone", none[:, 0], 0.0, too_narrow)
ula = compose.product(
    [flat, tall],
    sampler=sde(120),
    corrector="ula",
    corrector_options={"n_steps": 8, "step_size": 0.1},
)
mala = ula.with_sampler(corrector="mala", corrector_options={"n_steps": 8, "step_size": 0.3})
by_ula, by_mala = sample(ula), sample(mala)
check_moments("experts, ULA", by_ula[:, 0], 0.0, variance, bias=0.1)
check_moments("experts, MALA", by_mala[:, 0], 0.0, variance)
crowd = compose.product([flat, tall], sampler=sde())
by_particles = sample_particles(crowd)
check_moments("experts, particles", by_particles[:, 0], 0.0, variance)

# %%
show(
    draw_densities(
        {
            "horizontal": normal((0.0, 0.0), (1.0, 0.04)),
            "vertical": normal((0.0, 0.0), (0.04, 1.0)),
            "product": normal((0.0, 0.0), (variance, variance)),
        },
        limits=LIMITS,
    )
)
show(
    draw_samples(
        {"SDE alone": none, "SDE + MALA": by_mala, "particles": by_particles},
        limits=0.4 * LIMITS,
        density=normal((0.0, 0.0), (variance, variance)),
    )
)

# %% [markdown]
# `with_sampler(n_particles=64)` makes a policy whose every chunk is a fair draw of 64 particles;
# `explain` states the cost.

# %%
print(compose.explain(crowd.with_sampler(n_particles=64)))

# %% [markdown]
# ## Push-T
#
# The product of the two shipped policies. Both learned the same data, so their product is what they
# already do, but surer: it leaves the rarer way below the T. The grid `log_snr` matters here: the
# last step is not corrected, and a product passes on the noise of the last level.

# %%
situation = robot.scene()
if situation is not None:
    pair = [robot.policy("diffusion"), robot.policy("flow")]
    expert = compose.product(
        pair,
        sampler=robot.stochastic("log_snr"),
        corrector="mala",
        corrector_options={"n_steps": 3, "step_size": 0.02},
    )
    robot.show_chunks(situation, {"diffusion": pair[0], "flow": pair[1], "product": expert})
