"""Weights of networks: which are decayed, and how a student takes over a teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genpolicy.errors import CheckpointError

__all__ = ["load_teacher_weights", "weight_decay_groups"]


def weight_decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups in which only matrices of linear, convolution and attention decay.

    Args:
        module: whose trainable parameters are grouped.
        weight_decay: decay of the first group; biases, norms and embeddings get 0.
    """
    matrices = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.MultiheadAttention)
    decayed: set[int] = set()
    for part in module.modules():
        if isinstance(part, matrices):
            named = part.named_parameters(recurse=False)
            decayed |= {id(p) for name, p in named if name.endswith("weight")}
    trainable = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in decayed], "weight_decay": 0.0},
    ]


def load_teacher_weights(student: nn.Module, teacher: Mapping[str, Tensor]) -> list[str]:
    """Copy a teacher's weights into a student that may have parameters of its own beside them.

    Args:
        student: a module that has every name of ``teacher``, in the same shape.
        teacher: a state dict.

    Returns:
        The student's names that the teacher does not have and that keep their values, sorted; for a
        network with ``n_times=2`` these are the zero-initialized branch of the second time.

    Raises:
        CheckpointError: listing every name that is missing in the student or has another shape.
    """
    own = student.state_dict()
    problems = [
        f"{name} {tuple(value.shape)}: the student has "
        + (f"{tuple(own[name].shape)}" if name in own else "no such entry")
        for name, value in teacher.items()
        if name not in own or own[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            "the student cannot start from this teacher; use the same network settings: "
            + "; ".join(problems)
        )
    with torch.no_grad():
        for name, value in teacher.items():
            own[name].copy_(value)
    return sorted(set(own) - set(teacher))
