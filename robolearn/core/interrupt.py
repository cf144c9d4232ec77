"""Ctrl-C where half a step must not be left behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether the user wants to stop. Look at `wanted` where everything is whole; a second Ctrl-C does not wait for that."""

    def __init__(self) -> None:
        self.wanted = False
        self._deferred = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, everything is whole all the time: Ctrl-C need not wait."""
        self._deferred = False
        try:
            if self.wanted:
                raise KeyboardInterrupt
            yield
        finally:
            self._deferred = True

    def _hear(self, *_: object) -> None:
        if self.wanted or not self._deferred:
            raise KeyboardInterrupt
        self.wanted = True


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """SIGINT and SIGTERM are noted instead of raised. Outside of the main thread, where neither arrives, nothing changes."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before: dict[signal.Signals, Any] = {s: signal.signal(s, interrupt._hear) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
