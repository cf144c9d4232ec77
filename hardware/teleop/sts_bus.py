"""Feetech STS servos (SO-100, SO-101) read through the vendor's SDK. Read only: a leader arm is limp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hardware.types import HardwareError

TICKS_PER_TURN = 4096
_TORQUE, _PRESENT_POSITION = 40, 56  # register addresses, STS memory table
_ATTEMPTS = 3  # one corrupt reply is everyday life on this bus
_ERRORS = {1: "voltage", 2: "sensor", 4: "overheated", 8: "overcurrent", 16: "angle", 32: "overload"}


class ServoBus:
    """Half-duplex serial at 1 Mbaud. `open` checks that every servo answers and switches its torque off."""

    def __init__(self, port: str, ids: Sequence[int]) -> None:
        self.port, self.ids = port, list(ids)
        self._serial: Any = None
        self._reader: Any = None
        self._success = 0

    def open(self) -> None:
        """Raises HardwareError: SDK absent, port absent or busy, a servo that does not answer."""
        try:
            import scservo_sdk
        except ImportError as error:
            raise HardwareError("leader: the servo SDK is not installed; pip install 'robolearn[leader]'") from error
        if not hasattr(scservo_sdk, "sms_sts"):  # two distributions share this module name
            raise HardwareError("leader: this scservo_sdk is another distribution's; pip install 'robolearn[leader]' (ftservo-python-sdk)")
        self._serial = scservo_sdk.PortHandler(self.port)
        try:
            self._serial.openPort()
        except OSError as error:  # pyserial's errors derive from it
            self._serial = None
            raise HardwareError(f"leader: port {self.port}: {error.strerror or error}; valid: a serial device like /dev/ttyACM0") from error
        protocol = scservo_sdk.sms_sts(self._serial)
        self._reader = scservo_sdk.GroupSyncRead(protocol, _PRESENT_POSITION, 2)
        self._success = scservo_sdk.COMM_SUCCESS
        silent = [i for i in self.ids if not any(protocol.write1ByteTxRx(i, _TORQUE, 0)[0] == self._success for _ in range(_ATTEMPTS))]
        if silent:
            self.close()
            raise HardwareError(f"leader: {self.port}: no answer from servo id {', '.join(map(str, silent))}; expected ids {self.ids}")

    def close(self) -> None:
        if self._serial is not None:
            self._serial.closePort()
            self._serial = None

    def positions(self) -> list[int]:
        """Raw positions in the order of `ids`, 4096 per turn. Raises HardwareError naming the servos that gave no valid reply."""
        missing = self.ids
        for _ in range(_ATTEMPTS):
            self._serial.clearPort()  # what a late reply left behind belongs to an older question
            self._reader.clearParam()  # the SDK keeps old values where a reply is lost
            for i in self.ids:
                self._reader.addParam(i)
            self._reader.txRxPacket()  # its result reports only the last servo; each one's own data is what counts
            replies = {i: self._reader.isAvailable(i, _PRESENT_POSITION, 2) for i in self.ids}
            missing = [i for i, (valid, _) in replies.items() if not valid]
            if not missing:
                break
        else:
            raise HardwareError(f"leader: {self.port}: no valid reply from servo id {', '.join(map(str, missing))} in {_ATTEMPTS} attempts")
        for i, (_, error) in replies.items():
            if error:
                names = [name for bit, name in _ERRORS.items() if error & bit] or [f"code {error}"]
                raise HardwareError(f"leader: servo id {i} reports {', '.join(names)}")
        return [decode(self._reader.getData(i, _PRESENT_POSITION, 2)) for i in self.ids]


def decode(word: int) -> int:
    """Sign and magnitude, bit 15: not two's complement."""
    return -(word & 0x7FFF) if word & 0x8000 else word
