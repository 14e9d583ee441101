"""Seeds from seeds: every random stream of the library is named by integers, never by global state.

``derive_seed(7, "policy", 3)`` is a fixed 63-bit integer, so a stream depends on what it is for and
not on what ran before it, in which process, or in how large a batch.
"""

from __future__ import annotations

import hashlib
import secrets

import torch

__all__ = ["as_signed", "derive_seed", "fresh_seeds", "generator_from"]


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


def as_signed(seed: int) -> int:
    """Return the signed integer with the bits of a seed in [0, 2**64), as tensors hold seeds."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def generator_from(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator seeded with ``derive_seed(*parts)`` on ``device``."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))
