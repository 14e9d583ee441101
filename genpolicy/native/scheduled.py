"""A composition whose factors were computed before the loop, and noise that was drawn before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.denoisers import Kind
from genpolicy.errors import UsageError
from genpolicy.native.expansion import Affine
from genpolicy.ops import Parts
from genpolicy.paths import Path
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["GivenNoise", "Scheduled"]


class Scheduled:
    """A denoiser for one run of the loop, whose evaluations come in the order of a schedule.

    It computes the sums of ``expansion`` with numbers instead of functions of time, so that a run
    holds nothing but networks, additions and multiplications: what is exported, and what the
    compiled steps take.

    Args:
        path: path of the composition.
        kind: what its output means.
        rows: the sums, one per evaluation.
        conds: the condition of every source, in the order of the terms.
    """

    def __init__(
        self, *, path: Path, kind: Kind, rows: Sequence[Affine], conds: Sequence[Cond]
    ) -> None:
        self.path = path
        self.kind: Kind = kind
        self._rows = iter(rows)
        self._conds = tuple(conds)

    def in_parts(self, x_t: Chunk, t: Time) -> Parts:
        """Return the denoised actions of the next evaluation of the schedule as a sum."""
        row = next(self._rows)
        outputs: list[Tensor] = []
        for term, own in zip(row.terms, self._conds, strict=True):
            seen = x_t if term.in_scale == 1.0 else term.in_scale * x_t
            if term.in_shift is not None:
                seen = seen + term.in_shift.to(x_t)
            time = torch.full_like(t, term.time)
            outputs.append(term.source.trained.network(seen, time, own))
        factors = tuple(term.on_raw for term in row.terms)
        return Parts(outputs=tuple(outputs), factors=factors, on_x=row.on_x, shift=row.shift)

    def __call__(self, x_t: Chunk, t: Time, cond: Cond = None) -> Chunk:
        """Return the denoised actions of the next evaluation of the schedule."""
        return self.in_parts(x_t, t).denoised(x_t)


class GivenNoise:
    """Noise that was drawn before the run.

    Args:
        values: ``(n_draws, batch, horizon, action)``.
        places: where each index lies in it.
    """

    def __init__(
        self, values: Float[Tensor, "draws batch horizon action"], places: Mapping[int, int]
    ) -> None:
        self._values = values
        self._places = dict(places)

    def draw(self, index: int, *, stream: int = 0) -> Chunk:
        """Return the noise of one index, see ``NoiseSource.draw``."""
        if stream != 0 or index not in self._places:
            raise UsageError(
                f"GivenNoise: index {index} of stream {stream} was not drawn; it has "
                f"{sorted(self._places)} of stream 0"
            )
        return self._values[self._places[index]]
