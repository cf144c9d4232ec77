"""LeRobot's dataset v2.0 and v2.1 (Cadene et al., LeRobot 2024): one parquet file and one mp4 for each camera per episode.

meta/info.json                   features, fps, the patterns of the files' names
meta/episodes.jsonl              {"episode_index", "tasks", "length"}
meta/tasks.jsonl                 {"task_index", "task"}
meta/stats.json                  v2.0; from v2.1 on meta/episodes_stats.jsonl. Not read: the store computes its own
data/chunk-000/episode_000000.parquet
videos/chunk-000/<feature>/episode_000000.mp4
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robolearn.core.errors import UserError
from robolearn.data.formats._lerobot import META, Clip, LeRobot, Listed
from robolearn.data.formats._lerobot_info import Info, read_info, read_lines, version_of
from robolearn.data.formats._lerobot_write import CHUNK, Recording, building, info_json, write_json
from robolearn.data.formats._parquet import open_parquet, read_groups
from robolearn.data.formats._reader import Dataset, Options, Reader
from robolearn.data.formats._video import VideoWriter

_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def matches(path: Path) -> bool:
    return version_of(path).startswith("v2.")


def read(path: Path, options: Options) -> Reader:
    """Episodes in the order of `meta/episodes.jsonl`; those with a file missing are left out and counted in `notes`.

    UserError: metadata that cannot be read, an unknown camera, no complete episode.
    """
    info = read_info(path)
    tasks = {line["task_index"]: str(line.get("task", "")) for line in read_lines(info.locate("meta/tasks.jsonl")) if "task_index" in line}

    def rows(one: Listed, columns: Sequence[str]) -> pa.Table:
        with open_parquet(info.locate(one.data)) as parquet:
            if one.length not in (None, count := parquet.metadata.num_rows):
                raise UserError(f"{one.data}: has {count} rows; meta/episodes.jsonl says {one.length}")
            return read_groups(parquet, range(parquet.num_row_groups), columns, one.data)

    return LeRobot(info, options, list(_listed(info)), tasks, rows)


def write(path: Path, dataset: Dataset) -> None:
    """Write v2.1, episode by episode, built beside `path` and renamed. What is lost and what is added: see `_lerobot_write`.

    UserError: an episode that does not fit the dataset's spec, names that LeRobot does not take.
    """
    with building(path) as root:
        recording = Recording(dataset.spec)
        (root / "meta").mkdir()
        with (root / "meta/episodes.jsonl").open("w") as listed, (root / "meta/episodes_stats.jsonl").open("w") as statistics:
            for index, episode, table, stats in recording.episodes(dataset):
                where = {"episode_chunk": index // CHUNK, "episode_index": index}
                data = root / _DATA.format(**where)
                data.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(table, data)
                for key, name in recording.cameras.items():
                    file = root / _VIDEO.format(video_key=key, **where)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with VideoWriter(file, dataset.spec.cameras[name], recording.fps) as video:
                        video.add(episode.images[name])
                    recording.describe(key, video)
                line = {"episode_index": index, "tasks": [recording.instruction(episode)], "length": len(episode)}
                print(json.dumps(line | {META: recording.meta(episode)}), file=listed)
                print(json.dumps({"episode_index": index, "stats": stats}), file=statistics)
        with (root / "meta/tasks.jsonl").open("w") as tasks:
            for index, task in enumerate(recording.tasks):
                print(json.dumps({"task_index": index, "task": task}), file=tasks)
        episodes = recording.episode_count
        more = {"total_chunks": -(-episodes // CHUNK), "total_videos": episodes * len(recording.cameras)}
        write_json(root / "meta/info.json", info_json(recording, "v2.1", _DATA, _VIDEO) | more)


def _listed(info: Info) -> Iterator[Listed]:
    size = info.raw.get("chunks_size", CHUNK)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"meta/info.json: chunks_size is {size!r}; expected a number of episodes")
    videos = info.videos
    for line in read_lines(info.locate("meta/episodes.jsonl")):
        index, length, tasks, meta = (line.get(key) for key in ("episode_index", "length", "tasks", META))
        if type(index) is not int or index < 0 or not isinstance(length, int | None):
            raise UserError(f"meta/episodes.jsonl: episode_index {index!r} with length {length!r}; expected whole numbers")
        where: dict[str, Any] = {"episode_chunk": index // size, "episode_index": index}
        yield Listed(
            index=index,
            data=info.file("data_path", **where),
            clips={key: Clip(info.file("video_path", video_key=key, **where)) for key in videos},
            length=length,
            tasks=tasks if isinstance(tasks, list) else (),
            meta=meta if isinstance(meta, str) else None,
        )
