# %% [markdown]
# # Consistency policies: which compositions are legal
#
# A consistency policy maps a noisy action straight to the end of its ODE trajectory. That is not
# `E[clean | x_t]`: there is no score in it, and adding it to scores samples nothing in particular.
# Three things are legal: compose its *teachers* (and distil the composition), average the *ends* of
# several consistency policies (`compose.endpoint_mean`, a heuristic without a density), or start
# from its samples and correct them with a score model of the same data.

# %%
import numpy as np
import robot
import torch
from toys import (
    DIFFUSION,
    EXPLODING,
    GaussianFlowMap,
    N,
    ToyPolicy,
    check,
    check_moments,
    gaussian,
    normal,
    sample,
    sde,
    show,
)

from genpolicy import compose
from genpolicy.errors import UsageError
from genpolicy.evaluation.density_plots import draw_samples
from genpolicy.sampling import RowNoise, Sampler, ddpm
from genpolicy.sampling import sample as denoise

JUMP = Sampler(rule="renoise", n_steps=1)


def consistency(mean, std):
    """Return the exact one-step consistency policy of a Gaussian."""
    found = (torch.tensor(v).expand(1, 2) for v in (mean, std))
    return ToyPolicy(GaussianFlowMap(DIFFUSION, *found), sampler=JUMP)


# %% [markdown]
# ## One step is enough, and no score

# %%
student = consistency((1.0, 0.0), (0.25, 0.25))
check_moments("a consistency policy, 1 step", sample(student)[:, 0], 1.0, 0.0625)
try:
    compose.mean([student, gaussian((-1.0, 0.0), 1.0)], [0.5, 0.5])
except UsageError as error:
    print(error)
else:
    raise AssertionError("a consistency policy has no score")

# %% [markdown]
# ## Averaging the ends: a heuristic
#
# The ends of `N(-1, 1)` and `N(1, 0.25^2)` from the same noise are `-1 + z` and `1 + 0.25 z`, so
# one step of `endpoint_mean` gives mean 0 and standard deviation `(1 + 0.25)/2 = 0.625`, variance
# 0.391. The geometric mean of the two densities is `N(0.882, 0.118)`. Only for equal widths the two
# agree.

# %%
wide = consistency((-1.0, 0.0), (1.0, 1.0))
ends = compose.endpoint_mean([wide, student], [0.5, 0.5])
print(compose.explain(ends))
averaged = sample(ends)
check_moments("mean of the ends", averaged[:, 0], 0.0, 0.625**2)

twins = [consistency((m, 0.0), (0.25, 0.25)) for m in (-1.0, 1.0)]
check_moments(
    "mean of the ends, equal widths",
    sample(compose.endpoint_mean(twins, [0.5, 0.5]))[:, 0],
    0.0,
    0.0625,
)

# %% [markdown]
# ## Composing the teachers
#
# The teachers have scores. Their composition samples the target (here with MALA, since the widths
# differ), and as it is a policy, `genpolicy train algorithm=distill` can make a consistency policy
# of it: the student of a composition, at one or two steps per chunk.

# %%
teachers = [gaussian((-1.0, 0.0), 1.0, EXPLODING), gaussian((1.0, 0.0), 0.25, DIFFUSION)]
precision = 0.5 / 1.0**2 + 0.5 / 0.25**2
target = (0.5 * -1.0 / 1.0**2 + 0.5 * 1.0 / 0.25**2) / precision, 1.0 / precision
composed = compose.mean(
    teachers,
    [0.5, 0.5],
    sampler=sde(120),
    corrector="mala",
    corrector_options={"n_steps": 6, "step_size": 0.5},
)
exact = sample(composed)
check_moments("composed teachers", exact[:, 0], *target)
show(
    draw_samples(
        {"wide": sample(wide), "mean of the ends": averaged, "composed teachers": exact},
        limits=np.array([[-3.0, -2.0], [3.0, 2.0]]),
        density=normal((target[0], 0.0), (target[1], target[1])),
    )
)

# %% [markdown]
# ## A proposal, corrected
#
# A score model can clean up what a consistency policy proposes: noise its samples to a small level
# and let the score model denoise them from there, with noise. Here the student of the wrong width
# (0.4 instead of 0.25) is corrected by the exact score of `N(1, 0.25^2)`, started at noise of size
# 1.

# %%
wrong = consistency((0.7, 0.0), (0.4, 0.4))
proposed = torch.tensor(sample(wrong))[:, None]
levels = torch.linspace(0.0, 9.0, 101, dtype=torch.float64)  # log-SNR; 0 is noise of size 1
times = [*DIFFUSION.t_of_log_snr(levels).tolist(), 0.0]
noise = RowNoise(range(N, 2 * N), (1, 2))  # not the noise that made the proposals
alpha, sigma = (float(v) for v in DIFFUSION.alpha_sigma(torch.tensor(times[0])))
start = alpha * proposed + sigma * noise.draw(0)
score = teachers[1].bind({})
corrected = denoise(score, start, times, None, rule=ddpm, noise=noise)[:, 0, 0].numpy()
print(f"proposed: mean {proposed[..., 0].mean():.3f}, variance {proposed[..., 0].var():.3f}")
# What is left of the proposal after noise of size 1: a part c = s^2/(s^2 + 1) of its offset.
part = 0.0625 / (0.0625 + 1.0)
left_over = part * (0.7 - 1.0)
spread = 0.0625 + part**2 * (0.4**2 - 0.25**2)
check_moments("corrected proposal", corrected, 1.0 + left_over, spread)

# %% [markdown]
# ## Push-T
#
# The shipped consistency policy takes two evaluations per chunk, its flow teacher ten. The mean of
# the ends of one policy with itself is that policy.

# %%
situation = robot.scene()
if situation is not None:
    quick, teacher = robot.policy("consistency"), robot.policy("flow")
    twice = compose.endpoint_mean([quick, quick], [0.5, 0.5])
    chunks = robot.show_chunks(
        situation, {"flow": teacher, "consistency": quick, "mean of ends": twice}
    )
    gap = float(np.abs(chunks["mean of ends"] - chunks["consistency"]).max())
    check("a policy with itself: pixels apart", gap, 0.0, 0.05)
