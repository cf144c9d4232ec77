"""Two processes that train together do what one does; what each of them does is in two_ranks.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robolearn.core.checkpoint import load_policy
from robolearn.core.run import read_metrics
from robolearn.learners.ranks import Ranks
from tests.experiments.training_config import record
from tests.learners import two_ranks


def test_alone_everything_is_said_at_once():
    alone = Ranks()
    assert (
        alone.leads and alone.gather(3) == [3] and alone.agree(2.5, True) == (2.5, True) and alone.total(torch.ones(2)).tolist() == [1, 1]
    )
    with alone.in_turn():
        alone.wait()
    alone.leave()
    assert Ranks.join(torch.device("cpu")).count == 1


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """What two processes left behind, and one."""
    folder = tmp_path_factory.mktemp("ranks")
    record(folder / "fake.zarr")
    two_ranks.torchrun(Path(two_ranks.__file__), folder)
    two_ranks.main(folder)
    two_ranks.verb(folder)
    return folder


@pytest.mark.long
def test_copies_parts_and_shards_learn_what_one_process_learns(done):
    (first, second), one = (torch.load(done / f"2_{rank}.pt") for rank in (0, 1)), torch.load(done / "1_0.pt")
    assert first["ranks"] == [0, 1]
    assert first["said"] == second["said"] == ((10.0, True), (0.0, False)), "the leader's clock; anyone's wish to stop"
    untrained = two_ranks.learn_from(Ranks(), {}).policy.state_dict()
    for way in two_ranks.WAYS:
        for name, value in one["weights"]["whole"].items():
            assert torch.equal(first["weights"][way][name], second["weights"][way][name]), f"{way}: {name} differs between the ranks"
            assert torch.allclose(first["weights"][way][name], value, atol=1e-6), f"{way}: {name}"
            assert torch.equal(first["weights"][f"{way}, resumed"][name], first["weights"][way][name]), f"{way}: {name}, resumed"
        moved = [not torch.allclose(one["weights"][way][name], untrained[name], atol=1e-3) for name in untrained if "net" in name]
        assert all(moved), "it would be no wonder if nothing had been learned"


@pytest.mark.slow
def test_the_verb_under_torchrun_writes_once(done):
    one, two = done / "run_1", done / "run_2"
    weights = [load_policy(run / "checkpoints" / "step_000100.pt").state_dict() for run in (one, two)]
    assert all(torch.allclose(weights[1][name], value, atol=1e-5) for name, value in weights[0].items())
    rows = [read_metrics(run / "metrics.jsonl") for run in (one, two)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [50, 100, 100]
    losses = [[row["loss"] for row in logged if "loss" in row] for logged in rows]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5), "the mean over both ranks"
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert not list(two.glob("**/.*.tmp"))
