"""The JSON file of a checkpoint, read before anything else of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genpolicy.errors import CheckpointError

__all__ = ["read_json_card"]


def read_json_card(file: Path, *, newest: int) -> dict[str, Any]:
    """Return the content of a checkpoint's JSON file.

    Args:
        file: with ``schema_version`` in it.
        newest: the highest schema that the caller reads.

    Raises:
        CheckpointError: when it is no JSON, has no schema, or is of a newer one.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        schema = int(content["schema_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); restore the folder") from error
    if schema > newest:
        needs = content.get("versions", {}).get("genpolicy", "a newer version")
        raise CheckpointError(
            f"{file.parent} is of a newer version: schema {schema}, this one reads up to {newest}; "
            f"it needs genpolicy >= {needs}"
        )
    return content
