"""Every cable is pulled, in software, while an arm moves as `robolearn deploy` moves it: a policy that thinks beside the loop, every row
recorded. The arm is at rest within its bound, the cause is latched, and the store holds all that was finished."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardware.cameras import CameraConfig
from hardware.types import Command, Observation, Pilot
from robolearn.core import disk
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.runtime.async_pilot import AsyncPilot
from robolearn.runtime.rollout import rollout
from tests.hardware.wire.film import SIZE, Film
from tests.hardware.wire.pilots import MOVING, Again, Cue, Cued, refusal
from tests.hardware.wire.policies import Elsewhere, Sway
from tests.hardware.wire.rig import CAMERA_S, LAG_S, LOST_S, RATE_HZ, STALE_S, Full, Wire
from tests.hardware.wire.swaying import HORIZON
from tests.hardware.wire.truth import REST, watched

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]


class Pulling(Cued):
    """A pilot, and a cable that is pulled while it flies."""

    def __init__(self, pilot: Pilot, pull: Callable[[], object]) -> None:
        self.pilot, self.pull = pilot, pull

    def reset(self) -> None:
        self.pilot.reset()

    def decide(self, observation: Observation) -> Command:
        if self.cue.next() == MOVING:
            self.pull()
        return self.pilot.decide(observation)


def ends_of(wire: Wire) -> np.ndarray:
    return np.array([np.append(q, 0.5) for q in (wire.away, wire.home)], np.float32)


@pytest.fixture
def policy(wire: Wire) -> Sway:
    return Sway(wire.robot.spec, ends_of(wire))


def thinking(policy: Sway) -> AsyncPilot:
    return AsyncPilot(policy, execute=4)


def test_the_camera_is_killed(wire: Wire, policy: Sway) -> None:
    flight = wire.fly(Pulling(thinking(policy), wire.film.kill), 5.0)
    wire.judge_stop(flight, "camera: camera top: ", CAMERA_S + 2 / RATE_HZ)
    wire.robot.cameras["top"].close()
    wire.film = Film()
    wire.robot.cameras["top"] = camera = CameraConfig(wire.film.address, SIZE, stale_s=CAMERA_S).open("top")
    camera.open()


def test_the_policy_hangs(wire: Wire, policy: Sway) -> None:
    """What it last said is flown to its end; then it is silent."""
    flight = wire.fly(Pulling(thinking(policy), policy.free.clear), 5.0)
    wire.judge_stop(flight, "stale", HORIZON / RATE_HZ + STALE_S + 2 / RATE_HZ)
    policy.free.set()


def test_the_policy_raises(wire: Wire, policy: Sway) -> None:
    flight = wire.fly(Pulling(thinking(policy), lambda: setattr(policy, "broken", True)), 5.0, lost=ZeroDivisionError)
    wire.judge_stop(flight, "ZeroDivisionError in the loop", HORIZON / RATE_HZ)


def test_the_policys_process_is_killed(wire: Wire) -> None:
    policy = Elsewhere(wire.robot.spec, ends_of(wire))
    flight = wire.fly(Pulling(thinking(policy), policy.kill), 5.0, lost=(EOFError, BrokenPipeError))
    wire.judge_stop(flight, ("EOFError in the loop", "BrokenPipeError in the loop"), HORIZON / RATE_HZ)


def test_the_disk_is_full(wire: Wire, policy: Sway, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Full()
    pull = Pulling(thinking(policy), lambda: monkeypatch.setattr(disk, "os", full))
    flight = wire.fly(pull, 2.5, lost=UserError, landed=monkeypatch.undo)
    assert full.refused == 1
    assert flight.stopped == "landed"


def test_the_program_is_killed(wire: Wire, tmp_path: Path) -> None:
    """The loop's process outlives it for as long as it brakes."""
    wire.robot.close()
    path, program = tmp_path / "dataset.zarr", Path(__file__).with_name("deployment.py")
    command = [sys.executable, str(program), wire.name, wire.double.address, wire.film.address, str(path)]
    contacts = wire.panel.contacts
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True) as flying,
        watched(wire.panel) as truth,
    ):
        assert flying.stdout is not None
        assert flying.stdout.readline() == "flown\n"
        assert flying.stdout.readline() == "moving\n"
        killed = time.monotonic()
        flying.kill()
        flying.wait()
        wire.settle(truth)
    assert max(s for t, s in zip(truth.times, truth.speed, strict=False) if killed - 1.5 < t < killed) > 10 * REST
    assert (
        truth.rests_from(killed) - killed < wire.governor.brake_s + LAG_S + 0.5
    )  # its rows are gone with it: half a second for a busy machine
    assert wire.panel.contacts == contacts
    with EpisodeStore.open(path) as store:
        assert len(store) == 1
        assert store.length(0) >= 3
    with EpisodeStore.open(path, "a") as store:
        (left,) = store.unfinished
        assert store.length(store.recover(left)) >= MOVING
        assert len(store) == 2


def test_the_arm_itself_is_gone(wire: Wire, policy: Sway) -> None:
    """No arm is left to move: its driver says so at once, and the recording is finished like any other."""
    pilot, before = Pulling(thinking(policy), wire.double.kill), len(wire.store)
    pilot.cue = Cue(wire.speed)
    try:
        with wire.store.record() as recording:
            episode = rollout(wire.robot, pilot, Again(wire.name, "", 5.0), wire.rng, None, recording)
            assert recording.finish(episode.meta) == before
        facts, rows, refused = wire.governor.facts, wire.process.history(4000), refusal(lambda: wire.robot.reset(wire.rng))
    finally:
        wire.switch_off()
        wire.switch_on()
    killed = pilot.cue.began
    told = next(when for when, what in facts.events if when > killed - 0.1 and str(facts.stopped).startswith(what))
    assert told - killed <= LOST_S + sum(row.late_s for row in rows if killed <= row.time <= told)
    assert str(facts.stopped).startswith(("lost_reply", "stale_state", "write_error"))
    assert episode.meta["stopped"] == facts.stopped
    assert refused
    assert not wire.tally.violations
    wire.fly(lambda step: wire.command(wire.away), 0.8)
