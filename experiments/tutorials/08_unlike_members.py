# %% [markdown]
# # Members that are not alike: paths, units, horizons, entries
#
# Policies rarely come from one training script. A composition runs on the path and in the units of
# one member, the `reference`, and matches the others to it: noise levels by signal-to-noise ratio,
# offsets and one common factor of the units exactly, chunks by the current step, entries by
# `compose.part`. What cannot be matched exactly is refused, with what to do instead.

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
    gaussian,
    ode,
    sample,
    show,
    situation,
)

from genpolicy import compose
from genpolicy.composition import common_path, on_path
from genpolicy.errors import UsageError
from genpolicy.evaluation.density_plots import draw_samples

# %% [markdown]
# ## Paths
#
# The same density on three noising paths. At equal signal-to-noise ratio all three know the same,
# so their denoised actions are the same numbers: a diffusion policy, a flow and an EDM model can be
# mixed.

# %%
members = [gaussian((1.0, -1.0), 0.5, path) for path in (EXPLODING, DIFFUSION, FLOW)]
shared = common_path(EXPLODING, [(member.path, 1.0) for member in members])
noise = torch.randn(64, 1, 2, generator=torch.Generator().manual_seed(0))
for sigma in (0.05, 0.5, 5.0):
    t = EXPLODING.t_of_log_snr(torch.tensor(-2 * np.log(sigma))).float().expand(64)
    x = 1.0 + sigma * noise
    answers = [on_path(member.bind({}), shared)(x, t, None) for member in members]
    worst = max(float((answer - answers[0]).abs().max()) for answer in answers[1:])
    check(f"paths differ by, at noise {sigma:g}", worst, 0.0, 1e-4)
mixed = compose.mean(members, [0.2, 0.3, 0.5], sampler=ode())
print(compose.explain(mixed))
check_moments("three paths", sample(mixed)[:, 0], 1.0, 0.25)

# %% [markdown]
# ## Units
#
# Two policies for the same behaviour, `N(6, 1)` in metres: one normalizes with centre 6 and span 1,
# the other with centre 5 and span 2, so for it the action is `N(0.5, 0.5^2)`. Their mean is the
# behaviour itself. Factors that differ from entry to entry are refused: noise of one size would be
# of several sizes in the other's units.

# %%
metres = gaussian(0.0, 1.0, DIFFUSION, center=6.0, span=1.0)
halves = gaussian(0.5, 0.5, FLOW, center=5.0, span=2.0)
for name, pair in (("first", [metres, halves]), ("second", [halves, metres])):
    found = sample(compose.mean(pair, [0.5, 0.5], sampler=ode()))
    check_moments(f"units of the {name}", found[:, 0], 6.0, 1.0)
uneven = gaussian(0.0, 1.0, FLOW, center=5.0, span=(1.0, 2.0))
try:
    compose.mean([metres, uneven], [0.5, 0.5])
except UsageError as error:
    print(error)
else:
    raise AssertionError("factors that differ by entry have to be refused")

# %% [markdown]
# ## Horizons
#
# A member that plans 4 steps about -1 and one that plans 2 steps about 1, of equal widths. Where
# both say something the mean is 0, afterwards the longer one is alone.

# %%
long = gaussian(-1.0, 0.5, DIFFUSION, horizon=4)
short = gaussian(1.0, 0.5, EXPLODING, horizon=2)
both = compose.mean([long, short], [0.5, 0.5], sampler=ode())
chunks = both.sample(situation(), seeds=range(N)).numpy()
for step, expected in enumerate((0.0, 0.0, -1.0, -1.0)):
    check_moments(f"step {step}", chunks[:, step, 0], expected, 0.25)

# %% [markdown]
# ## Entries of the action
#
# A policy of a gripper with one entry, inside one for the whole arm: `compose.part` says whose is
# which. Entry 0 is the arm's alone, entry 1 is voted on.

# %%
arm = gaussian((-1.0, 0.0), 0.5, DIFFUSION)
gripper = gaussian(2.0, 0.5, FLOW, action_dim=1)
joint = compose.mean([arm, compose.part(gripper, dims=[1])], [0.5, 0.5], sampler=ode())
together = sample(joint)
check_moments("entry of the arm", together[:, 0], -1.0, 0.25)
check_moments("entry of both", together[:, 1], 1.0, 0.25)
show(
    draw_samples(
        {"arm": sample(arm), "with the gripper": together},
        limits=np.array([[-3.0, -2.0], [1.0, 3.0]]),
    )
)

# %% [markdown]
# ## Push-T
#
# The shipped diffusion policy lives on a cosine path, the flow policy on a straight one. Either can
# be the reference. With the same noise the two compositions solve the same ODE, so their chunks
# agree up to the steps.

# %%
table = robot.scene()
if table is not None:
    pair = [robot.policy("diffusion"), robot.policy("flow")]
    for member in pair:
        print(member.path)
    fine = robot.fine()
    composed = {
        f"on the path of {name}": compose.mean(pair, [0.5, 0.5], reference=i, sampler=fine)
        for i, name in enumerate(("diffusion", "flow"))
    }
    found = list(robot.show_chunks(table, composed).values())
    gap = float(np.median(np.abs(found[0] - found[1])))
    print(f"median difference of the two: {gap:.2f} pixels")
