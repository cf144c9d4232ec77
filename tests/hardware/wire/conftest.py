"""One double and one robot of each arm, shared by all tests: they take seconds to start.

These tests run in real time: the loop's process and the double want two cores for themselves. So they are marked `long`; alone, they run by
make test ARGS="-n 0 -m long tests/hardware/wire"
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.hardware.wire.rig import SDKS, Wire

ARMS = list(SDKS)


@pytest.fixture(scope="session", params=ARMS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    pytest.importorskip(SDKS[request.param], reason="its vendor's SDK is not installed")
    pytest.importorskip("cv2")
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(OSError):  # a pilot that other programs keep waiting is silent, and stopped for it
        os.setpriority(os.PRIO_PROCESS, 0, -5)
    wire = Wire(request.param, tmp_path_factory.mktemp(request.param))
    yield wire
    wire.close()
    os.setpriority(os.PRIO_PROCESS, 0, usual)


@pytest.fixture
def wire(shared: Wire) -> Iterator[Wire]:
    shared.heal()
    yield shared
    shared.heal()
