"""Options and maps of `robolearn ingest` that make no sense, or mean harm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.experiments.malformed import Case


def laughs(levels: int = 30) -> str:
    """YAML of a kilobyte that stands for 10^levels values."""
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    return "\n".join([*lines, *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels))])


def merges(levels: int = 40) -> str:
    lines = ["a0: &a0 {x: 1}"]
    return "\n".join([*lines, *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, levels))])


# Options ----------------------------------------------------------------------------------------------------------------------

OPTIONS: tuple[dict[str, Any], ...] = (
    *({"rate_hz": rate} for rate in (0.0, -1.0, float("nan"), float("inf"), -float("inf"))),
    *({"episodes": text} for text in ("", "x", "-1", "3-1", "0-999999999999", "1e3", "0,,1", "٣", "0;1", "2-",
    "\x1b[2J", "0x1", "9" * 5000)),
    *({"cameras": names} for names in (("nose",), ("../front",), ("",), ("front", "\x1b[2J"), ("a" * 10_000,))),
    *({"limit": limit} for limit in (0, -1)),
    *({"format": name} for name in ("zarr", "", "../x", "_hdf5", "\x1b[2J", "os")),
    *({"compression": name} for name in ("zip", "", "zstd:x", "zstd:999", "jpeg:-1", "h264:nan", "\x1b")),
    *({"path": address} for address in ("hf://", "hf://a", "hf://../x", "hf://a/b/c", "hf://a/b@", "hf://a b/c",
    "hf://a/\x1b[2J", "hf:///x")),
)  # fmt: skip
MAPS = {
    "laughs": laughs() + "\nrobot: *a29", "merges": merges(), "not YAML": "a: [", "a list": "- 1", "text": "x", "unknown": "robots: x",
    "a date": "robot: 2024-99-99", "a tag": "robot: !!python/object/apply:os.system ['touch ran']", "a timestamp": "robot: !!timestamp x",
    "an int": "robot: !!int x", "itself": "state: &a {x: *a}", "deep": "[" * 5000, "twice": "robot: a\nrobot: b", "rate 0": "rate_hz: 0",
    "rate NaN": "rate_hz: .nan", "rate text": "rate_hz: fast", "size 0": "cameras: {front: {size: [0, 4]}}",
    "size absurd": "cameras: {front: {size: [9999999, 9999999]}}", "size of three": "cameras: {front: {size: [1, 2, 3]}}",
    "no such camera": "cameras: {nose: {drop: true}}", "a camera as a path": "cameras: {front: {name: ../../x}}",
    "an escape": 'cameras: {"\\e[2J": {drop: true}}', "two of a name": "cameras: {front: {name: x}, wrist: {name: x}}",
    "no such source": "state: {x: [{source: nose}]}", "no parts": "state: {x: []}", "a type": "type: os:system",
    "a class": "cameras: {front: {type: 'subprocess:Popen'}}",
    "success": "success: {reward: mean, above: 0}", "above": "success: {reward: max, above: x}", "bytes": b"\xff\xfe\x00",
    "NUL": "robot: \x00",
    "a long number": "rate_hz: " + "1" * 5000, "a long sexagesimal": "rate_hz: " + "1:" * 3000 + "1",
    "action source": "action: [{source: arm}]",
}  # fmt: skip


def options() -> Iterator[Case]:
    for chosen in OPTIONS:
        yield Case(f"options: {chosen}"[:80], "folder", lambda d: None, chosen)
    for what, text in MAPS.items():
        spoil = lambda d, t=text: (d.parent / "map.yaml").write_bytes(t if isinstance(t, bytes) else t.encode())  # noqa: E731
        yield Case(f"map: {what}", "folder", spoil, {"map": "map.yaml"})
    yield Case("map: none", "folder", lambda d: None, {"map": "map.yaml"})
    yield Case("map: a folder", "folder", lambda d: (d.parent / "map.yaml").mkdir(), {"map": "map.yaml"})
