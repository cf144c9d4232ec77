"""A verb's folder: config.yaml, metrics.jsonl, its product, and last of all done.json."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from robolearn.core.config import from_dict, read_yaml, save_config, to_dict
from robolearn.core.errors import UserError
from robolearn.core.files import HALF, append_line, drop_halves, free_mib, require_free, write_atomic

__all__ = ["Run", "free_mib", "read_metrics", "require_free"]

_HOW = ("out", "overwrite", "recover")  # fields about the folder itself: two runs that differ only here are the same run
_BEFORE_ANYTHING = {"config.yaml", "tensorboard"}  # what a run's folder holds before anything came of it
_PACKAGES = ("robolearn", "torch", "mujoco", "robosuite", "numpy", "zarr", "diffusers")


class Run:
    """One run of one config in one folder.

        run = Run(config.out, config)
        if run.finished():
            return
        with run:
            run.log(step=1, loss=0.5)
            run.finish(success=0.9)

    Without done.json a second start with the same config resumes; with another config it is refused. overwrite=True begins anew in any
    case: it empties the folder first. Otherwise nothing is written before `with`. blank: nothing came of what is in the folder, which
    another config may replace. grows: a number of the config that may be changed later, such as how many episodes to record: raised, the
    run goes on; lowered, it may end earlier. how: dotted fields that change the way, not the result; they may differ when it goes on.
    writes: False for all but one of several processes that share a run.
    """

    def __init__(
        self,
        out: Path,
        config: Any,
        overwrite: bool = False,
        grows: str | None = None,
        how: tuple[str, ...] = (),
        writes: bool = True,
        blank: bool = False,
    ) -> None:
        self.out, self.config = Path(out), config
        self.watchers: list[Callable[[Mapping[str, Any]], None]] = []  # shown every row of `log`
        self._how, self._writes = (*_HOW, *how), writes
        self._grown = False  # more is asked for than the run in this folder was to make
        self.stages: dict[str, float] = {}  # seconds
        self._started, self._before = time.monotonic(), 0.0
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"{self.out}: is a file; expected a folder for this run")
        if not self._begun:
            # The one that writes may be about to write config.yaml while another looks, or was killed while it did.
            if writes and self.out.is_dir() and not all(path.match(HALF) for path in self.out.iterdir()):
                raise UserError(f"{self.out}: is not empty and not a run (no config.yaml); choose another folder")
            return
        if overwrite:
            self._empty()
            return
        differences = self._differences()
        if grows is not None and grows in differences:
            there, here = differences.pop(grows)
            self._grown = here > there
        if differences and blank:
            self._empty()
        elif differences:
            said = "; ".join(f"{name}: {there!r} != {here!r}" for name, (there, here) in differences.items())
            raise UserError(
                f"{self.out}: holds a run of another config; choose another --out, or --overwrite discards it (there != here): {said}"
            )

    def finished(self) -> bool:
        return (self.out / "done.json").exists() and not self._grown

    def result(self) -> dict[str, Any]:
        """What `finish` was given, plus seconds, versions and machine."""
        return read_json(self.out / "done.json")

    def __enter__(self) -> Run:
        self._started = time.monotonic()
        if not self._writes:
            return self
        if not self._begun or self._grown:
            (self.out / "done.json").unlink(missing_ok=True)
            save_config(self.config, self.out / "config.yaml")
            self._grown = False
        self._lock = _locked(self.out)
        drop_halves(self.out)
        for log in self.out.glob("*.jsonl"):
            _drop_torn_line(log)
        rows = read_metrics(self._metrics)
        self._before = float(rows[-1].get("seconds", 0.0)) if rows else 0.0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._writes:
            return
        if kind is not None and issubclass(kind, Exception) and {p.name for p in self.out.iterdir()} <= _BEFORE_ANYTHING:
            shutil.rmtree(self.out)  # nothing came of it: wrong input leaves no half-made folder
        os.close(self._lock)

    @property
    def seconds(self) -> float:
        """Time spent, interrupted attempts included up to their last `log`."""
        return self._before + time.monotonic() - self._started

    def log(self, **scalars: Any) -> None:
        """Append one row of numbers and words to metrics.jsonl; `seconds` is added."""
        if not self._writes:
            return
        row = {name: _plain(value) for name, value in scalars.items()} | {"seconds": round(self.seconds, 3)}
        append_line(self._metrics, json.dumps(row))
        for watch in self.watchers:
            watch(row)

    def rewind(self, step: int) -> None:
        """Forget the logged rows after `step`: what was done since the state that is resumed from is done again."""
        rows = read_metrics(self._metrics)
        kept = [row for row in rows if row.get("step", 0) <= step]
        if self._writes and len(kept) < len(rows):
            write_atomic(self._metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside, by this process, to `stages[stage]` of done.json."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.monotonic() - start

    def finish(self, **result: Any) -> None:
        """Write done.json: from now on the run is complete."""
        if not self._writes:
            return
        usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        facts = {
            "seconds": round(self.seconds, 3),
            "stages": {name: round(value, 3) for name, value in self.stages.items()},
            "peak_memory_mib": round(usage / 1024, 1),
            "versions": versions(),
            "commit": commit(),
            "platform": platform.platform(),
            "cpus": len(os.sched_getaffinity(0)),
        }
        write_atomic(self.out / "done.json", (json.dumps({**_plain(result), **facts}, indent=2) + "\n").encode())

    @property
    def _metrics(self) -> Path:
        return self.out / "metrics.jsonl"

    @property
    def _begun(self) -> bool:
        return (self.out / "config.yaml").exists()

    def _differences(self) -> dict[str, tuple[Any, Any]]:
        """Of the config in the folder and the one at hand, by the dotted names of their fields."""
        there, here = _flat(self._there()), _flat(yaml.safe_load(yaml.safe_dump(to_dict(self.config))))
        names = [n for n in dict.fromkeys([*there, *here]) if not {n, n.split(".")[0]} & set(self._how)]
        return {n: (there.get(n), here.get(n)) for n in names if there.get(n) != here.get(n)}

    def _there(self) -> dict[str, Any]:
        """The config in the folder; what a run of an earlier version could not know has its default, so that it goes on."""
        written = read_yaml(self.out / "config.yaml")
        try:
            return yaml.safe_load(yaml.safe_dump(to_dict(from_dict(type(self.config), written))))
        except UserError:  # no longer a config of this verb: its fields are told one by one
            return written

    def _empty(self) -> None:
        os.close(_locked(self.out))  # not under another's feet
        for path in self.out.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, oldest first; empty where there is none. UserError: damaged."""
    if not path.exists():
        return []
    return [_mapping(line, f"{path}: line {number}") for number, line in enumerate(_text(path).splitlines(), 1)]


def read_json(path: Path) -> dict[str, Any]:
    """A result, such as done.json. UserError: damaged."""
    return _mapping(_text(path), str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged: {error}") from error


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: damaged: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: damaged: it holds a {type(found).__name__}; expected names and values")
    return found


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of this source tree, with '+changes' where files differ from it; None outside of git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head, dirty = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}{'+changes' if dirty else ''}"


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder until it is closed; the kernel frees it when the process dies."""
    handle = os.open(folder / "config.yaml", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{folder}: another process is at work on this run; wait for it, or choose another --out") from None
    return handle


def _drop_torn_line(path: Path) -> None:
    """A process killed while it logged leaves half a row; the rows before it are kept."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        write_atomic(path, data[: data.rfind(b"\n") + 1])


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping):
        return {prefix: data}
    return {k: v for name, value in data.items() for k, v in _flat(value, f"{prefix}.{name}" if prefix else str(name)).items()}


def _plain(value: Any) -> Any:
    """JSON data: numpy and torch scalars become numbers, paths text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value
