from __future__ import annotations

import pytest

from robolearn.data.testing import ReaderContract


class TestPushT(ReaderContract):
    format, episodes = "diffusion_policy_zarr", 2

    @pytest.fixture
    def dataset(self, pusht_zarr):
        return pusht_zarr()
