"""A preset is a few fields of the common agent changed: exactly those of its file, and exactly those of its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware.types import ArraySpec, RobotSpec
from robolearn.agents.config import AgentConfig, PlannerConfig, check_idle
from robolearn.cli import parse
from robolearn.core.config import from_dict, nested, preset_values, presets, to_dict
from robolearn.core.errors import UserError
from robolearn.experiments import finetune_config
from robolearn.planning.search import SearchConfig
from robolearn.worldmodels.dynamics import ModelConfig

PLANE = ArraySpec(("dx", "dy"), ("m", "m"), (-0.1, -0.1), (0.1, 0.1))
SPEC = RobotSpec("point", {}, {"place": ArraySpec(("x", "y"), ("m", "m"), (-1, -1), (1, 1))}, PLANE, "ee_delta", 10.0)
PAGES = Path(__file__).parents[2] / "docs" / "presets"
NAMES = presets("agents")
every_preset = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Config:
    agent: AgentConfig = AgentConfig()


def preset(name: str, **beside: Any) -> AgentConfig:
    return from_dict(AgentConfig, {"preset": name, **beside})


def common(config: AgentConfig) -> AgentConfig:
    """The common agent, with a policy, a model and a planner at their defaults where `config` has any."""
    parts = {"model": ModelConfig(), "planner": PlannerConfig(), "policy": type(config.policy)() if config.policy else None}
    return replace(AgentConfig(), **{name: part for name, part in parts.items() if getattr(config, name)})


def leaves(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted field -> value. A mapping of nothing is a leaf, too: `model: {}` asks for one."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= leaves(value, f"{above}{name}.") if isinstance(value, Mapping) and value else {above + name: value}
    return found


def differing(config: AgentConfig) -> dict[str, Any]:
    """Dotted field -> the common agent's value, of every field that has another one; null of a part that is there with its defaults."""
    base = common(config)
    here, there = leaves(to_dict(config)), leaves(to_dict(base))
    bare = [name for name in ("model", "planner") if getattr(config, name) and getattr(config, name) == getattr(base, name)]
    kind = ["policy.type"] if config.policy else []
    return {name: there[name] for name in here if here[name] != there[name]} | dict.fromkeys(bare + kind)


def table(name: str) -> dict[str, tuple[Any, Any]]:
    """Field -> (common agent, here), of a page's Fields."""
    section = (PAGES / f"{name}.md").read_text(encoding="utf-8").split("\n## Fields\n")[1].split("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(row) for row in rows), f"{name}.md: a row needs a field, two values and a reason"
    assert len({row[0] for row in rows}) == len(rows), f"{name}.md: a field has two rows"
    return {field: (yaml.safe_load(there), yaml.safe_load(here)) for field, there, here, _ in rows}


@every_preset
def test_it_builds_for_a_robot(name):
    config = preset(name)
    agent = config.build(SPEC)
    check_idle(config)
    finetune_config.check(finetune_config.Config(agent=config))
    assert agent.critic.online.members == config.critic.heads
    assert (agent.model is None) == (config.model is None)


@every_preset
def test_its_file_holds_only_what_differs_from_the_common_agent(name):
    assert set(leaves(preset_values("agents", name))) == set(differing(preset(name)))


@every_preset
def test_its_page_names_these_fields_with_these_values(name):
    rows, config = table(name), preset(name)
    assert {field: there for field, (there, _) in rows.items()} == differing(config)
    assert from_dict(AgentConfig, nested({field: here for field, (_, here) in rows.items()})) == config


@every_preset
def test_its_page_has_the_parts_of_all_pages(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}: ")
    assert f"preset: {name}}}" in page
    assert "- " in page.split("\n## Deviations\n")[1]


def test_every_preset_has_a_page_and_every_page_is_linked():
    assert sorted(path.stem for path in PAGES.glob("*.md") if path.name != "README.md") == NAMES
    readme = (PAGES / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"| [{name}]({name}.md) |" not in readme] == []


def test_an_unknown_name_is_answered_with_those_that_exist():
    with pytest.raises(UserError) as error:
        preset("iqll")
    assert str(error.value) == f"config: preset: 'iqll' is not one; valid: {', '.join(NAMES)}"


def test_fields_beside_a_preset_win_and_leave_the_rest():
    iql = preset("iql")
    assert preset("iql", actor={"beta": 10}) == replace(iql, actor=replace(iql.actor, beta=10.0))
    assert preset("fowm", planner=None) == replace(preset("fowm"), planner=None)


def test_the_command_line_takes_a_preset_and_fields_beside_it():
    iql = preset("iql")
    config = parse("finetune", Config, ["--agent.preset", "iql", "--agent.update.utd", "4"])
    assert config.agent == replace(iql, update=replace(iql.update, utd=4.0))


def test_an_option_of_a_part_that_may_be_absent_brings_it_in():
    config = parse("finetune", Config, ["--agent.preset", "tdmpc2", "--agent.planner.caution.critics", "2"])
    tdmpc2 = preset("tdmpc2")
    assert config.agent == preset("tdmpc2", planner={"caution": {"critics": 2.0}}) != tdmpc2  # the rest of the preset's stays
    assert parse("finetune", Config, ["--agent.planner.search.samples=7"]).agent.planner == PlannerConfig(SearchConfig(samples=7))
    assert parse("finetune", Config, []).agent.planner is None
