from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.types import Source
from robolearn.core.config import presets
from robolearn.data.replay import Replay
from robolearn.learners.rl.finetuning import FineTuning, build
from tests.agents.tiny import HIGH, LOW, SPEC, config, episode, latents, look, replay


def tuning(preset: str | None = None, seed: int = 0, old: Replay | None = None, **fields) -> FineTuning:
    return build(config(preset, **fields), replay() if old is None else old, seed)


def weights(of: FineTuning, *parts: str) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in of.agent.named_parameters() if name.split(".")[0] in parts or not parts}


def moved(before: dict[str, torch.Tensor], of: FineTuning) -> set[str]:
    """Which parts of the agent are no longer what they were."""
    now = weights(of)
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, now[name])}


def new_rows(of: FineTuning, rows: int = 4) -> None:
    of.add(episode(100 + of.new.episodes, rows))


PARTS = {"policy": {"policy"}, "critic": {"critic", "value"}, "model": {"model"}, "data": set()}


@pytest.mark.parametrize("dropped", [(), ("policy",), ("critic",), ("model",), ("data",), ("policy", "critic", "model", "data")])
def test_what_is_not_carried_begins_anew_and_the_rest_stays(dropped):
    of = tuning("ours", carry=dict.fromkeys(dropped, False))
    of.offline(3)
    before = weights(of)
    of.begin_online()
    expected = set().union(*(PARTS[name] for name in dropped)) if dropped else set()
    assert moved(before, of) == expected
    assert of.mixing.keeps_old == ("data" not in dropped) and bool(of.agent.online)
    new_rows(of)
    drawn = of.mixing.draw(64, 16)
    assert drawn.fresh is not None and bool(drawn.fresh.all()) == ("data" in dropped)
    assert of.learn(1) and of.learner.online_updates == 1  # the optimizers hold what is there now
    assert moved(before, of) == {"policy", "critic", "value", "model"} | expected


def test_online_begins_once():
    of = tuning(carry={"policy": False})
    of.begin_online()
    before = weights(of)
    of.begin_online()
    assert moved(before, of) == set()


def test_a_residual_critic_keeps_what_it_learned_offline_as_its_base():
    of = tuning("selfi")
    of.offline(5)
    z, a = latents(of.agent), torch.zeros(5, 2)
    q = of.agent.critic(z, a).detach()
    of.begin_online()
    torch.testing.assert_close(of.agent.critic(z, a), q)
    base = {k: v.clone() for k, v in of.agent.critic.base.state_dict().items()}
    new_rows(of)
    of.learn(3)
    assert not torch.allclose(of.agent.critic(z, a), q)
    assert all(torch.equal(v, base[k]) for k, v in of.agent.critic.base.state_dict().items())


def test_warm_ups_are_counted_in_decisions_and_come_one_after_the_other():
    of = tuning(warmup={"random": 5, "frozen": 8})
    of.begin_online()
    flights, done = [], []
    for _ in range(6):
        flights.append(of.flight)
        new_rows(of)
        done.append(len(of.learn()))
    assert flights == ["random", "random", "frozen", "frozen", "learning", "learning"] and of.decisions == 24
    assert done == [0, 0, 0, 0, 4, 4]  # what was flown at random or frozen earned nothing


def test_random_decisions_may_earn_updates_that_follow_once_they_are_over():
    of = tuning(warmup={"random": 8, "random_updates": True})
    of.begin_online()
    done = []
    for _ in range(3):
        new_rows(of)
        done.append(len(of.learn()))
    assert done == [0, 8, 4]


def test_how_an_episode_was_flown_it_says_itself():
    of = tuning()
    of.begin_online()
    of.add(replace(episode(1), meta={"flight": "frozen"}))
    assert of.flight == "learning" and of.learn() == []
    of.add(replace(episode(2, rows=2), meta={"flight": "learning"}))
    assert len(of.learn()) == 2


def test_once_it_is_known_what_is_better_that_is_kept():
    for what, old_share in (("policy", 0), ("data", 8), ("either", 4)):
        of = tuning(carry={"policy": False, "data": what != "data"}, replay={"mix": "balanced", "offline": 0.25})
        before = weights(of)
        of.settle(what)
        of.begin_online()
        assert moved(before, of) == (set() if what == "policy" else {"actor"})
        new_rows(of)
        assert int((~of.mixing.draw(16, 1).fresh).sum()) == old_share


def test_first_updates_may_be_the_critics_alone():
    of = tuning(warmup={"critic_updates": 3})
    of.offline(2)
    of.begin_online()
    assert of.learner.actor_updates == 2
    new_rows(of)
    before = weights(of, "actor")
    of.learn(3)
    assert of.learner.actor_updates == 2 and moved(before, of) == set()
    of.learn(1)
    assert of.learner.actor_updates == 3 and moved(before, of) == {"actor"}


@pytest.mark.parametrize(("utd", "expected"), [(1.0, [2, 2, 2]), (0.75, [1, 2, 1]), (2.0, [4, 4, 4]), (0.0, [0, 0, 0])])
def test_each_decision_earns_its_updates_and_a_part_of_one_is_owed(utd, expected):
    of = tuning(update={"utd": utd, "batch": 4})
    of.begin_online()
    done = []
    for _ in range(3):
        new_rows(of, rows=2)
        done.append(len(of.learn()))
    assert done == expected and of.learn() == []
    assert of.owed == pytest.approx(6 * utd - sum(expected))


def test_updates_can_be_taken_in_slices():
    of = tuning()
    of.begin_online()
    assert of.learn() == []  # nothing was flown
    new_rows(of)
    assert [len(of.learn(3)) for _ in range(3)] == [3, 1, 0]


def test_actor_and_critics_begin_anew_every_so_often_and_the_rows_stay():
    of = tuning("ours", update={"resets": 4, "batch": 4})
    of.begin_online()
    new_rows(of)
    of.learn(3)
    before = weights(of)
    of.learn(1)
    now = weights(of)
    jumps = {name: float((before[name] - now[name]).abs().max()) for name in before}
    assert max(jumps[name] for name in jumps if name.startswith("policy.net")) > 0.1
    assert max(jumps[name] for name in jumps if name.startswith("critic.online")) > 0.1
    assert max(jumps[name] for name in jumps if name.startswith("model")) < 0.01 and len(of.new) == 4
    assert all(not optimizer.state for optimizer in of.learner.optimizers.values())
    new_rows(of)
    of.learn(1)


def test_reptile_moves_the_weights_only_a_part_of_the_way():
    short, whole = (tuning("moorl", update={"inner": 3, "outer": outer}, carry={"policy": True, "critic": True}) for outer in (0.25, 1.0))
    ends = []
    for of in (short, whole):
        of.begin_online()
        start = weights(of)
        new_rows(of)
        of.learn(2)
        within = weights(of)
        of.learn(1)
        ends.append((start, within, weights(of)))
    for name, start in ends[0][0].items():
        assert torch.equal(start, ends[1][0][name])
        assert torch.equal(ends[0][1][name], ends[1][1][name])  # on the way both take the same steps
        torch.testing.assert_close(ends[0][2][name], start + 0.25 * (ends[1][2][name] - start), rtol=1e-4, atol=1e-6)


def test_a_reset_is_not_undone_by_the_weights_of_before():
    of = tuning(update={"inner": 4, "outer": 0.01, "resets": 3, "batch": 4})
    of.begin_online()
    new_rows(of)
    before = weights(of, "actor")
    of.learn(4)
    now = weights(of, "actor")
    assert max(float((before[name] - now[name]).abs().max()) for name in before) > 0.1


def test_turns_of_old_and_new_rows_are_the_inner_loops():
    of = tuning("moorl", update={"inner": 2, "batch": 4})
    of.offline(3)  # draws that are no turn of anyone
    of.begin_online()
    new_rows(of)
    new_rows(of)
    kinds = []
    draw = of.mixing.draw
    of.mixing.draw = lambda *args: kinds.append(bool((drawn := draw(*args)).fresh.all())) or drawn
    of.learn(6)
    assert kinds == [False, False, True, True, False, False]


def test_what_a_person_flew_joins_the_old_rows_where_asked():
    for asked, expected in ((True, 8), (False, 0)):
        of = tuning("hil_serl", replay={"interventions": asked})
        of.begin_online()
        before = len(of.old)
        of.add(episode(7, source=Source.POLICY))
        of.add(episode(8, source=Source.HUMAN))
        assert len(of.old) - before == expected and len(of.new) == 16


def test_without_old_rows_units_come_from_the_first_that_are_flown():
    of = tuning("sac", old=Replay(SPEC), warmup={"random": 20})
    of.begin_online()
    for i in range(3):
        assert of.flight == "random" and not bool(of.agent.state_norm.fitted)
        of.add(episode(i))
    assert of.flight == "learning"
    torch.testing.assert_close(of.agent.state_norm.offset, torch.from_numpy(of.new.column("state")).mean(0))
    torch.testing.assert_close(of.agent.action_norm.unnormalize(torch.tensor([[-1.0, -1.0], [1.0, 1.0]])), torch.tensor([LOW, HIGH]))
    new_rows(of)
    assert len(of.learn()) == 4


def test_a_person_who_helps_at_first_does_not_keep_it_from_learning():
    of = tuning("hil_serl", old=Replay(SPEC), warmup={"random": 12})
    of.begin_online()
    for i in range(2):
        of.add(episode(i, source=Source.HUMAN))
    assert of.flight == "learning" and bool(of.agent.state_norm.fitted)


def test_the_planner_is_released_along_its_ramp():
    of = tuning("ours", planner={"search": {"ramp": 16}})
    of.offline(1)
    assert float(of.agent.release) == 0
    of.begin_online()
    released = []
    for _ in range(5):
        new_rows(of)
        released.append(float(of.agent.release))
    assert released == [0.25, 0.5, 0.75, 1, 1]
    free = tuning("fowm")
    assert float(free.agent.release) == 1


@pytest.mark.parametrize("preset", ["iql", "moorl", "expo"])
def test_after_a_round_trip_it_goes_on_as_it_would_have(preset):
    fields = {"update": {"utd": 1, "batch": 4, "actor_every": 1}, "warmup": {"random": 0}}
    one, other = tuning(preset, 0, **fields), tuning(preset, 5, **fields)
    one.offline(2)
    one.begin_online()
    one.add(episode(60, rows=3))
    one.learn(2)
    state = copy.deepcopy(one.state_dict())
    other.add(episode(60, rows=3))
    other.load_state_dict(state)
    for each in (one, other):
        each.add(episode(61, rows=2))
    assert one.learn() == other.learn() and (one.decisions, one.owed) == (other.decisions, other.owed) == (5, 0)
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


def test_a_seed_repeats_everything():
    runs = []
    for seed in (0, 0, 1):
        of = tuning("ours", seed, update={"batch": 4})
        of.offline(2)
        of.begin_online()
        new_rows(of)
        of.learn(2)
        runs.append(weights(of, "actor", "critic"))
    same, other = ([torch.equal(v, run[k]) for k, v in runs[0].items()] for run in runs[1:])
    assert all(same) and not all(other)


@pytest.mark.parametrize("preset", presets("agents"))
def test_every_preset_learns_offline_flies_and_learns_online(preset):
    of = tuning(preset, update={"batch": 8, "actor_every": 1})
    offline = of.offline(2)
    of.begin_online()
    of.agent.explore = True
    for i in range(2):
        action = of.agent.act(look(1, seed=i))[0, 0].numpy()
        assert np.isfinite(action).all() and (action >= np.array(LOW) - 1e-6).all() and (action <= np.array(HIGH) + 1e-6).all()
    of.add(episode(50, terminal=True, source=Source.PLANNER))
    before = weights(of)
    online = of.learn(2)
    assert len(offline) == len(online) == 2
    assert all(np.isfinite(value) for row in offline + online for value in row.values())
    assert {"policy" if of.agent.policy else "actor", "critic"} <= moved(before, of)
    assert all(value.isfinite().all() for value in of.agent.state_dict().values())
