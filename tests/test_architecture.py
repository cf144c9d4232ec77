"""The rules of the tree that no linter knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"robolearn", "hardware", "configs", "datasets", "tests", "benchmarks", "docs"}
FILES = {"pyproject.toml", "README.md", "CHANGELOG.md", "Makefile", "LICENSE", "requirements.lock"}
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "managers", "factory", "registry", "base_utils", "tools"}


def tracked(*patterns: str) -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the tree is unknown")
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_top_level_is_as_agreed() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {n for n in names if not n.startswith(".")} == FOLDERS | FILES


def test_no_file_is_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in tracked("*.py", ".ci/*", "Makefile")}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_modules_say_what_they_hold() -> None:
    assert [str(p) for p in tracked("*.py") if VAGUE & set(p.relative_to(ROOT).with_suffix("").parts)] == []


def test_hardware_loads_neither_torch_nor_robolearn() -> None:
    code = """
import importlib, pkgutil, sys, hardware
for module in pkgutil.walk_packages(hardware.__path__, "hardware."):
    if not module.name.endswith(".testing"):  # contracts for pytest
        importlib.import_module(module.name)
print(sorted({"torch", "robolearn", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_opening_the_hardware_door_costs_no_simulator() -> None:
    code = "import sys, hardware; print(sorted({'mujoco', 'robosuite', 'gym_pusht', 'pygame', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_no_verb_waits_for_what_it_may_not_use() -> None:
    """Each of these takes as long to import as torch, or a second; whoever asks for help, or made a slip, pays for none of them."""
    code = """
import importlib, pkgutil, sys, robolearn.experiments
for module in pkgutil.walk_packages(robolearn.experiments.__path__, "robolearn.experiments."):
    importlib.import_module(module.name)
print(sorted({"torch._dynamo", "diffusers", "torchvision", "torch.distributed.fsdp", "scipy.stats", "robosuite"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_lock_pins_with_hashes_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|git\+|file:", lock)
    blocks = re.split(r"\n(?=[A-Za-z])", lock.strip())
    assert len(blocks) > 100
    assert [b.splitlines()[0] for b in blocks if not re.match(r"[\w.-]+==", b) or "--hash=sha256:" not in b] == []


def test_no_file_knows_this_machine() -> None:
    shared = "/".join(["shared", "data"])
    knows = re.compile(rf"(?<![\w.])/(work|root|home/\w+)/|{shared}")
    found = [
        str(p.relative_to(ROOT))
        for p in tracked("*.py", "*.md", "*.yaml", "*.toml", "*.lock", "Makefile", ".ci/*")
        if knows.search(p.read_text())
    ]
    assert set(found) <= {".ci/run", "tests/test_architecture.py"}
