"""Weights of networks: which are decayed, and how a student takes over a teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genpolicy.errors import CheckpointError
from genpolicy.networks.embeddings import SecondTime

__all__ = ["CopiedWeights", "load_teacher_weights", "weight_decay_groups"]


def weight_decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups in which only weights of linear, convolution and attention decay.

    Biases, norms, position embeddings and every parameter of another kind are not decayed.
    Parameters shared by two modules are listed once; frozen ones are left out.

    Args:
        module: whose trainable parameters are grouped.
        weight_decay: decay of the first group; the second has 0.
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


class CopiedWeights(NamedTuple):
    """What ``load_teacher_weights`` did, as sorted names of the student's entries.

    Args:
        copied: entries that now have the teacher's values.
        kept: entries that the teacher does not have and that kept theirs.
    """

    copied: list[str]
    kept: list[str]


def load_teacher_weights(student: nn.Module, teacher: Mapping[str, Tensor]) -> CopiedWeights:
    """Copy a teacher's weights into a student that may embed one more time.

    The student has to have every entry of the teacher in its shape and type, and nothing beside
    them but the branches of a second time (``SecondTime``), which start at zero: afterwards the
    student computes the teacher's function, whatever the second time. Nothing is copied on error.

    Args:
        student: a network, encoder, or module that holds some.
        teacher: state dict of a module of the same settings.

    Returns:
        The names that were copied and those that were kept.

    Raises:
        CheckpointError: listing every entry that does not fit.
    """
    own = student.state_dict()
    problems = [
        f"{name}: the teacher has {_describe(value)}, the student "
        + (_describe(own[name]) if name in own else "no such entry")
        for name, value in sorted(teacher.items())
        if name not in own or _describe(own[name]) != _describe(value)
    ]
    kept = sorted(set(own) - set(teacher))
    prefixes = tuple(
        f"{name}." for name, part in student.named_modules() if isinstance(part, SecondTime)
    )
    problems += [
        f"{name}: the student has {_describe(own[name])}, the teacher no such entry"
        for name in kept
        if not name.startswith(prefixes)
    ]
    if problems:
        raise CheckpointError(
            f"the student ({type(student).__name__}) cannot start from this teacher; build both "
            "with the same settings (n_times may differ): " + "; ".join(problems)
        )
    with torch.no_grad():
        for name, value in teacher.items():
            own[name].copy_(value)
    return CopiedWeights(copied=sorted(teacher), kept=kept)


def _describe(value: Tensor) -> str:
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
