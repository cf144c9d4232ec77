"""A run folder is resumed, finished or refused; never silently mixed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.core.run import Run, read_metrics, require_free


@dataclass(frozen=True)
class Config:
    out: Path
    seed: int = 0
    size: tuple[int, int] = (2, 3)
    overwrite: bool = False


def test_a_run_ends_with_done_and_is_then_finished(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    run = Run(config.out, config)
    assert not run.finished() and not config.out.exists()
    with run:
        assert (config.out / "config.yaml").exists()
        run.log(step=1, loss=np.float32(0.5))
        with run.timed("work"):
            pass
        assert not run.finished()
        run.finish(success=np.float64(0.25), curve=np.arange(2))
    again = Run(config.out, replace(config, overwrite=True), overwrite=True)  # how to treat the folder is not part of the run
    assert not again.finished()  # overwrite starts a finished run afresh
    with run:
        run.finish(success=0.25, curve=[0, 1])
    again = Run(config.out, config)
    assert again.finished()
    result = again.result()
    assert (result["success"], result["curve"]) == (0.25, [0, 1])
    assert {"python", "torch", "mujoco", "robolearn"} <= result["versions"].keys()
    assert result["seconds"] >= 0 and result["cpus"] >= 1 and result["peak_memory_mib"] > 1 and result["platform"]


def test_another_config_is_refused_by_field_and_overwrite_discards_it(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with Run(config.out, config) as run:
        run.log(step=1)
    other = replace(config, seed=1, size=(2, 4))
    with pytest.raises(UserError, match=r"seed: 0 != 1; size: \[2, 3\] != \[2, 4\]"):
        Run(config.out, other)
    assert read_metrics(config.out / "metrics.jsonl")
    with Run(config.out, other, overwrite=True):
        assert [p.name for p in config.out.iterdir()] == ["config.yaml"]


def test_a_run_of_before_an_option_existed_goes_on_with_its_default(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with Run(config.out, config) as run:
        run.finish(success=1.0)
    written = config.out / "config.yaml"
    written.write_text("".join(line for line in written.read_text().splitlines(True) if "seed" not in line))
    assert Run(config.out, config).finished()
    with pytest.raises(UserError, match=r"there != here\): seed: 0 != 1$"):
        Run(config.out, replace(config, seed=1))
    written.write_text(written.read_text() + "gone: 3\n")  # an option that there is no more: not the same run
    with pytest.raises(UserError, match="gone: 3 != None"):
        Run(config.out, config)


def test_a_finished_run_goes_on_where_more_is_asked_for(tmp_path: Path) -> None:
    config = Config(tmp_path / "run", seed=3)
    with Run(config.out, config, grows="seed") as run:
        run.log(step=1)
        run.finish()
    more = replace(config, seed=5)
    grown = Run(config.out, more, grows="seed")
    assert not grown.finished() and (config.out / "done.json").exists(), "nothing changes before the run goes on"
    with grown:
        assert not (config.out / "done.json").exists() and read_metrics(config.out / "metrics.jsonl")
        grown.finish()
    assert Run(config.out, more, grows="seed").finished()
    assert Run(config.out, replace(config, seed=4), grows="seed").finished()  # as many are there
    with pytest.raises(UserError, match=r"choose another --out.*size: \[2, 3\] != \[2, 4\]$"):
        Run(config.out, replace(config, seed=6, size=(2, 4)), grows="seed")


def test_an_interrupted_run_resumes_and_overwrite_begins_anew(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), Run(config.out, config) as run:
        run.log(step=1)
        raise KeyboardInterrupt
    metrics = config.out / "metrics.jsonl"
    rows = read_metrics(metrics)
    metrics.write_text(json.dumps(rows[0] | {"seconds": 100.0}) + '\n{"step": 2, "lo')  # killed within a write
    (config.out / "doubts.jsonl").write_text('{"step": 1}\n{"st')
    with Run(config.out, config) as run:
        assert [row["step"] for row in read_metrics(metrics)] == [1] and read_metrics(config.out / "doubts.jsonl") == [{"step": 1}]
        assert run.seconds >= 100.0  # earlier attempts count
    with Run(config.out, config, overwrite=True) as run:
        assert [path.name for path in config.out.iterdir()] == ["config.yaml"] and run.seconds < 100.0


def test_where_nothing_came_of_a_run_another_config_takes_its_place(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with Run(config.out, config) as run:
        run.log(step=1)
    with Run(config.out, config, blank=True):
        assert read_metrics(config.out / "metrics.jsonl")  # the same config goes on
    with Run(config.out, replace(config, seed=1), blank=True):
        assert [path.name for path in config.out.iterdir()] == ["config.yaml"]


def test_a_kill_while_the_config_was_written_does_not_block_the_folder(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    config.out.mkdir()
    (config.out / ".config.yaml.77.tmp").write_text("out: ru")
    with Run(config.out, config):
        assert [path.name for path in config.out.iterdir()] == ["config.yaml"]


def test_wrong_input_leaves_no_folder_but_products_stay(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with pytest.raises(UserError), Run(config.out, config):
        raise UserError("no such store")
    assert not config.out.exists()
    with pytest.raises(UserError), Run(config.out, config) as run:
        run.log(step=1)
        raise UserError("later")
    assert read_metrics(config.out / "metrics.jsonl")


def test_foreign_folders_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UserError, match="is not empty and not a run"):
        Run(tmp_path, Config(tmp_path), overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        Run(tmp_path / "precious", Config(tmp_path))
    assert (tmp_path / "precious").read_text() == "x"


def test_too_little_disk_is_refused_with_both_numbers(tmp_path: Path) -> None:
    require_free(tmp_path / "not" / "yet", 0.001)
    with pytest.raises(UserError, match=r"disk full: 1000000000000 MiB needed, \d+ MiB free"):
        require_free(tmp_path / "not" / "yet", 1e12)


def test_fields_that_say_only_how_may_differ_when_it_goes_on(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with Run(config.out, config) as run:
        run.log(step=1)
    assert not Run(config.out, replace(config, seed=1), how=("seed",)).finished()
    with pytest.raises(UserError, match=r"size: \[2, 3\] != \[2, 4\]$"):
        Run(config.out, replace(config, seed=1, size=(2, 4)), how=("seed",))


def test_only_one_of_several_processes_writes(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with Run(config.out, config, writes=False) as run:
        run.log(step=1)
        run.rewind(0)
        run.finish(success=1)
    assert not config.out.exists()
    config.out.mkdir()
    (config.out / ".config.yaml.half").write_text("out:")  # what the one that writes is about to rename
    with Run(config.out, config, writes=False):
        assert (config.out / ".config.yaml.half").exists()


def test_rows_after_the_state_that_is_gone_on_from_are_forgotten_and_watchers_see_every_row(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    seen = []
    with Run(config.out, config) as run:
        run.watchers.append(seen.append)
        run.log(encoder="cnn")
        for step in (1, 2, 3):
            run.log(step=step, loss=np.float32(step))
        run.rewind(2)
    rows = read_metrics(config.out / "metrics.jsonl")
    assert [row.get("step") for row in rows] == [None, 1, 2] and rows == seen[:3] and len(seen) == 4


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with Run(config.out, config) as run:
        run.log(step=1)
    for name in (".training.pt.123.tmp", ".keep", "other.tmp"):
        (config.out / name).write_text("half")
    with Run(config.out, config):
        assert {path.name for path in config.out.iterdir()} == {"config.yaml", "metrics.jsonl", ".keep", "other.tmp"}


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    config = Config(tmp_path / "run")
    with Run(config.out, config):
        with (
            pytest.raises(UserError, match="run: another process is at work on this run; wait for it, or choose another --out"),
            Run(config.out, config),
        ):
            pass
        with pytest.raises(UserError, match="another process is at work"):
            Run(config.out, replace(config, seed=1, overwrite=True), overwrite=True)
        assert (config.out / "config.yaml").exists()
    with Run(config.out, config) as after:
        after.log(step=1)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_what_is_damaged_is_named(tmp_path: Path, text: str) -> None:
    config = Config(tmp_path / "run")
    with Run(config.out, config) as run:
        run.finish()
    (config.out / "done.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match="done.json: damaged: "):
        run.result()
    (config.out / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + text.encode("latin1") + b"\n")
    with pytest.raises(UserError, match="metrics.jsonl: (line 2: )?damaged: "):
        read_metrics(config.out / "metrics.jsonl")
