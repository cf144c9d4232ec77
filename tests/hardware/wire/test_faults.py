"""The fault table end to end: what is broken on purpose at the arm or on its wire, and what must hold.

In every row: no setpoint outside the limits at the actuator, nothing touched, at rest in time, the recording closed and readable
(Wire.fly). The rows whose fault is the pilot's, the camera's or the disk's are in test_faults_of_the_pilot.py.
"""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from hardware.real import MARGIN_RAD
from hardware.types import Command
from tests.hardware.wire.pilots import MOVING, refusal
from tests.hardware.wire.rig import FAULT, LOST_S, TRACKING, Wire, arrived, going, setting
from tests.waiting import until

pytestmark = pytest.mark.long

TOLD = ("fault: ", "write_error: ")  # the arm's own word for it, whether a reading or a refused setpoint brought it
UNHEARD = ("lost_reply: ", "stale_state")  # a question was not answered; nothing new came by itself


def test_5_a_lost_reply_now_and_then_is_no_stop(wire: Wire) -> None:
    def act(step: int) -> Command:
        wire.panel.lose = float(step >= MOVING and step % 8 == 0)
        return wire.command(wire.away)

    assert arrived(wire, wire.fly(act, 2.5))  # Feetech's SDK waits 50 ms for each


def test_5_replies_that_stay_away_stop_the_arm(wire: Wire) -> None:
    flight = wire.fly(going(wire, setting(wire, lose=1e9)))
    wire.judge_stop(flight, UNHEARD, LOST_S)


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


def test_7_late_replies_are_old_measurements(wire: Wire) -> None:
    flight = wire.fly(going(wire, setting(wire, delay_s=0.5)))
    wire.judge_stop(flight, UNHEARD, LOST_S)


def test_8_a_mute_servo_names_its_joint(wire: Wire) -> None:
    if wire.name == "fr3":
        pytest.skip("an FR3's joints do not speak for themselves: its controller does, see row 13")
    flight = wire.fly(going(wire, setting(wire, mute=3)))
    wire.judge_stop(flight, "lost_reply" if wire.name == "so101" else TOLD, LOST_S)
    assert {"so101": "elbow_flex (servo id 3)", "ur5e": "elbow_joint not responding"}[wire.name] in str(flight.stopped)


def test_9_a_frozen_measurement_is_noticed(wire: Wire) -> None:
    wire.judge_stop(wire.fly(going(wire, setting(wire, freeze=1))), "stale_state", LOST_S)


def switch_on(wire: Wire) -> None:
    """As a person at the teach pendant does."""
    from dashboard_client import DashboardClient

    dashboard = DashboardClient(wire.double.address)
    dashboard.connect()
    dashboard.powerOn()
    dashboard.brakeRelease()
    dashboard.disconnect()


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


def test_13_a_vendors_fault_stays_latched_when_it_goes_away(wire: Wire) -> None:
    flight = wire.fly(going(wire, setting(wire, fault=FAULT[wire.name])))
    cause = {
        "ur5e": r"protective stop \(safety mode 3\)|control program stopped",  # the one ends the other; either may be heard first
        "so101": r"shoulder_lift \(servo id 2\): overload \(error 32\)",
        "fr3": "reflex: ",
    }
    wire.panel.fault = 0
    time.sleep(0.1)  # it could go on by itself now
    wire.judge_stop(flight, TOLD, LOST_S)
    assert re.search(cause[wire.name], str(flight.stopped))


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
    assert way[0] > wire.spec.q_max[joint] - 0.5 * MARGIN_RAD  # where no target may be
    assert abs(way[-1] - inside[joint]) < 0.01
    assert flight.episode.meta["stopped"] is None
    wire.place(wire.home)


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


def test_18_a_contact_is_not_pushed_ever_harder(wire: Wire) -> None:
    flight = wire.fly(going(wire, setting(wire, hold=1)), 1.6)
    ahead = [np.abs(row.setpoint.q - row.state.q).max() for row in flight.rows if row.time > flight.began]
    v, a, j = wire.spec.v_max, wire.spec.a_max, wire.spec.j_max
    assert max(ahead) <= TRACKING + float((v * v / (2 * a) + v * a / (2 * j)).max())
    assert TRACKING - 0.05 < ahead[-1] <= TRACKING + 1e-3
    assert flight.did["tracking"] > 0
    assert flight.episode.meta["stopped"] is None
    wire.process.clear()  # at rest where it is held
