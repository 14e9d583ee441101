"""Facts of the robosuite tasks that data sets and environments share; imports no simulator.

Step limits are robomimic's: 400 for Lift, Can and Square, 700 for Transport and ToolHang, and more
for some multi-human files. Stack, Door and TwoArmHandover are no tasks of robomimic; they get the
limit of those with as many arms.

Source: Mandlekar et al. 2021, arXiv 2108.03298; ARISE-Initiative/robomimic, robomimic/__init__.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from genpolicy.errors import UsageError, nearest

__all__ = ["ROBOMIMIC_TASKS", "RobomimicTask", "robomimic_task"]


@dataclass(frozen=True, kw_only=True)
class RobomimicTask:
    """One robosuite task.

    Args:
        name: ours and robomimic's, for example ``"can"``.
        env_name: robosuite's, for example ``"PickPlaceCan"``.
        description: what has to be done.
        object_dim: entries of the observation ``object``.
        quaternions: first entries of the quaternions in ``object``, as robosuite 1.5 orders it.
        n_arms: Panda arms, each with a parallel gripper.
        max_steps: step limit at 20 Hz.
        cameras: cameras of image observations.
        image_size: height and width of image observations in pixels.
        published: step limit of each data set that robomimic published, by its kind (``"ph"``
            proficient human, ``"mh"`` multi-human, ``"mg"`` machine generated).
        has_expert: whether ``genpolicy data make`` has a scripted expert for it.
    """

    name: str
    env_name: str
    description: str
    object_dim: int
    quaternions: tuple[int, ...] = ()
    n_arms: int = 1
    max_steps: int = 400
    cameras: tuple[str, ...] = ("agentview", "robot0_eye_in_hand")
    image_size: int = 84
    published: Mapping[str, int] = field(default_factory=dict[str, int])
    has_expert: bool = False

    @property
    def proprioception(self) -> tuple[str, ...]:
        """The robot's own observations that robomimic's policies see."""
        parts = ("eef_pos", "eef_quat", "gripper_qpos")
        return tuple(f"robot{arm}_{part}" for arm in range(self.n_arms) for part in parts)

    @property
    def low_dim_keys(self) -> tuple[str, ...]:
        """Observation keys of policies without images."""
        return ("object", *self.proprioception)

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Observation keys of policies with images."""
        return (*(f"{camera}_image" for camera in self.cameras), *self.proprioception)

    def quaternions_of(self, key: str) -> tuple[int, ...]:
        """Return the first entries of the quaternions in an observation."""
        if key == "object":
            return self.quaternions
        return (0,) if key.endswith("_quat") else ()

    def env_args(self, *, version: str | None = None) -> dict[str, Any]:
        """Return robomimic's description of the standard environment.

        Args:
            version: of robosuite, to be recorded; None records none.
        """
        kwargs: dict[str, Any] = {
            "robots": ["Panda"] * self.n_arms,
            "controller_configs": [_arm_controller() for _ in range(self.n_arms)],
            "has_renderer": False,
            "has_offscreen_renderer": False,
            "ignore_done": True,
            "use_object_obs": True,
            "use_camera_obs": False,
            "reward_shaping": False,
            "control_freq": 20,
        }
        if self.n_arms == 1:
            kwargs["controller_configs"] = kwargs["controller_configs"][0]
        else:
            kwargs["env_configuration"] = "opposed"
        known = {} if version is None else {"env_version": version}
        return {"env_name": self.env_name, **known, "type": 1, "env_kwargs": kwargs}


def _arm_controller() -> dict[str, Any]:
    """Return robosuite's controller of one arm: pose deltas of the hand in the world's frame."""
    reach = [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]  # metres and radians of an action of 1
    return {
        "type": "BASIC",
        "body_parts": {
            "right": {
                "type": "OSC_POSE",
                "input_max": 1,
                "input_min": -1,
                "output_max": reach,
                "output_min": [-value for value in reach],
                "kp": 150,
                "damping_ratio": 1,
                "impedance_mode": "fixed",
                "kp_limits": [0, 300],
                "damping_ratio_limits": [0, 10],
                "position_limits": None,
                "orientation_limits": None,
                "uncouple_pos_ori": True,
                "input_type": "delta",
                "input_ref_frame": "world",
                "interpolation": None,
                "ramp_ratio": 0.2,
                "gripper": {"type": "GRIP"},
            }
        },
    }


_TWO_ARM_CAMERAS = (
    "shouldercamera0",
    "robot0_eye_in_hand",
    "shouldercamera1",
    "robot1_eye_in_hand",
)

_TASKS = (
    RobomimicTask(
        name="lift",
        env_name="Lift",
        description="lift a cube above the table",
        has_expert=True,
        object_dim=10,
        quaternions=(3,),
        published={"ph": 400, "mh": 500, "mg": 400},
    ),
    RobomimicTask(
        name="can",
        env_name="PickPlaceCan",
        description="put a can into its bin",
        has_expert=True,
        object_dim=14,
        quaternions=(3, 10),
        published={"ph": 400, "mh": 500, "mg": 400},
    ),
    RobomimicTask(
        name="square",
        env_name="NutAssemblySquare",
        description="put a square nut onto its peg",
        has_expert=True,
        object_dim=14,
        quaternions=(3, 10),
        published={"ph": 400, "mh": 500},
    ),
    RobomimicTask(
        name="transport",
        env_name="TwoArmTransport",
        description="hand a hammer from one arm to the other and clear the target bin",
        object_dim=41,
        quaternions=(3, 10, 17),
        n_arms=2,
        max_steps=700,
        cameras=_TWO_ARM_CAMERAS,
        published={"ph": 700, "mh": 1100},
    ),
    RobomimicTask(
        name="tool_hang",
        env_name="ToolHang",
        description="assemble a frame and hang a tool on it",
        object_dim=44,
        quaternions=(3, 10, 17, 24, 31, 38),
        max_steps=700,
        cameras=("sideview", "robot0_eye_in_hand"),
        image_size=240,
        published={"ph": 700},
    ),
    RobomimicTask(
        name="stack",
        env_name="Stack",
        description="put one cube on another",
        has_expert=True,
        object_dim=23,
        quaternions=(3, 10),
    ),
    RobomimicTask(
        name="door",
        env_name="Door",
        description="turn the handle and pull the door open",
        has_expert=True,
        object_dim=14,
    ),
    RobomimicTask(
        name="two_arm_handover",
        env_name="TwoArmHandover",
        description="pass a hammer from one arm to the other",
        object_dim=16,
        quaternions=(3,),
        n_arms=2,
        max_steps=700,
        cameras=("agentview", "robot0_eye_in_hand", "robot1_eye_in_hand"),
    ),
)

ROBOMIMIC_TASKS: Mapping[str, RobomimicTask] = MappingProxyType({t.name: t for t in _TASKS})
"""Every task by name."""


def robomimic_task(name: str) -> RobomimicTask:
    """Return a task by its name.

    Raises:
        UsageError: for an unknown one.
    """
    if name not in ROBOMIMIC_TASKS:
        raise UsageError(f"there is no robosuite task {name!r}; {nearest(name, ROBOMIMIC_TASKS)}")
    return ROBOMIMIC_TASKS[name]
