"""Franka Research 3 with the Franka Hand, through Franka's own pylibfranka: joint targets, of which the controller makes motions.

Its 1 kHz loops are not offered: from Python they end in `communication_constraints_violation` as soon as the computer is busy.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from time import monotonic, sleep

import numpy as np

from hardware.arms import Family
from hardware.arms.franka_link import HALT, RUN, Link
from hardware.arms.model import ArmModel, limits, robosuite, with_hand
from hardware.calibration import Calibration
from hardware.types import ArmSpec, ArmState, HardwareError

CONNECT_S = 20.0  # to connect, recover and home the fingers

# Franka's documentation, "Limits for Franka Research 3": the whole range, and the smaller one in which its speeds hold everywhere
# (near its ends the arm has to be slower, else it stops with a velocity violation).
RANGE_MIN = (-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159)
RANGE_MAX = (2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159)
Q_MIN = (-2.3093, -1.5133, -2.4937, -2.7478, -2.4800, 0.8521, -2.6895)
Q_MAX = (2.3093, 1.5133, 2.4937, -0.4461, 2.4800, 4.2094, 2.6895)
V_MAX = (2.0, 1.0, 1.5, 1.25, 3.0, 1.5, 3.0)  # rad/s
A_MAX, J_MAX = (10.0,) * 7, (5000.0,) * 7  # rad/s2, rad/s3
TORQUE_MAX = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # N m
V_SHARE, A_SHARE, J_SHARE = 0.9, 0.9, 0.3  # a reserve for the controller's own motion


def mjcf() -> str:
    """The Panda's body, which the FR3 shares, with the FR3's ranges."""
    root = ET.fromstring(robosuite("panda")())
    for joint in root.iter("joint"):
        name = joint.get("name", "")
        if name in FR3.spec.joints:
            index = FR3.spec.joints.index(name)
            joint.set("range", f"{RANGE_MIN[index]} {RANGE_MAX[index]}")
    return ET.tostring(root, encoding="unicode")


FR3 = ArmModel(
    spec=ArmSpec(
        name="fr3",
        joints=tuple(f"joint{i}" for i in range(1, 8)),
        units="rad",
        rate_hz=50.0,
        **limits(
            q_min=Q_MIN,
            q_max=Q_MAX,
            v_max=V_SHARE * np.array(V_MAX),
            a_max=A_SHARE * np.array(A_MAX),
            j_max=J_SHARE * np.array(J_MAX),
            home=(0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4),
        ),
    ),
    mjcf=with_hand(mjcf, 0.12, 0.06),  # Franka Hand
    elbow=("link4",),
    torque_max=TORQUE_MAX,
    gripper_max_m=0.08,
)


class Franka:
    """Neither read nor write ever waits for the network: libfranka runs in processes of its own.

    The hand is slower than a setpoint: while its fingers move it takes no other goal and its reading stands still.
    """

    def __init__(self, model: ArmModel, address: str) -> None:
        """address: of the controller, 172.16.0.2; "172.16.0.2,gripper=none" where no Franka Hand is mounted."""
        self.spec = model.spec
        self._host, _, option = address.partition(",")
        if option not in ("", "gripper=none"):
            raise HardwareError(f"{self.spec.name}: address option {option!r}; valid: gripper=none")
        self._with_hand = not option
        self._arm: Link | None = None
        self._hand: Link | None = None
        self._halted, self._seq, self._id, self._bad = False, 0, 0, 0

    def connect(self) -> None:
        """Recovers from a reflex; raises HardwareError for a user stop, a hand that guides, no robot, no answer."""
        try:
            import pylibfranka  # noqa: F401 # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            raise HardwareError(f"{self.spec.name}: Franka's SDK is not installed; pip install 'robolearn[franka]'") from error
        self.close()
        self._halted, self._id, self._bad = False, 0, 0
        self._arm = Link("arm", self._host, list(V_MAX))
        self._hand = Link("hand", self._host, []) if self._with_hand else None
        try:
            self._wait(self._arm, "")
            if self._hand is not None:
                self._wait(self._hand, "hand: ")
        except HardwareError:
            self.close()
            raise

    def _wait(self, link: Link, what: str) -> None:
        until = monotonic() + CONNECT_S
        while not link.states.get()["id"]:
            self._expect(link, what)
            if monotonic() > until:
                raise HardwareError(f"{self.spec.name}: {self._host}: {what}no state within {CONNECT_S:g} s")
            sleep(0.005)

    def _expect(self, link: Link, what: str) -> None:
        if not link.alive:
            raise HardwareError(f"{self.spec.name}: {self._host}: {what}{link.failure()}")

    def close(self) -> None:
        """The arm holds where it is; so does the hand. Brakes are locked in Desk."""
        for link in (self._arm, self._hand):
            if link is not None:
                link.close()
        self._arm = self._hand = None

    def read(self) -> ArmState:
        """The newest state, at once; of the same `seq` where there is none newer. Raises HardwareError once per corrupt one, and for a lost
        connection."""
        arm = self._connected()
        state = arm.states.get()
        self._expect(arm, "")
        if self._hand is not None:
            self._expect(self._hand, "hand: ")
        if (bad := int(state["bad"])) != self._bad:
            self._bad = bad
            raise HardwareError(f"{self.spec.name}: {self._host}: a corrupt robot state; not used")
        if int(state["id"]) != self._id:
            self._seq, self._id = self._seq + 1, int(state["id"])
        opening = 0.0 if self._hand is None else float(self._hand.states.get()["gripper"])
        fault = state["fault"].item().decode() or None
        return ArmState(float(state["time"]), self._seq, state["q"].copy(), state["dq"].copy(), opening, fault)

    def write(self, q: np.ndarray, gripper: float) -> None:
        self.spec.check(q, gripper)
        arm = self._connected()
        if self._halted:
            raise HardwareError(f"{self.spec.name}: halted; connect again")
        self._expect(arm, "")
        arm.order(RUN, q=q)
        if self._hand is not None:
            self._hand.order(RUN, gripper=gripper)

    def halt(self) -> None:
        """libfranka's StopMove: the arm stops and holds; fingers on their way arrive and keep their grip."""
        self._halted = True
        for link in (self._arm, self._hand):
            if link is not None:
                link.order(HALT)

    def _connected(self) -> Link:
        if self._arm is None:
            raise HardwareError(f"{self.spec.name}: not connected; call connect()")
        return self._arm


def _drive(model: ArmModel, address: str, calibration: Calibration | None) -> Franka:
    """The controller knows its joints: a calibration has nothing to say."""
    return Franka(model, address)


FAMILY = Family(models={"fr3": FR3}, drive=_drive, double="hardware.doubles.franka", address="172.16.0.2, or 172.16.0.2,gripper=none")
