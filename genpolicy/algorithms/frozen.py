"""Networks that a loss compares with and does not train: teachers and averaged targets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from genpolicy.denoisers import Denoiser
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.networks import load_teacher_weights
from genpolicy.policies import ComposedPolicy, DenoisingPolicy, GenerativePolicy, load_policy
from genpolicy.sampling import check_target
from genpolicy.shapes import Obs

__all__ = ["FrozenTarget", "Teacher", "check_same_task", "held"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Teacher:
    """A trained diffusion or flow policy, or a composition of such, that a student imitates.

    It is no module, so that a LightningModule that holds it neither trains, averages nor saves it.

    Args:
        path: its checkpoint.
        student: the policy to train, on the same data and windows.
        who: named in errors.

    Raises:
        CheckpointError: when the teacher has other observations, windows or statistics.
        UsageError: when it predicts no posterior mean, or is a composition that the ODE of
            distillation does not sample.
    """

    def __init__(self, path: str, *, student: GenerativePolicy, who: str) -> None:
        self.who = who
        self.policy = load_policy(path)
        if self.policy.kind != "posterior_mean":
            raise UsageError(
                f"{who}'s teacher {path} is a consistency policy, which has no ODE; distil a "
                "diffusion or flow policy, or a composition of such"
            )
        check_target(self.policy.target, "ode")
        check_same_task(student, self.policy, path)

    def start(self, student: GenerativePolicy) -> None:
        """Copy the encoder and the network into the student; of a composition, the reference's.

        Raises:
            CheckpointError: when they differ in size.
            UsageError: when the reference is a composition itself.
        """
        source = self.policy
        if isinstance(source, ComposedPolicy):
            source = source.members[source.reference].policy
        if not isinstance(source, GenerativePolicy):
            raise UsageError(
                f"{self.who}: a {type(source).__name__} has no network to start from; set "
                "algorithm.start_from_teacher=false"
            )
        load_teacher_weights(student.encoder, source.encoder.state_dict())
        load_teacher_weights(student.denoiser.network, source.denoiser.network.state_dict())

    @torch.no_grad()
    def bind(self, obs: Obs, *, device: torch.device) -> Denoiser:
        """Return its denoiser for the observations of a batch, after moving it to ``device``."""
        bound = self.policy.to(device).bind(obs)
        if not isinstance(bound, Denoiser):
            raise UsageError(
                f"{self.who}'s teacher follows its trajectory (superposition or particles), which "
                "distillation does not; use a mean, guidance or negation"
            )
        return bound


class FrozenTarget(nn.Module, Generic[ModuleT]):
    """The target network of a loss: the student without gradient, or its average.

    Args:
        student: the network that is trained.
        decay: averaging per update, in [0, 1); 0 keeps no copy and returns the student.
    """

    def __init__(self, student: ModuleT, *, decay: float) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise UsageError(f"target_decay is {decay}, expected a value in [0, 1)")
        self.decay = decay
        self.copy = copy.deepcopy(student).requires_grad_(False) if decay > 0 else None

    def of(self, student: ModuleT) -> ModuleT:
        """Return the network to compare with."""
        return student if self.copy is None else self.copy

    @torch.no_grad()
    def update(self, student: ModuleT) -> None:
        """Average the student in."""
        if self.copy is not None:
            averages: list[Tensor] = list(self.copy.parameters())
            current: list[Tensor] = list(student.parameters())
            torch._foreach_lerp_(averages, current, 1.0 - self.decay)


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Make functions of a module's inputs alone: its weights get no gradient from what is built.

    What was built of it before keeps its gradients.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def check_same_task(student: GenerativePolicy, teacher: DenoisingPolicy, where: str) -> None:
    """Refuse a teacher with other observations, windows or normalizer statistics.

    Raises:
        CheckpointError: naming what differs and in which checkpoint.
    """
    if student.spec != teacher.spec:
        raise CheckpointError(
            f"teacher {where} was trained for {teacher.spec}, the student for {student.spec}; "
            "train both on the same task with the same windows"
        )
    if student.normalizer.to_json() != teacher.normalizer.to_json():
        raise CheckpointError(
            f"teacher {where} has other normalizer statistics than this run's data; train both on "
            "the same data and split"
        )
