"""LeRobot's meta/info.json: what becomes of each feature, and what is refused."""

from __future__ import annotations

import json

import pytest

from robolearn.core.errors import UserError
from robolearn.data.formats import Options, read
from robolearn.data.formats._lerobot_info import Info, read_info, roles_of, version_of


def feature(dtype: str, *shape: int, names=None, **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "names": names} | more


def roles(tmp_path, **features):
    return roles_of(Info(tmp_path, "v2.1", 30.0, {key.replace("__", "."): value for key, value in features.items()}, {}))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ("a", "b")),
        ([["a", "b"]], ("a", "b")),  # as Unitree's converter writes them
        ({"motors": ["a", "b"]}, ("a", "b")),
        ({"axes": [["a"], ["b"]]}, ("a", "b")),
        ({"left": ["a"], "right": ["b"]}, ("a", "b")),
        ({"b": 1, "a": 0}, ("a", "b")),  # as LeRobot's teleoperators do
        (None, ("0", "1")),
        ([], ("0", "1")),
    ],
)
def test_names_in_every_form(tmp_path, names, expected):
    found = roles(tmp_path, action=feature("float32", 2, names=names))
    assert found.action["action"].names == expected and found.notes == []


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], [1, 2], {"a": {"b": "c"}}])
def test_names_that_do_not_fit_are_said(tmp_path, names):
    found = roles(tmp_path, action=feature("float32", 2, names=names))
    assert found.action["action"].names == ("0", "1")
    assert found.notes == ["action: its names do not fit its 2 numbers; they are numbered instead"]


def test_each_feature_has_its_role(tmp_path):
    found = roles(
        tmp_path,
        observation__state=feature("float32", 3),
        observation__environment_state=feature("float64", 2),
        observation__tactile__left=feature("int16", 2, 2),
        observation__images__cam_high=feature("video", 4, 4, 3),
        observation__image=feature("image", 4, 4, 3),
        action=feature("float32", 2),
        action__mask=feature("bool", 2),
        next__reward=feature("float32", 1),
        timestamp=feature("float32", 1),
    )
    assert [(key, *parts) for key, parts in found.state.items()] == [
        ("observation.state", "state"),
        ("observation.environment_state", "environment_state"),
        ("observation.tactile.left", "tactile.left"),
    ]
    assert found.state["observation.tactile.left"]["tactile.left"].names == ("0_0", "0_1", "1_0", "1_1")
    assert found.cameras == {"cam_high": "observation.images.cam_high", "image": "observation.image"}
    assert list(found.action) == ["action"] and found.notes == ["left out: action.mask"]


def test_other_projects_names(tmp_path):
    found = roles(tmp_path, image=feature("image", 4, 4, 3), state=feature("float32", 8), actions=feature("float32", 7))  # openpi
    assert list(found.state["state"]) == ["state"] and list(found.action) == ["actions"] and found.cameras == {"image": "image"}


def test_what_is_no_observation_is_left_out_and_named(tmp_path):
    found = roles(
        tmp_path,
        observation__images__front_depth=feature("video", 4, 4, 3),
        observation__images__range=feature("video", 4, 4, 3, info={"video.is_depth_map": True}),
        observation__images__tof=feature("image", 4, 4, 1, info={"is_depth_map": True}),
        observation__cloud=feature("float32", 5000, 3),
        observation__text=feature("string", 1),
        annotation__quality=feature("float32", 1),
        language_events=feature("language", 1),
    )
    assert not found.cameras and not found.state and not found.action
    assert found.notes == [
        "left out: observation.images.front_depth (depth), observation.images.range (depth), observation.images.tof (depth), "
        "observation.cloud (float32 (5000, 3)), observation.text (string (1,)), annotation.quality, language_events"
    ]


def test_names_cannot_leave_the_store(tmp_path):
    """A part of the state and a camera become folders."""
    features = {"observation.../../x": feature("float32", 1), "observation.images./etc/cam": feature("video", 4, 4, 3)}
    found = roles_of(Info(tmp_path, "v2.1", 30.0, features, {}))
    assert [list(parts) for parts in found.state.values()] == [["_.._x"]] and list(found.cameras) == ["_etc_cam"]
    with pytest.raises(UserError, match="'observation.images.top' and 'observation.top' would both be camera 'top'"):
        roles(tmp_path, observation__images__top=feature("video", 4, 4, 3), observation__top=feature("video", 4, 4, 3))
    with pytest.raises(UserError, match="would be the same part of the state: state, state"):
        roles(tmp_path, observation__state=feature("float32", 1), state=feature("float32", 1))


def test_absurd_sizes_are_refused_before_they_are_named(tmp_path):
    with pytest.raises(UserError, match=r"action has shape \[1000000000000\]; expected 1 to 4096 numbers"):
        roles(tmp_path, action=feature("float32", 10**12))
    with pytest.raises(UserError, match=r"action has shape \[0\]"):
        roles(tmp_path, action=feature("float32", 0))


@pytest.mark.parametrize(
    "ours",
    [None, 3, {}, {"parts": {}}, {"parts": {"a": None}}, {"parts": {"a": {"names": ["x"], "units": ["m"], "low": [0], "high": [1]}}}],
)
def test_what_our_writers_noted_counts_only_where_it_fits(tmp_path, ours):
    found = roles(tmp_path, observation__state=feature("float32", 2, robolearn=ours))
    assert found.state["observation.state"]["state"].names == ("0", "1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, r"meta/info.json: fps is 0; expected rows per second above 0 \[Hz\]"),
        ({"fps": "30"}, "fps is '30'"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"features": {}}, "has no features"),
        ({"features": {"action": {"dtype": "float32"}}}, "feature 'action' has no dtype or no shape"),
        ({"features": {"action": feature("float32", -1)}}, "feature 'action' has no dtype or no shape"),
        ({"features": {"action": [1]}}, "feature 'action' has no dtype or no shape"),
    ],
)
def test_metadata_that_is_wrong(tmp_path, change, message):
    (tmp_path / "meta").mkdir()
    info = {"codebase_version": "v2.1", "fps": 30, "features": {"action": feature("float32", 1)}}
    (tmp_path / "meta/info.json").write_text(json.dumps(info | change))
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, "lerobot_v2", Options())
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (None, "data_path is None; expected the pattern"),
        ("../{episode_index}.parquet", "names no file in the dataset"),
        ("a/{key}.parquet", "names no file in the dataset"),
        ("/etc/passwd", "names no file in the dataset"),
        ("{episode_index.__class__}", "names no file in the dataset"),
        ("{episode_index:999999999d}", "names no file in the dataset"),
        ("{nose:03d}.parquet", r"data_path has \{nose:03d\}; valid: episode_index, key"),
    ],
)
def test_patterns_that_name_no_file(tmp_path, pattern, message):
    info = Info(tmp_path, "v2.1", 30.0, {}, {"data_path": pattern})
    with pytest.raises(UserError, match=message):
        info.file("data_path", episode_index=7, key="../up")


def test_patterns_are_filled_in(tmp_path):
    info = Info(tmp_path, "v2.1", 30.0, {}, {"video_path": "videos/chunk-{chunk:03d}/{key}/{episode:06d}-{episode}.mp4"})
    assert info.file("video_path", chunk=0, key="observation.images.top", episode=1234567) == (
        "videos/chunk-000/observation.images.top/1234567-1234567.mp4"
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"codebase_version": null}', "[" * 100000, "\xff", '{"codebase_version": "v1.6"}'])
def test_what_is_no_lerobot_dataset(tmp_path, text):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="not in a format that is read here"):
        read(tmp_path)
    (tmp_path / "meta/info.json").unlink()
    assert version_of(tmp_path) == ""
    with pytest.raises(UserError, match="meta/info.json: no such file"):
        read_info(tmp_path)
