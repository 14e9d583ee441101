"""Which noise goes with which action: independent pairs, or minibatch optimal transport.

Optimal pairs make the straight lines of flow matching cross less, so fewer integration steps are
needed. In conditional models the pairing has to stay within rows of one condition: re-pairing
across observations makes the noise informative about the observation, and then sampling from
independent noise draws from another distribution than the one trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from genpolicy.losses.reduction import Mask
from genpolicy.shapes import Chunk, Cond

__all__ = ["Coupling", "OptimalCoupling", "equal_condition_groups", "optimal_pairing"]


@runtime_checkable
class Coupling(Protocol):
    """A way to pair the noise rows of a batch with its actions."""

    def pair(
        self, clean: Chunk, noise: Chunk, cond: Cond, mask: Mask = None
    ) -> Int[Tensor, " batch"]:
        """Return a permutation of rows: ``noise[result]`` goes with ``clean``."""
        ...


@dataclass(frozen=True, kw_only=True)
class OptimalCoupling:
    """Exact minibatch optimal transport, see ``optimal_pairing``.

    Args:
        across_conditions: False pairs only among rows whose conditions are equal bit for bit; with
            continuous observations no two rows are, and it changes nothing. True pairs across the
            whole batch and biases a conditional model: the noise then tells about the condition in
            training and does not in sampling.
    """

    across_conditions: bool = False

    def pair(
        self, clean: Chunk, noise: Chunk, cond: Cond, mask: Mask = None
    ) -> Int[Tensor, " batch"]:
        """Return the permutation, see ``Coupling.pair``."""
        groups = equal_condition_groups(None if self.across_conditions else cond, len(clean))
        return optimal_pairing(clean, noise, groups, mask=mask)


def equal_condition_groups(cond: Cond, batch: int) -> Int[Tensor, " batch"]:
    """Number the rows so that two rows share a number exactly when their conditions are equal.

    Args:
        cond: conditions; None puts all rows in group 0.
        batch: number of rows.
    """
    if cond is None:
        return torch.zeros(batch, dtype=torch.long)
    return torch.unique(cond.detach().flatten(1), dim=0, return_inverse=True)[1]


@torch.no_grad()
def optimal_pairing(
    clean: Chunk, noise: Chunk, groups: Int[Tensor, " batch"], *, mask: Mask = None
) -> Int[Tensor, " batch"]:
    """Return the permutation of noise rows with the least total squared distance to the actions.

    Args:
        clean: actions.
        noise: as many rows of noise.
        groups: rows with different numbers are never exchanged.
        mask: True on entries of ``clean`` that count in the distance; None counts all.

    Returns:
        ``(batch,)``: use ``noise[result]`` with ``clean``.

    Source: arXiv 2302.00482, section 3.2.2 (OT-CFM with exact minibatch plans).

    Cost: cubic in the size of the largest group, on the host.
    """
    rows = clean.detach().double().flatten(1)
    valid = torch.ones_like(clean) if mask is None else mask.unsqueeze(-1).expand_as(clean)
    weight = valid.to(rows.dtype).flatten(1)
    draws = noise.detach().double().flatten(1)
    result = np.arange(len(rows))
    labels = groups.cpu().numpy()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            continue
        index = torch.as_tensor(members, device=rows.device)
        a, b, w = rows[index], draws[index], weight[index]
        cost = (w * a.square()).sum(1, keepdim=True) - 2 * (w * a) @ b.T + w @ b.square().T
        _, chosen = linear_sum_assignment(cost.cpu().numpy())
        result[members] = members[chosen]
    return torch.as_tensor(result, device=clean.device)
