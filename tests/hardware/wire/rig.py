"""A real arm's whole way, but for the arm: rollout, recorder, SafeRobot, the loop's process, governor, driver, SDK, wire, double.

Three witnesses: a probe between loop and driver (probe.py), what is true of the double (truth.py), and the rows that the loop published.
Times come from those, never from how long a test took: the machine may be busy.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import hardware
from hardware import RealConfig, RobotConfig, arms
from hardware.arms.model import ArmModel
from hardware.cameras import CameraConfig, ThreadedCamera
from hardware.doubles import launch
from hardware.doubles.panel import FAULTS
from hardware.process import ArmProcess
from hardware.process_server import Row
from hardware.types import Command, HardwareError, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.runtime.rollout import rollout
from tests.hardware.wire.film import SIZE, Film
from tests.hardware.wire.pilots import MOVING, Again, Cue, Cued, Found, Scripted, refusal
from tests.hardware.wire.probe import Tally, start
from tests.hardware.wire.truth import Body, Truth, watched
from tests.waiting import until

SDKS = {"ur5e": "rtde_control", "so101": "scservo_sdk", "fr3": "pylibfranka"}
FAULT = {"ur5e": 3, "so101": 32, "fr3": 5}  # the vendors' numbers: protective stop, overload, a reflex
RATE_HZ, STALE_S, SPEED, TRACKING = 25.0, 0.4, 0.7, 0.3
LAG_S = 0.25  # servos, and an SDK's own cycle, behind the setpoints
LOST_S = 0.25  # until replies that stay away, come late, or say the same, are a stop: state_stale_s, and an SDK's own patience
CAMERA_S = 0.4  # the same, of frames
WALL_M = 0.12  # beside the tool at home: where the workspace ends


@dataclass
class Flight:
    """One episode, and what its witnesses saw until the arm was at rest again."""

    episode: Episode = field(repr=False)
    rows: list[Row] = field(repr=False)
    truth: Truth = field(repr=False)
    stopped: str | None
    events: list[tuple[float, str]]
    did: Counter[str]  # what the governor intervened for, until the episode's end
    began: float  # step MOVING [s]
    row: int  # its row

    def stop_began(self) -> float:
        assert self.stopped is not None
        return next(when for when, what in self.events if self.stopped.startswith(what))

    def late(self, begin: float, end: float) -> float:
        """By how much the ticks between two times [s] came too late, all together: a busy machine's share."""
        return sum(max(0.0, row.late_s) for row in self.rows if begin <= row.time <= end + 0.1)


def away_of(model: ArmModel) -> np.ndarray:
    """Joints (J,) some way from home, on the side where the tool's y [m] is smaller."""
    body, home = Body(model), model.spec.home
    turned = home + 0.1 * (np.arange(len(home)) == 0)
    away = home.copy()
    away[0] += 0.55 * np.sign(body.tool(home)[1] - body.tool(turned)[1])
    away[-1] += 0.4
    return away


def config_of(name: str, address: str, camera: str) -> RobotConfig:
    """Over a table, beside a wall."""
    model = arms.find(name)[1]
    wall = float(Body(model).tool(model.spec.home)[1]) + WALL_M
    cameras = {"top": CameraConfig(camera, SIZE, stale_s=CAMERA_S)}
    arm = RealConfig(address, speed=SPEED, tracking_rad=TRACKING, cameras=cameras)
    return RobotConfig(name, RATE_HZ, stale_s=STALE_S, workspace_low=(-2.0, -2.0, 0.01), workspace_high=(2.0, wall, 2.0), arm=arm)


class Wire:
    """One arm: its double, its robot, its camera, its store."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.film, self.tally, self.model = name, Film(), Tally(), arms.find(name)[1]
        self.body, self.home, self.away = Body(self.model), self.model.spec.home, away_of(self.model)
        self.sign = float(np.sign(self.away[0] - self.home[0]))  # of a turn away from the wall
        self.rng = np.random.default_rng(0)
        self.switch_on()
        self.store = EpisodeStore.create(folder / "dataset.zarr", self.robot.spec)

    def switch_on(self) -> None:
        self.double = launch(self.name, **({"unlock_s": 0.2} if self.name == "ur5e" else {}))
        self.panel = self.double.panel
        config = config_of(self.name, self.double.address, self.film.address)
        self.robot = hardware.open(config)
        self.robot.loop = self.process = ArmProcess(partial(start, config, self.tally), fifo=True)
        self.governor, self.spec = self.process.governor, self.process.governor.arm
        limits = self.governor.limits
        assert limits.workspace is not None
        self.wall = float(limits.workspace.high[1])
        until(lambda: not refusal(self.robot.connect))

    def switch_off(self) -> None:
        self.robot.close()
        self.double.close()

    def close(self) -> None:
        self.store.close()
        self.switch_off()
        self.film.close()

    def heal(self) -> None:
        """No fault any more, nowhere; whoever ended is there again."""
        for fault in FAULTS:
            setattr(self.panel, fault, 0)
        self.tally.wall_step = self.film.mode = 0
        if refusal(lambda: self.process.ask("facts")):
            self.robot.close()
        self.robot.connect()
        until(self._sees)

    def _sees(self) -> bool:
        """Frames come as they should again, not only one of them."""
        camera = self.robot.cameras["top"]
        assert isinstance(camera, ThreadedCamera)
        before = camera.time
        time.sleep(0.12)
        return 0.0 < camera.time - before < 0.2

    def place(self, q: np.ndarray) -> None:
        """Put it there by hand while its motors are stopped, and hold it there."""
        self.panel.fault = FAULT[self.name]
        until(lambda: self.robot.stopped and ((row := self.process.row()).halted or row.at_rest))
        time.sleep(0.1)  # a controller's cycle, and its SDK's
        self.double.place(q)
        self.panel.fault = 0
        until(lambda: not refusal(self.process.clear))

    def speed(self) -> float:
        """Of its first joint, as a share of its limit."""
        return float(abs(self.panel.dq[0]) / self.spec.v_max[0])

    # Flying -----------------------------------------------------------------------------------------------------------

    def command(self, q: np.ndarray, gripper: float = 0.5, source: Source = Source.POLICY) -> Command:
        return Command(self.robot.clock.now(), np.append(q, gripper).astype(np.float32), source)

    def fly(
        self,
        act: Callable[[int], Command | None] | Cued,
        seconds: float = 1.6,
        *,
        moving: bool = True,
        found: bool = False,
        lost: type[BaseException] | tuple[type[BaseException], ...] = (),
        landed: Callable[[], None] = lambda: None,
    ) -> Flight:
        """Record an episode from home, flown by act(step) or another pilot, and judge what holds in every row of the table.

        found: it begins where the arm is. lost: what ends the recording before its end. landed: called before the recording is finished.
        """
        pilot = act if isinstance(act, Cued) else Scripted(act)
        pilot.cue = Cue(self.speed if moving else None)
        task = (Found if found else Again)(self.name, "", seconds)
        contacts, stored, before = self.panel.contacts, len(self.store), Counter(self.governor.interventions)
        with watched(self.panel) as truth:
            try:
                with self.store.record() as recording:
                    episode = rollout(self.robot, pilot, task, self.rng, None, recording)
                    did = Counter(episode.meta["interventions"])
                    self.settle(truth)
                    landed()
                    index = recording.finish(episode.meta)
            except lost as error:
                self.settle(truth)
                did = Counter[str]()
                (left,) = self.store.unfinished
                index = self.store.recover(left)
                episode = self.store.read(index)
                assert len(episode.time) >= (1 if isinstance(error, UserError) else pilot.cue.row)  # a full disk ends it where it likes
        stopped, events, takeoff = None, [], episode.time[0]  # what was before was the way home
        with suppress(HardwareError):  # its process is gone
            facts = self.governor.facts
            stopped, events = facts.stopped, [event for event in facts.events if event[0] >= takeoff]
            did = did or facts.interventions - before
        rows = [row for row in self.process.history(4000) if row.time >= takeoff]
        flight = Flight(episode, rows, truth, stopped, events, did, pilot.cue.began, pilot.cue.row)
        assert index == stored
        assert self.panel.contacts == contacts
        self._judge(flight, index, moving)
        return flight

    def settle(self, truth: Truth) -> None:
        """Whatever the arm does not stop for by itself ends here: it comes to rest."""
        with suppress(HardwareError):  # its process is gone
            if not self.robot.stopped:
                self.robot.stop("landed")
            until(lambda: self.robot.stopped and ((row := self.process.row()).at_rest or row.halted))
        until(truth.rests)

    def _judge(self, flight: Flight, index: int, moving: bool) -> None:
        truth, spec = flight.truth, self.spec
        assert not self.tally.violations, self.tally.violations
        assert len(flight.rows) > 3
        goals = np.array(truth.goal)
        assert np.isfinite(goals).all()
        assert (truth.mean_speeds() <= 1.1 * spec.v_max.max()).all(), truth.mean_speeds().max()
        for row in flight.rows[:: max(1, len(flight.rows) // 100)]:  # what was measured was so when it says
            if row.state.time > truth.times[0]:
                away = np.abs(row.state.q - truth.at(row.state.time)).max()
                assert away < 0.02 + 0.06 * spec.v_max.max(), away
        if moving:
            before = [speed for t, speed in zip(truth.times, truth.speed, strict=False) if t < flight.began][-10:]
            assert max(before) > 0.2 * spec.v_max[0], before
        with EpisodeStore.open(self.store.path) as store:
            assert len(store) == index + 1
            np.testing.assert_array_equal(store.read(index).action, flight.episode.action)

    def judge_stop(self, flight: Flight, cause: str | tuple[str, ...], within_s: float | None = None) -> None:
        """It stopped for `cause`, stays so, and came to rest within its bound. within_s: of the fault, but for a busy machine."""
        assert flight.stopped is not None
        assert flight.stopped.startswith(cause), flight.stopped
        began = flight.stop_began()
        if within_s is not None:
            took, late = began - flight.began, flight.late(flight.began, began)
            assert took <= within_s + late, (took, late)
        after = [row for row in flight.rows if row.time > began and not row.halted]
        moving = [row for row in after if np.abs(row.setpoint.v).max() > 1e-6]
        assert len(moving) <= self.governor.brake_s * self.spec.rate_hz + 3, len(moving)
        ends = began + self.governor.brake_s + LAG_S
        assert flight.truth.rests_from(began) <= ends + flight.late(began, ends), flight.truth.rests_from(began) - began
        goal = self.process.row().setpoint.q
        refused = self.robot.send(self.command(self.home))
        np.testing.assert_allclose(refused[:-1], goal, atol=1e-6)
        assert self.robot.stopped == flight.stopped


class Full:
    """Stands for `os` in robolearn.core.disk: some writes more, and it is full."""

    def __init__(self, spare: int = 20) -> None:
        self.spare, self.refused = spare, 0

    def __getattr__(self, name: str) -> object:
        if name == "write":
            self.spare -= 1
            if self.spare < 0:
                return self._refuse
        return getattr(os, name)

    def _refuse(self, *_: object) -> None:
        self.refused += 1
        raise OSError(28, "No space left on device")


def going(wire: Wire, fault: Callable[[], object] = lambda: None) -> Callable[[int], Command]:
    """On its way to `away`; the fault comes once it moves."""

    def act(step: int) -> Command:
        if step == MOVING:
            fault()
        return wire.command(wire.away)

    return act


def setting(wire: Wire, **faults: float) -> Callable[[], None]:
    def inject() -> None:
        for fault, value in faults.items():
            setattr(wire.panel, fault, value)

    return inject


def arrived(wire: Wire, flight: Flight) -> bool:
    return flight.episode.meta["stopped"] is None and bool(np.abs(flight.truth.q[-1] - wire.away).max() < 0.03)
