"""Training runs: the run folder, exact resume, averaging, saving, evaluation while training.

``train`` and ``resume`` load Lightning on first use; reading run folders needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genpolicy.training.fit import resume, train

__all__ = ["resume", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from genpolicy.training import fit

    return getattr(fit, name)
