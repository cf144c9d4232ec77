"""torch.compile is used where it can be, and one line says where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robolearn.learners import forward
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.policies.bc import BcConfig
from robolearn.testing import PolicyContract

COMPILED = """
import sys, torch
from robolearn.learners.imitation import Imitation, ImitationConfig
from tests.learners.test_forward import Data
found = {}
for compiled in (False, True):
    learner = Imitation(Data().build(), ImitationConfig(precision="float32", warmup=2, compile=compiled))
    found[compiled] = [learner.update(Data().batch(8, seed))["loss"] for seed in range(6)]
    assert learner._forward._compiled == compiled
print(found[False], found[True])
assert torch.allclose(torch.tensor(found[False]), torch.tensor(found[True]), rtol=1e-4)
from torch._dynamo.utils import counters
assert counters["stats"]["unique_graphs"] > 0
"""


class Data(PolicyContract):
    __test__ = False
    config = BcConfig(hidden=(16,), dropout=0.0, horizon=4)


def losses(**settings) -> list[float]:
    learner = Imitation(Data().build(), ImitationConfig(precision="float32", warmup=2, **settings))
    return [learner.update(Data().batch(8, seed))["loss"] for seed in range(3)]


def test_without_a_compiler_it_goes_on_without(monkeypatch, capsys):
    monkeypatch.setattr(forward.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    assert losses(compile=True) == losses()
    assert capsys.readouterr().err == "imitation.compile: no C++ compiler here (g++, clang++, c++, cl); training goes on without\n"


def test_where_compiling_fails_it_goes_on_without(monkeypatch, capsys):
    def fails(loss, **settings):
        def call(batch):
            raise torch._dynamo.exc.TorchDynamoException("cannot be traced\nand many more lines")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(forward, "_missing", lambda device: "")
    assert losses(compile=True) == losses()
    said = capsys.readouterr().err
    assert said == "imitation.compile: TorchDynamoException: cannot be traced; training goes on without\n"


def test_an_error_of_the_policy_is_not_taken_for_one_of_the_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda loss, **settings: loss)
    monkeypatch.setattr(forward, "_missing", lambda device: "")
    learner = Imitation(Data().config.build(Data.spec), ImitationConfig(compile=True))
    with pytest.raises(RuntimeError, match="not fitted"):
        learner.update(Data().batch(4))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_it_learns_the_same(tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr
