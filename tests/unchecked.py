"""Calls without the run-time type checks, to see what a user sees who passes a wrong value.

Under test, jaxtyping's checks answer first when an argument does not have its annotated type.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["unchecked"]


def unchecked(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function or class without its type checks."""
    if not inspect.isclass(call):
        return inspect.unwrap(call)

    def make(*args: Any, **kwargs: Any) -> Any:
        made = call.__new__(call)
        inspect.unwrap(call.__init__)(made, *args, **kwargs)
        return made

    return make
