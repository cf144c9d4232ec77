"""A policy that thinks beside the loop: rows by their times, late ones dropped, silence where nothing comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from hardware.testing import PilotContract
from hardware.types import ArraySpec, NoDecision, Observation, RobotSpec
from robolearn.core.types import Obs, Policy
from robolearn.runtime.async_pilot import AsyncPilot

JOINTS = ArraySpec(("a", "b"), ("rad", "rad"), (-1.0, -1.0), (1.0, 1.0))
SPEC = RobotSpec("toy", {}, {"joint_pos": JOINTS}, JOINTS, "joint_pos", 10.0)


class Slow(Policy):
    """Row k of the answer to what was seen at step n is n + k / 100. It answers while `free` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.history, self.horizon, self.prefix = SPEC, 1, 6, 2
        self.free, self.begun, self.told = threading.Event(), threading.Semaphore(0), []
        self.free.set()

    def act(self, obs: Obs) -> torch.Tensor:
        self.begun.release()
        assert self.free.wait(20)
        first = obs.state[0, -1, 0]
        rows = first + torch.arange(self.horizon) / 100
        return torch.stack([rows, rows], 1)[None]

    def sample(self, obs: Obs, n: int, prefix: torch.Tensor) -> torch.Tensor:
        self.told.append(prefix[0, :, 0].tolist())
        return self.act(obs)[None]


def look(step: int) -> Observation:
    return Observation(0.1 * step, {}, {"joint_pos": np.full(2, step, np.float32)})


@pytest.fixture
def policy() -> Iterator[Slow]:
    policy = Slow()
    yield policy
    policy.free.set()


def values(pilot: AsyncPilot, steps: range, settle: bool = True) -> list[float]:
    """First numbers of the decisions; settle: what was asked for is there before the next decision."""
    found = []
    for step in steps:
        found.append(round(float(pilot.decide(look(step)).action[0]), 2))
        if settle and pilot._pending is not None:
            pilot._pending.result(20)
    return found


class TestContract(PilotContract):
    def make(self):
        return AsyncPilot(Slow(), execute=3), SPEC, look(0)


def answer(pilot: AsyncPilot, policy: Slow) -> None:
    """What it is thinking of comes to its end."""
    policy.free.set()
    assert pilot._pending is not None
    pilot._pending.result(20)


def test_a_quick_policy_is_flown_as_if_it_were_asked_in_line(policy: Slow) -> None:
    pilot = AsyncPilot(policy, execute=3)
    # Asked at step 2 (one row ahead), the answer is there at step 3: its row 1, since its row 0 was for step 2.
    assert values(pilot, range(8)) == [0, 0.01, 0.02, 2.01, 2.02, 4.01, 4.02, 6.01]
    assert pilot.late_rows == 3


def test_the_robot_goes_on_while_it_thinks_and_late_rows_are_dropped(policy: Slow) -> None:
    pilot = AsyncPilot(policy, execute=3)
    assert values(pilot, range(2)) == [0, 0.01]
    policy.free.clear()
    assert values(pilot, range(2, 5), settle=False) == [0.02, 0.03, 0.04]
    answer(pilot, policy)
    assert values(pilot, range(5, 6)) == [2.03]  # rows 0 to 2 of the new chunk were for steps 2 to 4
    assert pilot.late_rows == 3


def test_a_policy_that_hangs_falls_silent_when_its_chunk_ends_and_comes_back(policy: Slow) -> None:
    pilot = AsyncPilot(policy, execute=3)
    values(pilot, range(2))
    policy.free.clear()
    assert values(pilot, range(2, 6), settle=False) == [0.02, 0.03, 0.04, 0.05]
    for step in (6, 7):
        with pytest.raises(NoDecision, match="no answer for"):
            pilot.decide(look(step))
    answer(pilot, policy)
    with pytest.raises(NoDecision):
        pilot.decide(look(8))  # the answer to step 2 ends with step 7: too late altogether, and the next is asked for
    assert pilot._pending is not None
    pilot._pending.result(20)
    assert values(pilot, range(9, 10)) == [8.01]


def test_told_to_forget_it_drops_its_chunks_and_what_it_was_thinking_and_does_not_wait(policy: Slow) -> None:
    pilot = AsyncPilot(policy, execute=3)
    values(pilot, range(2))
    policy.free.clear()
    values(pilot, range(2, 3), settle=False)  # asked of step 2
    pilot.watch(look(3))  # somebody else flies
    pilot.forget()
    with pytest.raises(NoDecision):
        pilot.decide(look(4))
    answer(pilot, policy)
    assert values(pilot, range(5, 6)) == [4.01]


def test_given_back_before_its_first_answer_it_does_not_wait_for_that(policy: Slow) -> None:
    """A person flew from the start, so that the robot is moving and somebody has to go on deciding."""
    pilot = AsyncPilot(policy, execute=3)
    pilot.reset()
    pilot.watch(look(0))
    pilot.forget()
    policy.free.clear()
    with pytest.raises(NoDecision):
        pilot.decide(look(1))
    answer(pilot, policy)
    assert values(pilot, range(2, 3)) == [1.01]


class LooksBack(Slow):
    sees_past = True


def test_a_policy_that_looks_back_is_told_what_was_done() -> None:
    pilot = AsyncPilot(LooksBack(), execute=3)
    for step in range(4):
        pilot.decide(look(step))
        pilot.feedback(np.full(2, 10 + step, np.float32), 1.0)
    past = pilot._done()
    assert past is not None
    assert past.action[0, -1, 0] == 0 and past.step[0, -1] == 3


def test_the_policys_own_error_reaches_the_loop(policy: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    pilot = AsyncPilot(policy, execute=3)
    values(pilot, range(2))
    monkeypatch.setattr(policy, "act", lambda obs: 1 / 0)
    pilot.decide(look(2))
    assert pilot._pending is not None
    assert isinstance(pilot._pending.exception(20), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        pilot.decide(look(3))


def test_ensembling_is_the_mean_of_what_all_say_about_now(policy: Slow) -> None:
    pilot = AsyncPilot(policy, ensemble=0.0)
    np.testing.assert_allclose(values(pilot, range(3)), [0, 0.01, (0.02 + 1.01) / 2], atol=0.006)


def test_a_prefix_tells_what_will_be_flown_meanwhile(policy: Slow) -> None:
    pilot = AsyncPilot(policy, execute=4, prefix=2)
    values(pilot, range(5))
    np.testing.assert_allclose(policy.told, [[0.02, 0.03], [2.02, 2.03]][: len(policy.told)], atol=1e-6)
    assert policy.told


def test_a_reset_forgets_and_waits_for_the_thought_in_flight(policy: Slow) -> None:
    pilot = AsyncPilot(policy, execute=3)
    values(pilot, range(2))
    policy.free.clear()
    pilot.decide(look(2))
    threading.Timer(0.1, policy.free.set).start()
    pilot.reset()
    assert values(pilot, range(20, 22)) == [20, 20.01]


def test_at_rest_it_thinks_of_nothing(policy: Slow) -> None:
    pilot = AsyncPilot(policy, execute=3)
    values(pilot, range(2))
    policy.free.clear()
    pilot.decide(look(2))
    assert policy.begun.acquire(timeout=20) and policy.begun.acquire(timeout=20)  # the first answer's thought, and this one
    pilot.forget()  # it is not heard any more, but thought to its end
    threading.Timer(0.1, policy.free.set).start()
    pilot.rest()
    assert policy.free.is_set() and pilot._thinker._work_queue.empty()


def test_the_policy_hears_what_was_done_between_two_questions_before_the_second(policy: Slow) -> None:
    """As a planner that checks its model needs it: what was flown while it thought is not of the answer before."""
    heard: list[int] = []
    questions: list[tuple[int, list[int]]] = []
    answers = policy.act

    def act(obs: Obs) -> torch.Tensor:
        questions.append((int(obs.state[0, -1, 0]), list(heard)))
        return answers(obs)

    policy.act, policy.executed = act, lambda action: heard.append(int(action[0]))
    pilot = AsyncPilot(policy, execute=3)
    for step in range(6):
        pilot.decide(look(step))
        if pilot._pending is not None:
            pilot._pending.result(20)
        pilot.feedback(np.full(2, step), 0.0)
    assert questions == [(0, []), (2, [0, 1]), (4, [0, 1, 2, 3])]


def test_what_the_policys_reset_raises_is_raised_by_the_next_decision(policy: Slow) -> None:
    """A server may have another checkpoint since."""

    def reset() -> None:
        raise ValueError("another checkpoint")

    pilot = AsyncPilot(policy, execute=3)
    policy.reset = reset
    pilot.reset()
    with pytest.raises(ValueError, match="another checkpoint"):
        pilot.decide(look(0))
