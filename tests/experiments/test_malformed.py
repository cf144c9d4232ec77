"""`robolearn ingest` and malformed input: one clear line each, nothing left behind, nothing changed, nothing run, no hang, no feast."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robolearn.core.errors import UserError, one_line
from robolearn.data.formats import FORMATS
from robolearn.experiments.ingest import Config, run
from tests.data.formats.conftest import arm_log, write_bag  # noqa: F401 fixtures
from tests.experiments.malformed import VALID, Case, damaged
from tests.experiments.malformed_hostile import hostile
from tests.experiments.malformed_real import REAL, real

CASES, REAL_CASES = [*damaged(), *hostile()], list(real())
BARE = re.compile(  # what Python says to programmers, not to people
    r"\b(Key|Index|Type|Attribute|Runtime|Recursion|Memory|Overflow|ZeroDivision|Assertion|Unicode\w*"
    r"|JSONDecode|struct\.)[eE]rror\b|NoneType"
    r"|is not (subscriptable|iterable|callable)"
    r"|object has no attribute|reshape|out of (bounds|range)|unhashable|positional argument|invalid literal"
)
LONGEST_S, LARGEST = 5.0, 1 << 30
SLOW_S = 30  # wall time after which a case is stopped: the machine may be busy, so that processor time decides
ROOT = Path(os.environ.get("ROBOLEARN_DATA", "/nowhere"))


class Hang(BaseException):
    """No reader may take it for damage."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Valid datasets by their names in VALID and REAL, each written once: <name>/in/<dataset>."""
    return {"": tmp_path_factory.mktemp("valid")}


@pytest.fixture
def dataset(made, tmp_path, arm_log, write_bag) -> Callable[[str], tuple[Path, str | None]]:  # noqa: F811
    """dataset(name) -> (a copy to spoil, its format)."""
    writers: dict[str, tuple[str, Any]] = {name: (format, write) for name, (format, write, _) in VALID.items()}
    writers["bag"] = ("ros2_bag", lambda root: root.mkdir(parents=True) or write_bag(root / "bag", arm_log()))
    writers |= {
        name: (format, lambda root, b=begin: root.mkdir(parents=True) or b(ROOT, root)) for name, (format, begin, _) in REAL.items()
    }

    def copied(name: str, where: Path = tmp_path) -> tuple[Path, str | None]:
        if not name:
            (where / "in").mkdir(parents=True)
            return where / "in", None
        format, write = writers[name]
        if name not in made:
            made[name] = write(made[""] / name / "in")
        shutil.copytree(made[""] / name / "in", where / "in", symlinks=True)
        return where / made[name].relative_to(made[""] / name), format

    return copied


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch) -> Iterator[None]:
    """Every place a careless program would write to is an empty folder, and stays one."""
    places = {name: tmp_path / "places" / name for name in ("work", "home", "temporary")}
    for place in places.values():
        place.mkdir(parents=True)
    monkeypatch.chdir(places["work"])
    monkeypatch.setenv("HOME", str(places["home"]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(places["temporary"]))
    yield
    assert [str(path) for path in (tmp_path / "places").rglob("*") if path.is_file() and ".cache/robolearn" not in str(path)] == []


def test_there_are_more_than_three_hundred_and_they_differ() -> None:
    names = [case.name for case in CASES]
    assert len(names) >= 300 and len(set(names)) == len(names)
    assert len({case.name for case in REAL_CASES}) == len(REAL_CASES) >= 80
    assert {VALID[case.of][0] for case in CASES if case.of in VALID} | {"ros2_bag"} == set(FORMATS)


@pytest.mark.parametrize("name", [*VALID, "bag"])
def test_unspoiled_they_are_stored(dataset, tmp_path, name) -> None:
    """So that each refusal below is for what was broken."""
    path, _ = dataset(name)
    run(Config(path=str(path), out=tmp_path / "out.zarr"))
    assert (tmp_path / "out.zarr").is_dir()


@pytest.mark.parametrize("case", CASES, ids=lambda case: one_line(case.name))
def test_a_malformed_input_is_one_clear_line(dataset, tmp_path, case: Case) -> None:
    refused(case, dataset, tmp_path)


@pytest.mark.peer
@pytest.mark.skipif(not ROOT.is_dir(), reason="ROBOLEARN_DATA is unset")
@pytest.mark.parametrize("name", REAL)
def test_unspoiled_the_real_ones_are_stored(dataset, tmp_path, name) -> None:
    path, _ = dataset(name)
    run(Config(path=str(path), out=tmp_path / "out.zarr", cameras=()))
    assert (tmp_path / "out.zarr").is_dir()


@pytest.mark.peer
@pytest.mark.skipif(not ROOT.is_dir(), reason="ROBOLEARN_DATA is unset")
@pytest.mark.parametrize("case", REAL_CASES, ids=lambda case: one_line(case.name))
def test_a_real_file_that_was_damaged_is_one_clear_line(dataset, tmp_path, case: Case) -> None:
    refused(case, dataset, tmp_path)


def test_what_a_note_repeats_of_a_file_cannot_steer_the_terminal(dataset, tmp_path, capsys) -> None:
    path, _ = dataset("folder")
    (path / "y\x1b[2J\x07").mkdir()
    (path / "y\x1b[2J\x07" / "other.csv").write_text("no,steps\n")  # noted by its name
    run(Config(path=str(path), out=tmp_path / "out.zarr"))
    said = capsys.readouterr().err
    assert "left out: y\\x1b[2J\\x07" in said and "\x1b[2J" not in said


NAMED = ("zip: a bomb", "an escape in the name", "map: laughs", "lines: deep", "a name of 5000 letters", "mcap: the file: cut")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_real_process_says_one_line_and_ends_with_2(dataset, tmp_path, name) -> None:
    case = next(case for case in CASES if case.name == name)
    config, _ = spoiled(case, dataset, tmp_path)
    words = ["ingest", "--path", config.path, "--out", str(config.out)]
    words += [] if config.format is None else ["--format", config.format]
    words += [] if config.map is None else ["--map", str(config.map)]
    script = "import sys; from robolearn.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": REPOSITORY}
    )
    said = done.stderr.decode()
    assert done.returncode == 2 and done.stdout == b"", said
    errors = [line for line in said.splitlines() if "error" in line]
    assert len(errors) == 1 and said.splitlines()[-1] == errors[0] and errors[0].startswith("robolearn: error: ")
    assert all(line.isprintable() for line in said.splitlines()) and "Traceback" not in said
    assert list(config.out.parent.iterdir()) == []


REPOSITORY = str(Path(__file__).parents[2])

# Random ones ------------------------------------------------------------------------------------------------------------------

HEADS = (
    ("x.hdf5", b"\x89HDF\r\n\x1a\n"), ("x.h5", b""), ("episode_0.hdf5", b"\x89HDF\r\n\x1a\n\x02"),
    ("x.pickle", b"\x80\x04"), ("x.pkl", b"("),
    ("x.mcap", b"\x89MCAP0\r\n"), ("x.mcap", b""), ("x.zarr.zip", b"PK\x03\x04"), ("x.zip", b""), ("x.db3", b"SQLite format 3\x00"),
    ("x.parquet", b"PAR1"), ("x.mp4", b"\x00\x00\x00\x18ftyp"), ("x.csv", b"time,action\n"), ("x.tfrecord", b""), ("x", b""),
)  # fmt: skip
STRICT = (
    ("lerobot2", "meta/info.json"), ("lerobot3", "meta/info.json"), ("rlds", "features.json"), ("rlds", "dataset_info.json"),
    ("zarr", "data/action/.zarray"), ("zarr", "meta/episode_ends/.zarray"), ("bag", "metadata.yaml"),
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    (
        "codebase_version",
        "fps",
        "features",
        "data_path",
        "featuresDict",
        "splits",
        "fileFormat",
        "shape",
        "chunks",
        "dtype",
        "zarr_format",
        "compressor",
        "order",
        "filters",
        "fill_value",
        "rosbag2_bagfile_information",
        "steps",
        "name",
    )  # fmt: skip
)
RANDOM = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@RANDOM
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=400), format=st.sampled_from((None, *FORMATS)))
def test_random_bytes_are_refused(dataset, tmp_path_factory, head, tail, format) -> None:
    name, start = head
    case = Case("random", "", lambda folder: (folder / name).write_bytes(start + tail) and folder / name, {"format": format})
    refused(case, dataset, tmp_path_factory.mktemp("random"), bare=False)


@RANDOM
@given(which=st.sampled_from(STRICT), value=JSON | st.dictionaries(KEYS, JSON, max_size=6))
def test_random_metadata_are_refused(dataset, tmp_path_factory, which, value) -> None:
    of, file = which
    case = Case("random", of, lambda folder: (folder / file).write_text(json.dumps(value)), told=False)
    refused(case, dataset, tmp_path_factory.mktemp("random"), bare=False)


# What every case is put through -----------------------------------------------------------------------------------------------


def spoiled(case: Case, dataset: Callable[..., tuple[Path, str | None]], where: Path) -> tuple[Config, dict[str, Any]]:
    """(the command, the valid input it spoils)."""
    path, format = dataset(case.of, where)
    before = snapshot(where / "in")
    found = case.spoil(path)
    path = found if not case.of and isinstance(found, Path) else path
    (where / "out").mkdir()
    config = Config(path=str(path), out=where / "out" / "made.zarr", format=None if case.told else format)
    options = case.options | ({"map": path.parent / "map.yaml"} if "map" in case.options else {})
    return replace(config, **options), before


def refused(case: Case, dataset: Callable[..., tuple[Path, str | None]], where: Path, bare: bool = True) -> None:
    config, valid = spoiled(case, dataset, where)
    before = snapshot(where / "in")
    assert before != valid or case.options or not case.of, "nothing was spoiled"
    with limited() as spent, pytest.raises(UserError) as caught:
        run(config)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 12_000, said
    named = config.path if not {"format", "compression", "rate_hz", "limit", "episodes", "map"} & case.options.keys() else ""
    assert one_line(str(Path(named)) if not named.startswith("hf://") else named) in said or "map" in case.options or not named, said
    assert len(said) > len(named) + 8 and not (bare and BARE.search(said.replace(named, ""))), said
    assert re.search(case.says, said), said
    assert list((where / "out").iterdir()) == [], "left behind"
    assert snapshot(where / "in") == before, "the input was changed"
    assert not (where / "ran").exists() and not (where / "escaped").exists(), "it was run, or got out"
    assert spent["cpu_s"] < LONGEST_S and spent["bytes"] < LARGEST, spent


@contextmanager
def limited() -> Iterator[dict[str, float]]:
    """Measures processor time [s] and the growth of memory's peak [bytes] (0 where Linux's /proc is not there); ends what hangs."""

    def end(*_: object) -> None:
        raise Hang

    import robosuite  # noqa: F401  (two seconds, once, that are not the input's doing)

    spent: dict[str, float] = {}
    handler = signal.signal(signal.SIGALRM, end)
    signal.alarm(SLOW_S)
    began, size = time.process_time(), peak(reset=True)
    try:
        yield spent
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        spent |= {"cpu_s": time.process_time() - began, "bytes": peak() - size}


def peak(reset: bool = False) -> int:
    """Resident memory's highest [bytes] since the last reset."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything below it: links as links, files byte for byte."""
    found: dict[str, Any] = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            mode = path.lstat().st_mode
            link, file = stat.S_ISLNK(mode), stat.S_ISREG(mode)
            found[str(path.relative_to(folder))] = os.readlink(path) if link else path.read_bytes() if file else stat.S_IFMT(mode)
    return found
