"""Reading ahead by threads: in the order asked for whatever their number, and resumable at what was handed out."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class ReadAhead(Iterator[T]):
    """Endless items. A subclass says what comes next; call this constructor once it can. Close it, or use `with`.

    workers: threads that read ahead, 0: none. ahead: items they keep ready. `state_dict` is that of the items handed out, however many
    were read ahead.
    """

    def __init__(self, workers: int, ahead: int) -> None:
        self._workers, self._ahead = workers, ahead
        self._state = self._now()
        self._pool: ThreadPoolExecutor | None = None
        self._reads: deque[tuple[dict[str, Any], Future[T]]] = deque()

    @abstractmethod
    def _draw(self) -> Callable[[], T]:
        """Decide on the next item; what is returned reads it, on any thread."""

    @abstractmethod
    def _now(self) -> dict[str, Any]:
        """Where the draws stand: plain data."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Draw on from there. ValueError: saved over other data."""

    def __next__(self) -> T:
        if self._workers == 0:
            item = self._draw()()
            self._state = self._now()
            return item
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix=type(self).__name__.lower())
        while len(self._reads) <= self._ahead:
            read = self._draw()
            self._reads.append((self._now(), self._pool.submit(read)))
        state, reading = self._reads.popleft()
        try:
            item = reading.result()
        except BaseException:
            self.close()
            raise
        self._state = state
        return item

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError: saved over other data; nothing has changed then."""
        self._restore(state)
        self._state = state
        self.close()

    def close(self) -> None:
        """Stop reading ahead. The next item starts it again, after the last one handed out."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._reads.clear()
        self._restore(self._state)

    def __enter__(self) -> ReadAhead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
