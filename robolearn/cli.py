"""robolearn VERB [config.yaml] [--field value ...]: each verb is a module of robolearn.experiments with Config and run."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

from robolearn.core.errors import UserError, explain, require_at_least

VERBS = {
    "teleop": "drive a robot and record episodes into a store",
    "ingest": "bring foreign logs into a store",
    "inspect": "check a store and show what it holds",
    "edit": "make a new store of what is wanted of others",
    "export": "write a store in another project's format, or a policy as a program",
    "pretrain": "teach an encoder on a store's own images, without labels",
    "embed": "compute a frozen encoder's features once, into the store's cache",
    "train": "learn a policy from a store",
    "evaluate": "measure a policy's success rate, with an interval and videos",
    "finetune": "improve a policy online, safely, with a world model and a planner",
    "deploy": "fly a policy on a robot, recorded, a person watching",
    "serve": "let another computer ask a policy, or a robot, over an encrypted socket",
    "compare": "set trainings side by side, with a test of their success rates",
    "report": "write one HTML file about a pipeline's runs",
    "calibrate": "walk a person through an arm's calibration, and write it to a file",
    "emulate": "stand in for a real arm, at an address that its driver takes",
    "demo": "all of it, end to end, in a simulator",
}

USAGE = "usage: robolearn VERB [config.yaml] [--field value ...]"
_LISTED = "\n".join(f"  {verb:<10}{text}" for verb, text in VERBS.items())
HELP = f"{USAGE}\n\n{_LISTED}\n\nrobolearn VERB --help lists a verb's fields, units and defaults.\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 2 wrong input, 130 stopped by the user."""
    # Whoever ends us politely gets the same tidy stop as Ctrl-C, and Ctrl-C is heard even where a shell started us deaf to it.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(words)
        sys.stdout.flush()
        return 0
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            return 0
        if (explained := explain(error)) is None:
            raise
        line, code = explained
        if isinstance(error, KeyboardInterrupt) and "--overwrite" in words:
            line += " without --overwrite"
        sys.stderr.write(line + "\n")
        return code


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return
    if argv[0] == "--version":
        sys.stdout.write(f"robolearn {version('robolearn')}\n")
        return
    verb, *rest = argv
    if verb not in VERBS:
        raise UserError(f"{verb!r} is not a verb; valid: {', '.join(VERBS)}")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # read when a simulator is first imported
    experiment = import_module(f"robolearn.experiments.{verb}")
    experiment.run(parse(verb, experiment.Config, rest, getattr(experiment, "DEFAULT", None)))


def parse(verb: str, cls: type, words: Sequence[str], default_file: Path | None = None) -> Any:
    """A `cls` from `[config.yaml] [--field value ...]`; raises UserError for what does not fit. default_file: read where none is named."""
    import tyro

    from robolearn.core.config import from_dict, nested, read_yaml, require_finite

    rest, types = _types(words)
    rest, files = _files(cls, rest)
    parts = list(_optional_parts(cls, rest))
    default: Any = tyro.MISSING_NONPROP
    file = Path(rest.pop(0)) if rest and not rest[0].startswith("-") else default_file
    if file is not None and (file.is_dir() or (not file.exists() and file.suffix not in (".yaml", ".yml"))):
        field = next((name for name in ("path", "data", "checkpoint", "runs") if name in cls.__dataclass_fields__), "out")
        raise UserError(f"{file}: the bare argument is a config in YAML; what a verb reads goes behind an option, such as --{field} {file}")
    if file is not None or types or parts or files:
        where = f"robolearn {verb}" if file is None else str(file)
        data = nested(types, ({} if file is None else read_yaml(file)) | {name: read_yaml(path) for name, path in files.items()}, where)
        default = from_dict(cls, _with_parts(data, parts), where, missing=tyro.MISSING)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            # A file or a default has already picked each part's class; its fields are plain options then.
            config = tyro.cli(cls, default=default, args=rest, prog=f"robolearn {verb}", config=(tyro.conf.AvoidSubcommands,))
    except SystemExit as end:
        if end.code:
            raise UserError(f"{_one_line(said.getvalue())}; `robolearn {verb} --help` lists the valid fields") from None
        raise
    require_finite(config)
    if not 0 <= (seed := getattr(config, "seed", 0)) < 2**63:
        raise UserError(f"seed: {seed}; expected 0 or more, and less than 2^63")
    require_at_least("threads", getattr(config, "threads", 0), 0, "CPU threads")
    return config


def _types(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--policy.type act` and `--agent.preset iql` out: what picks a class, or its values, must be known before its fields can be
    options."""
    rest, types = [], {}
    words = [
        part
        for word in words
        for part in (word.split("=", 1) if word.startswith("--") and (".type=" in word or ".preset=" in word) else [word])
    ]
    waiting = iter(words)
    for word in waiting:
        if word.startswith("--") and word.endswith((".type", ".preset")):
            if (value := next(waiting, None)) is None:
                raise UserError(f"{word}: expected a name behind it")
            types[word[2:].replace("-", "_")] = value
        else:
            rest.append(word)
    return rest, types


def _files(cls: type, words: Sequence[str]) -> tuple[list[str], dict[str, Path]]:
    """Takes `--robot configs/robots/ur5e.yaml` out: a whole part of the config from a file of its own; options overrule its fields."""
    parts = {name for name, kind in get_type_hints(cls).items() if any(is_dataclass(one) for one in get_args(kind) or (kind,))}
    rest, files = list(words), {}
    for word, value in zip(words, words[1:], strict=False):
        if word.removeprefix("--") in parts and word.startswith("--") and Path(value).suffix in (".yaml", ".yml"):
            files[word[2:]] = Path(value)
            at = rest.index(word)
            del rest[at : at + 2]
    return rest, files


def _optional_parts(cls: type, words: Sequence[str]) -> Iterator[list[str]]:
    """`--gate.risk 0.1` speaks of a part that may be absent: it is there, then, and the option is one of its fields."""
    for word in words:
        names, inside = word.removeprefix("--").split("=", 1)[0].replace("-", "_").split("."), cls
        for depth, name in enumerate(names[:-1] if word.startswith("--") else (), 1):
            annotation = get_type_hints(inside).get(name)
            classes = [one for one in get_args(annotation) or (annotation,) if is_dataclass(one)]
            if len(classes) != 1:
                break
            if NoneType in get_args(annotation):
                yield names[:depth]
            inside: Any = classes[0]


def _with_parts(data: dict[str, Any], parts: Iterable[Sequence[str]]) -> dict[str, Any]:
    """`data`, in which these parts are at least empty mappings, which stand for their defaults."""
    for part in parts:
        node: Any = data
        for name in part:
            if not isinstance(node, dict):
                break
            if node.get(name) is None:
                node[name] = {}
            node = node[name]
    return data


def _one_line(box: str) -> str:
    """What tyro says in a frame of several lines, without the frame, its title and its advice."""
    inside = [line.strip("│ \n") for line in box.splitlines() if line.startswith("│")]
    words = " ".join(inside or box.splitlines())
    return words.split("───")[0].strip()


def _reader_left() -> bool:
    """`robolearn train --help | head`: whoever read our output has seen enough. A pipe of somebody else's that broke is an error."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # not a file at all
        return False
    watch = select.poll()
    watch.register(output, 0)  # only whether its other end is gone
    if not any(state & select.POLLERR for _, state in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # or the interpreter complains on leaving
    return True


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
