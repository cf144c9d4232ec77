"""episodes.jsonl: which rows are episodes. An episode exists once its line is complete (docs/dataset-format.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

JOURNAL = "episodes.jsonl"


@dataclass
class Journal:
    """The finished episodes, and the file's length in bytes up to the last of them."""

    lines: list[dict[str, Any]]
    size: int

    @staticmethod
    def parse(content: bytes) -> Journal:
        """A torn last line is no episode. ValueError: a line before it is damaged."""
        episodes, done = [], 0
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            try:
                episode = json.loads(line)
                if not line.endswith(b"\n") or not _is_episode(episode):
                    raise ValueError("incomplete")
            except (ValueError, TypeError) as error:
                if done + len(line) == len(content):
                    break
                raise ValueError(f"{JOURNAL}: line {number} is damaged") from error
            episodes.append(episode)
            done += len(line)
        return Journal(episodes, done)

    def end(self, stream: str | None = None) -> int:
        """The first row, or sample of `stream`, that no episode has reached."""
        if stream is None:
            return max((line["start"] + line["length"] for line in self.lines), default=0)
        return max((sum(line["streams"][stream]) for line in self.lines), default=0)


def _is_episode(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("meta"), dict):
        return False
    streams = line.get("streams", {})
    if not isinstance(streams, dict) or not isinstance(line.get("image_time", []), list):
        return False
    spans = [(line.get("start"), line.get("length"), 1)]
    spans += [(*span, 0) if isinstance(span, list) and len(span) == 2 else (None, None, 0) for span in streams.values()]
    return all(type(start) is int and type(length) is int and start >= 0 and length >= least for start, length, least in spans)
