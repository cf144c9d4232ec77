"""A policy as a program: read by what knows nothing of robolearn, and refused where it answers otherwise."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robolearn.core.checkpoint import save_checkpoint
from robolearn.core.errors import UserError
from robolearn.experiments import programs
from robolearn.experiments.export import Config, run
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.bc_rnn import BcRnnConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.runtime.program import Program
from robolearn.testing import PolicyContract

CNN = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4)
CONFIG = DiffusionConfig(horizon=4, widths=(8,), sample_steps=2, encoder=CNN, cameras=("wrist",))
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
FORMATS = [
    pytest.param("torch_export", "policy.pt2"),
    pytest.param("onnx", "policy.onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="needs the extra: pip install 'robolearn[onnx]'")),
]
ELSEWHERE = {  # programs that know the file and numpy
    "torch_export": """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
action = program(torch.load(sys.argv[2])).numpy()
""",
    "onnx": """
import sys, torch, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
action, = session.run(None, {name: value.numpy() for name, value in torch.load(sys.argv[2]).items()})
""",
}


def saved(tmp_path: Path, config=CONFIG):
    class Contract(PolicyContract):
        pass

    Contract.config = config
    policy = Contract().build()
    save_checkpoint(tmp_path / "policy.pt", policy, config)
    return policy


@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_what_is_written_answers_as_the_policy_where_robolearn_is_not(tmp_path, capsys, kind, name):
    policy, out = saved(tmp_path), tmp_path / "out" / name
    run(Config(path=str(tmp_path / "policy.pt"), format=kind, out=out, batch=2))
    assert f"{out}: state, image_wrist, noise_0 -> action; 8 answers within" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == [name]
    program = Program(policy, 2)
    inputs = program.example(np.random.default_rng(9))
    torch.save(inputs, tmp_path / "inputs.pt")
    code = ELSEWHERE[kind] + "assert 'robolearn' not in sys.modules; import numpy; numpy.save(sys.argv[3], action)"
    subprocess.run([sys.executable, "-c", code, out, tmp_path / "inputs.pt", tmp_path / "action.npy"], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "action.npy"), program(inputs).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_the_file_says_what_it_takes(tmp_path, kind, name):
    saved(tmp_path)
    run(Config(path=str(tmp_path / "policy.pt"), format=kind, out=tmp_path / name))
    if kind == "onnx":
        import onnx

        text = {entry.key: entry.value for entry in onnx.load(tmp_path / name).metadata_props}["robolearn"]
    else:
        files = {programs.HEADER: ""}
        torch.export.load(tmp_path / name, extra_files=files)
        text = files[programs.HEADER]
    facts = json.loads(text)
    assert facts["inputs"]["image_wrist"] == {"shape": [1, 2, 3, 24, 28], "dtype": "uint8"}
    assert facts["outputs"]["action"]["shape"] == [1, 4, 3]
    assert facts["spec"]["name"] == "contract" and facts["policy"]["sample_steps"] == 2


def test_it_does_not_ask_for_what_the_answer_does_not_depend_on(tmp_path, capsys):
    saved(tmp_path, BcRnnConfig(history=3, horizon=1))
    run(Config(path=str(tmp_path / "policy.pt"), format="torch_export", out=tmp_path / "x.pt2"))
    assert "x.pt2: state, chance_0, noise_0 -> action" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"out": "x.onnx"}, "expected a name that ends in .pt2"),
        ({"batch": 0}, "batch: 0 observations; expected at least 1"),
        ({"path": "nothing.pt"}, "nothing.pt: no such file"),
        ({"path": "."}, "is a folder; expected a policy checkpoint"),
        ({"format": "onx"}, "format: 'onx' cannot be written; valid: of a store diffusion_policy_zarr, .*, of a policy torch_export, onnx"),
        ({"out": "policy.pt"}, "policy.pt: exists already"),
        ({"out": "policy.pt/x.pt2"}, "out: .*policy.pt/x.pt2: "),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, words, said):
    saved(tmp_path)
    words = {"path": "policy.pt", "format": "torch_export", "out": "x.pt2"} | words
    words |= {key: str(tmp_path / words[key]) for key in ("path", "out")}
    with pytest.raises(UserError, match=said):
        run(Config(**words | {"out": Path(words["out"])}))
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt"]


def test_an_answer_too_far_away_is_no_product(tmp_path, monkeypatch):
    saved(tmp_path)
    write = programs._write_torch

    def damaged(*args):
        run = write(*args)
        return lambda inputs: run(inputs) + 0.01

    monkeypatch.setattr(programs, "_write_torch", damaged)
    with pytest.raises(UserError, match=r"up to 0\.\d+ of an action's range"):
        run(Config(path=str(tmp_path / "policy.pt"), format="torch_export", out=tmp_path / "x.pt2"))
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt"]
