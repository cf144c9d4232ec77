"""The fault table end to end, its other rows: the pilot, the loop's process, the camera, the clock, the disk. See test_faults.py."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from hardware.types import Command, HardwareError, Source
from robolearn.core import disk
from robolearn.core.errors import UserError
from tests.hardware.wire.film import FROZEN, SLOW
from tests.hardware.wire.pilots import MOVING, refusal
from tests.hardware.wire.rig import LOST_S, STALE_S, Full, Wire, arrived, going
from tests.waiting import until

pytestmark = pytest.mark.long


def test_1_broken_actions_are_refused_and_the_arm_goes_on_as_told_before(wire: Wire) -> None:
    fine = np.append(wire.away, 0.5).astype(np.float32)
    broken = {
        MOVING: np.full_like(fine, np.nan),
        MOVING + 1: np.full_like(fine, np.inf),
        MOVING + 3: fine[:-1],
        MOVING + 4: np.append(fine, fine),
        MOVING + 5: fine[:0],
    }
    broken[MOVING + 7] = np.full_like(fine, 1e6)

    def act(step: int) -> Command:
        return Command(wire.robot.clock.now(), broken.get(step, fine), Source.POLICY)

    flight = wire.fly(act)
    assert (flight.did["not_finite"], flight.did["shape"], flight.did["action_bounds"]) == (2, 3, 1)
    np.testing.assert_allclose(flight.episode.action[flight.row : flight.row + 6], [fine] * 6, atol=1e-6)
    assert arrived(wire, flight)


def test_2_a_jump_of_two_radians_there_and_back(wire: Wire) -> None:
    far = wire.home.copy()
    far[0] += 2.0 * wire.sign
    flight = wire.fly(lambda step: wire.command(wire.home if step // 6 % 2 and step > MOVING else far), 1.4)
    assert flight.did["velocity"] > 10
    assert flight.did["acceleration"] > 1
    assert flight.episode.meta["stopped"] is None


def test_3_a_pilot_that_falls_silent(wire: Wire) -> None:
    sent: list[float] = []

    def act(step: int) -> Command | None:
        if step >= MOVING:
            return None
        sent.append(time.monotonic())
        return wire.command(wire.away)

    flight = wire.fly(act)
    wire.judge_stop(flight, "stale", within_s=STALE_S + 2 / wire.spec.rate_hz)
    assert flight.stop_began() - sent[-1] >= STALE_S
    assert flight.episode.source[flight.row - 1] == Source.POLICY
    assert flight.episode.source[flight.row] == Source.NONE


def test_4_late_early_repeated_and_reordered_commands(wire: Wire) -> None:
    sent: list[Command] = []
    shifts = {MOVING: -1.0, MOVING + 2: 1.0}

    def act(step: int) -> Command:
        now = wire.command(wire.away)
        if step in shifts:
            return Command(now.time + shifts[step], np.append(wire.home, 0.5), Source.POLICY)
        if step == MOVING + 4:
            return Command(sent[-1].time - 0.01, np.append(wire.home, 0.5), Source.POLICY)
        if step == MOVING + 6:
            return sent[-1]
        sent.append(now)
        return now

    flight = wire.fly(act)
    assert (flight.did["late"], flight.did["early"], flight.did["reordered"]) == (1, 1, 2)
    way = np.array([row.setpoint.q[0] for row in flight.rows if flight.began < row.time < flight.episode.time[-1]])
    assert (np.diff(way) * wire.sign >= -1e-9).all()  # never back
    assert arrived(wire, flight)


@pytest.mark.parametrize(("mode", "why"), [(SLOW, "newest frame is"), (FROZEN, "it hangs")])
def test_10_a_camera_that_is_slow_or_shows_the_same_black_picture(wire: Wire, mode: int, why: str) -> None:
    def act(step: int) -> Command:  # to and fro: it moves when the stop comes, a second after the picture froze
        if step == MOVING:
            wire.film.mode = mode
        return wire.command(wire.home if step // MOVING % 2 else wire.away)

    flight = wire.fly(act, 4.0)
    wire.judge_stop(flight, "camera: camera top: ")
    assert why in str(flight.stopped)


def test_11_a_step_of_the_wall_clock_changes_nothing(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as Python tells the time: what a compiled SDK asks the kernel cannot be set from here."""
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + wire.tally.wall_step)

    def act(step: int) -> Command:
        if step >= MOVING:
            wire.tally.wall_step = 3600.0 * (-1) ** step
        return wire.command(wire.away)

    assert arrived(wire, wire.fly(act))


def test_12_the_operators_stop(wire: Wire) -> None:
    flight = wire.fly(going(wire, lambda: wire.robot.stop("operator: red button")))
    wire.judge_stop(flight, "operator: red button", 3 / wire.spec.rate_hz)
    assert flight.did["stopped"] == 1


def test_12_ctrl_c_keeps_the_recording(wire: Wire) -> None:
    flight = wire.fly(going(wire, lambda: signal.raise_signal(signal.SIGINT)), lost=KeyboardInterrupt)
    wire.judge_stop(flight, "KeyboardInterrupt in the loop", 3 / wire.spec.rate_hz)


def test_12_a_bug_in_the_loops_process(wire: Wire) -> None:
    flight = wire.fly(going(wire, lambda: refusal(lambda: wire.process.ask("admit", "no command"))))
    wire.judge_stop(flight, "loop: AttributeError", 3 / wire.spec.rate_hz)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_12_the_loops_process_ends(wire: Wire, how: signal.Signals) -> None:
    """Terminated, it brakes; killed, the arm holds the last setpoint: UR's watchdog says so, Franka's is told by the SDK's own process."""
    watchdog = wire.panel.watchdog
    flight = wire.fly(going(wire, lambda: os.kill(wire.process._process.pid, how)), lost=HardwareError)
    assert flight.truth.rests_from(flight.began) - flight.began <= wire.governor.brake_s + LOST_S
    if how == signal.SIGKILL and wire.name == "ur5e":
        until(lambda: wire.panel.watchdog > watchdog)
    wire.robot.close()


def test_17_the_edge_of_the_workspace(wire: Wire) -> None:
    beyond = wire.home.copy()
    beyond[0] -= 1.0 * wire.sign
    flight = wire.fly(lambda step: wire.command(beyond if step < 2 * MOVING else wire.home), 1.6, moving=False)
    reached = max(float(wire.body.tool(q)[1]) for q in flight.truth.q)
    assert wire.wall - 0.02 < reached < wire.wall + wire.governor.limits.workspace_tolerance + 0.005
    assert flight.did["workspace"] + flight.did["workspace_brake"] > 0
    assert flight.episode.meta["stopped"] is None


def test_19_the_loops_process_stands_still_for_half_a_second(wire: Wire) -> None:
    def pause() -> None:
        os.kill(wire.process._process.pid, signal.SIGSTOP)
        time.sleep(0.5)
        os.kill(wire.process._process.pid, signal.SIGCONT)

    flight = wire.fly(going(wire, pause))
    times = np.array([row.time for row in flight.rows])
    gap = int(np.argmax(np.diff(times)))
    assert times[gap + 1] - times[gap] > 0.4
    before, after = flight.rows[gap].setpoint, flight.rows[gap + 1].setpoint
    assert np.abs(after.q - before.q).max() < 2 * wire.spec.v_max.max() / wire.spec.rate_hz
    assert flight.stopped is not None


def test_19_the_pilot_pauses(wire: Wire) -> None:
    assert arrived(wire, wire.fly(going(wire, lambda: time.sleep(0.6 * STALE_S))))


def test_20_a_person_takes_over_and_lets_go_again(wire: Wire) -> None:
    other = wire.home.copy()
    other[-1] -= 0.5

    def act(step: int) -> Command:
        human = step > MOVING and step // 4 % 2 == 0
        return wire.command(other, 0.0, Source.HUMAN) if human else wire.command(wire.away)

    flight = wire.fly(act, 1.6)
    with wire.store.open(wire.store.path) as store:
        sources = store.read(len(store) - 1).source
    assert set(sources) == {Source.POLICY, Source.HUMAN}
    assert (np.diff(sources.astype(int)) != 0).sum() >= 4
    assert flight.episode.meta["stopped"] is None


def test_21_a_jammed_gripper_takes_nothing_else_down(wire: Wire) -> None:
    """A second and more: as long as an STS3215 at full load takes to protect itself."""
    wire.panel.jam = 1
    flight = wire.fly(lambda step: wire.command(wire.away, gripper=1.0))
    opening = flight.episode.state["gripper"][:, 0]
    assert np.ptp(opening) < 0.05
    assert opening[-1] < 0.9
    assert arrived(wire, flight)


def test_22_a_pilot_gone_wild(wire: Wire) -> None:
    """Seven seconds here; ten minutes of it, and on simulated time, are benchmarks/fuzz.py's."""
    rng, spec = np.random.default_rng(1), wire.spec

    def act(step: int) -> Command:
        wild = rng.choice([spec.q_min, spec.q_max]) + rng.normal(0, 3, len(spec.home))
        if step % 9 == 8:
            wild[rng.integers(len(wild))] = rng.choice([np.nan, np.inf, 1e30])
        return wire.command(wild, float(rng.random()), Source.PLANNER)

    flight = wire.fly(act, 7.0)
    assert flight.episode.meta["stopped"] is None
    assert not any(wire.body.touches(q) for q in flight.truth.q[::10])
    assert flight.did["not_finite"] > 3
    wire.place(wire.home)


class Slow:
    """Stands for `os`: writes hang until `go` is set."""

    def __init__(self) -> None:
        self.go, self.hung = threading.Event(), 0

    def __getattr__(self, name: str) -> object:
        if name == "write" and not self.go.is_set():
            self.hung += 1
            self.go.wait(20)
        return getattr(os, name)


def test_23_a_disk_that_hangs_is_not_the_loops_affair(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    flight = wire.fly(going(wire, lambda: monkeypatch.setattr(disk, "os", slow)), landed=slow.go.set)
    assert slow.hung == 1  # until after the landing
    assert arrived(wire, flight)


def test_23_nor_is_a_full_one(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Full()
    flight = wire.fly(going(wire, lambda: monkeypatch.setattr(disk, "os", full)), 2.5, lost=UserError, landed=monkeypatch.undo)
    assert full.refused == 1
    assert np.abs(flight.truth.q[-1] - wire.away).max() < 0.03
    assert flight.stopped == "landed"
