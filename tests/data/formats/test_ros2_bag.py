"""Bags are made by rosbags' writer, which follows rosbag2's own (versions 8 and 9)."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import locate, read
from robolearn.data.testing import ReaderContract


class TestSqlite(ReaderContract):
    format, episodes = "ros2_bag", 1

    @pytest.fixture
    def dataset(self, tmp_path, arm_log, write_bag):
        return write_bag(tmp_path / "in" / "bag", arm_log())


class TestFolderOfBags(ReaderContract):
    format, episodes = "ros2_bag", 2

    @pytest.fixture
    def dataset(self, tmp_path, arm_log, write_bag):
        for seed in range(2):
            write_bag(tmp_path / "in" / "bags" / f"bag_{seed}", arm_log(seed), storage="MCAP", compression="STORAGE")
        return tmp_path / "in" / "bags"


@pytest.mark.parametrize("storage", ["SQLITE3", "MCAP"])
@pytest.mark.parametrize("compression", ["NONE", "MESSAGE", "FILE"])
def test_a_bag_reads_as_the_same_log_in_mcap(tmp_path, arm_log, write_bag, write_mcap, storage, compression):
    """Two writers and two encoders of the messages, one reading."""
    expected = read(write_mcap(tmp_path / "log.mcap", arm_log()))
    bag = write_bag(tmp_path / "bag", arm_log(), storage, compression)
    before = sorted(bag.rglob("*"))
    reader = read(bag)
    assert reader.spec == expected.spec and list(reader.notes) == list(expected.notes)
    got, want = reader[0], expected[0]
    check_episode(got, reader.spec)
    for name in want.images:
        np.testing.assert_array_equal(got.images[name], want.images[name])
        np.testing.assert_array_equal(got.image_time[name], want.image_time[name])
    for name in want.state:
        np.testing.assert_array_equal(got.state[name], want.state[name])
    np.testing.assert_array_equal(got.streams["joint_states"].values, want.streams["joint_states"].values)
    np.testing.assert_array_equal(got.action, want.action)
    assert got.meta["origin"]["file"] == "bag" and sorted(bag.rglob("*")) == before


def test_a_recording_in_parts_is_one_episode(tmp_path, arm_log, write_bag):
    """`ros2 bag record --max-bag-duration`: one metadata.yaml, several files; old recorders name them by folder/file."""
    log = arm_log()
    whole = read(write_bag(tmp_path / "whole", log))[0]
    first, second = write_bag(tmp_path / "bag", log[:40]), write_bag(tmp_path / "rest", log[40:])
    (second / "rest.db3").rename(first / "bag_1.db3")
    metadata = first / "metadata.yaml"
    text = metadata.read_text()
    assert "- bag.db3" in text
    metadata.write_text(text.replace("- bag.db3", "- bag/bag.db3\n  - bag/bag_1.db3"))
    np.testing.assert_array_equal(read(first)[0].action, whole.action)
    np.testing.assert_array_equal(read(first)[0].images["wrist"], whole.images["wrist"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("storage_identifier: sqlite3", "storage_identifier: tape", "metadata.yaml: storage_identifier 'tape'; valid: sqlite3, mcap"),
        ("- bag.db3", "- ../../../secret.db3", "secret.db3 is missing, which metadata.yaml names"),
        ("- bag.db3", "- .", "metadata.yaml|damaged|missing"),
        ("compression_mode: ''", "compression_mode: file\n  ", "metadata.yaml"),
        ("relative_file_paths", "other", "metadata.yaml is damaged: no 'relative_file_paths'"),
        ("version: 9", "version: [9", "metadata.yaml is damaged: ParserError|metadata.yaml is damaged"),
    ],
)
def test_metadata_that_is_wrong(tmp_path, arm_log, write_bag, old, new, message):
    (tmp_path / "secret.db3").write_bytes(b"")
    bag = write_bag(tmp_path / "bag", arm_log())
    metadata = bag / "metadata.yaml"
    assert old in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        read(bag)
    assert "\n" not in str(caught.value)


def test_nothing_outside_the_bag_is_opened(tmp_path, arm_log, write_bag):
    other, bag = write_bag(tmp_path / "other", arm_log()), write_bag(tmp_path / "bag", arm_log())
    (bag / "bag.db3").unlink()
    (bag / "bag.db3").symlink_to(other / "other.db3")
    with pytest.raises(UserError, match="'bag.db3' leads out of .*; refused"):
        read(bag)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER TABLE messages RENAME TO old; CREATE VIEW messages AS SELECT * FROM old", "bag.db3 has no tables topics and messages"),
        ("UPDATE messages SET data = 5 WHERE id = 3", "bag.db3: a message has time .* and int data"),
        ("UPDATE messages SET timestamp = 'late' WHERE id = 3", "bag.db3: a message has time late and bytes data"),
        ("UPDATE messages SET data = x'00010000' WHERE id = 3", "a .* message is damaged"),
        ("UPDATE messages SET data = x'0001000000000000000000000500000061000000ffffffff' WHERE id > 3", "a .* message is damaged"),
        ("DELETE FROM messages", "no topic with pictures or numbers speaks twice"),
    ],
)
def test_a_database_that_is_wrong(tmp_path, arm_log, write_bag, statement, message):
    bag = write_bag(tmp_path / "bag", arm_log())
    with closing(sqlite3.connect(bag / "bag.db3")) as database:
        database.executescript(statement)
        database.commit()
    with pytest.raises(UserError, match=message) as caught:
        _ = read(bag)[0]
    assert "\n" not in str(caught.value)


def test_messages_that_unpack_to_too_much_are_refused(tmp_path, arm_log, write_bag):
    import zstandard

    bag = write_bag(tmp_path / "bag", arm_log(), compression="MESSAGE")
    bomb = zstandard.compress(bytes((1 << 28) + 1))
    with closing(sqlite3.connect(bag / "bag.db3")) as database:
        database.execute("UPDATE messages SET data = ? WHERE id = 3", [bomb])
        database.commit()
    with pytest.raises(UserError, match="a message claims 268435457 bytes; from 0 to 268435456 are read"):
        read(bag)


def test_without_the_extra_it_is_recognised_and_said(tmp_path, arm_log, write_bag, monkeypatch):
    from robolearn.data.formats import _ros_messages

    bag = write_bag(tmp_path / "bag", arm_log())
    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    _ros_messages._typestore.cache_clear()
    assert locate(bag) == (bag, "ros2_bag")
    with pytest.raises(UserError, match=r"ROS 2 messages: reading them needs robolearn's extra `ros`: pip install robolearn\[ros\]"):
        read(bag)
    monkeypatch.undo()
    _ros_messages._typestore.cache_clear()
