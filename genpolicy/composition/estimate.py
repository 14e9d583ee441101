r"""The convex weights that fit held-out demonstrations best, level by level, without a rollout.

At one noise level let ``x = alpha clean + sigma eps`` with known ``eps``, and let e_i be the noise
that member i implies at x, minus eps. The mixture with weights w that sum to 1 is then wrong by
``sum_i w_i e_i``, and the weights sought are those of ::

    (1)  min E|sum_i w_i e_i|^2 = w' G w,      G_ij = E<e_i, e_j>,      w_i >= 0,  sum_i w_i = 1

For two members with Q(w) = E|w e_1 + (1 - w) e_2|^2 = A w^2 + B w + C this is ::

    (2)  w* = -B/(2A) = E<e_2, e_2 - e_1> / E|e_1 - e_2|^2,      clipped to [0, 1]

eps is not E[eps | x]: the difference is the same for every member and uncorrelated with what they
predict, so it adds a constant to (1) and leaves the weights as they are. Q(w*) is below both
members' errors if and only if (2) is strictly between 0 and 1. A smaller error of the score is not
a higher success rate: confirm such weights with rollouts.

Source: (1) and (2) are arXiv 2510.01068 proposition 4.1 with eps for the unknown score.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genpolicy.composition.members import Member, coverage_of
from genpolicy.denoisers import as_tracking
from genpolicy.errors import UsageError
from genpolicy.shapes import Chunk

__all__ = ["MOST_MEMBERS", "gram_of_errors", "noise_errors", "optimal_weights", "weights_of_errors"]

MOST_MEMBERS = 8
"""Members for which (1) is solved by looking at every face of the simplex."""

_RIDGE = 1e-12


def optimal_weights(
    gram: Float[Tensor, "*batch members members"],
) -> Float[Tensor, "*batch members"]:
    """Return the weights (1) for matrices of mean products of errors.

    Args:
        gram: symmetric, positive semidefinite, one matrix or several.

    Returns:
        Weights of at least 0 with sum 1, in float64. Members that do not differ share their weight
        equally.

    Raises:
        UsageError: for matrices that are not square or not finite, or more than ``MOST_MEMBERS``
            members.
    """
    n = gram.shape[-1]
    if gram.ndim < 2 or gram.shape[-2] != n or not 1 <= n <= MOST_MEMBERS:
        raise UsageError(
            f"optimal_weights: got a matrix of shape {tuple(gram.shape)}, expected (..., members, "
            f"members) with 1 to {MOST_MEMBERS} members"
        )
    if not bool(torch.isfinite(gram).all()):
        raise UsageError("optimal_weights: got products of errors that are not finite")
    table = gram.double()
    if n == 2:
        return _of_two(table)
    scale = table.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-300)
    table = table / scale[..., None, None] + _RIDGE * torch.eye(n, dtype=torch.float64)
    best = torch.zeros(*table.shape[:-1], dtype=torch.float64)
    least = torch.full(table.shape[:-2], torch.inf, dtype=torch.float64)
    # The minimum lies inside one face of the simplex, where it is a linear system.
    for size in range(1, n + 1):
        for face in itertools.combinations(range(n), size):
            weights = _on_face(table, face)
            loss = torch.einsum("...i,...ij,...j->...", weights, table, weights)
            loss = torch.where((weights >= 0.0).all(-1), loss, torch.inf)
            better = loss < least
            best = torch.where(better[..., None], weights, best)
            least = torch.where(better, loss, least)
    return best


def _of_two(gram: Float[Tensor, "*batch 2 2"]) -> Float[Tensor, "*batch 2"]:
    """Return (2), and equal weights where both members make the same errors."""
    first, second, mixed = gram[..., 0, 0], gram[..., 1, 1], gram[..., 0, 1]
    apart = first + second - 2.0 * mixed
    is_same = apart <= _RIDGE * (first + second)
    ratio = (second - mixed) / torch.where(is_same, torch.ones_like(apart), apart)
    weight = torch.where(is_same, torch.full_like(ratio, 0.5), ratio.clamp(0.0, 1.0))
    return torch.stack([weight, 1.0 - weight], dim=-1)


def _on_face(table: Tensor, face: Sequence[int]) -> Tensor:
    """Return the minimum over weights that sum to 1 on a face, of whatever sign, 0 elsewhere."""
    index, size = list(face), len(face)
    system = table.new_zeros(*table.shape[:-2], size + 1, size + 1)
    system[..., :size, :size] = table[..., index, :][..., index]
    system[..., size, :size] = system[..., :size, size] = 1.0
    right = table.new_zeros(*table.shape[:-2], size + 1, 1)
    right[..., size, 0] = 1.0
    weights = table.new_zeros(table.shape[:-1])
    weights[..., index] = (torch.inverse(system) @ right)[..., :size, 0]
    return weights


def gram_of_errors(
    errors: Float[Tensor, "members samples *entry"],
) -> Float[Tensor, "samples members members"]:
    """Return the products <e_i, e_j> of (1) of each sample: sums over its entries, in float64."""
    flat = errors.double().flatten(2) if errors.ndim > 2 else errors.double().unsqueeze(-1)
    return torch.einsum("ise,jse->sij", flat, flat)


def weights_of_errors(
    errors: Float[Tensor, "members samples *entry"],
) -> Float[Tensor, " members"]:
    """Return the weights (1) for the errors of some members on the same samples.

    Args:
        errors: implied minus true noise, at least one sample.

    Raises:
        UsageError: without samples, for errors that are not finite, or too many members.
    """
    if errors.ndim < 2 or errors.shape[1] < 1:
        raise UsageError(
            f"weights_of_errors: got errors of shape {tuple(errors.shape)}, expected (members, "
            "samples, ...) with at least one sample"
        )
    return optimal_weights(gram_of_errors(errors).mean(0))


def noise_errors(
    members: Sequence[Member],
    clean: Chunk,
    noise: Chunk,
    *,
    log_snr: float,
) -> tuple[Float[Tensor, "members batch horizon action"], Bool[Tensor, "horizon action"]]:
    """Return the errors of the noise that members imply at one level.

    Args:
        members: denoisers on one path, in one unit, bound to the observations of ``clean``.
        clean: demonstrated actions in the members' unit.
        noise: standard normal, of the shape of ``clean``.
        log_snr: finite level on the members' path.

    Returns:
        The errors, and the entries that all members say something about.

    Raises:
        UsageError: for members on different paths, flow maps, or parts that do not overlap.

    Cost: one evaluation of each member.
    """
    path = members[0].path
    if any(member.path != path or member.kind == "flow_map" for member in members):
        raise UsageError(
            "noise_errors: the members have to be on one path (on_path), and a consistency policy "
            "implies no noise: it predicts the end of a trajectory, not E[clean | x_t]"
        )
    level = torch.tensor(log_snr, dtype=torch.float64)
    time = path.t_of_log_snr(level).clamp(path.t_min, path.t_max)
    alpha, sigma = (v.item() for v in path.alpha_sigma(time))
    x_t = alpha * clean + sigma * noise
    t = x_t.new_full((len(x_t),), time.item())
    errors: list[Tensor] = []
    covered = torch.ones(clean.shape[1:], dtype=torch.bool, device=clean.device)
    for member in members:
        tracked = as_tracking(member)
        denoised, _ = tracked.denoise(x_t, t, None, tracked.start(x_t, None))
        errors.append((x_t - alpha * denoised) / sigma - noise)
        coverage = coverage_of(member)
        if coverage is not None:
            covered = covered & coverage.to(clean.device)
    if not bool(covered.any()):
        raise UsageError("noise_errors: there is no action entry that all members predict")
    return torch.stack(errors), covered
