"""The JSON file beside a dataset that says what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robolearn.core.errors import UserError

MAX_BYTES = 1 << 26


def read_object(file: Path) -> dict[str, Any]:
    """UserError: missing, larger than 64 MiB, no JSON, or no object."""
    name = f"{file.parent.name}/{file.name}"
    if not file.is_file():
        raise UserError(f"{name}: missing")
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        found = json.loads(data) if len(data) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: no JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{name}: {'is no JSON object' if len(data) <= MAX_BYTES else 'is larger than 64 MiB'}")
    return found
