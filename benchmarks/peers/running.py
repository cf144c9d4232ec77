"""The other end of `series`: contestants as processes that are told when to read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DP_SOURCE = "ROBOLEARN_PEER_DP_SOURCE"


@dataclass(frozen=True)
class Entry:
    """One contestant in one variant. python: the variable that names its interpreter; None: ours. needs: another variable."""

    label: str
    script: str
    variant: str
    python: str | None = None
    needs: str | None = None

    @property
    def missing(self) -> str | None:
        """The variable that would have to be set."""
        return next((name for name in (self.python, self.needs) if name and not os.environ.get(name)), None)


class Running:
    """A contestant's process. first: called in it before anything else. ChildProcessError: it died; the message has its last words."""

    def __init__(self, entry: Entry, data: Path, *more: str, first: Callable[[], Any] | None = None, name: str = "") -> None:
        self._log = data / f"{name or f'{entry.script}-{entry.variant}'}.log"
        source = filter(None, [os.environ.get(entry.needs or ""), os.environ.get("PYTHONPATH")])
        interpreter = sys.executable if entry.python is None else os.environ[entry.python]
        self._command = [interpreter, str(Path(__file__).with_name(f"{entry.script}.py")), "--data", str(data), "--variant", entry.variant]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*self._command, *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(source)},
                preexec_fn=first,
                text=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        last = (self._log.read_text().strip().splitlines() or ["no message"])[-1]
        raise ChildProcessError(f"{' '.join(self._command[1:])} ended with {self._process.wait()}: {last}")

    def series(self, kind: str, seconds: float) -> dict[str, Any]:
        """Samples per second and the like, of one series."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            print(kind, seconds, file=self._process.stdin, flush=True)
        return self.answer()

    def close(self) -> dict[str, Any]:
        """What it says at the end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        last = self.answer()
        self._process.wait()
        return last
