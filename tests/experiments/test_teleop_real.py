"""A person with a leader arm teaches a real arm: doubles of both, spoken to by the vendor's own SDK, and two cameras behind HTTP."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardware import RobotConfig, arms
from hardware.arms.feetech import calibration
from hardware.cameras import CameraConfig
from hardware.doubles import Double, launch
from hardware.real import RealConfig
from hardware.teleop.keys import TerminalKeys
from hardware.types import HardwareError, Source
from robolearn.data.store import EpisodeStore
from robolearn.experiments import attendance
from robolearn.experiments.teleop import Config, LeaderConfig, run

pytest.importorskip("scservo_sdk", reason="robolearn[feetech] is not installed")
pytest.importorskip("cv2")

HOME = arms.find("so101")[1].spec.home
WAY = HOME + np.linspace(0.0, 1.0, 21)[1:, None] * np.array([0.3, -0.2, 0.15, 0.1, -0.3])  # a trajectory recorded before
ENGAGE, PLAY, RELEASE = 2, 12, 34  # which decision
LOOKS = 20  # at the arm, before Enter


class Script(TerminalKeys):
    """A person: looks at the arm and presses Enter, engages, waits until the robot has come, moves the leader along WAY, releases it,
    moves it far away, says success."""

    def __init__(self, leader: Double, follower: Double) -> None:
        super().__init__()
        self.leader, self.follower, self.decision, self.looks = leader, follower, -1, list[np.ndarray]()

    def open(self) -> None: ...
    def close(self) -> None: ...

    def read(self) -> list[str]:
        if len(self.looks) < LOOKS:
            self.looks.append(self.follower.panel.q)
            return ["\n"] if len(self.looks) == LOOKS else []
        self.decision += 1  # the first read is the reset's
        now = self.decision
        if PLAY <= now < PLAY + len(WAY):
            self.leader.place(WAY[now - PLAY], 1.0)
        if now == RELEASE + 1:
            self.leader.place(HOME - 0.4)
        return ["c"] if now in (ENGAGE, RELEASE) else ["s"] if now == RELEASE + 8 else []


def test_a_leader_teaches_a_follower(tmp_path: Path, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = replace(calibration("so101"), offset=(2148,) * 5, gripper_closed=2034, gripper_open=3286)
    mounted.save(tmp_path / "follower.json")
    cameras = {"top": CameraConfig(stream, (24, 32), stale_s=5.0), "wrist": CameraConfig(stream, (24, 24), stale_s=5.0)}
    with launch("so101", shift=100) as follower, launch("so101", limp=True) as leader:
        leader.panel.hold = 1  # in the person's hands
        leader.place(HOME + 0.1, 0.0)
        arm = RealConfig(follower.address, str(tmp_path / "follower.json"), realtime=False, cameras=cameras)
        person = Script(leader, follower)
        follower.place(HOME + 0.1)
        monkeypatch.setattr(attendance, "UrgentKeys", lambda *_: person)
        monkeypatch.setattr(attendance, "SETTLE_S", 0.0)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        config = Config(
            out=tmp_path / "run",
            robot=RobotConfig(body="so101", arm=arm, stale_s=5.0),
            pilot="leader",
            episodes=1,
            videos=0,
            leader=LeaderConfig(address=leader.address),
            view_port=None,
        )
        run(config)
        assert follower.panel.contacts == 0
        np.testing.assert_allclose(person.looks, np.tile(HOME + 0.1, (LOOKS, 1)), atol=0.02, err_msg="it moved before Enter")
        assert follower.panel.watchdog == 0
        assert not leader.panel.powered
    with EpisodeStore.open(tmp_path / "run" / "dataset.zarr") as store:
        episode = store.read(0)
    assert episode.meta["calibration"] == mounted.digest
    assert episode.meta["stopped"] is None and episode.success and episode.meta["operator"] == "leader", episode.meta
    assert (episode.source == Source.HUMAN).all()
    assert {name: frames.shape[1:] for name, frames in episode.images.items()} == {"top": (24, 32, 3), "wrist": (24, 24, 3)}
    assert all(len(np.unique(frames[:, 0, 0, 0])) > 3 for frames in episode.images.values()), "they are alive"
    asked, seen = episode.requested_action[:, :-1], episode.state["joint_pos"]
    row = PLAY - 1  # the row of the decision that read the keys so often
    np.testing.assert_allclose(asked[row : row + len(WAY)], WAY, atol=3e-3)
    assert np.abs(np.diff(asked[:row], axis=0)).max() <= 0.041, "it comes slowly"
    np.testing.assert_allclose(seen[-1], WAY[-1], atol=0.03)  # released, it held, wherever the leader went
    assert np.abs(asked[RELEASE:] - WAY[-1]).max() < 0.03
    np.testing.assert_allclose(episode.action[row : row + len(WAY), :-1], WAY, atol=3e-3)
    assert episode.action[0, -1] < 0.05 and episode.action[-1, -1] == pytest.approx(1.0, abs=2e-3)


def test_a_leader_that_is_not_there_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with launch("so101") as follower:
        robot = RobotConfig(body="so101", arm=RealConfig(follower.address, realtime=False))
        config = Config(out=tmp_path / "run", robot=robot, pilot="leader", leader=LeaderConfig(address="/dev/ttyNOWHERE"), confirm=False)
        with pytest.raises(HardwareError, match="leader: so101: /dev/ttyNOWHERE: .*No such file"):
            run(config)
    assert not (tmp_path / "run").exists()
