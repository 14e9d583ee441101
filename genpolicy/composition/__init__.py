"""Compositions: several denoisers as one, with the density they are meant to sample."""

from genpolicy.composition.costs import (
    ActionIsPosition,
    Cost,
    CostSum,
    InBox,
    KeepOut,
    PointMass,
    Smoothness,
    SpeedLimit,
    Waypoint,
    bind_cost,
)
from genpolicy.composition.endpoints import EndpointAverage, endpoint_mean
from genpolicy.composition.guided import CostGuided
from genpolicy.composition.members import Member, Weighable
from genpolicy.composition.on_path import (
    LARGEST_SIGMA,
    OnPath,
    Part,
    Restricted,
    common_path,
    on_path,
)
from genpolicy.composition.particles import Particles
from genpolicy.composition.sums import conjunction, mean, negation, product, rl_guidance
from genpolicy.composition.superposed import (
    Superposed,
    mixture,
    superpose_and,
    superpose_or,
)
from genpolicy.composition.weighted import Weighted
from genpolicy.composition.weights import LevelWeights, Weights, WeightSchedule

__all__ = [
    "LARGEST_SIGMA",
    "ActionIsPosition",
    "Cost",
    "CostGuided",
    "CostSum",
    "EndpointAverage",
    "InBox",
    "KeepOut",
    "LevelWeights",
    "Member",
    "OnPath",
    "Part",
    "Particles",
    "PointMass",
    "Restricted",
    "Smoothness",
    "SpeedLimit",
    "Superposed",
    "Waypoint",
    "Weighable",
    "WeightSchedule",
    "Weighted",
    "Weights",
    "bind_cost",
    "common_path",
    "conjunction",
    "endpoint_mean",
    "mean",
    "mixture",
    "negation",
    "on_path",
    "product",
    "rl_guidance",
    "superpose_and",
    "superpose_or",
]
