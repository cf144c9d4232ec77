"""What the loader gives == what the runtime gives, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hardware
from hardware import RobotConfig
from hardware.types import Command, Observation, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import observation_window, to_batch
from robolearn.data.windows import Windows, restrict


def record(rows: int) -> tuple[Episode, list[Observation], hardware.RobotSpec]:
    """Drive the fake arm at random; the episode as a rollout would store it, and the observations as a policy saw them."""
    rng = np.random.default_rng(3)
    with hardware.open(RobotConfig(body="fake")) as robot:
        robot.reset(rng)
        low, high = (np.array(bound, np.float32) for bound in (robot.spec.action.low, robot.spec.action.high))
        seen, executed, requested = [], [], []
        for _ in range(rows):
            observation = robot.observe()
            action = rng.uniform(low, high).astype(np.float32)
            seen.append(observation)
            requested.append(action)
            executed.append(robot.send(Command(observation.time, action, Source.SCRIPTED)))
        spec = robot.spec
    episode = Episode(
        time=np.array([o.time for o in seen]),
        images={name: np.stack([o.images[name] for o in seen]) for name in spec.cameras},
        state={name: np.stack([o.state[name] for o in seen]) for name in spec.state},
        action=np.stack(executed),
        requested_action=np.stack(requested),
        reward=np.zeros(rows, np.float32),
        terminal=np.zeros(rows, bool),
        source=np.full(rows, Source.SCRIPTED, np.uint8),
    )
    return episode, seen, spec


@pytest.mark.parametrize("cache_mb", [0, 100])
@pytest.mark.parametrize("history", [1, 2, 5])
def test_training_and_deployment_see_the_same(tmp_path, history, cache_mb):
    episode, seen, spec = record(12)
    assert spec.cameras and spec.state
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        store.append(episode)
        store.append(episode)  # the second one must not look into the first
    windows = Windows(EpisodeStore.open(store.path), history, 4, cache_mb=cache_mb)
    for row in range(len(episode)):
        now = observation_window(seen[: row + 1], spec, history)
        # A pilot keeps the last `history` observations only: that must be the same too.
        kept = observation_window(seen[max(0, row + 1 - history) : row + 1], spec, history)
        for index in (row, len(episode) + row):
            logged = to_batch(windows.read(np.array([index]))).obs
            for other in (now, kept):
                assert logged.state.dtype == other.state.dtype == torch.float32
                assert torch.equal(logged.state, other.state)
                assert list(logged.images) == list(other.images) == list(spec.cameras)
                for name, image in logged.images.items():
                    assert image.dtype == other.images[name].dtype == torch.uint8
                    assert image.shape == other.images[name].shape == (1, history, 3, *spec.cameras[name])
                    assert torch.equal(image, other.images[name])


def test_a_restricted_policy_sees_the_same_too(tmp_path):
    episode, seen, spec = record(6)
    state = tuple(spec.state)[-1:]
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        store.append(episode)
    windows = Windows(store, 2, 1, cameras=(), state_keys=state)
    assert windows.spec == restrict(spec, (), state)
    for row in range(6):
        logged, now = to_batch(windows.read(np.array([row]))).obs, observation_window(seen[: row + 1], windows.spec, 2)
        assert logged.images == now.images == {}
        assert torch.equal(logged.state, now.state)


def test_a_robot_that_shows_something_else_is_refused():
    _, seen, spec = record(1)
    camera, name = next(iter(spec.cameras)), next(iter(spec.state))
    image, state = seen[0].images, seen[0].state
    with pytest.raises(UserError, match=f"cameras: the robot does not show '{camera}'"):
        observation_window([Observation(0.0, {}, state)], spec, 1)
    with pytest.raises(UserError, match=rf"cameras: {camera} is \(4, 4, 3\) \[px\]; the policy needs"):
        observation_window([Observation(0.0, {**image, camera: np.zeros((4, 4, 3), np.uint8)}, state)], spec, 1)
    with pytest.raises(UserError, match=rf"state: {name} is \(1, 9\); the policy needs"):
        observation_window([Observation(0.0, image, {**state, name: np.zeros((1, 9), np.float32)})], spec, 1)
