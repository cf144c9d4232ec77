"""Episodes of the fake arm, which tests of several verbs learn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments.training_config import record


@pytest.fixture(scope="session")
def fake_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("fake") / "fake.zarr")
