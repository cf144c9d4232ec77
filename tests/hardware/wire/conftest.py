"""One double and one robot of each arm, shared by all tests: they take seconds to start.

Where the fault is the arm's own or its wire's, every arm is tested. The others, at the pilot, the camera or the disk, look alike from any
arm: they are taken by the arms in turn, and by all of them with `-m full`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.hardware.wire.rig import SDKS, Wire

ARMS = list(SDKS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    turns: dict[str, int] = {}
    for item in items:
        if isinstance(item, pytest.Function) and "shared" in item.fixturenames and item.get_closest_marker("every_arm") is None:
            turn = turns.setdefault(item.originalname, len(turns))
            if item.callspec.params["shared"] != ARMS[turn % len(ARMS)]:
                item.add_marker("full")


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
