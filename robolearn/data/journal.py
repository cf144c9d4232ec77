"""episodes.jsonl: which rows are episodes. An episode exists once its line is complete (docs/dataset-format.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

JOURNAL = "episodes.jsonl"
LIMIT = 1 << 32  # rows: a number above it is damage


@dataclass
class Journal:
    """The finished episodes, and the file's length in bytes up to the last of them."""

    lines: list[dict[str, Any]]
    size: int
    _ends: dict[str | None, int] = field(default_factory=dict)

    @staticmethod
    def parse(content: bytes) -> Journal:
        """A torn last line is no episode. ValueError: a line before it is damaged."""
        episodes, done = [], 0
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            try:
                episode = json.loads(line)
                if not line.endswith(b"\n") or not _is_episode(episode):
                    raise ValueError("incomplete")
            except (ValueError, TypeError, RecursionError) as error:
                if done + len(line) == len(content):
                    break
                raise ValueError(f"{JOURNAL}: line {number} is damaged") from error
            episodes.append(episode)
            done += len(line)
        return Journal(episodes, done)

    def end(self, stream: str | None = None) -> int:
        """The first row, or sample of `stream`, that no episode has reached."""
        if stream not in self._ends:
            self._ends[stream] = _end(self.lines, stream)
        return self._ends[stream]

    def add(self, lines: Sequence[dict[str, Any]], size: int) -> None:
        """These lines, `size` bytes, follow."""
        self._ends = {stream: max(end, _end(lines, stream)) for stream, end in self._ends.items()}
        self.lines.extend(lines)
        self.size += size

    def end_with(self, lines: Sequence[Mapping[str, Any]], stream: str | None = None) -> int:
        """`end` as it will be once these lines follow."""
        return max(self.end(stream), _end(lines, stream))


def _end(lines: Sequence[Mapping[str, Any]], stream: str | None) -> int:
    if stream is None:
        return max((line["start"] + line["length"] for line in lines), default=0)
    return max((sum(line["streams"][stream]) for line in lines), default=0)


def _is_episode(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("meta"), dict):
        return False
    streams = line.get("streams", {})
    if not isinstance(streams, dict) or not isinstance(line.get("image_time", []), list):
        return False
    spans = [(line.get("start"), line.get("length"), 1)]
    spans += [(*span, 0) if isinstance(span, list) and len(span) == 2 else (None, None, 0) for span in streams.values()]
    return all(type(a) is int and type(n) is int and 0 <= a < LIMIT and least <= n < LIMIT for a, n, least in spans)
