"""Inputs that are made to harm or to mislead: what lies in a field, and options that make no sense."""

from __future__ import annotations

import os
import pickle
import sqlite3
import struct
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.formats import rlds_files, test_dapg_pickle, test_pickle
from tests.experiments.malformed import DAMAGE, TRAJ, Case, Spoil
from tests.experiments.malformed_fields import arrays, fields, replaced, written
from tests.experiments.malformed_options import laughs, merges, options

# Tables and folders -----------------------------------------------------------------------------------------------------------

CSV = {
    "ragged": "time,action\n0,1\n0.1\n",
    "one too many": "time,action\n0,1\n0.1,2,3\n",
    "a word": "time,action\n0,1\n0.1,fast\n",
    "an empty cell": "time,action\n0,1\n0.1,\n",
    "NaN": "time,action\n0,1\n0.1,nan\n",
    "inf": "time,action\n0,1\n0.1,-inf\n",
    "too large": "time,action\n0,1\n0.1,1e200\n",
    "time back": "time,action\n0,1\n0.2,1\n0.1,1\n0.3,1\n",
    "time stands": "time,action\n0,1\n0,1\n0,1\n",
    "time NaN": "time,action\n0,1\nnan,1\n0.2,1\n",
    "one row": "time,action\n0,1\n",
    "no row": "time,action\n",
    "time too large": "time,action\n1e18,1\n2e18,1\n",
    "a name twice": "time,action,action\n0,1,1\n1,2,2\n",
    "only time": "time\n0\n1\n",
    "a NUL": "time,action\n0,1\n\x00,1\n",
    "an open quote": 'time,action\n0,"1\n0.1,2\n',
    "escapes": "time,action\n0,1\n1,\x1b]0;owned\x07\n",
    "a unit": "time [fortnight],action\n0,1\n1,1\n",
    "wide": "time,action," + ",".join(f"c{i}" for i in range(10_001)) + "\n" + ",".join(["0"] * 10_003) + "\n",
    "not UTF-8": b"time,action\n0,1\n\xff\xfe,1\n",
}  # fmt: skip
LINES = {
    "an array": '{"time": 0, "action": 1}\n[1, 2]\n',
    "cut": '{"time": 0, "action": 1}\n{"time": 1, "act',
    "nested": '{"time": 0, "action": {"x": 1}}\n{"time": 1, "action": {"x": 1}}\n',
    "deep": '{"time": 0, "action": 1}\n' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "\n",
    "NaN": '{"time": 0, "action": 1}\n{"time": 1, "action": NaN}\n',
    "null": '{"time": 0, "action": 1}\n{"time": 1, "action": null}\n',
    "a key less": '{"time": 0, "action": 1}\n{"time": 1}\n',
    "huge number": '{"time": 0, "action": 1}\n{"time": 1, "action": 1' + "0" * 400 + "}\n",
    "4301 digits": '{"time": 0, "action": 1}\n{"time": 1, "action": ' + "1" * 4301 + "}\n",
    "longer list": '{"time": 0, "action": [1]}\n{"time": 1, "action": [1, 2]}\n',
}  # fmt: skip
META = ("[]", "3", "{", '{"\x1b[2J": 1}', '{"rate": 3}', "[" * 100_000, '"x"', "\x00")


def _another_size(dataset: Path) -> None:
    Image.new("RGB", (30, 20)).save(dataset / "episode_0/front/img_2.png")


def _sixteen_bits(dataset: Path) -> None:
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(dataset / "episode_0/front/img_2.png")


def _png_bomb(dataset: Path) -> None:
    """A header that claims 2^31 - 1 pixels a side."""
    file = dataset / "episode_0/front/img_0.png"
    data = bytearray(file.read_bytes())
    data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    file.write_bytes(data)


def _number_twice(dataset: Path) -> None:
    (dataset / "episode_0/front/other_1.png").write_bytes((dataset / "episode_0/front/img_1.png").read_bytes())


def _playlist(dataset: Path) -> None:
    """FFmpeg would open what it lists."""
    (dataset / "episode_0/wrist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")


def folders() -> Iterator[Case]:
    for what, table in CSV.items():
        for of in ("folder",):
            spoil = written("episode_0/steps.csv", table)
            yield Case(f"{of}: csv: {what}", of, lambda d, s=spoil: (s(d), _alone(d)), told=False)
    for what, table in LINES.items():
        yield Case(f"lines: {what}", "lines", written("log.jsonl", table), told=False)
    for text in META:
        yield Case(f"folder: meta.json {text[:20]!r}", "folder", written("episode_0/meta.json", text))
    for spoil in (_another_size, _sixteen_bits, _png_bomb, _number_twice, _playlist):
        yield Case(f"folder: {spoil.__name__}", "folder", spoil)
    yield Case("an empty folder", "", lambda d: None)
    yield Case("an empty file", "", lambda d: _file(d / "x.hdf5", b""))
    yield Case("a file of text", "", lambda d: _file(d / "x.txt", b"hello"))
    yield Case("nothing", "", lambda d: d / "nowhere")
    yield Case("a link to itself", "", lambda d: _link(d / "loop", "loop"))
    yield Case("a folder in itself", "", lambda d: (d / "a").symlink_to(d, target_is_directory=True))
    yield Case("a pipe", "", lambda d: _fifo(d / "x.mcap"))
    yield Case("a device", "", lambda d: Path("/dev/zero"))
    yield Case("a NUL in the name", "", lambda d: None, {"path": "a\x00b"})
    yield Case("a name of 5000 letters", "", lambda d: None, {"path": "a" * 5000})
    yield Case("an escape in the name", "", lambda d: _file(d / "\x1b[2Jx.csv", b"x"))
    yield Case("a name that is no text", "", lambda d: _file(d / os.fsdecode(b"\xff\xfe.csv"), b"x"))
    yield Case("markup in the name", "", lambda d: _file(_made(d / "x[") / "red].csv", b"x"))
    for name in (b"\xff.png", b"\x1b[31m.png"):
        yield Case(f"folder: a picture called {name!r}", "folder", lambda d, n=name: _file(d / "episode_0/front" / os.fsdecode(n), b"x"))


def _alone(dataset: Path) -> None:
    """Leave the spoiled episode only: beside good ones, a folder without steps is other data, and noted."""
    for file in sorted((dataset / "episode_1").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (dataset / "episode_1").rmdir()
    for camera in ("front/img_0.png", "front/img_1.png", "front/img_2.png", "front/img_3.png", "wrist.mp4"):
        (dataset / "episode_0" / camera).unlink()
    (dataset / "episode_0/front").rmdir()


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _link(path: Path, to: str) -> Path:
    path.symlink_to(to)
    return path


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


# Pickles, zips, records, logs -------------------------------------------------------------------------------------------------


def pickles() -> Iterator[Case]:
    for name in test_pickle.gadgets("x"):

        def gadget(dataset: Path, name: str = name) -> None:
            marker = next(p for p in dataset.parents if p.name == "in").parent / "ran"
            bad = test_pickle.gadgets(str(marker))[name]
            file = dataset / "parsed.pkl" if dataset.is_dir() and (dataset / "parsed.pkl").exists() else dataset
            file = dataset / TRAJ / "obs_dict.pkl" if dataset.is_dir() and (dataset / TRAJ).exists() else file
            data = pickle.loads(file.read_bytes())
            if isinstance(data, dict):
                data["full_state"] = bad
            else:
                data[0]["actions"] = bad
            file.write_bytes(pickle.dumps(data))

        for of in ("dapg", "toto", "bridge"):
            yield Case(f"{of}: gadget {name}", of, gadget, told=False, says="names|calls|damaged")
    for name, (data, _) in {**test_pickle.HAND_MADE, **test_pickle.BOMBS}.items():
        yield Case(f"dapg: {name}", "dapg", written("", data), told=False)
    one = test_dapg_pickle.one
    for what, found in {
        "NaN": [one(actions=np.full((4, 28), np.nan))],
        "inf in the rewards": [one(rewards=np.array([0, np.inf, 0, 0]))],
        "other widths": [one(observations=np.zeros((4, 3)))],
        "no rows": [one(actions=np.zeros((0, 28)))],
        "text": [one(actions=np.full((4, 28), "x"))],
        "rows that differ": [one(observations=np.zeros((9, 39)))],
        "a key less": [{k: v for k, v in one().items() if k != "rewards"}],
        "no list": {"observations": 1},
        "an empty list": [],
    }.items():
        yield Case(f"dapg: {what}", "dapg", lambda d, f=found: d.write_bytes(pickle.dumps(f)), told=False)


def _zipped(names: dict[str, bytes], **options: Any) -> Spoil:
    def spoil(dataset: Path) -> None:
        with zipfile.ZipFile(dataset, "a", **options) as file:
            for name, data in names.items():
                file.writestr(name, data)

    return spoil


def _zip_bomb(dataset: Path) -> None:
    """1 GiB of zeros in a megabyte, where the numbers of the actions are."""
    with zipfile.ZipFile(dataset) as old:
        kept = {name: old.read(name) for name in old.namelist() if name != "data/action/0.0"}
    with zipfile.ZipFile(dataset, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, data in kept.items():
            file.writestr(name, data)
        with file.open("data/action/0.0", "w", force_zip64=True) as bomb:
            for _ in range(256):
                bomb.write(bytes(1 << 20))


def archives() -> Iterator[Case]:
    yield Case("zip: a bomb", "zip", _zip_bomb, told=False)
    for name in ("../../escaped/.zarray", "/etc/.zarray", "data/../../x/.zarray", "data/\x1b[2J/.zarray", "data/a\nb/.zarray"):
        yield Case(f"zip: an entry {name!r}", "zip", _zipped({name: b"{}"}), told=False)
    crc = {"bad crc of a length": 8, "bad crc of a record": 40, "an absurd length": 0}
    for what, place in crc.items():
        yield Case(f"rlds: {what}", "rlds", lambda d, p=place: _flip(next(d.glob("*.tfrecord*")), p), told=False)
    for what, change in {
        "NaN": {"steps/action": np.full((4, 2), np.nan)},
        "fewer values": {"steps/action": np.zeros((3, 2))},
        "no image": {"steps/observation/image_0": [b"x"] * 4},
        "bytes for numbers": {"steps/action": [b"x"] * 4},
        "nothing": dict.fromkeys(rlds_files.steps_of(0), np.zeros(0)),
    }.items():
        data = rlds_files.example(rlds_files.steps_of(0) | change)
        shard = rlds_files.frame(data) + rlds_files.frame(rlds_files.example(rlds_files.steps_of(1)))
        yield Case(f"rlds: {what}", "rlds", lambda d, s=shard: next(d.glob("*.tfrecord*")).write_bytes(s), told=False)
    yield Case(
        "rlds: no example", "rlds", lambda d: next(d.glob("*.tfrecord*")).write_bytes(rlds_files.frame(b"\xff" * 40) * 2), told=False
    )
    for place in (12, 100, 400, -60, -8):
        yield Case(f"mcap: a byte at {place}", "mcap", lambda d, p=place: _flip(d, p, 0xFF), told=False)


def _flip(file: Path, place: int, by: int = 0x40) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= by
    file.write_bytes(data)


def bags() -> Iterator[Case]:
    """Of the dataset `bag`, which the test writes with the writers of the formats' tests."""
    key = "rosbag2_bagfile_information"
    for what, text in {
        "laughs": f"{key}:\n  storage_identifier: *a29\n",
        "merges": f"{key}: *a39\n",
        "a list": f"{key}: []\n",
        "no YAML": f"{key}: [1, {{\n",
        "deep": f"{key}: " + "[" * 5000,
        "a tag": f"{key}: !!python/object/apply:os.system ['touch ran']\n",
        "a date": f"{key}: 2024-99-99\n",
        "itself": f"{key}: &a {{storage_identifier: *a}}\n",
    }.items():
        before = laughs() if what == "laughs" else merges() if what == "merges" else ""
        yield Case(f"bag: metadata: {what}", "bag", written("metadata.yaml", f"# {key}\n{before}\n{text}"), told=False)
    for old, new in {
        "storage_identifier: sqlite3": "storage_identifier: leveldb",
    }.items():
        yield Case(f"bag: {new}", "bag", replaced("metadata.yaml", old, new), told=False)
    for kind in ("gone", "led out", "cut", "noise", "a pipe", "text"):
        yield Case(f"bag: its database: {kind}", "bag", lambda d, s=DAMAGE[kind]: s(next(d.glob("*.db3"))), told=False)
    for what, statement in {
        "no tables": "DROP TABLE messages",
        "time as text": "UPDATE messages SET timestamp = 'x'",
        "empty data": "UPDATE messages SET data = x''",
        "absurd lengths": "UPDATE messages SET data = x'0001000000000000ffffffffffffffffffffffffffffffff'",
        "data as text": "UPDATE messages SET data = 'x'",
        "no messages": "DELETE FROM messages",
        "no topics": "DELETE FROM topics",
    }.items():
        yield Case(f"bag: {what}", "bag", lambda d, s=statement: _sql(d, s), told=False)


def _sql(dataset: Path, statement: str) -> None:
    with closing(sqlite3.connect(next(dataset.glob("*.db3")))) as database:
        database.execute(statement)
        database.commit()


def hostile() -> Iterator[Case]:
    for family in (arrays, fields, folders, pickles, archives, bags, options):
        yield from family()
