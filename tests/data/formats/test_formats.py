from __future__ import annotations

import pytest

from robolearn.core.errors import UserError
from robolearn.data.formats import FORMATS, locate, read, recognise, write


def test_a_folder_around_the_dataset_will_do(pusht_zarr, tmp_path):
    path = pusht_zarr()
    (tmp_path / "LICENSE").write_text("MIT")
    assert recognise(path) == "diffusion_policy_zarr"
    assert locate(tmp_path) == (path, "diffusion_policy_zarr")


def test_two_datasets_in_a_folder_must_be_told_apart(pusht_zarr, tmp_path):
    pusht_zarr()
    pusht_zarr(name="other.zarr")
    with pytest.raises(UserError, match=r"holds 2 datasets: other.zarr \(diffusion_policy_zarr\), pusht.zarr"):
        locate(tmp_path)


def test_what_is_not_recognised_lists_the_formats(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=f"not in a format that is read here; valid: {', '.join(FORMATS)}"):
        read(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"format: 'rlds'; valid: {', '.join(FORMATS)}"):
        read(tmp_path, "rlds")


def test_every_format_can_be_asked_about_anything(tmp_path):
    """No format is recognised in, or trips over, what is none: nothing at all, an empty file, a folder of them, a link to nowhere."""
    (tmp_path / "empty").mkdir()
    for name in ("a.mcap", "a.zarr.zip", "a.hdf5", "metadata.yaml", "data.csv", "data.jsonl", "info.json"):
        (tmp_path / "empty" / name).touch()
    (tmp_path / "empty" / "gone").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "empty", *sorted((tmp_path / "empty").iterdir())):
        with pytest.raises(UserError, match="not in a format that is read here|no such file or folder"):
            locate(path)


def test_what_cannot_be_written_is_said(pusht_zarr, tmp_path):
    dataset = read(pusht_zarr())
    with pytest.raises(UserError, match=r"format: 'mcap_log' cannot be written; valid: .*diffusion_policy_zarr"):
        write(tmp_path / "out.mcap", dataset, "mcap_log")
    with pytest.raises(UserError, match="pusht.zarr: exists already; choose another name"):
        write(tmp_path / "pusht.zarr", dataset, "diffusion_policy_zarr")


def test_datasets_at_different_depths_must_be_told_apart_too(pusht_zarr, tmp_path):
    pusht_zarr(name="near.zarr")
    (tmp_path / "deep").mkdir()
    pusht_zarr(name="deep/far.zarr")
    with pytest.raises(UserError, match=r"holds 2 datasets: near.zarr .*, deep/far.zarr .*; name one"):
        locate(tmp_path)


def test_near_misses_say_what_they_are(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: is empty; valid: "):
        locate(tmp_path / "empty")
    store = tmp_path / "d.zarr"
    store.mkdir()
    (store / "zarr.json").write_text("{}")
    (store / "episodes.jsonl").touch()
    with pytest.raises(UserError, match="d.zarr: is a store already"):
        locate(store)
    (tmp_path / "log.csv").write_text("hello")
    with pytest.raises(UserError, match="of a plain folder give the folder itself"):
        locate(tmp_path / "log.csv")
