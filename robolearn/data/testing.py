"""The suite that every reader of foreign files inherits: give it one small valid dataset, and it is mutated too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import FORMATS, Options, locate, read

MUTANTS = 24


class ReaderContract:
    """Subclass it as TestSomething; `format` and the fixture `dataset` are all it needs."""

    format: str
    episodes: int  # in the fixture

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        """A file or folder below tmp_path / "in" in this format, valid, as small as it can be."""
        raise NotImplementedError

    def test_it_is_told_by_content(self, dataset: Path) -> None:
        assert self.format in FORMATS
        assert locate(dataset) == (dataset, self.format)

    def test_its_episodes_are_episodes(self, dataset: Path) -> None:
        reader = read(dataset)
        assert len(reader) == self.episodes
        for index in range(len(reader)):
            check_episode(reader[index], reader.spec)
        with pytest.raises(IndexError):
            _ = reader[len(reader)]
        assert all(note and "\n" not in note for note in reader.notes)
        reader.close()

    def test_any_order_reads_the_same(self, dataset: Path) -> None:
        forwards, backwards = read(dataset), read(dataset)
        last = forwards[len(forwards) - 1]
        seen = [backwards[i] for i in reversed(range(len(backwards)))]
        for name in ("time", "action", "reward", "terminal", "source"):
            np.testing.assert_array_equal(getattr(last, name), getattr(seen[0], name))
        for camera, frames in last.images.items():
            np.testing.assert_array_equal(frames, seen[0].images[camera])

    def test_cameras_can_be_chosen(self, dataset: Path) -> None:
        every = read(dataset)
        none = read(dataset, options=Options(cameras=()))
        assert dict(none.spec.cameras) == {} and dict(none[0].images) == {}
        np.testing.assert_array_equal(none[0].action, every[0].action)
        with pytest.raises(UserError, match="'nose'.*valid"):
            read(dataset, options=Options(cameras=("nose",)))

    def test_damage_is_one_line_and_changes_nothing(self, dataset: Path, tmp_path: Path) -> None:
        """Truncated, flipped, missing, swapped files: read as they are or refused in one line that begins with the path."""
        before = _snapshot(dataset)
        for what, mutant in mutants(dataset, tmp_path / "mutants", MUTANTS):
            try:
                reader = read(mutant, self.format)
                for index in range(len(reader)):
                    check_episode(reader[index], reader.spec)
                reader.close()
            except UserError as error:
                assert str(error).startswith(str(mutant)) and "\n" not in str(error), (what, error)
            except ValueError as error:  # what check_episode refuses, ingest refuses
                assert str(error).startswith("episode: ") and "\n" not in str(error), (what, error)
        assert _snapshot(dataset) == before


def mutants(dataset: Path, scratch: Path, count: int, seed: int = 0) -> Iterator[tuple[str, Path]]:
    """Damaged copies of a dataset, one at a time: (what was done, where it lies)."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        copy = scratch / str(number) / dataset.name
        copy.parent.mkdir(parents=True)
        (shutil.copytree if dataset.is_dir() else shutil.copy2)(dataset, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file()) if copy.is_dir() else [copy]
        file = files[int(rng.integers(len(files)))]
        data = bytearray(file.read_bytes())
        what = ("truncated", "emptied", "flipped", "zeroed", "missing", "swapped", "extended")[number % 7]
        match what:
            case "truncated":
                file.write_bytes(data[: int(rng.integers(len(data) + 1))])
            case "emptied":
                file.write_bytes(b"")
            case "flipped":
                for at in rng.integers(0, max(len(data), 1), 8):
                    if data:
                        data[at] ^= int(rng.integers(1, 256))
                file.write_bytes(data)
            case "zeroed":
                start = int(rng.integers(len(data) + 1))
                data[start : start + 64] = bytes(min(64, len(data) - start))
                file.write_bytes(data)
            case "missing":
                file.unlink()
            case "swapped":
                file.write_bytes(files[int(rng.integers(len(files)))].read_bytes())
            case "extended":
                file.write_bytes(data + rng.bytes(100))
        yield f"{what} {file.relative_to(copy.parent)}", copy
        shutil.rmtree(copy.parent)


def _snapshot(path: Path) -> dict[str, bytes]:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(p): p.read_bytes() for p in files}
