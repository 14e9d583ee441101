"""The path and prediction type of a model trained with a diffusers scheduler.

diffusers counts a level ``k = 0 ... n - 1`` where we have the time ``(k + 1)/n``, so a network
trained there wants ``ParameterizedDenoiser(..., time_scale=n, time_shift=-1)``; a network trained
with a flow-matching scheduler sees ``1000 t``, our default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from genpolicy.errors import UsageError, nearest
from genpolicy.paths.base import Path
from genpolicy.paths.gaussian import LinearPath
from genpolicy.paths.prediction import Prediction
from genpolicy.paths.tabulated import TabulatedPath

__all__ = ["DiffusersSettings", "from_diffusers"]

_PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": "noise",
    "sample": "clean",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}


@dataclass(frozen=True, kw_only=True)
class DiffusersSettings:
    """What a diffusers scheduler says about a model.

    Args:
        path: the noising path it was trained on.
        predicts: what it predicts.
    """

    path: Path
    predicts: Prediction


def from_diffusers(scheduler: Any) -> DiffusersSettings:
    """Read the path and prediction type off a diffusers scheduler or its configuration.

    Settings that concern sampling alone (``timestep_spacing``, ``shift``, ``clip_sample``, ...) are
    not read: they are a rule, a grid and a constraint here.

    Args:
        scheduler: a scheduler, or its configuration as a dict (``scheduler_config.json``).

    Returns:
        The path and prediction type.

    Raises:
        UsageError: for a schedule that is no ``TabulatedPath`` or ``LinearPath``.
    """
    config = _config_of(scheduler)
    name = str(config.get("_class_name", ""))
    if name.startswith("EDM"):
        raise UsageError(
            f"from_diffusers: {name} preconditions the network; build ParameterizedDenoiser("
            "path=KarrasPath(sigma_min=..., sigma_max=..., rho=...), predicts='clean', "
            "precondition='edm', sigma_data=...)"
        )
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas", False):
        return DiffusersSettings(path=LinearPath(), predicts="velocity")
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in _PREDICTIONS:
        raise UsageError(
            f"from_diffusers: prediction_type is {prediction!r}; "
            f"{nearest(prediction, _PREDICTIONS)}"
        )
    return DiffusersSettings(path=_table(config), predicts=_PREDICTIONS[prediction])


def _table(config: Mapping[str, Any]) -> TabulatedPath:
    if config.get("rescale_betas_zero_snr", False):
        raise UsageError(
            "from_diffusers: rescale_betas_zero_snr leaves no signal at the last level, which a "
            "TabulatedPath does not have; use a model trained without it"
        )
    trained = config.get("trained_betas")
    if trained is not None:
        return TabulatedPath(betas=tuple(float(beta) for beta in trained))
    schedule = config.get("beta_schedule")
    n_levels = int(config.get("num_train_timesteps", 1000))
    if schedule == "squaredcos_cap_v2":
        return TabulatedPath(schedule=schedule, n_levels=n_levels)
    if schedule == "linear" or schedule == "scaled_linear":
        return TabulatedPath(
            schedule=schedule,
            n_levels=n_levels,
            beta_start=float(config.get("beta_start", 1e-4)),
            beta_end=float(config.get("beta_end", 0.02)),
        )
    raise UsageError(
        f"from_diffusers: beta_schedule is {schedule!r}, expected 'linear', 'scaled_linear' or "
        "'squaredcos_cap_v2'; pass the betas themselves as TabulatedPath(betas=(...))"
    )


def _config_of(scheduler: Any) -> dict[str, Any]:
    if isinstance(scheduler, dict):
        return dict(cast(dict[str, Any], scheduler))
    try:
        from diffusers.configuration_utils import ConfigMixin
        from diffusers.schedulers.scheduling_utils import SchedulerMixin
    except ImportError as error:
        raise UsageError(
            "from_diffusers: diffusers is not installed; pip install 'genpolicy[diffusers]', or "
            "pass the scheduler's configuration as a dict"
        ) from error
    if not (isinstance(scheduler, SchedulerMixin) and isinstance(scheduler, ConfigMixin)):
        raise UsageError(
            f"from_diffusers: got {type(scheduler).__name__}, expected a diffusers scheduler or "
            "its configuration"
        )
    return {**scheduler.config, "_class_name": type(scheduler).__name__}
