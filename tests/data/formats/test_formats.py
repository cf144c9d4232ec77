from __future__ import annotations

import pytest

from robolearn.core.errors import UserError
from robolearn.data.formats import FORMATS, locate, read, recognise


def test_a_folder_around_the_dataset_will_do(pusht_zarr, tmp_path):
    path = pusht_zarr()
    (tmp_path / "LICENSE").write_text("MIT")
    assert recognise(path) == "diffusion_policy_zarr"
    assert locate(tmp_path) == (path, "diffusion_policy_zarr")


def test_two_datasets_in_a_folder_must_be_told_apart(pusht_zarr, tmp_path):
    pusht_zarr()
    pusht_zarr(name="other.zarr")
    with pytest.raises(UserError, match=r"holds 2 datasets \(other.zarr, pusht.zarr\); name one"):
        locate(tmp_path)


def test_what_is_not_recognised_lists_the_formats(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=f"not in a format that is read here; valid: {', '.join(FORMATS)}"):
        read(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"format: 'rlds'; valid: {', '.join(FORMATS)}"):
        read(tmp_path, "rlds")
