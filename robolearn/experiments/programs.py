"""Write a policy as a program that runs without this project: torch.export's archive, or ONNX. Read back and compared before it counts."""

from __future__ import annotations

import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from robolearn.core.checkpoint import load_policy, read_header
from robolearn.core.config import to_dict
from robolearn.core.errors import UserError
from robolearn.policies.chunk import ChunkPolicy
from robolearn.runtime.program import Inputs, Program, observation

HEADER = "robolearn.json"  # in a .pt2; in ONNX the metadata property `robolearn`
TOLERANCE = 1e-3  # of an action's range in the data
TRIES = 8  # inputs that policy and program are both given
ONNX_LIMIT = 2**31  # bytes of one protobuf message

Run = Callable[[Inputs], Tensor]


def export_policy(checkpoint: Path, kind: str, out: Path, batch: int, seed: int) -> str:
    """Write `out`, whole or not at all, and say what it is. UserError: it does not answer as the policy does, or cannot be written."""
    header = read_header(checkpoint)
    policy = load_policy(checkpoint)
    if not isinstance(policy, ChunkPolicy):
        raise UserError(
            f"path: {checkpoint}: {type(policy).__name__}; expected a policy of robolearn.policies, which one program can answer"
        )
    program, exported = _trace(policy.requires_grad_(False), batch)
    rng = np.random.default_rng(seed)
    examples = [program.example(rng) for _ in range(TRIES)]
    facts: dict[str, Any] = {
        "robolearn": version("robolearn"),
        "policy": to_dict(header.config, annotation=object),
        "spec": header.spec.to_dict(),
        "inputs": {name: {"shape": list(value.shape), "dtype": str(value.dtype)[6:]} for name, value in examples[0].items()},
        "outputs": {"action": {"shape": [batch, policy.horizon, policy.spec.action.dim], "dtype": "float32"}},
    }
    beside = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        built = beside / out.name
        with _quiet():
            run = (_write_onnx if kind == "onnx" else _write_torch)(exported, built, facts)
        apart = _apart(program, run, examples)
        if not apart <= TOLERANCE:
            raise UserError(
                f"{out}: its answers are up to {apart:.2g} of an action's range from the policy's; expected at most {TOLERANCE}"
            )
        times = _ms(program, examples), _ms(run, examples)
        built.rename(out)
    except OSError as error:
        raise UserError(f"out: {out}: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return (
        f"{out}: {', '.join(examples[0])} -> action; {TRIES} answers within {apart:.1g} of the action's range of the policy's; "
        f"{times[1]:.1f} ms each, {times[0]:.1f} ms before, on {torch.get_num_threads()} threads"
    )


def _trace(policy: ChunkPolicy, batch: int) -> tuple[Program, ExportedProgram]:
    """The policy as a graph, which asks for nothing that its answer does not depend on."""
    program = Program(policy, batch)
    with _quiet(), torch.no_grad():
        example = program.example(np.random.default_rng(0))
        exported = torch.export.export(program, (example,))
        asked = [node for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs]
        if idle := [name for name, node in zip(example, asked, strict=True) if not node.users]:
            program.leave_out(idle)
            exported = torch.export.export(program, (program.example(np.random.default_rng(0)),))
    exported.graph.eliminate_dead_code()  # a split into no parts, which torch writes but cannot read
    return program, exported


def _write_torch(exported: ExportedProgram, path: Path, facts: dict[str, Any]) -> Run:
    torch.export.save(exported, path, extra_files={HEADER: json.dumps(facts)})
    return torch.export.load(path).module()


def _write_onnx(exported: ExportedProgram, path: Path, facts: dict[str, Any]) -> Run:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 torch needs it
    except ImportError as error:
        raise UserError(f"format: onnx: {error.name} is missing; install it with: pip install 'robolearn[onnx]'") from error
    size = sum(value.nbytes for value in exported.state_dict.values())
    if size >= ONNX_LIMIT:
        raise UserError(f"format: onnx: {size / 1e9:.1f} GB of weights; one file holds at most 2 GB, torch_export's more")
    names = list(facts["inputs"])
    found = torch.onnx.export(exported, dynamo=True, input_names=names, output_names=["action"], verbose=False)
    assert found is not None
    found.model.metadata_props["robolearn"] = json.dumps(facts)
    found.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(["action"], {name: value.numpy() for name, value in inputs.items()})[0])


def _apart(program: Program, run: Run, examples: list[Inputs]) -> float:
    """The largest difference of two answers, as a share of the action's range in the data."""
    policy = program.policy
    inside = torch.ones(program.batch, 1, policy.horizon, policy.action_dim)
    obs = observation(examples[0])
    largest = 0.0
    with torch.no_grad():
        span = (policy.outside(inside, obs) - policy.outside(-inside, obs)).abs().amax((0, 1, 2)).clamp(min=1e-9)
        for inputs in examples:
            largest = max(largest, float(((program(inputs) - run(inputs)).abs() / span).nan_to_num(torch.inf).max()))
    return largest


def _ms(run: Run, examples: list[Inputs]) -> float:
    times = []
    with torch.no_grad():
        for inputs in examples:
            begun = time.perf_counter()
            run(inputs)
            times.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(times))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say to their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
