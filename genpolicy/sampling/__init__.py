"""Sampling: one loop, rules that are pure functions, noise by row, and constraints."""

from genpolicy.denoisers import Step
from genpolicy.paths import grid
from genpolicy.sampling.constraints import Constraint, PinMode, Pinned, chain, clip_to, pin
from genpolicy.sampling.correctors import (
    CORRECTORS,
    Hamiltonian,
    Langevin,
    MetropolisLangevin,
    OnAccept,
    UnderdampedHamiltonian,
    make_corrector,
)
from genpolicy.sampling.diffusers_adapter import sample_with_scheduler
from genpolicy.sampling.loop import (
    Corrector,
    check_target,
    check_times,
    class_of,
    plan,
    sample,
)
from genpolicy.sampling.noise import DeviceNoise, DrawnNoise, NoiseSource, RowNoise
from genpolicy.sampling.rules import (
    RULES,
    Coeffs,
    Rule,
    Stage,
    check_rule,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    heun,
    kinds_of,
    make_rule,
    midpoint,
    renoise,
    sde,
)
from genpolicy.sampling.sampler import Precision, Sampler

__all__ = [
    "CORRECTORS",
    "RULES",
    "Coeffs",
    "Constraint",
    "Corrector",
    "DeviceNoise",
    "DrawnNoise",
    "Hamiltonian",
    "Langevin",
    "MetropolisLangevin",
    "NoiseSource",
    "OnAccept",
    "PinMode",
    "Pinned",
    "Precision",
    "RowNoise",
    "Rule",
    "Sampler",
    "Stage",
    "Step",
    "UnderdampedHamiltonian",
    "chain",
    "check_rule",
    "check_target",
    "check_times",
    "class_of",
    "clip_to",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "grid",
    "heun",
    "kinds_of",
    "make_corrector",
    "make_rule",
    "midpoint",
    "pin",
    "plan",
    "renoise",
    "sample",
    "sample_with_scheduler",
    "sde",
]
