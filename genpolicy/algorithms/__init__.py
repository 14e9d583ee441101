"""Algorithms: one LightningModule per file; a reader sees the whole update in ``training_step``."""

from genpolicy.algorithms.anchor_seeking import AnchorSeeking
from genpolicy.algorithms.awr import AWR
from genpolicy.algorithms.common import OptimizerSettings
from genpolicy.algorithms.consistency_ac import ConsistencyAC
from genpolicy.algorithms.consistency_bc import ConsistencyBC
from genpolicy.algorithms.consistency_distillation import ConsistencyDistillation
from genpolicy.algorithms.diffusion_bc import DiffusionBC
from genpolicy.algorithms.diffusion_ql import DiffusionQL
from genpolicy.algorithms.eda import EDA
from genpolicy.algorithms.flow_bc import FlowBC
from genpolicy.algorithms.fql import FQL
from genpolicy.algorithms.idql import IDQL
from genpolicy.algorithms.iql import IQL
from genpolicy.algorithms.mopo import MOPO
from genpolicy.algorithms.rebrac import ReBRAC
from genpolicy.algorithms.trajectory_distillation import TrajectoryDistillation

__all__ = [
    "AWR",
    "EDA",
    "FQL",
    "IDQL",
    "IQL",
    "MOPO",
    "AnchorSeeking",
    "ConsistencyAC",
    "ConsistencyBC",
    "ConsistencyDistillation",
    "DiffusionBC",
    "DiffusionQL",
    "FlowBC",
    "OptimizerSettings",
    "ReBRAC",
    "TrajectoryDistillation",
]
