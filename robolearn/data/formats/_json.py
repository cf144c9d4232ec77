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
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        raise UserError(f"{name}: no such file, or above {MAX_BYTES >> 20} MiB")
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: no JSON ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(found, dict):
        raise UserError(f"{name}: holds a {type(found).__name__}; expected an object")
    return found
