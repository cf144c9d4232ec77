"""Maps: what they make of an episode, value by value; each step there and back; what they refuse."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.config import from_dict
from robolearn.core.errors import UserError
from robolearn.data.editing import mapping
from robolearn.data.editing.conversions import UNITS, Part, Step
from robolearn.data.editing.deltas import Relative
from robolearn.data.editing.mapping import Camera, Map, Mapped, load_map, read_mapped, resized
from robolearn.data.editing.rotations import form
from robolearn.data.episode import Episode, Stream, check_episode
from robolearn.data.formats import Options, Reader

inf = math.inf
DOCS = Path(__file__).parents[3] / "docs" / "ingest-map.md"
seeds = st.integers(0, 2**32 - 1)
POSE = ("x", "y", "z", "roll", "pitch", "yaw")


def array(names: str | tuple[str, ...], units: str | tuple[str, ...], low: float = -inf, high: float = inf) -> ArraySpec:
    names = tuple(names.split()) if isinstance(names, str) else names
    units = (units,) * len(names) if isinstance(units, str) else units
    return ArraySpec(names, units, (low,) * len(names), (high,) * len(names))


SPEC = RobotSpec(
    "arm",
    {"exterior_1": (180, 320), "exterior_2": (180, 320), "wrist_left": (180, 320)},
    {"pose": array(POSE, ("mm",) * 3 + ("deg",) * 3), "arm": array("a b", "deg", -180, 90), "hand": array("closed", "")},
    array((*POSE, "grip"), ("mm",) * 3 + ("deg",) * 3 + ("",)),
    "ee_pose",
    15.0,
    {"force": array("f", "N")},
)


def made(spec: RobotSpec, rows: int = 5, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)

    def vector(part: ArraySpec) -> np.ndarray:
        return rng.uniform(-80, 80, (rows, part.dim)).astype(np.float32)

    action = vector(spec.action)
    return Episode(
        time=np.cumsum(rng.uniform(0.05, 0.08, rows)),
        images={name: rng.integers(0, 256, (rows, *size, 3), dtype=np.uint8) for name, size in spec.cameras.items()},
        state={name: vector(part) for name, part in spec.state.items()},
        action=action,
        requested_action=action + np.float32(1),
        reward=rng.uniform(size=rows).astype(np.float32),
        terminal=np.zeros(rows, bool),
        source=np.full(rows, 2, np.uint8),
        meta={"task": "cup", "success": None},
        image_time={name: np.arange(rows) / 15 for name in list(spec.cameras)[:1]},
        streams={
            name: Stream(np.arange(9) / 100, rng.normal(size=(9, part.dim)).astype(np.float32)) for name, part in spec.streams.items()
        },
    )


class Fake:
    notes = ("recorded on a Tuesday",)

    def __init__(self, spec: RobotSpec, *episodes: Episode) -> None:
        self.spec, self.episodes, self.closed = spec, episodes, False

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def close(self) -> None:
        self.closed = True


def mapped(map: Map, spec: RobotSpec = SPEC, episode: Episode | None = None) -> tuple[RobotSpec, Episode]:
    """The converted spec and episode, which fit each other."""
    reader = Mapped(Fake(spec, episode or made(spec)), map)
    result = reader[0]
    check_episode(result, reader.spec)
    return reader.spec, result


def test_the_worked_example_of_the_docs(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.S)
    assert block is not None
    (tmp_path / "map.yaml").write_text(block[1])
    spec, before = load_map(tmp_path / "map.yaml"), made(SPEC)
    spec, after = mapped(spec)
    assert (spec.name, spec.action_mode, spec.rate_hz) == ("franka", "ee_delta", 15.0)
    assert spec.cameras == {"front": (90, 160), "wrist": (90, 160)}
    assert {name: part.names for name, part in spec.state.items()} == {
        "ee_pos": ("x", "y", "z"),
        "ee_quat": ("qw", "qx", "qy", "qz"),
        "joints": ("a", "b", "gripper"),
    }
    assert spec.state["ee_pos"].units == ("m",) * 3 and spec.state["ee_quat"].units == ("1",) * 4
    assert spec.state["joints"].units == ("rad", "rad", "1")
    np.testing.assert_allclose(spec.state["joints"].low, (-np.pi, -np.pi, 0))
    np.testing.assert_allclose(spec.state["joints"].high, (np.pi / 2, np.pi / 2, 1))
    assert spec.action.names == ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
    assert spec.action.units == ("1",) * 3 + ("rad",) * 3 + ("1",)
    assert spec.action.low == (-1,) * 3 + (-inf,) * 3 + (0,) and spec.action.high == (1,) * 3 + (inf,) * 3 + (1,)

    pose, hand = before.state["pose"].astype(float), before.state["hand"].astype(float)
    np.testing.assert_allclose(after.state["ee_pos"], pose[:, :3] / 1000, rtol=1e-6)
    turned = Rotation.from_euler("xyz", pose[:, 3:], degrees=True)
    np.testing.assert_allclose(Rotation.from_quat(after.state["ee_quat"][:, [1, 2, 3, 0]]).as_matrix(), turned.as_matrix(), atol=1e-6)
    np.testing.assert_allclose(after.state["joints"], np.hstack([np.radians(before.state["arm"]), 1 - hand]), rtol=1e-5)

    target = np.vstack([pose[:1], before.action[:, :6].astype(float)])
    np.testing.assert_allclose(after.action[:, :3], np.diff(target[:, :3], axis=0) / 1000 / 0.05, rtol=1e-4, atol=1e-4)
    there = Rotation.from_euler("xyz", target[:, 3:], degrees=True)
    np.testing.assert_allclose(
        Rotation.from_rotvec(after.action[:, 3:6]).as_matrix(), (there[1:] * there[:-1].inv()).as_matrix(), atol=1e-6
    )
    np.testing.assert_allclose(after.action[:, 6], 1 - before.action[:, 6], rtol=1e-5)
    # A request was 1 mm and 1 degree further than what was executed, from the same start.
    np.testing.assert_allclose(after.requested_action[:, :3] - after.action[:, :3], 0.001 / 0.05, rtol=1e-3)

    assert after.meta == {"task": "cup", "success": bool(before.reward[-1] > 0.5), "instruction": "put the marker into the cup"}
    for name in ("time", "reward", "terminal", "source"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(after.streams["force"].values, before.streams["force"].values)
    np.testing.assert_array_equal(after.image_time["front"], before.image_time["exterior_1"])
    assert list(after.image_time) == ["front"] and list(after.images) == ["front", "wrist"]
    shrunk = before.images["exterior_1"].reshape(5, 90, 2, 160, 2, 3).mean(axis=(2, 4))
    assert np.abs(after.images["front"] - shrunk).mean() < 20 and after.images["front"].std() < before.images["exterior_1"].std()


def test_an_empty_map_changes_nothing() -> None:
    spec, after = mapped(Map())
    before = made(SPEC)
    assert spec == SPEC and after.meta == before.meta
    for name in ("time", "action", "requested_action", "reward", "terminal", "source"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name in SPEC.state:
        np.testing.assert_array_equal(after.state[name], before.state[name])
    for name in SPEC.cameras:
        np.testing.assert_array_equal(after.images[name], before.images[name])
    np.testing.assert_array_equal(after.streams["force"].values, before.streams["force"].values)


def test_it_is_a_reader_that_says_what_it_assumed() -> None:
    fake = Fake(SPEC, made(SPEC), made(SPEC, 3, 1))
    reader = Mapped(fake, Map(success=True, cameras={"wrist_left": Camera(size=(90, 90)), "exterior_1": Camera(size=(18, 32))}))
    assert isinstance(reader, Reader) and len(reader) == 2 and len(reader[1]) == 3
    assert list(reader.notes) == [
        "recorded on a Tuesday",
        "map: success of every episode: True",
        "map: camera wrist_left is stretched from 180x320 to 90x90 px",
    ]
    assert reader[0].meta["success"] is True
    reader.close()
    assert fake.closed


@pytest.mark.parametrize(("rule", "below", "above"), [("last", 0.6, 0.4), ("max", 0.9, 0.7), ("sum", 2.2, 1.9)])
def test_success_by_reward(rule: str, below: float, above: float) -> None:
    episode = replace(made(SPEC, 4), reward=np.array([0.2, 0.8, 0.6, 0.5], np.float32))
    for threshold, expected in ((below, False), (above, True)):
        made_map = from_dict(Map, {"success": {"reward": rule, "above": threshold}})
        assert mapped(made_map, episode=episode)[1].meta["success"] is expected


# Each step there and back ---------------------------------------------------------------------------------------------


def there_and_back(there: Step, back: Step, names: tuple[str, ...], unit: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two maps, one after the other, over a float32 episode that asks for its own action backwards: what becomes of both."""
    vector, action = array(names, unit), values.astype(np.float32)
    spec = replace(SPEC, cameras={}, streams={}, state={"q": vector}, action=vector)
    episode = replace(
        made(spec, len(action)), state={"q": np.roll(action, 1, axis=0)}, action=action, requested_action=action[::-1].copy(), image_time={}
    )
    first = Mapped(Fake(spec, episode), Map(action=(Part(steps=(there,)),)))
    second = Mapped(Fake(first.spec, first[0]), Map(action=(Part(steps=(back,)),)))
    check_episode(second[0], second.spec)
    return second[0].action, second[0].requested_action[::-1]


@given(st.sampled_from([(a, b) for a in UNITS for b in UNITS if UNITS[a][0] == UNITS[b][0]]), seeds)
def test_units_there_and_back(pair, seed) -> None:
    values = np.random.default_rng(seed).uniform(-300, 300, (4, 2))
    for back in there_and_back(Step(units=pair), Step(units=pair[::-1]), ("a", "b"), pair[0], values):
        np.testing.assert_allclose(back, values, rtol=3e-7)


@given(seeds)
def test_ranges_there_and_back(seed) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-5, 5, 3)
    high = low + rng.choice([-1, 1], 3) * rng.uniform(0.5, 3, 3)
    values = rng.uniform(-6, 6, (4, 3))
    physical, unit = (tuple(low.tolist()), tuple(high.tolist())), (-1.0, 1.0)
    for back in there_and_back(Step(range=(physical, unit)), Step(range=(unit, physical)), ("a", "b", "c"), "", values):
        np.testing.assert_allclose(back, values, atol=1e-5)


@given(st.sampled_from(["previous", "state"]), seeds)
def test_deltas_there_and_back(relative_to, seed) -> None:
    values = np.random.default_rng(seed).normal(size=(30, 3))
    relative = Relative(relative_to, "q")
    for back in there_and_back(Step(delta=relative), Step(absolute=relative), ("a", "b", "c"), "m", values):
        np.testing.assert_allclose(back, values, atol=1e-5)


ROTATIONS = ["quat_wxyz", "quat_xyzw", "axis_angle", "rot6d", "rot6d_rows", "euler_xyz_extrinsic", "euler_zyx_intrinsic_deg"]


@given(st.sampled_from(ROTATIONS), st.sampled_from(["world", "body"]), st.sampled_from(["previous", "state"]), seeds)
def test_rotation_deltas_there_and_back(name, frame, relative_to, seed) -> None:
    turn = form(name)
    values = turn.encode(Rotation.random(12, rng=np.random.default_rng(seed)))
    relative = Relative(relative_to, "q", rotation=name, frame=frame)
    for back in there_and_back(Step(delta=relative), Step(absolute=relative), turn.names, turn.unit, values):
        np.testing.assert_allclose(turn.decode(back.astype(float)).as_matrix(), turn.decode(values).as_matrix(), atol=1e-5)


@given(st.sampled_from(ROTATIONS), st.sampled_from(ROTATIONS), seeds)
def test_rotations_there_and_back(name, other, seed) -> None:
    turn = form(name)
    values = turn.encode(Rotation.random(5, rng=np.random.default_rng(seed)))
    for back in there_and_back(Step(rotation=(name, other)), Step(rotation=(other, name)), turn.names, turn.unit, values):
        np.testing.assert_allclose(turn.decode(back.astype(float)).as_matrix(), turn.decode(values).as_matrix(), atol=1e-5)


# Images ---------------------------------------------------------------------------------------------------------------


def test_a_resize_does_not_alias() -> None:
    """Lines one pixel wide shrink to grey; picking every fourth pixel would keep them black or white."""
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    frames[:, :, ::2] = 255
    small = resized(frames, (16, 16))
    assert small.shape == (2, 16, 16, 3) and np.abs(small[:, :, 2:-2].astype(int) - 127).max() <= 8
    assert resized(frames, (64, 64)) is frames and resized(frames, None) is frames
    constant = np.full((1, 7, 9, 3), (10, 200, 31), np.uint8)
    assert (resized(constant, (23, 5)) == constant[:, :1, :1]).all()


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("robbot: x", "robbot: unknown field; valid: robot, rate_hz, action_mode, instruction, success, cameras, state, action"),
        ("cameras: {a: {nme: b}}", "cameras.a.nme: unknown field; valid: name, size, drop"),
        ("cameras: {a: {size: [0, 4]}}", r"cameras.a: size: \[0, 4\] px; expected at least 1 each"),
        ("cameras: {a: {size: 4}}", "cameras.a.size: 4 is not valid"),
        ("action: [{step: []}]", "action.0.step: unknown field; valid: source, elements, steps, names, unit, low, high"),
        ("action: [{steps: [{unit: [deg, rad]}]}]", "steps.0.unit: unknown field; valid: units, range, rotation, delta, absolute"),
        ("action: [{steps: [{}]}]", "steps.0: a step is exactly one of: units, range, rotation, delta, absolute"),
        ("action: [{steps: [{units: [deg, rad], rotation: [rot6d, quat_wxyz]}]}]", "steps.0: a step is exactly one of"),
        ("action: [{steps: [{delta: {relative_to: next, state: q}}]}]", "relative_to: 'next' is not valid; expected 'previous' | 'state'"),
        ("action: [{source: q}]", "action.0.source: 'q'; an action's parts come from the action"),
        ("state: {q: [{steps: [{delta: {relative_to: state, state: q}}]}]}", "state.q.0.steps: delta and absolute are for actions"),
        ("state: {q: []}", "state.q: no parts"),
        ("success: {reward: first, above: 1}", "success.reward: 'first' is not valid; expected 'last' | 'max' | 'sum'"),
        ("rate_hz: fast", "rate_hz: 'fast' is not valid"),
        ("rate_hz: .nan", "rate_hz: nan Hz; expected above 0"),
    ],
)
def test_a_map_that_says_nonsense(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(UserError, match=message.replace(" | ", r" \| ")) as caught:
        load_map(tmp_path / "map.yaml")
    assert str(caught.value).startswith(str(tmp_path / "map.yaml")) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cameras": {"top": {}}}, "map: cameras: 'top' is not in the files; valid: exterior_1, exterior_2, wrist_left"),
        ({"cameras": {"exterior_1": {"name": "wrist_left"}}}, "map: cameras: two are called 'wrist_left'"),
        ({"state": {"q": [{}]}}, r"map: state.q.0.source: 'q' is not in the files; valid: pose, arm, hand"),
        ({"state": {"arm": [{"elements": ["c"]}]}}, "map: state.arm.0.elements: 'c' is not in: a, b"),
        ({"state": {"arm": [{"elements": ["a"], "names": ["b", "c"]}]}}, "map: state.arm.0.names: 2 for 1 elements: a"),
        ({"state": {"arm": [{}, {"source": "arm"}]}}, "map: state.arm: two elements are called 'a'; give their parts `names`"),
        ({"state": {"arm": [{"low": 1, "high": [2, 0]}]}}, r"map: state.arm.0.low: \[1.0, 1.0\] is above high \[2.0, 0.0\]"),
        ({"state": {"arm": [{"low": [1, 2, 3]}]}}, "map: state.arm.0.low: 3 numbers for 2 elements"),
        ({"action": [{"steps": [{"units": ["deg", "rad"]}]}]}, r"map: action.0.steps.0: units: 'deg' is not the unit of x \[mm\], y"),
        ({"action": [{"elements": ["x"], "steps": [{"units": ["mm", "rad"]}]}]}, "units: 'mm' to 'rad' is no conversion"),
        ({"action": [{"steps": [{"range": [[0, 0], [0, 1]]}]}]}, "both ends of each range must be finite and differ"),
        ({"action": [{"steps": [{"range": [[0, [1, 2]], [0, 1]]}]}]}, "map: action.0.steps.0: range: 2 numbers for 7 elements"),
        ({"action": [{"steps": [{"rotation": ["quat", "rot6d"]}]}]}, "rotation 'quat' is not valid; expected one of quat_wxyz"),
        ({"action": [{"steps": [{"rotation": ["quat_wxyz", "rot6d"]}]}]}, "quat_wxyz has 4 elements, not the 7 here: x, y"),
        (
            {"action": [{"elements": ["x"], "steps": [{"delta": {"relative_to": "state", "state": "q"}}]}]},
            "map: action.0.steps.0: state: 'q' is not in the mapped state; valid: pose, arm, hand",
        ),
        (
            {"action": [{"elements": ["x"], "steps": [{"delta": {"relative_to": "state", "state": "pose", "elements": ["w"]}}]}]},
            "elements: 'w' is not in pose; valid: x, y, z",
        ),
        (
            {"action": [{"elements": ["x"], "steps": [{"delta": {"relative_to": "state", "state": "pose"}}]}]},
            "1 elements of the action and 6 of pose; expected 1 and 1",
        ),
    ],
)
def test_a_map_that_does_not_fit_the_data(data: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mapped(Fake(SPEC, made(SPEC)), from_dict(Map, data))


def test_a_value_that_is_no_rotation_is_named() -> None:
    part = Part(elements=("x", "y", "z", "roll"), steps=(Step(rotation=("quat_wxyz", "axis_angle")),))
    with pytest.raises(UserError, match="map: action.0.steps.0: row 0 has norm .*; a quaternion's is 1"):
        mapped(Map(action=(part,)))


# Opened with a map ----------------------------------------------------------------------------------------------------


class Files:
    """A format of two cameras that counts what is decoded. `called`: by the files -> by the spec."""

    def __init__(self, called: dict[str, str]) -> None:
        self.called, self.opened = called, list[Fake]()

    def read(self, path: Path, format: str | None, options: Options) -> Fake:
        for name in options.cameras or ():
            if name not in self.called:
                raise UserError(f"cameras: {name!r}; valid: {', '.join(self.called)}")
        names = [new for old, new in self.called.items() if options.cameras is None or old in options.cameras]
        spec = replace(SPEC, cameras=dict.fromkeys(names, (4, 4)))
        self.opened.append(Fake(spec, made(spec)))
        return self.opened[-1]


@pytest.mark.parametrize("called", [{"a": "a", "b": "b"}, {"x": "a", "y": "b"}])
def test_a_dropped_camera_is_left_out_whatever_the_files_call_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, called: dict) -> None:
    files = Files(called)
    monkeypatch.setattr(mapping, "read", files.read)
    reader = read_mapped(tmp_path, None, Options(), Map(cameras={"a": Camera(drop=True), "b": Camera(name="top")}))
    assert dict(reader.spec.cameras) == {"top": (4, 4)} and list(reader[0].images) == ["top"]
    decoded = [name for name in files.opened[-1].spec.cameras if not files.opened[-1].closed]
    assert (decoded == ["b"]) is (called == {"a": "a", "b": "b"})


def test_what_is_said_of_a_camera_that_was_not_chosen_is_no_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mapping, "read", Files({"x": "a", "y": "b"}).read)
    map = Map(cameras={"a": Camera(name="top"), "b": Camera(name="side")})
    assert list(read_mapped(tmp_path, None, Options(cameras=("x",)), map).spec.cameras) == ["top"]
    assert list(read_mapped(tmp_path, None, Options(cameras=()), map).spec.cameras) == []
    assert read_mapped(tmp_path, None, Options(), Map(rate_hz=3.0)).spec.rate_hz == 15.0  # whoever opens it sets the rate
    with pytest.raises(UserError, match="map: cameras: 'nose' is not in the files; valid: a, b"):
        read_mapped(tmp_path, None, Options(), Map(cameras={"nose": Camera()}))
