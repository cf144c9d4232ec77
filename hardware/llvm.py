"""Two LLVMs in one process: Mesa's, which draws, and Triton's, which torch loads at last. Where Triton's comes second, it crashes."""

from __future__ import annotations

import importlib
from contextlib import suppress


def tritons_first() -> None:
    """Before anything draws, or might: load Triton's, where there is one. A robot's computer need not have it."""
    with suppress(ImportError):
        importlib.import_module("triton")
