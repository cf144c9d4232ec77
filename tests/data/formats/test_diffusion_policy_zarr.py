from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, read
from robolearn.data.formats.diffusion_policy_zarr import coverage


def test_rows_come_out_as_recorded(pusht_zarr):
    import zarr

    path = pusht_zarr(ends=(6, 10))
    raw = zarr.open_group(str(path), mode="r")
    episodes = read(path)
    spec = episodes.spec
    assert len(episodes) == 2
    first, second = episodes
    assert (len(first), len(second)) == (6, 4)
    for episode, rows in ((first, slice(0, 6)), (second, slice(6, 10))):
        check_episode(episode, spec)
        state = raw["data/state"][rows]
        np.testing.assert_array_equal(episode.images["image"], raw["data/img"][rows])
        np.testing.assert_array_equal(episode.state["agent_pos"], state[:, :2])
        block = episode.state["block_pose"]
        np.testing.assert_array_equal(block[:, :2], state[:, 2:4])
        np.testing.assert_allclose(np.arctan2(block[:, 2], block[:, 3]) % (2 * np.pi), state[:, 4], atol=1e-5)
        np.testing.assert_array_equal(episode.action, raw["data/action"][rows])
        np.testing.assert_array_equal(episode.requested_action, episode.action)
        assert (episode.source == Source.HUMAN).all()
        np.testing.assert_allclose(np.diff(episode.time), 0.1)
    assert second.meta["origin"] == {"file": "pusht.zarr", "episode": 1}


def test_the_spec_is_that_of_the_body(pusht_zarr):
    """A policy trained on these rows must fit the body it is evaluated on."""
    from robolearn.data.windows import restrict

    spec = read(pusht_zarr()).spec
    assert restrict(spec, state=("agent_pos",)).diff(hardware.spec_of(RobotConfig("pusht"))) == []
    assert restrict(spec, cameras=()).diff(hardware.spec_of(RobotConfig("pusht:state"))) == []


def test_coverage_is_the_simulators():
    from hardware.pusht import PushT

    world, rng = PushT(), np.random.default_rng(0)
    poses = np.concatenate([rng.uniform(180, 330, (30, 2)), rng.uniform(-3, 7, (30, 1))], 1)
    poses[0] = (256, 256, np.pi / 4)
    expected = []
    for x, y, angle in poses:
        world._env.block.angle, world._env.block.position = angle, (x, y)
        expected.append(world._env._get_coverage())
    np.testing.assert_allclose(coverage(poses), expected, atol=1e-9)
    assert coverage(poses)[0] == pytest.approx(1) and 0.1 < max(expected[1:]) < 0.95


def test_reward_is_what_the_action_led_to(pusht_zarr):
    state = np.zeros((4, 5), np.float32)
    state[:, 2:] = (256, 256, np.pi / 4)
    state[:2, 2] = 100, 226  # far, near, there, there
    (episode,) = read(pusht_zarr(ends=(4,), state=state))
    near = coverage(state[1:2, 2:])[0]
    np.testing.assert_allclose(episode.reward, [near / 0.95, 1, 1, 1], rtol=1e-5)
    assert episode.terminal.tolist() == [False, False, False, True]
    assert episode.meta["success"] is True and episode.meta["max_coverage"] == pytest.approx(1)


def test_success_is_unknown_where_it_was_not_seen(pusht_zarr):
    (episode,) = read(pusht_zarr(ends=(4,)))
    assert episode.meta["success"] is None and not episode.terminal.any()


@pytest.mark.parametrize(
    ("ends", "columns", "message"),
    [
        ((10, 4, 10), {}, "episode_ends must increase from above 0 to at most 10"),
        ((4, 10), {"action": np.zeros((9, 2), np.float32)}, "at most 9, the rows of data"),
    ],
)
def test_what_does_not_fit_is_refused(pusht_zarr, ends, columns, message):
    path = pusht_zarr(ends=ends, **columns)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_buffer_of_pictures_alone_is_refused(pusht_zarr):
    with pytest.raises(UserError, match="data holds img; expected action, or numbers to take it from"):
        read(pusht_zarr(state=None, action=None, keypoint=None))


def test_images_that_are_no_grey_levels_are_refused(pusht_zarr):
    path = pusht_zarr(ends=(2,), img=np.full((2, 96, 96, 3), -0.5, np.float32))
    with pytest.raises(UserError, match=r"episode 0: data/img leaves 0..255"):
        list(read(path))


def test_a_truncated_chunk_is_one_clear_error(pusht_zarr):
    path = pusht_zarr()
    chunk = path / "data" / "action" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    with pytest.raises(UserError, match="episode 0: unreadable"):
        list(read(path))


@pytest.mark.peer
def test_the_real_demonstrations():
    """206 human episodes (datasets/pusht-human.md)."""
    if not (root := os.environ.get("ROBOLEARN_DATA")):
        pytest.skip("ROBOLEARN_DATA is not set: the folder that holds pusht-human-zarr")
    episodes = read(Path(root) / "pusht-human-zarr")
    spec = episodes.spec
    assert len(episodes) == 206
    first = episodes[0]
    check_episode(first, spec)
    assert len(first) == 161 and 0.8 < first.meta["max_coverage"] < 0.95


def test_a_rate_and_no_camera_can_be_asked_for(pusht_zarr):
    spec = read(pusht_zarr(), options=Options(rate_hz=20, cameras=())).spec
    assert (spec.rate_hz, dict(spec.cameras), spec.name) == (20, {}, hardware.spec_of(RobotConfig("pusht")).name)
    with pytest.raises(UserError, match="'image' is not in the files; valid: img"):
        read(pusht_zarr(name="again.zarr"), options=Options(cameras=("image",)))
