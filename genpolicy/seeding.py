"""Seeds from seeds: every random stream of the library is named by integers, never by global state.

``derive_seed(7, "policy", 3)`` is a fixed 63-bit integer, so a stream depends on what it is for and
not on what ran before it, in which process, or in how large a batch.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["bits_of", "derive_seed", "fresh_seeds", "generator_from"]

_HALF, _ALL = 1 << 63, 1 << 64


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that is a fixed function of ``parts``.

    Args:
        parts: integers and names, for example a run seed, ``"order"`` and an epoch. Types count:
            ``1`` and ``"1"`` give different seeds.
    """
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def fresh_seeds(n: int) -> list[int]:
    """Return ``n`` unpredictable seeds from the operating system, for calls that name none."""
    return [secrets.randbits(63) for _ in range(n)]


def bits_of(seeds: Sequence[int]) -> Int64[Tensor, " n"]:
    """Return the bits of seeds in [-2**63, 2**64) as a tensor of signed integers, on the host.

    ``torch.tensor`` looks at a list for what it may hold, which takes as long as the rest of a
    policy's Python.

    Raises:
        OverflowError: for a seed outside of that range.
    """
    if not seeds:
        return torch.zeros(0, dtype=torch.int64)
    signed = array("q", [seed - _ALL if _HALF <= seed < _ALL else seed for seed in seeds])
    return torch.frombuffer(signed, dtype=torch.int64)


def generator_from(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator seeded with ``derive_seed(*parts)`` on ``device``."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))
