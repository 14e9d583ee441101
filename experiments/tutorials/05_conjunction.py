# %% [markdown]
# # Conjunction: several conditions at once
#
# A policy that was trained with and without its condition can be given several conditions:
# `compose.conjunction(policy, conditions=[c1, c2], scale=w)` follows `s_0 + w sum_i (s_i - s_0)`,
# where s_0 is the score without condition (classifier-free guidance with more than one condition).
# The target is `p_0 prod_i (p_i/p_0)^w`, and the weights of the scores sum to 1.
#
# The toy policy sees a goal of two entries. Where the goal says something, that entry of the action
# is `N(goal, 0.5^2)`, where it is NaN, `N(0, 1)`.

# %%
import math

import numpy as np
import robot
import torch
from toys import (
    GoalPolicy,
    check,
    check_moments,
    moments_of_sampler,
    normal,
    ode,
    sample,
    sde,
    show,
)

from genpolicy import compose, load_policy
from genpolicy.errors import UsageError
from genpolicy.evaluation.density_plots import draw_samples

LIMITS = np.array([[-2.0, -2.0], [3.0, 3.0]])
NAN = math.nan
policy = GoalPolicy(0.5)
nothing = {"goal": [NAN, NAN]}
east, north = {"goal": [1.0, NAN]}, {"goal": [NAN, 1.0]}


def meeting(*conditions, scale=1.0, **sampling):
    return compose.conjunction(
        policy, conditions=conditions, scale=scale, without=nothing, **sampling
    )


# %% [markdown]
# ## Conditions on different entries, scale 1: exact
#
# "The first entry is 1" and "the second entry is 1" leave each entry to one condition: the target
# is `N((1, 1), 0.5^2)`, and every sampler reaches it.

# %%
both = meeting(east, north, sampler=ode())
print(compose.explain(both))
runs = {
    "first is 1": sample(meeting(east, sampler=ode())),
    "second is 1": sample(meeting(north, sampler=ode())),
    "both": sample(both),
}
for entry, name in enumerate(("first", "second")):
    check_moments(f"both conditions, {name} entry", runs["both"][:, entry], 1.0, 0.25)
show(draw_samples(runs, limits=LIMITS, density={"both": normal((1.0, 1.0), (0.25, 0.25))}))

# %% [markdown]
# ## Scale 2: a corrector is needed
#
# At scale w the first entry has precision `1 + w (1/0.5^2 - 1)` and mean `(w/0.5^2)/precision`: at
# w = 2 mean 8/7 and variance 1/7. The ancestral sampler ends at (1.250, 0.109).

# %%
precision = 1.0 + 2.0 * (1.0 / 0.25 - 1.0)
mean, variance = moments_of_sampler((0.0, 1.0), (1.0, 0.5), (-1.0, 2.0), 1.0, sigma_max=152.0)
strong = sample(meeting(east, scale=2.0, sampler=sde()))
check_moments("scale 2, SDE", strong[:, 0], mean, variance)
corrected = meeting(
    east,
    scale=2.0,
    sampler=sde(120),
    corrector="mala",
    corrector_options={"n_steps": 8, "step_size": 0.3},
)
exact = sample(corrected)
check_moments("scale 2, SDE + MALA", exact[:, 0], 8.0 / precision, 1.0 / precision)

# %% [markdown]
# ## Conditions on the same entry
#
# "The first entry is -1" and "it is 1" contradict each other. The target is their compromise, `N(0,
# 1/7)`: precision `1 + 2 (1/0.25 - 1) = 7`, here from two conditions.

# %%
west = {"goal": [-1.0, NAN]}
torn = meeting(
    east,
    west,
    sampler=sde(120),
    corrector="mala",
    corrector_options={"n_steps": 8, "step_size": 0.3},
)
compromise = sample(torn)
check_moments("contradicting conditions", compromise[:, 0], 0.0, 1.0 / 7.0)
show(
    draw_samples(
        {"scale 2, SDE": strong, "scale 2, MALA": exact, "1 and -1": compromise},
        limits=LIMITS,
        density={
            "scale 2, SDE": normal((8 / 7, 0.0), (1 / 7, 1.0)),
            "scale 2, MALA": normal((8 / 7, 0.0), (1 / 7, 1.0)),
            "1 and -1": normal((0.0, 0.0), (1 / 7, 1.0)),
        },
    )
)

# %% [markdown]
# ## A maze
#
# A robot policy needs to know what "no condition" is: train it with
# `policy.encoder.optional_keys=[goal]` and the key is left out at random. `maze2d-umaze-goals` was
# trained so. Without a goal it drives anywhere; given a goal it drives there; two goals at half the
# scale each pull it both ways, and it ends up between them.

# %%
driver = load_policy("maze2d-umaze-goals")
target, corner = {"goal": [1.0, 1.0]}, {"goal": [3.0, 1.0]}
robot.show_paths(
    {
        "no goal": compose.conjunction(driver, conditions=[target], scale=0.0),
        "the target": compose.conjunction(driver, conditions=[target], scale=1.0),
        "the other end": compose.conjunction(driver, conditions=[corner], scale=1.0),
        "both, 1/2 each": compose.conjunction(driver, conditions=[target, corner], scale=0.5),
    },
    n_episodes=10,
)
state = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(8, 1, 4)
one = compose.conjunction(driver, conditions=[target], scale=1.0)
given = driver.sample({"state": state, "goal": torch.ones(8, 1, 2)}, seeds=range(8))
gap = (one.sample({"state": state}, seeds=range(8)) - given).abs().max()
check("one condition at scale 1 is the condition", float(gap), 0.0, 1e-4)

# %% [markdown]
# The shipped Push-T policies always saw all of their observations. A conjunction of theirs is
# refused, with that advice.

# %%
try:
    compose.conjunction(load_policy("pusht-flow"), conditions=[{"agent_pos": [100.0, 100.0]}])
except UsageError as error:
    print(error)
else:
    raise AssertionError("a policy that needs its observation cannot do without")
