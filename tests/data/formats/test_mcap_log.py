"""Logs are made by mcap_ros2's writer, after common_interfaces' definitions. JSON: test_mcap_json.py."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read
from robolearn.data.testing import ReaderContract

START_NS = 1_700_000_000 * 10**9
COMMANDS = "/arm_controller/commands"


class TestOneFile(ReaderContract):
    format, episodes = "mcap_log", 1

    @pytest.fixture
    def dataset(self, tmp_path, arm_log, write_mcap):
        return write_mcap(tmp_path / "in" / "cup.mcap", arm_log())


class TestFolder(ReaderContract):
    format, episodes = "mcap_log", 2

    @pytest.fixture
    def dataset(self, tmp_path, arm_log, write_mcap):
        for seed in range(2):
            write_mcap(tmp_path / "in" / "cups" / f"cup_{seed}.mcap", arm_log(seed), compression="LZ4")
        return tmp_path / "in" / "cups"


def seconds(ns: int) -> float:
    return (ns - START_NS) / 1e9


def stamp(message: Any) -> int:
    topic, _, logged, fields = message
    return fields["header"]["stamp"]["sec"] * 10**9 + fields["header"]["stamp"]["nanosec"] if "header" in fields else logged


def of(log: Sequence[Any], topic: str) -> list[Any]:
    return [message for message in log if message[0] == topic]


def shifted(log: Sequence[Any], topic: str, ns: int) -> list[Any]:
    """The stamps of one topic off by `ns`, the times of logging as they were."""
    changed = []
    for name, kind, logged, fields in log:
        if name == topic:
            at = max(stamp((name, kind, logged, fields)) + ns, 0)
            fields = fields | {"header": {"stamp": {"sec": at // 10**9, "nanosec": at % 10**9}, "frame_id": ""}}
        changed.append((name, kind, logged, fields))
    return changed


def test_an_arm_at_its_slowest_camera(tmp_path, arm_log, write_mcap):
    log = arm_log()
    reader = read(write_mcap(tmp_path / "cup.mcap", log))
    spec = reader.spec
    assert dict(spec.cameras) == {"camera_front": (6, 8), "wrist": (4, 6)} and spec.rate_hz == 10
    assert {name: (part.names, part.units) for name, part in spec.state.items()} == {
        "ee_pose": (("x", "y", "z", "qw", "qx", "qy", "qz"), ("m", "m", "m", "1", "1", "1", "1")),
        "joint_states": (("shoulder", "elbow"), ("rad", "rad")),
        "joint_states_velocity": (("shoulder", "elbow"), ("rad/s", "rad/s")),
    }
    assert (spec.action.names, spec.action.units, set(spec.streams)) == (
        ("0", "1", "2"),
        ("", "", ""),
        {"joint_states", "joint_states_velocity"},
    )
    (episode,) = reader
    check_episode(episode, spec)
    np.testing.assert_allclose(episode.time, [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-9)
    np.testing.assert_allclose(episode.state["joint_states"][:, 0], [0.02, 0.12, 0.22, 0.32, 0.42], atol=1e-6)
    np.testing.assert_allclose(episode.state["ee_pose"][1], [0.11, 2, 3, 0.9, 0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(episode.action[:, 0], [0.025, 0.125, 0.225, 0.325, 0.425], atol=1e-6)
    for row, message in enumerate(of(log, "/camera/front/image_raw")):
        picture = np.frombuffer(message[3]["data"], np.uint8).reshape(6, 32)[:, :24].reshape(6, 8, 3)
        np.testing.assert_array_equal(episode.images["camera_front"][row], picture[..., ::-1])
    np.testing.assert_allclose(episode.image_time["camera_front"], episode.time, atol=1e-9)
    np.testing.assert_allclose(episode.image_time["wrist"], episode.time - 0.015, atol=1e-9)
    from PIL import Image

    wrist = of(log, "/wrist/image_raw/compressed")
    for row in range(5):
        np.testing.assert_array_equal(episode.images["wrist"][row], np.asarray(Image.open(io.BytesIO(wrist[2 * row][3]["data"]))))
    stream = episode.streams["joint_states"]
    np.testing.assert_allclose(stream.time, np.arange(48) / 100, atol=1e-9)
    np.testing.assert_allclose(stream.values[:, 1], -(np.arange(48) / 100 + 0.02), atol=1e-6)
    assert episode.meta["instruction"] == "put the cup on the plate" and episode.meta["success"] is None
    assert episode.meta["origin"] == {"file": "cup.mcap", "episode": 0, "start_ns": START_NS + 20_000_000}
    notes = "; ".join(reader.notes)
    assert "left out: /rosout_flag (std_msgs/msg/Bool)" in notes and f"action: {COMMANDS}, told by name" in notes
    assert "one for each message of /camera/front/image_raw, about 10 a second" in notes


@pytest.mark.parametrize("rate", [None, 7.0, 37.0])
def test_a_row_never_sees_the_future(tmp_path, write_mcap, rate):
    """Clocks that drift and stutter, messages that arrive late and out of order: against the rule, spelled out."""
    rng = np.random.default_rng(5)
    log: list[Any] = []
    for topic, kind, hz in (("/cam/image_raw", "sensor_msgs/msg/Image", 12), ("/joints", "sensor_msgs/msg/JointState", 50)):
        for at in np.cumsum(rng.uniform(0.2, 1.8, 40 if hz == 12 else 160) / hz):
            ns = START_NS + int(at * 1e9)
            head = {"header": {"stamp": {"sec": ns // 10**9, "nanosec": ns % 10**9}, "frame_id": "x"}}
            if hz == 12:
                grey = int(at * 50) % 256
                fields = head | {"height": 1, "width": 2, "encoding": "mono8", "is_bigendian": 0, "step": 2, "data": bytes([grey, grey])}
            else:
                fields = head | {"name": ["a"], "position": [seconds(ns)], "velocity": [], "effort": []}
            log.append((topic, kind, ns + int(rng.uniform(0, 0.08) * 1e9), fields))
    for at in np.cumsum(rng.uniform(0.2, 1.8, 60) / 20):
        log.append(("/gripper_cmd", "std_msgs/msg/Float64", START_NS + int(at * 1e9), {"data": float(at)}))
    log.sort(key=lambda message: message[2])
    reader = read(write_mcap(tmp_path / "log.mcap", log), options=Options(rate_hz=rate))
    (episode,) = reader
    check_episode(episode, reader.spec)
    start = seconds(episode.meta["origin"]["start_ns"])
    joints, frames = sorted(seconds(stamp(m)) for m in of(log, "/joints")), sorted(seconds(stamp(m)) for m in of(log, "/cam/image_raw"))
    commands = [m[3]["data"] for m in of(log, "/gripper_cmd")]
    times = start + episode.time
    period = 1 / reader.spec.rate_hz
    assert len(times) > 15
    for row, now in enumerate(times):
        until = times[row + 1] if row + 1 < len(times) else now + period
        assert episode.state["joints"][row, 0] == pytest.approx(max(t for t in joints if t <= now + 1e-9), abs=1e-6)
        newest = max(t for t in frames if t <= now + 1e-9)
        assert episode.image_time["cam"][row] + start == pytest.approx(newest, abs=1e-6)
        assert episode.images["cam"][row, 0, 0, 0] == int(newest * 50 + 1e-6) % 256
        following = [t for t in commands if now - 1e-9 <= t < until - 1e-9]
        assert episode.action[row, 0] == pytest.approx(following[0] if following else max(t for t in commands if t < now), abs=1e-6)
    if rate is None:
        assert set(np.round(times, 6)) <= set(np.round(frames, 6))
    else:
        np.testing.assert_allclose(np.diff(episode.time), period, atol=1e-8)


def test_without_a_command_the_next_joints_are_the_action(tmp_path, arm_log, write_mcap):
    reader = read(write_mcap(tmp_path / "cup.mcap", [m for m in arm_log() if m[0] != COMMANDS]))
    (episode,) = reader
    joints = episode.state["joint_states"]
    np.testing.assert_array_equal(episode.action, np.concatenate([joints[1:], joints[-1:]]))
    assert reader.spec.action.names == ("shoulder", "elbow") and reader.spec.action_mode == "joint_pos"
    assert any("assumed to be the next row's joint_states" in note for note in reader.notes)
    assert "action: the next row's joint_states" in episode.meta["computed"]


def test_a_leader_arms_joints_are_the_action(tmp_path, arm_log, write_mcap):
    """Teleoperation by a second arm: what it measures is what the first shall do, and no policy will ever see it."""
    leader = [("/leader/joint_states", k, ns, f | {"position": [9.0, 8.0]}) for t, k, ns, f in arm_log() if t == "/joint_states"]
    log = sorted([*(m for m in arm_log() if m[0] != COMMANDS), *leader], key=lambda m: m[2])
    reader = read(write_mcap(tmp_path / "cup.mcap", log))
    assert set(reader.spec.state) == {"ee_pose", "joint_states", "joint_states_velocity"}
    assert reader.spec.action.names == ("shoulder", "elbow") and reader.spec.action_mode == "joint_pos"
    np.testing.assert_array_equal(reader[0].action, np.tile([9, 8], (5, 1)))
    assert "/leader/joint_states velocity is left out: its positions are the action" in reader.notes


def test_stamps_of_another_clock_are_not_believed(tmp_path, arm_log, write_mcap):
    """A camera that stamps from when it was switched on, or not at all: the time of recording stands, two milliseconds late."""
    log = arm_log()
    for name, ns in (("zero", -(10**19)), ("own", -(10**18))):
        reader = read(write_mcap(tmp_path / f"{name}.mcap", shifted(log, "/camera/front/image_raw", ns)))
        assert any("/camera/front/image_raw: stamped more than 1 s off the recorder's clock" in note for note in reader.notes)
        assert reader[0].meta["origin"]["start_ns"] == START_NS + 22_000_000
    assert not any("off the recorder's clock" in note for note in read(write_mcap(tmp_path / "good.mcap", log)).notes)


def test_two_drivers_may_share_a_topic(tmp_path, arm_log, write_mcap):
    """The arm's joints in another order now and then, and a gripper that publishes itself, as joint_state_publishers are merged."""
    log = []
    for number, message in enumerate(arm_log()):
        topic, kind, logged, fields = message
        if topic == "/joint_states" and number % 2:
            fields = fields | {"name": ["elbow", "shoulder"], "position": fields["position"][::-1], "velocity": fields["velocity"][::-1]}
        log.append((topic, kind, logged, fields))
    for ns in range(START_NS, START_NS + 500_000_000, 100_000_000):
        fields = {"header": {"stamp": {"sec": ns // 10**9, "nanosec": ns % 10**9}, "frame_id": ""}}
        fields |= {"name": ["finger"], "position": [seconds(ns) + 5], "velocity": [], "effort": []}
        log.append(("/joint_states", "sensor_msgs/msg/JointState", ns + 1, fields))
    reader = read(write_mcap(tmp_path / "cup.mcap", sorted(log, key=lambda m: m[2])))
    names = reader.spec.state["joint_states"].names
    assert set(names) == {"shoulder", "elbow", "finger"}
    joints = reader[0].state["joint_states"][:, [names.index(n) for n in ("shoulder", "elbow", "finger")]]
    times = np.array([0.02, 0.12, 0.22, 0.32, 0.42])
    np.testing.assert_allclose(joints, np.stack([times, -times, times - 0.02 + 5], 1), atol=1e-6)
    assert reader.spec.state["joint_states_velocity"].names in (("shoulder", "elbow"), ("elbow", "shoulder"))


def test_what_is_not_measured_is_left_out(tmp_path, arm_log, write_mcap):
    """ros2_control fills with NaN what a driver does not measure."""
    log = [(t, k, ns, f | {"effort": [np.nan, np.nan]} if t == "/joint_states" else f) for t, k, ns, f in arm_log()]
    reader = read(write_mcap(tmp_path / "cup.mcap", log))
    assert "joint_states_effort" not in reader.spec.state
    assert "/joint_states effort is left out: it holds NaN or inf" in reader.notes
    check_episode(reader[0], reader.spec)


def test_of_a_camera_recorded_twice_the_raw_pictures_stand(tmp_path, arm_log, write_mcap):
    extra = [
        ("/camera/front/image_raw/compressed", "sensor_msgs/msg/CompressedImage", ns, fields)
        for topic, _, ns, fields in arm_log()
        if topic.startswith("/wrist")
    ]
    reader = read(write_mcap(tmp_path / "cup.mcap", sorted(arm_log() + extra, key=lambda m: m[2])))
    assert dict(reader.spec.cameras) == {"camera_front": (6, 8), "wrist": (4, 6)}
    assert any("/camera/front/image_raw holds the same, not compressed" in note for note in reader.notes)


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        ("Image", {"encoding": "16UC1", "step": 16, "is_bigendian": 0, "height": 6, "width": 8}, "encoding '16UC1'; valid: rgb8, bgr8"),
        ("Image", {"encoding": "rgb8", "step": 0, "is_bigendian": 0, "height": 0, "width": 0}, "its first picture is 0x0 px"),
        ("CompressedImage", {"format": "16UC1; compressedDepth png"}, "format '16UC1; compressedDepth png'; valid: jpeg or png of 8 bits"),
        ("CompressedImage", {"format": "h264"}, "format 'h264'; valid: jpeg or png of 8 bits"),
        ("CompressedImage", {"format": "jpeg"}, "its first picture is not a JPEG or PNG image"),
    ],
)
def test_depth_and_video_are_left_out(tmp_path, arm_log, write_mcap, kind, fields, why):
    head = arm_log()[-1][3] | {"data": bytes(96)}
    message = ("/depth/image_raw", f"sensor_msgs/msg/{kind}", START_NS, {"header": head["header"], "data": bytes(96), **fields})
    reader = read(write_mcap(tmp_path / "cup.mcap", [message, *arm_log()]))
    assert set(reader.spec.cameras) == {"camera_front", "wrist"}
    assert any(note.startswith(f"/depth/image_raw is left out: {why}") for note in reader.notes), reader.notes


@pytest.mark.parametrize(("encoding", "order"), [("rgb8", [0, 1, 2]), ("bgra8", [2, 1, 0]), ("rgba8", [0, 1, 2]), ("mono8", [0, 0, 0])])
def test_each_encoding_becomes_rgb(tmp_path, arm_log, write_mcap, encoding, order):
    pixel = {"rgb8": 3, "bgra8": 4, "rgba8": 4, "mono8": 1}[encoding]
    log = []
    for topic, kind, ns, fields in arm_log():
        if kind == "sensor_msgs/msg/Image":
            data = np.random.default_rng(ns % 997).integers(0, 256, (6, 8, pixel)).astype(np.uint8)
            fields = fields | {"encoding": encoding, "step": 8 * pixel, "data": data.tobytes()}
            expected = data[..., order]
        log.append((topic, kind, ns, fields))
    episode = read(write_mcap(tmp_path / "cup.mcap", log))[0]
    np.testing.assert_array_equal(episode.images["camera_front"][-1], expected)


def test_rows_end_where_a_camera_ends(tmp_path, arm_log, write_mcap):
    """A cable comes loose: what the other camera still sees is no row, its picture beside an old one would be a lie."""
    log = [m for m in arm_log() if not (m[0].startswith("/wrist") and m[2] > START_NS + 200_000_000)]
    episode = read(write_mcap(tmp_path / "cup.mcap", log))[0]
    np.testing.assert_allclose(episode.time, [0.0, 0.1, 0.2], atol=1e-9)  # wrist: to 0.155 s, and 2.5 of its periods


def test_a_topic_that_spoke_once_holds(tmp_path, arm_log, write_mcap):
    latched = ("/calibration", "std_msgs/msg/Float64MultiArray", START_NS, {"layout": {"dim": [], "data_offset": 0}, "data": [1.0, 2.0]})
    reader = read(write_mcap(tmp_path / "cup.mcap", [latched, *arm_log()]))
    np.testing.assert_array_equal(reader[0].state["calibration"], np.tile([1, 2], (5, 1)))


def test_every_log_must_have_the_firsts_topics(tmp_path, arm_log, write_mcap):
    write_mcap(tmp_path / "cups" / "a.mcap", arm_log())
    write_mcap(tmp_path / "cups" / "b.mcap", [m for m in arm_log() if m[0] != "/ee_pose"])
    renamed = [(t, k, ns, f | {"name": ["shoulder", "wrist"]} if t == "/joint_states" else f) for t, k, ns, f in arm_log()]
    write_mcap(tmp_path / "cups" / "c.mcap", renamed)
    resized = [(t, k, ns, f | {"height": 3} if "front" in t else f) for t, k, ns, f in arm_log()]
    write_mcap(tmp_path / "cups" / "d.mcap", resized)
    reader = read(tmp_path / "cups")
    assert len(reader) == 4 and len(reader[0]) == 5
    for index, message in (
        (1, "topic /ee_pose is missing; in the first episode geometry_msgs/msg/PoseStamped"),
        (2, "/joint_states: its numbers differ from the first episode's in elbow, wrist"),
        (3, "/camera/front/image_raw message 0: a picture is bgr8 3x8 px; the first was 6x8"),
    ):
        with pytest.raises(UserError, match=f"episode {index}: {message}"):
            _ = reader[index]


def test_messages_that_contradict_themselves(tmp_path, arm_log, write_mcap):
    short = [(t, k, ns, f | {"data": f["data"][:-1]} if "front" in t else f) for t, k, ns, f in arm_log()]
    with pytest.raises(
        UserError, match="/camera/front/image_raw message 0: a picture has 191 bytes in steps of 32; bgr8 6x8 px needs more"
    ):
        _ = read(write_mcap(tmp_path / "a.mcap", short))[0]
    nameless = [(t, k, ns, f | {"name": ["shoulder"]} if t == "/joint_states" else f) for t, k, ns, f in arm_log()]
    reader = read(write_mcap(tmp_path / "b.mcap", nameless))
    assert any("/joint_states is left out: a sensor_msgs/msg/JointState message has 1 names for 2 numbers" in note for note in reader.notes)
    growing = [(t, k, ns, f | {"data": [0.0] * (2 + i % 2)} if t == COMMANDS else f) for i, (t, k, ns, f) in enumerate(arm_log())]
    reader = read(write_mcap(tmp_path / "c.mcap", growing))
    assert any(f"{COMMANDS}  is left out" in note or f"left out: {COMMANDS}: its messages hold" in note for note in reader.notes)


def test_without_the_extra_it_is_recognised_and_said(tmp_path, arm_log, write_mcap, monkeypatch):
    path = write_mcap(tmp_path / "cup.mcap", arm_log())
    monkeypatch.setitem(sys.modules, "mcap", None)
    assert locate(path) == (path, "mcap_log")
    with pytest.raises(UserError, match=r"MCAP needs robolearn's extra `ros`: pip install robolearn\[ros\]"):
        read(path)


def test_a_bags_folder_is_not_a_folder_of_logs(tmp_path, arm_log, write_bag):
    path = write_bag(tmp_path / "bag", arm_log(), storage="MCAP")
    assert locate(path) == (path, "ros2_bag")
    assert locate(path / "bag.mcap") == (path / "bag.mcap", "mcap_log")
    np.testing.assert_array_equal(read(path)[0].action, read(path / "bag.mcap")[0].action)


def test_a_rate_must_be_one(tmp_path, arm_log, write_mcap):
    with pytest.raises(UserError, match="rate_hz: -5 Hz; expected more than 0"):
        read(write_mcap(tmp_path / "cup.mcap", arm_log()), options=Options(rate_hz=-5.0))
