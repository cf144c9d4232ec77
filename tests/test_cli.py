"""The command line: quick help, one-line errors, exit codes, a tidy stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from robolearn import cli
from robolearn.core.errors import UserError

VERBS = [
    "teleop",
    "ingest",
    "inspect",
    "edit",
    "export",
    "pretrain",
    "embed",
    "train",
    "evaluate",
    "finetune",
    "deploy",
    "serve",
    "compare",
    "report",
    "calibrate",
    "emulate",
    "demo",
]


@dataclass(frozen=True)
class Part:
    width: int = 8
    """Units of one layer."""


@dataclass(frozen=True)
class Other:
    depth: int = 2
    """Layers."""


@dataclass(frozen=True)
class Config:
    """Do nothing."""

    store: Path
    """Dataset folder."""
    seconds: float = 3.0
    """Time limit [s]."""
    seed: int = 0
    part: Part | Other = Part()
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ValueError(f"seconds: {self.seconds} s; expected at least 0")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list:
    """Stand in for the verb `train`; collects what it was run with."""
    configs: list = []
    monkeypatch.setitem(sys.modules, "robolearn.experiments.train", SimpleNamespace(Config=Config, run=configs.append))  # type: ignore
    before = signal.getsignal(signal.SIGTERM)
    yield configs
    signal.signal(signal.SIGTERM, before)


def test_help_lists_every_verb_quickly_and_without_torch() -> None:
    code = "import sys; from robolearn.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")] == VERBS == list(cli.VERBS)
    assert seconds < 5  # 0.4 s on an idle machine


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "import sys; from robolearn.cli import main; sys.exit(main(['inspect', '--help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait() == 0 and b"Traceback" not in process.stderr.read()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("robolearn 0.")


def test_an_unknown_verb_lists_the_valid_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fly"]) == 2
    assert capsys.readouterr().err == f"robolearn: error: 'fly' is not a verb; valid: {', '.join(VERBS)}\n"


def test_flags_lie_over_the_file_over_the_defaults(ran: list, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("seconds: 5\npart: {type: 'robolearn.core.errors:UserError'}")
    assert cli.main(["train", str(tmp_path / "c.yaml"), "--store", "x"]) == 2  # not a config class
    (tmp_path / "c.yaml").write_text("seconds: 5\npart: {width: 9}")
    assert cli.main(["train", str(tmp_path / "c.yaml"), "--store", "x"]) == 0
    assert cli.main(["train", str(tmp_path / "c.yaml"), "--store", "x", "--part.width", "3", "--seconds", "1e-1"]) == 0
    assert cli.main(["train", "--store", "x"]) == 0
    x = Path("x")
    assert ran == [Config(x, 5.0, part=Part(9)), Config(x, 0.1, part=Part(3)), Config(x, 3.0)]


def test_a_verb_may_name_the_file_it_starts_from(ran: list, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("store: own\nseconds: 5")
    (tmp_path / "c.yaml").write_text("store: named")
    sys.modules["robolearn.experiments.train"].DEFAULT = tmp_path / "own.yaml"  # type: ignore[attr-defined]
    assert cli.main(["train", "--seconds", "6"]) == cli.main(["train", str(tmp_path / "c.yaml")]) == 0
    assert ran == [Config(Path("own"), 6.0), Config(Path("named"), 3.0)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seconds", "2"], "Missing from robolearn train: --store PATH"),
        (["--store", "x", "--foo", "3"], "Unrecognized options: --foo"),
        (["--store", "x", "--seconds", "soon"], "could not convert string to float: 'soon'"),
        (["--store", "x", "--seconds", "-1"], "seconds: -1.0 s; expected at least 0"),
        (["--store", "x", "--seed", "-1"], "seed: -1; expected 0 or more"),
        (["--store", "x", "--seed", str(2**63)], f"seed: {2**63}; expected 0 or more, and less than 2^63"),
        (["--store", "x", "--seconds", "nan"], "seconds: nan; expected a finite number"),
        (["--store", "x", "--seconds", "inf"], "seconds: inf; expected a finite number"),
        (["nowhere.yaml"], "nowhere.yaml: cannot read: No such file or directory"),
        (["{file}"], "Missing from robolearn train: --store PATH"),
        (["{file}", "--store", "x", "--part.depth", "1"], "Unrecognized options: --part.depth"),
    ],
)
def test_wrong_words_cost_one_line_and_exit_2(
    ran: list, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    (tmp_path / "c.yaml").write_text("seconds: 5\npart: {width: 9}")
    assert cli.main(["train", *(w.format(file=tmp_path / "c.yaml") for w in words)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("robolearn: error: ") and said.err.count("\n") == 1
    assert expected in said.err
    assert ran == []


def test_a_verbs_help_names_units_and_the_files_defaults(ran: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("seconds: 5")
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(tmp_path / "c.yaml"), "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "Time limit [s]. (default: 5.0)" in text and "--part.width" in text


def test_what_a_verb_raises_becomes_a_line_or_a_traceback(
    ran: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_with(error: BaseException, *more: str) -> int:
        def run(_: Config) -> None:
            raise error

        monkeypatch.setattr(sys.modules["robolearn.experiments.train"], "run", run)
        return cli.main(["train", "--store", "x", *more])

    assert run_with(UserError("store: x: no such folder")) == 2
    assert run_with(KeyboardInterrupt()) == 130
    assert run_with(KeyboardInterrupt(), "--overwrite") == 130
    with pytest.raises(BrokenPipeError):  # a device's, say; our own output is fine
        run_with(BrokenPipeError())
    assert capsys.readouterr().err.splitlines() == [
        "robolearn: error: store: x: no such folder",
        "robolearn: stopped; the same command resumes",
        "robolearn: stopped; the same command resumes without --overwrite",
    ]
    with pytest.raises(ZeroDivisionError):
        run_with(ZeroDivisionError())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_unwind_the_verb(tmp_path: Path, number: signal.Signals) -> None:
    code = f"""
import sys, time, types
from robolearn import cli
def run(_):
    try:
        open({str(tmp_path / "started")!r}, "w").close()
        time.sleep(60)
    finally:
        open({str(tmp_path / "tidied")!r}, "w").close()
import dataclasses
Config = dataclasses.make_dataclass("Config", [])
sys.modules["robolearn.experiments.train"] = types.SimpleNamespace(Config=Config, run=run)
sys.exit(cli.main(["train"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and said == "robolearn: stopped; the same command resumes\n"
    assert (tmp_path / "tidied").exists()


@pytest.mark.parametrize(("display", "expected"), [(None, "egl"), (":0", None)])
def test_without_a_display_simulators_render_off_screen(
    ran: list, monkeypatch: pytest.MonkeyPatch, display: str | None, expected: str | None
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    cli.main(["train", "--store", "x"])
    assert os.environ.get("MUJOCO_GL") == expected
    monkeypatch.setenv("MUJOCO_GL", "restored by monkeypatch")


def test_a_part_of_the_config_from_a_file_of_its_own(tmp_path: Path) -> None:
    part = tmp_path / "part.yaml"
    part.write_text("width: 5\n")
    config = cli.parse("train", Config, ["--store", "s", "--part", str(part), "--seconds", "2"])
    assert (config.part, config.seconds) == (Part(5), 2.0)
    assert cli.parse("train", Config, ["--store", "s", "--part", str(part), "--part.width", "7"]).part == Part(7)
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        cli.parse("train", Config, ["--store", "s", "--part", "nowhere.yaml"])
