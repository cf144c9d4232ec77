"""Fine-tuning a real arm under a person's eyes, through the vendor's SDK on a double: their word, their hand, their patience."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hardware
from hardware import RealConfig, RobotConfig
from hardware.doubles import launch
from hardware.teleop.keys import TerminalKeys
from hardware.types import Source
from robolearn.agents.axes import Actor, Critic, Replay, Update
from robolearn.agents.config import AgentConfig
from robolearn.core.checkpoint import load_policy
from robolearn.core.errors import UserError
from robolearn.core.run import read_json, read_metrics
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.experiments import attendance, finetune
from robolearn.policies.regression import RegressionConfig

ALONE = AgentConfig(
    critic=Critic(heads=2, width=16, target="in_sample", entropy=False),
    actor=Actor(width=16, q=(0.0, 0.0), bc=(1.0, 1.0), beta=3.0),
    update=Update(utd=0.2, batch=16),
    replay=Replay(mix="balanced", interventions=True),
)
IN_CHUNKS = replace(ALONE, actor=replace(ALONE.actor, width=Actor().width), policy=RegressionConfig(horizon=6, widths=(16, 32)))


class Person(TerminalKeys):
    """`flights[i]` says what they type in which decision of the i-th flight; before each they put the scene right and press Enter, or q."""

    def __init__(self, *flights: dict[int, str] | None) -> None:
        super().__init__()
        self._flights = iter(flights)
        self._typed: dict[int, str] | None = {}
        self._moment = -4  # then the scene is put right: one read empties the line, the next is the key; one more as the episode begins

    def open(self) -> None: ...
    def close(self) -> None: ...

    def read(self) -> list[str]:
        self._moment += 1
        if self._moment == -2:
            self._typed = next(self._flights)
            return ["q" if self._typed is None else "\n"]
        assert self._typed is not None
        key = self._typed.get(self._moment)
        if key in ("s", "f", "r", "q", " "):
            self._moment = -4
        return [] if key is None else [key]


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(attendance, "SETTLE_S", 0.0)
    monkeypatch.setattr(attendance.Attendance, "leaves", lambda self: self.stopped)  # its reads are no moments of a flight
    return lambda *flights: monkeypatch.setattr(attendance, "keys_of", lambda _: Person(*flights))


def recorded(path: Path, robot: RobotConfig, episodes: int = 5) -> Path:
    """Small steps, some to a success."""
    spec, rng = hardware.spec_of(robot), np.random.default_rng(0)
    with EpisodeStore.create(path, spec) as store:
        for index in range(episodes):
            rows, won = 20, index != 3
            action = np.concatenate([rng.normal(0, 0.002, (rows, spec.action.dim - 1)), np.full((rows, 1), 0.5)], 1).astype(np.float32)
            ends = np.arange(rows) == rows - 1
            store.append(
                Episode(
                    time=np.arange(rows) / spec.rate_hz,
                    images={},
                    state={name: rng.normal(0, 0.1, (rows, part.dim)).astype(np.float32) for name, part in spec.state.items()},
                    action=action,
                    requested_action=action,
                    reward=(ends & won).astype(np.float32),
                    terminal=ends & won,
                    source=np.full(rows, Source.HUMAN, np.uint8),
                    meta={"success": won},
                )
            )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "agent",
    [pytest.param(ALONE, id="single actions", marks=pytest.mark.long), pytest.param(IN_CHUNKS, id="chunks, thought of beside")],
)
def test_it_learns_on_an_arm_from_a_persons_word_and_hand(
    tmp_path: Path, person, agent: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scservo_sdk")
    with launch("so101") as double:
        robot = RobotConfig("so101", arm=RealConfig(double.address, table_m=None, actions="ee_delta"), stale_s=5.0)
        config = finetune.Config(
            data=recorded(tmp_path / "data.zarr", robot),
            out=tmp_path / "run",
            robot=robot,
            agent=agent,
            episodes=3,
            chunk=3,
            offline_updates=10,
            held_out=0.2,
            takeover="keyboard",
            view_port=None,
        )
        person()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(attendance.Attendance, "leaves", lambda self: True)
            finetune.run(config)
        assert len(EpisodeStore.open(config.out / "online.zarr")) == 0, "they left while it learned"
        person({3: "u", 4: "u", 14: "s"}, {6: "r"}, {8: "f"}, None)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(config)
        assert not (config.out / "done.json").exists()
        person({5: "s"})
        result = finetune.run(replace(config, takeover=None))  # how it is watched may change
        assert double.panel.contacts == 0 and double.panel.writes > 100
    online = EpisodeStore.open(config.out / "online.zarr")
    first, second, third = (online.read(i) for i in range(3))
    assert (result["episodes"], result["successes"]) == (3, 2) and len(online) == 3
    human = first.source == Source.HUMAN
    assert human[3:5].all() and not human[:3].any() and not human[-1] and first.meta["takeovers"] == 1
    assert (first.action[3:5, 2] > 0).all(), "it went up"
    assert (first.reward[-1], first.terminal[-1], first.meta["success"]) == (1.0, True, True)
    assert (second.reward[-1], second.terminal[-1], second.meta["verdict"]) == (0.0, False, "failure")
    assert third.meta["stopped"] is None and third.meta["calibration"] == online.meta(0)["calibration"]
    learned = [row for row in read_metrics(config.out / "learner/metrics.jsonl") if row["phase"] == "online"]
    assert {row["episode"] for row in learned} == {0, 1, 2}
    assert result["setpoints"] is None and read_json(config.out / "done.json")["successes"] == 2
    load_policy(config.out / "planner.pt", hardware.spec_of(robot))


def test_a_real_arm_needs_somebody_who_says_how_it_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    config = finetune.Config(data=tmp_path / "data.zarr", out=tmp_path / "run", robot=RobotConfig("so101", arm=RealConfig("/dev/null")))
    with pytest.raises(UserError, match=r"^takeover: missing: only a person .*; valid without one: browser, which has a STOP$"):
        finetune.run(config)
    with pytest.raises(UserError, match="takeover: keyboard: the input is not a terminal"):
        finetune.run(replace(config, takeover="keyboard"))
    assert not config.out.exists()
