"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["modes_kept"]


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Restore whether a module and each of those in it was training, whatever happened in between.

    Args:
        module: the outermost one.
    """
    modes = [(inner, inner.training) for inner in module.modules()]
    try:
        yield
    finally:
        for inner, was_training in modes:
            if inner.training != was_training:  # setting it costs microseconds each
                inner.training = was_training
