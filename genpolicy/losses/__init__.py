"""Training losses: functions of a batch that return the loss and named figures.

Every loss takes the generator of its noise and a mask of valid entries; settings are frozen
dataclasses of plain values that ``genpolicy.config.build`` can make.
"""

from genpolicy.losses.consistency import (
    ConsistencyDistillation,
    ConsistencyTraining,
    FlowMap,
    consistency_distillation_loss,
    consistency_training_loss,
)
from genpolicy.losses.coupling import (
    Coupling,
    OptimalCoupling,
    equal_condition_groups,
    optimal_pairing,
)
from genpolicy.losses.denoising import denoising_loss
from genpolicy.losses.flow import flow_matching_loss
from genpolicy.losses.levels import (
    ConstantCurriculum,
    Curriculum,
    DoublingCurriculum,
    Spacing,
    SquareRootCurriculum,
    draw_levels,
    level_times,
)
from genpolicy.losses.ode import Solver, ode_step, solve_ode
from genpolicy.losses.q_learning import (
    advantage_weights,
    alignment_loss,
    bellman_target,
    critic_loss,
    expectile_loss,
    improvement_loss,
)
from genpolicy.losses.reduction import (
    Distance,
    Mask,
    PseudoHuber,
    Squared,
    draw_noise,
    fill_padding,
    mean_over_valid,
)
from genpolicy.losses.times import (
    KarrasTimes,
    LevelTimes,
    LogitNormalTimes,
    LogNormalSigmaTimes,
    MixedTimes,
    TimeSampler,
    UniformTimes,
)
from genpolicy.losses.trajectory import TrajectoryDistillation, trajectory_loss
from genpolicy.losses.weighting import (
    CleanWeighting,
    EdmWeighting,
    MinSnrWeighting,
    PredictionWeighting,
    Weighting,
    denoised_weight,
    edm_gain,
    prediction_gain,
)

__all__ = [
    "CleanWeighting",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "ConstantCurriculum",
    "Coupling",
    "Curriculum",
    "Distance",
    "DoublingCurriculum",
    "EdmWeighting",
    "FlowMap",
    "KarrasTimes",
    "LevelTimes",
    "LogNormalSigmaTimes",
    "LogitNormalTimes",
    "Mask",
    "MinSnrWeighting",
    "MixedTimes",
    "OptimalCoupling",
    "PredictionWeighting",
    "PseudoHuber",
    "Solver",
    "Spacing",
    "SquareRootCurriculum",
    "Squared",
    "TimeSampler",
    "TrajectoryDistillation",
    "UniformTimes",
    "Weighting",
    "advantage_weights",
    "alignment_loss",
    "bellman_target",
    "consistency_distillation_loss",
    "consistency_training_loss",
    "critic_loss",
    "denoised_weight",
    "denoising_loss",
    "draw_levels",
    "draw_noise",
    "edm_gain",
    "equal_condition_groups",
    "expectile_loss",
    "fill_padding",
    "flow_matching_loss",
    "improvement_loss",
    "level_times",
    "mean_over_valid",
    "ode_step",
    "optimal_pairing",
    "prediction_gain",
    "solve_ode",
    "trajectory_loss",
]
