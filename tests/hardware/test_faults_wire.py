"""The fault table end to end: doubles of three arms behind hardware.open, the vendors' SDKs between. tests/hardware/test_faults.py
has the same rows on a simulated clock.

Always, from outside: no setpoint beyond a limit, no contact, the cause latched until a reset. Not here: 10 (cameras:
test_cameras.py), 11 (nobody sets the date of the computer that the tests run on), 20 and 23 (tests/runtime/test_rollout_wire.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hardware.doubles import launch
from hardware.process_server import Row
from hardware.real import MARGIN_RAD
from hardware.types import Command, HardwareError, Source
from tests.hardware.wire import ROWS, SDKS, SWING, Rig, contacts, steady, tool, violations, wait, watch

UNLOCK = {"ur5e": {"unlock_s": 0.2}}  # of a protective stop


@pytest.fixture(scope="module", params=SDKS)
def body(request: pytest.FixtureRequest) -> Iterator[Rig]:
    pytest.importorskip(SDKS[request.param])
    with launch(request.param, **UNLOCK.get(request.param, {})) as double:
        steady(double)
        rig = Rig(request.param, double)
        with rig.robot:
            rig.robot.reset(np.random.default_rng(0))
            yield rig


@pytest.fixture
def rig(body: Rig) -> Iterator[Rig]:
    body.heal()
    yield body
    body.judge()


# 1-4: what pilots send ------------------------------------------------------------------------------------------------


def test_1_a_broken_action_is_refused_and_the_arm_goes_on_as_told_before(rig: Rig) -> None:
    goal = rig.move()
    joints = len(goal)
    before = rig.robot.governor.interventions
    bad = [np.full(joints + 1, np.nan), np.append(goal, np.inf), goal, np.zeros(0), np.zeros((1, joints + 1)), ["left"]]
    for action in bad:
        admitted = rig.robot.send(Command(rig.robot.clock.now(), action, Source.POLICY))  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(admitted, rig.action(goal), atol=1e-5)
    huge = rig.robot.send(Command(rig.robot.clock.now(), np.full(joints + 1, 1e30), Source.POLICY))
    assert (huge[:-1] <= rig.arm.q_max + 1e-5).all()
    found = rig.robot.governor.interventions - before
    assert (found["not_finite"], found["shape"], found["action_bounds"]) == (2, 4, 1)
    rig.fly(goal, 20.0, lambda: np.abs(rig.panel.q - goal).max() < 0.03)
    assert np.abs(rig.panel.q - goal).max() < 0.03


def test_1_4_a_chunk_of_broken_late_and_reordered_rows(rig: Rig) -> None:
    goal, before = rig.move(), rig.loop.governor.facts
    now, fine = rig.robot.clock.now(), rig.action(goal)
    rows = [(-9.0, -fine), (np.nan, -fine), (0.05, np.full_like(fine, np.nan)), (0.01, -fine), (0.1, fine[:3]), (0.15, fine), (9.0, -fine)]
    rig.loop.schedule([Command(now + at, action, Source.POLICY) for at, action in rows])
    assert wait(lambda: rig.loop.governor.facts.interventions["not_finite"] > before.interventions["not_finite"])
    assert wait(lambda: rig.loop.governor.facts.interventions["shape"] > before.interventions["shape"])
    assert rig.loop.governor.facts.late_rows - before.late_rows >= 3
    rig.fly(goal, 20.0, lambda: np.abs(rig.panel.q - goal).max() < 0.03)
    way = np.array([row.setpoint.q[0] for row in rig.rows()]) * np.sign(goal[0] - rig.arm.home[0])
    assert (np.diff(way) > -1e-3).all()  # never back


def test_2_jumps_there_and_back(rig: Rig) -> None:
    for k in range(8):
        goal = rig.arm.home.copy()
        goal[0] += 1.0 if k % 2 else -1.0
        rig.send(goal, gripper=k % 2)
        rig.robot.observe()
    assert rig.robot.governor.interventions["velocity"] > 0
    assert rig.robot.stopped is None


def test_3_a_pilot_that_hangs(rig: Rig) -> None:
    goal = rig.move()
    rig.send(goal + 2 * SWING * np.sign(goal - rig.panel.q))
    last = rig.robot.clock.now()
    rig.stopped("stale")
    assert rig.robot.governor.at_rest
    bound = rig.robot.governor.limits.stale_s + rig.robot.governor.brake_s
    moving = [row.time for row in rig.rows() if np.abs(row.setpoint.v).max() > 1e-3]
    assert moving[-1] - last < 10 * bound


def test_4_late_early_repeated_and_reordered_commands(rig: Rig) -> None:
    goal, before = rig.move(), rig.robot.governor.interventions
    now, limits, start = rig.robot.clock.now(), rig.robot.governor.limits, len(rig.rows())
    rig.send(goal, now)
    for at in (now, now - 0.05, now - limits.late_s - 1.0, now + limits.early_s + 5.0):
        np.testing.assert_allclose(rig.send(2 * rig.arm.home - goal, at), rig.action(goal), atol=1e-5)
    found = rig.robot.governor.interventions - before
    assert (found["reordered"], found["late"], found["early"]) == (2, 1, 1)
    way = np.array([row.setpoint.q[0] for row in rig.rows()[start:]]) * np.sign(goal[0] - rig.arm.home[0])
    assert (np.diff(way) > -1e-3).all()


# 5-9, 12-14: what happens to an arm -------------------------------------------------------------------------------------

# fault -> its value, and how each arm's cause begins
LOST = ("stale_state", "lost_reply")
BROKEN: dict[str, tuple[float, dict[str, tuple[str, ...]]]] = {
    "5 lose": (1e9, dict.fromkeys(SDKS, LOST)),
    "6 corrupt": (1e9, dict.fromkeys(SDKS, LOST)),
    "7 delay_s": (0.4, dict.fromkeys(SDKS, LOST)),
    "8 mute": (  # a Franka's joints have no voice of their own: there it is the whole controller
        3,
        {
            "ur5e": ("fault: fault (safety mode 9): elbow_joint not responding",),
            "so101": ("lost_reply: so101: {address}: no valid reply from elbow_flex (servo id 3)",),
            "fr3": LOST,
        },
    ),
    "9 freeze": (1, dict.fromkeys(SDKS, ("stale_state",))),
    "12 estop": (1, {"ur5e": ("fault: robot emergency stop",), "so101": LOST, "fr3": ("fault: user stop pressed",)}),
    "14 cut": (1, dict.fromkeys(SDKS, LOST)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_breaks_on_the_wire_stops_the_arm_until_it_is_mended_and_reset(rig: Rig, broken: str) -> None:
    value, causes = BROKEN[broken]
    goal = rig.move()
    setattr(rig.panel, broken.split()[1], value)
    rig.fly(goal, 20.0, lambda: rig.robot.stopped)
    rig.stopped(*(cause.format(address=rig.double.address) for cause in causes[rig.name]))
    assert all(np.abs(row.state.q - rig.arm.home).max() < 2 * SWING for row in rig.rows())  # no corrupt value was taken for a measurement
    rig.judge()
    why = rig.robot.stopped
    rig.clear_faults()
    rig.fly(goal, 0.2)
    assert rig.robot.stopped == why
    rig.heal()
    rig.move()


@pytest.mark.parametrize("broken", ["lose", "corrupt"])
def test_5_6_one_bad_reply_now_and_then_stops_nothing(rig: Rig, broken: str) -> None:
    goal = rig.move()
    for _ in range(5):
        setattr(rig.panel, broken, 1)
        rig.fly(goal, 0.05)
    assert rig.robot.stopped is None
    assert all(np.abs(row.state.q - rig.arm.home).max() < 2 * SWING for row in rig.rows())


def test_13_a_vendors_fault_stays_latched_when_it_goes_away(rig: Rig) -> None:
    code, cause = {
        "ur5e": (3, "fault: protective stop (safety mode 3)"),
        "so101": (32, "fault: shoulder_lift (servo id 2): overload (error 32)"),
        "fr3": (7, "fault: reflex: "),
    }[rig.name]
    goal = rig.move()
    rig.panel.fault = code
    rig.fly(goal, 20.0, lambda: rig.robot.stopped)
    rig.panel.fault = 0
    rig.stopped(cause)
    rig.judge()
    rig.robot.reset(np.random.default_rng(1))
    rig.begin()
    assert rig.robot.stopped is None
    np.testing.assert_allclose(rig.panel.q, rig.arm.home, atol=0.05)
    rig.move()


# 12: who ends it --------------------------------------------------------------------------------------------------------


def test_12_an_operators_stop(rig: Rig) -> None:
    rig.move()
    rig.robot.stop("operator")
    assert rig.robot.governor.at_rest
    rig.stopped("operator")
    rig.judge()
    rig.robot.reset(np.random.default_rng(1))
    rig.begin()
    assert rig.robot.stopped is None


@pytest.mark.parametrize("when", ["flying", "going home"])
def test_12_ctrl_c(rig: Rig, when: str) -> None:
    rig.move()
    if when == "going home":
        rig.robot.stop("operator")
        rig.heal()
    rows: list[Row] = []
    threading.Timer(0.25, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        if when == "flying":
            rig.fly(rig.away(), 20.0)
        else:
            rig.robot.reset(np.random.default_rng(0))
    ring = watch(rig.loop._ring.name, len(rig.arm.joints))  # pyright: ignore[reportOptionalMemberAccess]
    began = time.monotonic()
    rig.robot.close()
    assert wait(rig.stands)
    assert not violations([Row.unpack(row, len(rig.arm.joints)) for row in ring.newest(300)], rig.arm)
    away = np.abs(rig.panel.q[0] - rig.arm.home[0])
    ring.close()
    assert time.monotonic() - began < 10.0
    assert when == "flying" or away > 0.05  # it stopped on its way
    rig.heal()
    del rows


class Explosive:
    """Cannot be unpacked in the loop's process."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("no number",)


@pytest.mark.parametrize("how", ["request", "chunk"])
def test_12_an_exception_in_the_loop(rig: Rig, how: str) -> None:
    rig.move()
    with pytest.raises(HardwareError):
        if how == "request":
            rig.robot.send(Explosive())  # pyright: ignore[reportArgumentType]
        else:
            rig.loop.schedule([None])  # pyright: ignore[reportArgumentType]
    rig.stopped("loop: ")


def test_12_the_loops_process_terminated(rig: Rig) -> None:
    rig.move()
    os.kill(rig.pid, signal.SIGTERM)
    assert wait(lambda: not _answers(rig))
    assert wait(rig.stands)
    rig.judge()
    with pytest.raises(HardwareError, match="process is gone"):
        rig.robot.stop("operator")
    rig.robot.close()
    rig.heal()
    rig.move()


def test_12_the_loops_process_killed(rig: Rig) -> None:
    """Nobody brakes: the arm's own watchdog stops it, or its servos hold the last setpoint."""
    rig.move()
    watchdog, goal = rig.panel.watchdog, rig.panel.q + 0
    os.kill(rig.pid, signal.SIGKILL)
    assert wait(rig.stands)
    assert np.abs(rig.panel.q - goal).max() < 0.4
    with pytest.raises(HardwareError, match="process is gone"):
        rig.robot.observe() if rig.name == "" else rig.robot.stop("operator")
    rig.judge()
    if rig.name == "ur5e":
        assert wait(lambda: rig.panel.watchdog > watchdog)
    rig.robot.close()
    rig.heal()
    rig.move()


def _answers(rig: Rig) -> bool:
    try:
        rig.loop.ask("facts")
    except HardwareError:
        return False
    return True


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGINT", "bug"])
def test_12_the_pilots_process_ends(rig: Rig, end: str) -> None:
    if rig.name != "so101" and end != "SIGKILL":
        pytest.skip("how a program ends is no arm's affair: on one arm")
    rig.robot.close()
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "tests.hardware.wire", rig.name, rig.double.address, end]
    joints = len(rig.arm.joints)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root) as pilot:
        assert pilot.stdout is not None
        ring = watch(pilot.stdout.readline().decode().strip(), joints)
        assert pilot.stdout.readline() == b"moving\n"
        if end != "bug":
            pilot.send_signal(getattr(signal, end))
        pilot.wait(20.0)
    assert wait(lambda: Row.unpack(ring.newest()[0], joints).at_rest)
    assert wait(rig.stands)
    rows = [Row.unpack(row, joints) for row in ring.newest(ROWS)]
    ring.close()
    assert not violations(rows, rig.arm)
    writes = rig.panel.writes
    assert wait(lambda: _quiet(rig)), writes
    rig.heal()


def _quiet(rig: Rig) -> bool:
    """Nobody tells the arm anything."""
    before = rig.panel.writes
    time.sleep(0.1)
    return rig.panel.writes == before


# 15-22: the arm and what is around it -------------------------------------------------------------------------------------


def test_15_started_outside_its_limits_it_only_comes_in(rig: Rig) -> None:
    """Where the double's joints end where the limits do, outside is within the governor's margin."""
    beyond = 0.05 if rig.name == "fr3" else -MARGIN_RAD / 2
    start = rig.arm.home.copy()
    start[0] = rig.arm.q_max[0] + beyond
    rig.robot.close()
    rig.double.place(start)
    rig.heal()
    for gripper in (0.0, 1.0):
        rig.fly(np.append(rig.arm.q_max[:1] + 1.0, rig.arm.home[1:]), 0.3)
        rig.send(rig.arm.home, gripper=gripper)
    way = np.array([row.setpoint.q[0] for row in rig.rows()])
    assert (np.diff(way) < 1e-6).all()
    assert way[0] > rig.arm.q_max[0] - MARGIN_RAD > way[-1]
    rig.judge()
    rig.robot.close()
    rig.double.place(rig.arm.home)
    rig.heal()


COURSES = {  # joint -> where it shall go
    "ur5e": {"table": {1: 0.6}, "self": {2: 3.1, 3: -3.1}},
    "so101": {"table": {1: 1.7}, "self": {1: -1.7, 2: 1.6, 3: 1.6}},
    "fr3": {"table": {1: 1.5}, "self": {3: -2.7, 5: 0.9}},
}


@pytest.mark.parametrize("course", ["table", "self"])
def test_16_a_collision_course_ends_before_the_contact(rig: Rig, course: str) -> None:
    goal = rig.arm.home.copy()
    for joint, q in COURSES[rig.name][course].items():
        goal[joint] = q
    assert contacts(rig.name, [goal])
    rig.fly(goal, 2.5)
    assert rig.robot.stopped is None
    found = rig.robot.governor.interventions
    assert found["collision_brake"] + found["workspace"] + found["elbow_brake"] > 0
    _went_without_contact(rig)
    rig.robot.reset(np.random.default_rng(0))
    rig.begin()


def _went_without_contact(rig: Rig) -> None:
    rows = rig.rows()
    assert contacts(rig.name, [row.state.q for row in rows[:: max(1, len(rows) // 200)]]) == 0
    rig.judge()


def test_17_the_edge_of_the_workspace(rig: Rig) -> None:
    limits, goal = rig.robot.governor.limits, rig.arm.home.copy()
    assert limits.workspace is not None
    for joint, q in {"ur5e": {1: -2.2}, "so101": {3: -0.8}, "fr3": {3: -0.9}}[rig.name].items():
        goal[joint] = q
    assert limits.workspace.distance(tool(rig.name, goal)) > 0.05
    rig.fly(goal, 1.5)
    rows = rig.rows()
    for row in rows[:: max(1, len(rows) // 100)]:
        assert limits.workspace.distance(tool(rig.name, row.setpoint.q)) <= limits.workspace_tolerance
        assert limits.workspace.distance(tool(rig.name, row.state.q)) <= 2 * limits.workspace_tolerance
    found = rig.robot.governor.interventions
    assert found["workspace"] + found["workspace_brake"] > 0
    assert rig.robot.stopped is None
    rig.robot.reset(np.random.default_rng(0))
    rig.begin()


def test_18_a_contact_is_not_pushed_ever_harder(rig: Rig) -> None:
    goal = rig.move()
    rig.panel.hold = 1
    rig.fly(goal, 1.5)
    error = rig.robot.governor.limits.tracking_error
    assert error is not None
    assert (np.abs(rig.loop.row().setpoint.q - rig.panel.q) <= error + 0.01).all()
    assert rig.robot.governor.interventions["tracking"] > 0
    assert rig.robot.stopped is None


@pytest.mark.parametrize("pause", [0.1, 0.5])
def test_19_a_pause_of_the_loops_process_makes_no_jump(rig: Rig, pause: float) -> None:
    """It may stop the arm, for its measurements are old or its own watchdog fired; it never makes it jump."""
    goal = rig.move()
    os.kill(rig.pid, signal.SIGSTOP)
    try:
        time.sleep(pause)
        told = rig.loop.row().setpoint.q
        held = rig.panel.q
    finally:
        os.kill(rig.pid, signal.SIGCONT)
    rig.fly(goal, 0.3)
    after = [row.setpoint.q for row in rig.rows() if row.time > 0]
    index = max(k for k, q in enumerate(after) if (q == told).all())
    assert np.abs(np.diff(after[index:], axis=0)).max() <= rig.arm.v_max.max() / rig.arm.rate_hz * 1.001
    assert np.abs(rig.panel.q - held).max() < 1.0


def test_21_a_jammed_gripper_leaves_the_arm_alone(rig: Rig) -> None:
    rig.panel.jam = 1
    before, goal = rig.panel.gripper, rig.away()
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends and rig.robot.stopped is None:
        rig.send(goal, gripper=1.0 - round(before))
        rig.robot.observe()
    assert rig.robot.stopped is None
    assert rig.panel.gripper == before
    assert abs(rig.panel.q[0] - rig.arm.home[0]) > 0.1


def test_22_maximal_exploration(rig: Rig) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        wild = rng.choice([rig.arm.q_min, rig.arm.q_max]) + rng.normal(0, 3, len(rig.arm.home))
        rig.send(wild, gripper=rng.normal())
        rig.robot.observe()
    assert rig.robot.stopped is None
    _went_without_contact(rig)
    rig.robot.reset(np.random.default_rng(0))
    rig.begin()
