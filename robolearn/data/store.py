"""EpisodeStore: episodes in Zarr v3 on a disk or in an object store (docs/dataset-format.md). Reading is here, writing in `writing`.

`episodes.jsonl` is the commit point: an episode exists once its line is complete, and its line is written only after its
rows are on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.chunks import decode_block
from robolearn.data.episode import Episode, Stream
from robolearn.data.features import Features, decoded
from robolearn.data.files import Files, open_files
from robolearn.data.frames import Frames
from robolearn.data.journal import JOURNAL, Journal
from robolearn.data.layout import FORMAT, READABLE, SCALARS, Column, columns, from_json, parse_array, stream_of, to_json
from robolearn.data.recorder import Recorder
from robolearn.data.recovery import commit
from robolearn.data.writing import Writer, create, lock, unlock

AT_ONCE = 1024  # files of numbers read and decoded together


class EpisodeStore:
    """Episodes, and all their rows as one compact sequence 0..rows (episode after episode, no gaps).

    A snapshot: what another process appends later is not in it.
    """

    def __init__(self, files: Files, attributes: Mapping[str, Any], handle: int | None = None) -> None:
        """Not for callers: use `create` or `open`. handle: the writer's lock."""
        self.url, self._files = files.url, files
        self.version = int(attributes["format_version"])
        self.spec = RobotSpec.from_dict(from_json(attributes["spec"]))
        self.provenance: dict[str, Any] = dict(from_json(attributes["provenance"]))
        self.calibration: str | None = attributes.get("calibration")
        if min([1, *(side for size in self.spec.cameras.values() for side in size)]) < 1:
            raise ValueError("spec: a camera of no size")
        if (journal := files.read([JOURNAL])[0]) is None:  # not an empty store: the next episode would be written over the first
            raise ValueError(f"{JOURNAL} is missing")
        self._journal = Journal.parse(journal)
        self._columns = self._open_columns()
        self._frames = {name: Frames(files, self._columns[f"images/{name}"], self.version == 1) for name in self.spec.cameras}
        self._cache: dict[str, np.ndarray] = {}
        self._held: dict[str, np.ndarray] = {}
        self._index()
        self.feature_cache = Features(self)
        self._writer = None if handle is None else Writer(Path(files.url), handle, self.spec, self._columns, self._journal)

    @staticmethod
    def create(
        path: str | Path,
        spec: RobotSpec,
        provenance: Mapping[str, Any] | None = None,
        compression: str | Mapping[str, str] = "zstd",
        calibration: str | None = None,
    ) -> EpisodeStore:
        """A new empty store, open for appending. Built under another name and renamed: never half-written.

        compression: the codec of all cameras or of each, see robolearn.data.codecs.VALID. calibration: hash of the cameras' and arm's
        calibration. UserError: `path` exists, an unknown codec.
        """
        create(Path(path), spec, provenance or {}, compression, calibration)
        return EpisodeStore.open(path, "a")

    @staticmethod
    def open(path: str | Path, mode: str = "r") -> EpisodeStore:
        """Open a store, by path or URL (s3://, gs://, http://): "r" to read the episodes finished by now, "a" to append too.

        One writer at a time; only a path can be written to. What a killed recorder left is kept for `recover`.
        """
        if mode not in ("r", "a"):
            raise ValueError(f"mode {mode!r}; valid: 'r', 'a'")
        files = open_files(path)
        attributes = _attributes(files)
        if mode == "r":
            return _opened(files, attributes)
        if "://" in files.url:
            raise UserError(f"{path}: an object store is read only; record into a folder and copy it there")
        if (version := attributes["format_version"]) != READABLE[-1]:
            raise UserError(
                f"{path}: format_version {version} is read, not written; robolearn edit --path {path} --out NEW makes a new one"
            )
        handle = lock(Path(path))
        try:
            return _opened(files, _attributes(files), handle)  # again: another writer may have annotated them
        except BaseException:
            unlock(handle)
            raise

    @property
    def path(self) -> Path:
        """The folder. For a store behind a URL only good for printing its name."""
        return Path(self.url)

    def close(self) -> None:
        """Let another process write. Reading goes on working."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> EpisodeStore:
        return self

    def __reduce__(self) -> Any:
        """For processes that are spawned: the same snapshot, opened there for reading."""
        return _reopened, (str(Path(self.url).absolute()) if "://" not in self.url else self.url, len(self))

    def __exit__(self, *_: object) -> None:
        self.close()

    # Episodes ---------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._journal.lines)

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.read(index)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    @property
    def rows(self) -> int:
        """Rows of all episodes together."""
        return int(self.lengths.sum())

    def length(self, index: int) -> int:
        """Rows of one episode."""
        return int(self.lengths[index])

    def meta(self, index: int) -> dict[str, Any]:
        """What is known about one episode: JSON data, "success" true, false or null (unknown) among it."""
        return dict(self._journal.lines[index]["meta"])

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Episode:
        """Rows `start` to `stop` (exclusive) of one episode, checksums verified. Streams come whole, whichever rows are asked for."""
        line, first = self._journal.lines[index], int(self._physical_starts[index])
        start, stop, _ = slice(start, stop).indices(self.length(index))
        stop = max(start, stop)
        span = (first + start, first + stop)
        rows = {name: self._rows(c, [span]) for name, c in self._columns.items() if stream_of(name) is None and c.codec is None}
        streams = {}
        for name in self.spec.streams:
            begin, count = line["streams"][name]
            parts = [self._rows(self._columns[f"streams/{name}/{part}"], [(begin, begin + count)]) for part in ("time", "values")]
            streams[name] = Stream(*parts)
        return Episode(
            images={name: self._frames[name].read(np.arange(*span), verify=True) for name in self.spec.cameras},
            state={name: rows[f"state/{name}"] for name in self.spec.state},
            **{name: rows[name] for name in (*SCALARS, "action", "requested_action")},  # pyright: ignore[reportArgumentType]
            meta=self.meta(index),
            image_time={name: rows[f"image_time/{name}"] for name in line.get("image_time", ())},
            streams=streams,
        )

    def append(self, episode: Episode) -> int:
        """Store one episode and return its index. Once this returns, the episode survives kill -9 and power loss.

        UserError, with the store as it was: an array that does not fit the spec, values that are not finite, a full disk.
        """
        return self.extend([episode])

    def extend(self, episodes: Sequence[Episode]) -> int:
        """Store several episodes at once and return the first one's index: fewer files where they are short. Refused, none is stored."""
        index = len(self)
        self._writing().append(episodes)
        self._index()
        return index

    def record(self, buffer_mb: float | int = 512) -> Recorder:
        """Record an episode row by row, at most one at a time; what `add` was given is on the disk within a second.

        buffer_mb: rows that wait for a slow disk; beyond it rows are dropped and counted, the caller never waits.
        """
        writer = self._writing()
        return Recorder(writer.folder_for_recording(), self.spec, self._columns, self._commit, buffer_mb)

    def annotate(self, key: str, value: Any) -> None:
        """Add one entry to the provenance, or change it; JSON data."""
        self._writing().annotate({**self.provenance, key: value})
        self.provenance[key] = from_json(to_json(value))

    @property
    def unfinished(self) -> list[Path]:
        """What killed recorders left behind: episodes without an end, each in a folder of its own (only where open for appending)."""
        return self._writing().unfinished()

    def recover(self, unfinished: Path, meta: Mapping[str, Any] | None = None) -> int:
        """Append what is complete of an unfinished episode and return its index; its meta has "interrupted": true, success null.

        UserError: not one row is complete; not one of `unfinished`.
        """
        if unfinished.resolve() not in [folder.resolve() for folder in self.unfinished]:
            valid = ", ".join(map(str, self.unfinished)) or "(none)"
            raise UserError(f"{unfinished}: no unfinished recording; valid: {valid}")
        return self._commit(unfinished, {"success": None, "interrupted": True, **(meta or {})})

    # Rows -------------------------------------------------------------------------------------------------------------

    def identity(self) -> str:
        """A hash of the spec and of every journal line: two stores with the same one hold the same episodes."""
        return hashlib.sha256(json.dumps([to_json(self.spec.to_dict()), self._journal.lines]).encode()).hexdigest()

    def lowdim(self, name: str) -> np.ndarray:
        """All rows of "time", "action", "requested_action", "reward", "terminal", "source", "state/<name>" or "state" (all, in spec order).

        "image_time/<camera>" too. Kept in RAM; read-only. Shape (rows,) or (rows, D).
        """
        if len(self._cache.get(name, ())) == self.rows and name in self._cache:
            return self._cache[name]
        if name == "state":
            parts = [self.lowdim(f"state/{key}") for key in self.spec.state]
            found = np.concatenate(parts, axis=1) if parts else np.zeros((self.rows, 0), np.float32)
        else:
            valid = ["state", *(key for key, c in self._columns.items() if c.codec is None and stream_of(key) is None)]
            if name not in valid:
                raise UserError(f"{self.url}: no column {name!r}; valid: {', '.join(valid)}")
            have = self._cache.get(name)
            done = 0 if have is None else len(have)
            new = self.starts >= done
            firsts, lengths = self._physical_starts[new], self.lengths[new]
            found = self._rows(self._columns[name], list(zip(firsts.tolist(), (firsts + lengths).tolist(), strict=True)))
            found = found if have is None else np.concatenate([have, found])
        found.flags.writeable = False
        self._cache[name] = found
        return found

    def frames(self, camera: str, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 (N, H, W, 3): the images of these compact rows, in this order, in one batched read; into `out` where given."""
        if camera not in self.spec.cameras:
            raise UserError(f"{self.url}: no camera {camera!r}; valid: {', '.join(self.spec.cameras)}")
        held = self._held.get(camera)
        if held is None:
            return self._frames[camera].read(self._physical[rows], out=out)
        inside = rows < len(held)
        if inside.all():
            return np.take(held, rows, axis=0, out=out)
        out = np.empty((len(rows), *held.shape[1:]), np.uint8) if out is None else out
        out[inside] = held[rows[inside]]
        out[~inside] = self._frames[camera].read(self._physical[rows[~inside]])
        return out

    def hold_frames(self, camera: str, rows: int | None = None, folder: Path | None = None) -> None:
        """Keep the first `rows` frames of one camera decoded, None: all, so that `frames` copies them.

        In RAM (rows * H * W * 3 bytes), or memory-mapped from a file in `folder` that every process shares and a later one finds again.
        """
        rows = self.rows if rows is None else min(rows, self.rows)
        held = self._held.get(camera)
        if rows > 0 and (held is None or len(held) < rows):
            file = None if folder is None else folder / f"{self._decoded_name(camera, rows)}.npy"
            shape = (rows, *self.spec.cameras[camera], 3)
            self._held[camera] = decoded(lambda chosen, out: self.frames(camera, chosen, out), shape, file)

    # Features: a cache, and nothing but a cache; any of its files may be deleted ----------------------------------------

    def feature_rows(self, key: str) -> int:
        """How many leading rows have features under `key` (0: none)."""
        return self.feature_cache.rows(key)

    def has_features(self, key: str) -> bool:
        return self.rows > 0 and self.feature_rows(key) == self.rows

    def features(self, key: str) -> np.ndarray:
        """float32 (rows, E), memory-mapped: what the encoder hashed in `key` says about each row."""
        return self.feature_cache.read(key)

    def write_features(self, key: str, array: np.ndarray) -> None:
        """Store features of all rows, or of those that `feature_rows` does not cover yet. Atomic; also on a store opened for reading."""
        self.feature_cache.write(key, array)

    # Inside -----------------------------------------------------------------------------------------------------------

    def _writing(self) -> Writer:
        if self._writer is None or self._writer.closed:
            raise UserError(f"{self.url}: opened for reading; open it with mode 'a' to append")
        return self._writer

    def _decoded_name(self, camera: str, rows: int) -> str:
        """Of a file with these frames: another one once the episodes change."""
        return hashlib.sha256(f"{Path(self.url).absolute()} {camera} {rows} {self.identity()}".encode()).hexdigest()[:16]

    def _commit(self, recording: Path, meta: Mapping[str, Any], last: Mapping[str, bool | float] | None = None) -> int:
        """Turn what a recorder wrote into an episode."""
        commit(self._writing(), recording, meta, last)
        self._index()
        return len(self) - 1

    def _index(self) -> None:
        self.lengths = np.array([e["length"] for e in self._journal.lines], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths  # compact rows
        self._physical_starts = np.array([e["start"] for e in self._journal.lines], np.int64)
        self._physical = np.arange(self.rows) + np.repeat(self._physical_starts - self.starts, self.lengths)

    def _open_columns(self) -> dict[str, Column]:
        """What zarr.json says of each array that the spec asks for."""
        wanted = columns(self.spec, dict.fromkeys(self.spec.cameras, "zstd"))
        if self.version == 1:
            wanted = {name: c for name, c in wanted.items() if not name.startswith("image_time/")}
        found = {}
        stamps = {name for line in self._journal.lines for name in line.get("image_time", ())}
        if unknown := [name for name in stamps if f"image_time/{name}" not in wanted]:
            raise ValueError(f"{JOURNAL} has image_time of {unknown[0]!r}, which is no camera")
        for name, text in zip(wanted, self._files.read([f"{name}/zarr.json" for name in wanted]), strict=True):
            if text is None:
                raise ValueError(f"array {name} is missing")
            found[name], rows = parse_array(name, text)
            mine, its = wanted[name], found[name]
            if (mine.dtype, mine.tail, mine.codec is None) != (its.dtype, its.tail, its.codec is None):
                raise ValueError(f"array {name} holds {its.dtype} {its.tail} a row; the spec says {mine.dtype} {mine.tail}")
            if rows < self._journal.end(stream_of(name)):
                raise ValueError(f"array {name} has {rows} rows, fewer than {JOURNAL} counts")
        return found

    def _rows(self, column: Column, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """The rows of these stretches [first, end) of an array of numbers, one after the other."""
        size = column.file_rows
        out = np.empty((sum(b - a for a, b in spans), *column.tail), column.dtype)
        pieces: list[tuple[int, int, int, int]] = []  # (file, first and last row in it, where they go)
        done = 0
        for a, b in spans:
            while a < b:
                k, inside = divmod(a, size)
                count = min(b - a, size - inside)
                pieces.append((k, inside, inside + count, done))
                a, done = a + count, done + count
        for group in range(0, len(pieces), AT_ONCE):
            files = list(dict.fromkeys(piece[0] for piece in pieces[group : group + AT_ONCE]))
            found = self._files.read([column.key(k) for k in files])
            blocks = {k: self._block(column, k, data) for k, data in zip(files, found, strict=True)}
            for k, first, last, at in pieces[group : group + AT_ONCE]:
                out[at : at + last - first] = blocks[k][first:last]
        return out

    def _block(self, column: Column, file: int, data: bytes | None) -> np.ndarray:
        if data is None and self.version == 1:
            return np.zeros((column.file_rows, *column.tail), column.dtype)
        try:
            if data is None:
                raise ValueError("the file is missing")
            return decode_block(column, data)
        except ValueError as error:
            raise UserError(f"{self.url}/{column.name}: damaged: {error} ({column.key(file).rsplit('/', 1)[-1]})") from error


def _attributes(files: Files) -> dict[str, Any]:
    """The group's attributes. UserError: nothing there, no store, a version that is not read here."""
    text = files.read(["zarr.json"])[0]
    if text is None and not ("://" in files.url or Path(files.url).exists()):
        raise UserError(f"{files.url}: no such store; robolearn ingest or teleop makes one")
    try:
        attributes = json.loads(text or "")["attributes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        attributes = {}
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        inside = Path(files.url) / "dataset.zarr"
        hint = f"did you mean {inside}?" if inside.exists() else "robolearn ingest converts other formats"
        raise UserError(f"{files.url}: not a robolearn store (zarr.json has no attribute format = {FORMAT!r}); {hint}")
    if (version := attributes.get("format_version")) not in READABLE:
        readable = ", ".join(map(str, READABLE))
        raise UserError(f"{files.url}: format_version {version}; this robolearn reads versions {readable}: install a newer one")
    return attributes


def _reopened(url: str, episodes: int) -> EpisodeStore:
    """The store as it was when it had this many episodes."""
    store = EpisodeStore.open(url)
    del store._journal.lines[episodes:]
    store._index()
    return store


def _opened(files: Files, attributes: Mapping[str, Any], handle: int | None = None) -> EpisodeStore:
    try:
        return EpisodeStore(files, attributes, handle)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{files.url}: damaged store: {what}") from error
