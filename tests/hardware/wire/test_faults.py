"""The fault table end to end: what is broken on purpose on the wire, at the arm or at the pilot, and what must hold.

In every row: no setpoint outside the limits at the actuator, nothing touched, at rest in time, the recording closed and readable
(Wire.fly). Row 12's parent death and the cables are in test_cables.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from hardware.types import Command, HardwareError, Source
from robolearn.core import disk
from robolearn.core.errors import UserError
from tests.hardware.wire.film import FROZEN, SLOW
from tests.hardware.wire.rig import FAULT, LOST_S, MOVING, RATE_HZ, STALE_S, TRACKING, Flight, Full, Wire, refusal, until

TOLD = ("fault: ", "write_error: ")  # the arm's own word for it, whether a reading or a refused setpoint brought it
UNHEARD = ("lost_reply: ", "stale_state")  # a question was not answered; nothing new came by itself
Act = Callable[[int], Command | None]


def going(wire: Wire, fault: Callable[[], object] = lambda: None) -> Act:
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


def test_1_broken_actions_are_refused_and_the_arm_goes_on_as_told_before(wire: Wire) -> None:
    fine = np.append(wire.away, 0.5).astype(np.float32)
    broken = {
        MOVING: fine * np.nan,
        MOVING + 1: fine * np.inf,
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
    flight = wire.fly(lambda step: wire.command(wire.away) if step < MOVING else None)
    wire.judge_stop(flight, "stale", within_s=STALE_S + 2 / wire.spec.rate_hz)
    assert flight.stop_began() - flight.began > STALE_S - 2 / RATE_HZ
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


def test_5_a_lost_reply_now_and_then_is_no_stop(wire: Wire) -> None:
    def act(step: int) -> Command:
        wire.panel.lose = float(step >= MOVING and step % 8 == 0)
        return wire.command(wire.away)

    assert arrived(wire, wire.fly(act, 2.5))  # Feetech's SDK waits 50 ms for each


@pytest.mark.every_arm
def test_5_replies_that_stay_away_stop_the_arm(wire: Wire) -> None:
    flight = wire.fly(going(wire, setting(wire, lose=1e9)))
    wire.judge_stop(flight, UNHEARD, LOST_S)


@pytest.mark.every_arm
def test_6_corrupt_replies_are_never_used(wire: Wire) -> None:
    """Feetech: a wrong checksum. RTDE has none, all bits are set. Franka's UDP: half a state. That measurements are true: Wire.fly."""
    flight = wire.fly(going(wire, setting(wire, corrupt=1e9)))
    wire.judge_stop(flight, UNHEARD, LOST_S)


def test_6_one_corrupt_reply_is_asked_for_again(wire: Wire) -> None:
    if wire.name == "ur5e":
        pytest.skip("RTDE measurements come by themselves, over TCP, whose checksums let none be corrupt by accident")

    def act(step: int) -> Command:
        wire.panel.corrupt = float(step >= MOVING and step % 8 == 0)
        return wire.command(wire.away)

    assert arrived(wire, wire.fly(act, 2.5))


@pytest.mark.every_arm
def test_7_late_replies_are_old_measurements(wire: Wire) -> None:
    flight = wire.fly(going(wire, setting(wire, delay_s=0.5)))
    wire.judge_stop(flight, UNHEARD, LOST_S)


@pytest.mark.every_arm
def test_8_a_mute_servo_names_its_joint(wire: Wire) -> None:
    if wire.name == "fr3":
        pytest.skip("an FR3's joints do not speak for themselves: its controller does, see row 13")
    flight = wire.fly(going(wire, setting(wire, mute=3)))
    wire.judge_stop(flight, "lost_reply" if wire.name == "so101" else TOLD, LOST_S)
    assert {"so101": "elbow_flex (servo id 3)", "ur5e": "elbow_joint not responding"}[wire.name] in str(flight.stopped)


@pytest.mark.every_arm
def test_9_a_frozen_measurement_is_noticed(wire: Wire) -> None:
    wire.judge_stop(wire.fly(going(wire, setting(wire, freeze=1))), "stale_state", LOST_S)


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


def switch_on(wire: Wire) -> None:
    """As a person at the teach pendant does."""
    from dashboard_client import DashboardClient

    dashboard = DashboardClient(wire.double.address)
    dashboard.connect()
    dashboard.powerOn()
    dashboard.brakeRelease()
    dashboard.disconnect()


@pytest.mark.every_arm
def test_12_an_emergency_stop_at_the_arm(wire: Wire) -> None:
    hold = float(wire.name == "so101")  # without power it would fall
    flight = wire.fly(going(wire, setting(wire, hold=hold, estop=1)))
    wire.judge_stop(flight, "lost_reply" if wire.name == "so101" else TOLD, LOST_S)
    assert {"ur5e": "robot emergency stop", "so101": "no valid reply", "fr3": "user stop pressed"}[wire.name] in str(flight.stopped)
    assert refusal(lambda: wire.robot.reset(wire.rng))
    wire.panel.estop = 0
    if wire.name == "ur5e":
        time.sleep(0.1)
        switch_on(wire)
    until(lambda: not refusal(wire.process.clear))


@pytest.mark.every_arm
def test_13_a_vendors_fault_stays_latched_when_it_goes_away(wire: Wire) -> None:
    flight = wire.fly(going(wire, setting(wire, fault=FAULT[wire.name])))
    cause = {"ur5e": "protective stop (safety mode 3)", "so101": "shoulder_lift (servo id 2): overload (error 32)", "fr3": "reflex: "}
    wire.panel.fault = 0
    time.sleep(0.1)  # it could go on by itself now
    wire.judge_stop(flight, TOLD, LOST_S)
    assert cause[wire.name] in str(flight.stopped)


@pytest.mark.every_arm
def test_14_a_cut_cable(wire: Wire) -> None:
    watchdog = wire.panel.watchdog
    flight = wire.fly(going(wire, setting(wire, cut=1)))
    wire.judge_stop(flight, (*UNHEARD, "write_error: "), LOST_S)
    if wire.name != "so101":  # has none
        until(lambda: wire.panel.watchdog > watchdog)
    assert refusal(lambda: wire.robot.reset(wire.rng))


def test_15_started_outside_its_limits_it_only_comes_in(wire: Wire) -> None:
    joint, out = {"ur5e": (5, 0.01), "so101": (4, 0.015), "fr3": (6, 0.05)}[wire.name]
    start, wide, inside = wire.home.copy(), wire.home.copy(), wire.home.copy()
    start[joint] = wire.spec.q_max[joint] + out
    wide[joint], inside[joint] = wire.spec.q_max[joint] + 1.0, wire.spec.q_max[joint] - 0.2
    wire.place(start)
    flight = wire.fly(lambda step: wire.command(wide if step < MOVING else inside), 1.2, moving=False, found=True)
    way = np.array([row.setpoint.q[joint] for row in flight.rows])
    assert (np.diff(way) <= 1e-6).all()  # inward at most
    assert way[0] > wire.spec.q_max[joint]
    assert abs(way[-1] - inside[joint]) < 0.01
    assert flight.episode.meta["stopped"] is None
    wire.place(wire.home)


@pytest.mark.every_arm
@pytest.mark.parametrize("into", ["itself", "table"])
def test_16_on_its_way_into_itself_or_the_table_it_stops_before(wire: Wire, into: str) -> None:
    course = wire.body.course(into, wire.sign, wire.wall)
    assert wire.body.touches(course) == into
    seconds = float((np.abs(course - wire.home) / wire.spec.v_max).max()) + 0.6
    flight = wire.fly(lambda step: wire.command(course), seconds, moving=False)
    assert flight.did["collision_brake"] + flight.did["workspace_brake"] + flight.did["elbow_brake"] > 0
    assert not any(wire.body.touches(q) for q in flight.truth.q[::4])
    assert flight.episode.meta["stopped"] is None
    wire.place(wire.home)


def test_17_the_edge_of_the_workspace(wire: Wire) -> None:
    beyond = wire.home.copy()
    beyond[0] -= 1.0 * wire.sign
    flight = wire.fly(lambda step: wire.command(beyond if step < 2 * MOVING else wire.home), 1.6, moving=False)
    reached = max(float(wire.body.tool(q)[1]) for q in flight.truth.q)
    assert wire.wall - 0.02 < reached < wire.wall + wire.governor.limits.workspace_tolerance + 0.005
    assert flight.did["workspace"] + flight.did["workspace_brake"] > 0
    assert flight.episode.meta["stopped"] is None


@pytest.mark.every_arm
def test_18_a_contact_is_not_pushed_ever_harder(wire: Wire) -> None:
    flight = wire.fly(going(wire, setting(wire, hold=1)), 1.6)
    ahead = [np.abs(row.setpoint.q - row.state.q).max() for row in flight.rows if row.time > flight.began]
    v, a, j = wire.spec.v_max, wire.spec.a_max, wire.spec.j_max
    assert max(ahead) <= TRACKING + float((v * v / (2 * a) + v * a / (2 * j)).max())
    assert TRACKING - 0.05 < ahead[-1] <= TRACKING + 1e-3
    assert flight.did["tracking"] > 0
    assert flight.episode.meta["stopped"] is None
    wire.process.clear()  # at rest where it is held


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
    flight = wire.fly(going(wire, lambda: monkeypatch.setattr(disk, "os", full)), lost=UserError, landed=monkeypatch.undo)
    assert full.refused == 1
    assert np.abs(flight.truth.q[-1] - wire.away).max() < 0.03
    assert flight.stopped == "landed"
