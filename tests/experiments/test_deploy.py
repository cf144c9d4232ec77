"""A policy on a robot: in a simulator, and end to end through a vendor's SDK to a double, with a camera."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import hardware
from hardware import RealConfig, RobotConfig
from hardware.arms.feetech import calibration
from hardware.cameras import CameraConfig
from hardware.doubles import launch
from hardware.doubles.panel import Panel
from hardware.teleop.keys import TerminalKeys
from hardware.types import Source
from robolearn.core.checkpoint import save_checkpoint
from robolearn.core.config import save_config
from robolearn.core.errors import UserError
from robolearn.core.run import read_json, read_metrics
from robolearn.data.store import EpisodeStore
from robolearn.experiments import attendance, deploy
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.policies.regression import RegressionConfig
from robolearn.runtime.async_pilot import AsyncPilot


def checkpoint(path: Path, robot: RobotConfig, rows: np.ndarray) -> Path:
    """A policy that learned nothing but the units of `rows` (N, A): its actions lie among them."""
    spec = hardware.spec_of(robot)
    config = RegressionConfig(horizon=8, history=1, widths=(16, 32))
    torch.manual_seed(0)
    policy = config.build(spec)
    state = np.zeros((len(rows), spec.state_dim), np.float32)
    state[:, : rows.shape[1] - 1] = rows[:, :-1]
    state += np.random.default_rng(0).normal(0, 0.1, state.shape)
    policy.fit_normalizers(state, rows, None)
    save_checkpoint(path, policy, config, {})
    return path


def near(centre: np.ndarray) -> np.ndarray:
    return (centre + np.random.default_rng(0).normal(0, 0.05, (200, len(centre)))).astype(np.float32)


def test_in_a_simulator_every_episode_is_recorded_and_counted(tmp_path: Path) -> None:
    robot = RobotConfig("fake:state")
    policy = checkpoint(tmp_path / "policy.pt", robot, near(np.array([-0.6, 1.2])))
    config = deploy.Config(policy, tmp_path / "out", robot, episodes=2, seconds=1.0, view_port=None)
    deploy.run(config)
    with EpisodeStore.open(tmp_path / "out/dataset.zarr") as store:
        assert len(store) == 2
        assert store.meta(1)["operator"] == "policy"
        assert len(store.meta(1)["checkpoint"]) == 16
        assert set(store.lowdim("source")) == {Source.POLICY}
    assert read_json(tmp_path / "out/done.json")["episodes"] == 2
    deploy.run(config)  # already complete
    assert len(read_metrics(tmp_path / "out/metrics.jsonl")) == 2


def test_nothing_is_imported_while_a_robot_flies(tmp_path: Path) -> None:
    """An import may take a second, and after half a one without a decision the governor stops the arm."""
    plain = RobotConfig("fake:state")
    seeing = RobotConfig("fake", image_size=16)
    config = DiffusionConfig(
        encoder=SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4), widths=(8, 16), train_steps=10, sample_steps=2
    )
    policy = config.build(hardware.spec_of(seeing))
    policy.fit_normalizers(np.zeros((9, policy.spec.state_dim), np.float32), near(np.zeros(policy.spec.action.dim))[:9], None)
    save_checkpoint(tmp_path / "diffusion.pt", policy, config, {})
    files = {checkpoint(tmp_path / "plain.pt", plain, near(np.array([-0.6, 1.2]))): plain, tmp_path / "diffusion.pt": seeing}
    for path, robot in files.items():
        flight = deploy.Config(path, path.with_suffix(""), robot, episodes=2, seconds=1.0, view_port=None)
        save_config(flight, path.with_suffix(".yaml"))
    code = """
import sys
from pathlib import Path
from robolearn.core.config import load_config
from robolearn.experiments import deploy
flying, found, fly = [], [], deploy.rollout
sys.addaudithook(lambda event, args: found.append(args[0]) if event == "import" and flying and args[0] not in sys.modules else None)
def watched(robot, pilot, task, rng, on_step, recording):
    def step(s):
        flying[:] = [True]  # an episode's first decision is waited for, the arm at rest
        on_step(s)
    try:
        return fly(robot, pilot, task, rng, step, recording)
    finally:
        flying.clear()
deploy.rollout = watched
for file in sys.argv[1:]:
    deploy.run(load_config(Path(file), deploy.Config))
print(sorted(set(found)))
"""
    done = subprocess.run([sys.executable, "-c", code, *(str(path.with_suffix(".yaml")) for path in files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_on_a_double_through_the_vendors_sdk_with_a_camera(tmp_path: Path) -> None:
    pytest.importorskip("scservo_sdk")
    film = tmp_path / "film.mp4"
    _film(film)
    own = calibration("so101")
    own.save(tmp_path / "so101.json")
    with launch("so101") as double:
        arm = RealConfig(
            double.address,
            str(tmp_path / "so101.json"),
            table_m=None,
            cameras={"top": CameraConfig(str(film), size=(32, 32), stale_s=60.0)},
        )
        robot = RobotConfig("so101", arm=arm, stale_s=5.0)  # a busy machine may keep the pilot waiting
        home = double.model.spec.home
        spec = RobotConfig("so101", arm=RealConfig())
        policy = checkpoint(tmp_path / "policy.pt", spec, near(np.append(home + 0.1, 0.5)))
        deploy.run(
            deploy.Config(policy, tmp_path / "out", robot, episodes=1, seconds=2.0, instruction="wave", view_port=None, confirm=False)
        )
        assert np.abs(double.panel.q - home).max() > 0.02
        assert double.panel.contacts == 0
    with EpisodeStore.open(tmp_path / "out/dataset.zarr") as store:
        meta = store.meta(0)
        assert meta["instruction"] == "wave"
        assert meta["stopped"] is None
        assert meta["calibration"] == own.digest
        assert store.length(0) >= 15
        assert store.read(0).images["top"].shape[1:] == (32, 32, 3)
        moved = store.lowdim("action")[:, :-1] - home
        assert 0.01 < np.abs(moved).max() < 0.6


class Typed(TerminalKeys):
    """A person who lifts the tool in the middle of the episode, in two places, then says success."""

    def __init__(self) -> None:
        super().__init__()
        self.decision = -1

    def open(self) -> None: ...
    def close(self) -> None: ...

    def read(self) -> list[str]:
        self.decision += 1
        return {4: ["u"], 5: ["u"], 16: ["g"], 24: ["s"]}.get(self.decision, [])


def test_a_person_takes_over_and_gives_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "keys_of", lambda _: Typed())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    robot = RobotConfig("robosuite:Lift:state")
    policy = checkpoint(tmp_path / "policy.pt", robot, near(np.array([0.0, 0.0, 0.0, 0.5])))
    deploy.run(deploy.Config(policy, tmp_path / "out", robot, episodes=1, seconds=20.0, view_port=None, takeover="keyboard"))
    with EpisodeStore.open(tmp_path / "out/dataset.zarr") as store:
        episode = store.read(0)
    assert episode.success and episode.meta["takeovers"] == 2 and episode.meta["stopped"] is None
    human = np.flatnonzero(episode.source == Source.HUMAN).tolist()
    # Ten decisions a second: the last u is read in row 4 and moves in row 5, too; half a second later the robot is given back.
    assert human == [*range(3, 10), *range(15, 20)]
    assert set(episode.source) == {Source.HUMAN, Source.POLICY}
    assert (episode.action[3:5, 2] > 0).all() and (episode.action[15:20, 3] == 1).all()


@contextmanager
def told(panel: Panel) -> Iterator[list[tuple[float, np.ndarray]]]:
    """What the arm's controller was told meanwhile: (when [s], joints (J,))."""
    goals: list[tuple[float, np.ndarray]] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            goals.append((time.monotonic(), panel.goal))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield goals
    finally:
        done.set()
        looking.join()


@pytest.mark.parametrize("arm", ["so101", pytest.param("ur5e", marks=pytest.mark.long)])
def test_on_a_double_a_person_takes_over_and_gives_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str) -> None:
    """From a process beside the arm's, by the wall clock; what its controller is told never leaps, at neither change of hands."""
    pytest.importorskip({"so101": "scservo_sdk", "ur5e": "rtde_control"}[arm])
    monkeypatch.setattr(attendance, "keys_of", lambda _: Typed())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with launch(arm) as double:
        robot = RobotConfig(arm, arm=RealConfig(double.address, table_m=None, actions="ee_delta"), stale_s=5.0)
        rows = 0.05 * near(np.zeros(len(hardware.spec_of(robot).action.names))) + np.append(np.zeros(3), 0.5).astype(np.float32)
        policy = checkpoint(tmp_path / "policy.pt", robot, rows)
        with told(double.panel) as goals:
            deploy.run(
                deploy.Config(policy, tmp_path / "out", robot, episodes=1, seconds=20.0, view_port=None, takeover="keyboard", confirm=False)
            )
    times, q = np.array([when for when, _ in goals]), np.array([goal for _, goal in goals])
    most = 0.3 * double.model.spec.v_max * (np.diff(times)[:, None] + 0.03) + 0.004  # a tick of 10 ms and its delay, steps of a servo
    assert len(goals) > 200 and (np.abs(np.diff(q, axis=0)) < most).all()
    assert np.ptp(q, axis=0).max() > 0.02, "it moved"
    with EpisodeStore.open(tmp_path / "out/dataset.zarr") as store:
        episode = store.read(0)
    assert episode.success and episode.meta["takeovers"] == 2 and episode.meta["stopped"] is None
    human = np.flatnonzero(episode.source == Source.HUMAN)
    assert [int(part[0]) for part in np.split(human, np.flatnonzero(np.diff(human) > 1) + 1)] == [3, 15]
    assert (episode.action[3:5, 2] > 0).all() and {Source.HUMAN, Source.POLICY} <= set(episode.source)


class Stopping(Typed):
    """A person who stops the robot in the third decision of whatever flies."""

    def read(self) -> list[str]:
        self.decision += 1
        return [" "] if self.decision == 3 else []


def test_after_a_persons_stop_no_episode_begins_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would drive the arm home, whatever the stop was for."""
    monkeypatch.setattr(attendance, "keys_of", lambda _: Stopping())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    robot = RobotConfig("fake:state")
    policy = checkpoint(tmp_path / "policy.pt", robot, near(np.array([-0.6, 1.2])))
    config = deploy.Config(policy, tmp_path / "out", robot, episodes=3, seconds=2.0, view_port=None)
    for flown in (1, 2):  # the same command goes on
        deploy.run(config)
        with EpisodeStore.open(tmp_path / "out/dataset.zarr") as store:
            assert [store.meta(i)["stopped"] for i in range(len(store))] == ["operator"] * flown
    assert not (tmp_path / "out/done.json").exists()


def _film(path: Path) -> None:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for number in range(30):
        writer.write(np.full((48, 64, 3), 8 * number, np.uint8))
    writer.release()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 0}, "episodes: 0"),
        ({"seconds": -1.0}, "seconds: -1.0 s; valid: above 0"),
        ({"chunk": 99}, "chunk: 99 actions per inference"),
        ({"chunk": 4, "prefix": 3}, "prefix: 3 actions"),
        ({"takeover": "leader"}, "takeover: leader: the input is not a terminal, which has the STOP; valid without one: browser"),
        ({"takeover": "gamepad"}, "takeover: gamepad: the input is not a terminal, which has the STOP; valid without one: browser"),
    ],
)
def test_what_cannot_be_deployed(tmp_path: Path, change: dict, message: str) -> None:
    robot = RobotConfig("fake:state")
    policy = checkpoint(tmp_path / "policy.pt", robot, near(np.array([-0.6, 1.2])))
    with pytest.raises(UserError, match=message):
        deploy.run(deploy.Config(policy, tmp_path / "out", robot, view_port=None, **change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("horizon", "chunk", "beside"), [(1, 1, False), (6, 6, True), (20, 8, True)])
def test_a_single_action_is_not_thought_of_beside_the_robot(tmp_path: Path, horizon: int, chunk: int, beside: bool) -> None:
    """It would be for a moment that has passed when it comes."""
    robot = RobotConfig("so101", arm=RealConfig("/dev/null"))
    policy = BcConfig(horizon=horizon, history=1, hidden=(16,)).build(hardware.spec_of(robot))
    with ExitStack() as stack:
        pilot = deploy._pilot(deploy.Config(tmp_path / "policy.pt", robot=robot), policy, stack)
        assert isinstance(pilot, AsyncPilot) is beside
        assert (pilot.execute if isinstance(pilot, AsyncPilot) else pilot._runner.execute) == chunk


def test_a_policy_of_another_robot(tmp_path: Path) -> None:
    policy = checkpoint(tmp_path / "policy.pt", RobotConfig("fake:state"), near(np.array([-0.6, 1.2])))
    with pytest.raises(UserError, match="made for another robot"):
        deploy.run(deploy.Config(policy, tmp_path / "out", RobotConfig("so101", arm=RealConfig(address="/dev/null")), confirm=False))
