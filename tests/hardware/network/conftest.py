"""A plain service, served; and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hardware.network.client import Client
from tests.hardware.network.serving import Echo, served


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def place(echo: Echo, tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    with served(echo, tmp_path / "keys") as found:
        yield found


@pytest.fixture
def client(place: tuple[str, Path, list[str]]) -> Iterator[Client]:
    client = Client(place[0], place[1], "echo")
    yield client
    client.close()
