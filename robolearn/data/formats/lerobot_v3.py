"""LeRobot's dataset v3.0 (LeRobot 0.4 and later): many episodes in one parquet file and in one mp4 for each camera.

meta/info.json                                features, fps, the patterns of the files' names
meta/episodes/chunk-000/file-000.parquet      each episode's length, tasks, files, and where in the videos it begins and ends [s]
meta/tasks.parquet                            task -> task_index, as pandas stores an index
meta/stats.json                               not read: the store computes its own
data/chunk-000/file-000.parquet
videos/<feature>/chunk-000/file-000.mp4
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robolearn.core.errors import UserError
from robolearn.data.formats._lerobot import META, Clip, LeRobot, Listed
from robolearn.data.formats._lerobot_info import Info, read_info, version_of
from robolearn.data.formats._lerobot_write import CHUNK, Recording, Totals, building, info_json, write_json
from robolearn.data.formats._parquet import numbers, open_parquet, read_groups
from robolearn.data.formats._reader import Dataset, Options, Reader
from robolearn.data.formats._video import VideoWriter

_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_DATA, _VIDEO, _EPISODES = f"data/{_FILE}.parquet", f"videos/{{video_key}}/{_FILE}.mp4", f"meta/episodes/{_FILE}.parquet"
_DATA_MB, _VIDEO_MB = 100, 200  # LeRobot's sizes: a file that has grown so large gets no further episode
_EPISODES_AT_ONCE = 100  # rows of the list of episodes that are written together
_KEEP_BYTES = 1 << 28


def matches(path: Path) -> bool:
    return version_of(path).startswith("v3.")


def read(path: Path, options: Options) -> Reader:
    """Episodes in the order of `meta/episodes`; those with a file missing are left out and counted in `notes`.

    UserError: metadata that cannot be read, an unknown camera, no complete episode.
    """
    info = read_info(path)
    rows = _Rows(info)
    return LeRobot(info, options, list(_listed(info)), _tasks(info), rows.of, rows.close)


def write(path: Path, dataset: Dataset) -> None:
    """Write v3.0, episode by episode, built beside `path` and renamed. What is lost and what is added: see `_lerobot_write`.

    UserError: an episode that does not fit the dataset's spec, a camera that LeRobot has no name for.
    """
    with building(path) as root:
        recording, totals = Recording(dataset.spec), Totals()
        with ExitStack() as stack:
            data = stack.enter_context(_Files(root, _DATA, _DATA_MB))
            videos = {key: stack.enter_context(_Files(root, _VIDEO, _VIDEO_MB, video_key=key)) for key in recording.cameras}
            listed = stack.enter_context(_List(root / _EPISODES.format(chunk_index=0, file_index=0)))
            for index, episode, table, stats in recording.episodes(dataset):
                line = {"episode_index": index, "tasks": [recording.instruction(episode)], "length": len(episode)}
                rows = data.current(partial(pq.ParquetWriter, schema=table.schema))
                rows.write_table(table, row_group_size=max(len(table), 1))  # one row group, so that it can be read alone
                line |= data.place("data/") | {
                    "dataset_from_index": recording.row_count,
                    "dataset_to_index": recording.row_count + len(table),
                }
                for key, name in recording.cameras.items():
                    video = videos[key].current(partial(VideoWriter, size=dataset.spec.cameras[name], rate_hz=recording.fps))
                    start = video.frames / recording.fps
                    video.add(episode.images[name])
                    recording.describe(key, video)
                    line |= videos[key].place(f"videos/{key}/")
                    line |= {f"videos/{key}/from_timestamp": start, f"videos/{key}/to_timestamp": video.frames / recording.fps}
                totals.add(stats)
                line |= {f"stats/{key}/{name}": value for key, part in stats.items() for name, value in part.items()}
                listed.add(line | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, META: recording.meta(episode)})
        pq.write_table(_tasks_table(list(recording.tasks)), root / "meta/tasks.parquet")
        write_json(root / "meta/stats.json", totals.result())
        sizes = {"data_files_size_in_mb": _DATA_MB, "video_files_size_in_mb": _VIDEO_MB}
        write_json(root / "meta/info.json", info_json(recording, "v3.0", _DATA, _VIDEO) | sizes)


class _Rows:
    """Rows of one episode out of files that hold many: found by their episode_index, read by row groups."""

    def __init__(self, info: Info) -> None:
        self._info = info
        self._name, self._file = "", None
        self._owner = np.zeros(0, np.int64)  # the episode of each row of the file
        self._kept: tuple[Any, pa.Table] | None = None  # the last row groups: converted datasets have all episodes in one

    def of(self, one: Listed, columns: Sequence[str]) -> pa.Table:
        file = self._opened(one.data)
        rows = np.flatnonzero(self._owner == one.index)
        if not len(rows) or rows[-1] - rows[0] + 1 != len(rows):
            raise UserError(f"{one.data}: episode_index {one.index} is {'not there' if not len(rows) else 'scattered'}")
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        if len(rows) != one.length:
            raise UserError(f"{one.data}: has {len(rows)} rows of episode_index {one.index}; meta/episodes says {one.length}")
        first, last = (int(np.searchsorted(ends, row, side="right")) for row in (rows[0], rows[-1]))
        key = (one.data, first, last, tuple(columns))
        if self._kept is not None and self._kept[0] == key:
            table = self._kept[1]
        else:
            table = read_groups(file, range(first, last + 1), columns, one.data)
            self._kept = (key, table) if table.nbytes <= _KEEP_BYTES else None
        return table.slice(rows[0] - (ends[first - 1] if first else 0), len(rows))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._name, self._file, self._kept = "", None, None

    def _opened(self, name: str) -> pq.ParquetFile:
        if self._file is None or name != self._name:
            self.close()
            file = open_parquet(self._info.locate(name))
            self._owner = numbers(read_groups(file, range(file.num_row_groups), ["episode_index"], name), "episode_index", 1)[:, 0]
            self._name, self._file = name, file
        return self._file


class _Files:
    """Files of one kind that are filled one after the other: a full one is closed and the next begun."""

    def __init__(self, root: Path, pattern: str, megabytes: int, **values: str) -> None:
        self._root, self._pattern, self._bytes, self._values = root, pattern, megabytes << 20, values
        self._count, self._file, self._path = 0, None, root

    def current(self, begin: Callable[[Path], Any]) -> Any:
        """The file to write the next episode to."""
        if self._file is not None and self._path.exists() and self._path.stat().st_size >= self._bytes:  # encoders write late
            self._close()
            self._count += 1
        if self._file is None:
            self._path = self._root / self._pattern.format(**self.place(""), **self._values)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = begin(self._path)
        return self._file

    def place(self, prefix: str) -> dict[str, int]:
        """How the list of episodes names the file."""
        return {f"{prefix}chunk_index": self._count // CHUNK, f"{prefix}file_index": self._count % CHUNK}

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _List:
    """The list of episodes, written some at a time."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lines, self._file = file, [], None

    def add(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        if len(self._lines) == _EPISODES_AT_ONCE:
            self._flush()

    def __enter__(self) -> _List:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines:
            self._flush()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._lines, schema=None if self._file is None else self._file.schema)
        self._file = self._file or pq.ParquetWriter(self._path, table.schema)
        self._file.write_table(table)
        self._lines = []


def _listed(info: Info) -> Iterator[Listed]:
    files = sorted((info.path / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise UserError("meta/episodes: holds no list of episodes")
    videos = info.videos
    for file in files:
        with open_parquet(info.locate(str(file.relative_to(info.path)))) as parquet:
            known = parquet.schema_arrow.names
            wanted = [name for name in known if name in ("episode_index", "length", "tasks", META) or name.startswith(("data/", "videos/"))]
            lines = read_groups(parquet, range(parquet.num_row_groups), wanted, file.name).to_pylist()
        for line in lines:
            yield Listed(
                index=_whole(line, "episode_index"),
                data=info.file("data_path", chunk_index=_whole(line, "data/chunk_index"), file_index=_whole(line, "data/file_index")),
                clips={key: clip for key in videos if (clip := _clip(info, line, f"videos/{key}/", key)) is not None},
                length=_whole(line, "length"),
                tasks=tasks if isinstance(tasks := line.get("tasks"), list) else (),
                meta=line.get(META),
            )


def _clip(info: Info, line: dict[str, Any], prefix: str, key: str) -> Clip | None:
    """None where this episode has no such video."""
    start, stop = line.get(f"{prefix}from_timestamp"), line.get(f"{prefix}to_timestamp")
    if start is None or line.get(f"{prefix}file_index") is None:
        return None
    chunk, file = _whole(line, f"{prefix}chunk_index"), _whole(line, f"{prefix}file_index")
    return Clip(
        info.file("video_path", video_key=key, chunk_index=chunk, file_index=file), float(start), None if stop is None else float(stop)
    )


def _whole(line: dict[str, Any], key: str) -> int:
    value = line.get(key)
    if type(value) is not int or value < 0:
        raise UserError(f"meta/episodes: {key} is {value!r} in episode {line.get('episode_index')}; expected a whole number")
    return value


def _tasks(info: Info) -> dict[int, str]:
    """Text of each task_index. pandas calls the column of an index without a name __index_level_0__."""
    with open_parquet(info.locate("meta/tasks.parquet")) as parquet:
        known = parquet.schema_arrow.names
        text = next((name for name in ("task", "__index_level_0__") if name in known), "task")
        table = read_groups(parquet, range(parquet.num_row_groups), ["task_index", text], "meta/tasks.parquet")
    return {line["task_index"]: str(line[text]) for line in table.to_pylist()}


def _tasks_table(tasks: list[str]) -> pa.Table:
    """As pandas would store a frame of task_index whose index is the text: LeRobot looks tasks up in that index."""
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, (kind, numpy) in kinds.items()
        ],
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
