"""The report, from artefacts the verbs themselves wrote: what it says is what was measured, and what it advises works."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from robolearn.core.checkpoint import save_checkpoint
from robolearn.core.errors import UserError
from robolearn.evaluation.statistics import fisher_p
from robolearn.experiments import evaluate, report, teleop
from robolearn.policies.bc import BcConfig

FAKE = RobotConfig(body="fake", image_size=16)
VOID = {"meta", "br", "img", "line", "rect", "circle", "path"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """teleop, evaluate_before and evaluate_after by the verbs; train and finetune as their contract says."""
    folder = tmp_path_factory.mktemp("run")
    teleop.run(teleop.Config(out=folder / "teleop", robot=FAKE, episodes=2, videos=1))
    (folder / "train").mkdir()
    (folder / "train" / "config.yaml").write_text("seed: 3\n# <b>bold</b>\n")
    config = BcConfig(hidden=(8,), history=1, horizon=4)
    policy = config.build(hardware.spec_of(FAKE))
    rows = np.linspace([-0.6, 1.2], [-0.5, 1.3], 20, dtype=np.float32)
    policy.fit_normalizers(rows, rows)
    save_checkpoint(folder / "train" / "policy.pt", policy, config, {"encoder_weights": "trained on the dataset's own images"})
    write_lines(folder / "train" / "metrics.jsonl", [{"step": s, "loss": 1 / (s + 1), "val_loss": 2 / (s + 1)} for s in range(9)])
    done = json.loads((folder / "teleop" / "done.json").read_text())
    stage = {k: done[k] for k in ("versions", "commit", "platform", "cpus")} | {"peak_memory_mib": 321.0}
    (folder / "train" / "done.json").write_text(json.dumps(stage | {"seconds": 75.0, "stages": {"features": 5.0}}))
    shared = {"checkpoint": folder / "train" / "policy.pt", "robot": FAKE, "trials": 4, "chunk": 4, "videos": 1, "threads": 1}
    for name in ("evaluate_before", "evaluate_after"):
        evaluate.run(evaluate.Config(out=folder / name, **shared))
    finetune = folder / "finetune"
    finetune.mkdir()
    (finetune / "config.yaml").write_text("episodes: 6\n")
    (finetune / "done.json").write_text(json.dumps(stage | {"seconds": 30.0, "stages": {}}))
    episodes = [
        {
            "kind": "episode",
            "episode": i,
            "success": i > 2,
            "return": float(i),
            "length": 10,
            "interventions": {"workspace": 7},
            "stopped": None,
        }
        for i in range(6)
    ]
    write_lines(finetune / "metrics.jsonl", [*episodes, {"kind": "update", "loss": 1.0}])
    write_lines(finetune / "uncertainty.jsonl", [{"episode": i // 10, "step": i % 10, "uncertainty": 1 + i / 60} for i in range(60)])
    return folder


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def page(run):
    return report.run(report.Config(run=run)).read_text()


class Checker(HTMLParser):
    """Collects every address and checks that each element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href", "poster", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_it_is_whole_html_that_loads_nothing_from_anywhere(page):
    checker = read(page)
    assert checker.addresses and all(a.startswith("data:video/mp4;base64,") for a in checker.addresses)
    assert "default-src 'none'" in page and "<script" not in page and "@import" not in page and "url(" not in page


def test_it_says_what_was_measured(run, page):
    words = " ".join(read(page).text)
    before, after = (json.loads((run / f"evaluate_{n}" / "evaluation.json").read_text()) for n in ("before", "after"))
    p = fisher_p(before["successes"], 4, after["successes"], 4)
    assert f"{before['successes']} of 4 before, {after['successes']} of 4 after; Fisher's exact p = {p:.2g}" in words
    assert "On the same 4 starts" in words
    assert "scripted: a program that sees the simulator's state, not a person" in words
    assert "trained on the dataset's own images" in words
    assert "6 online episodes, 3 successful" in words
    assert "1 min 15 s" in words and "321 MiB" in words
    for section in (
        "Success",
        "Videos",
        "Learning online",
        "What the planner doubted",
        "What the governor did",
        "Deploy it",
        "Reproduce it",
    ):
        assert f"<h2>{section}</h2>" in page


def test_the_governors_counts_are_those_of_each_stage(run, page):
    row = next(r for r in re.findall(r"<tr>(.*?)</tr>", page) if "<td>workspace<small>" in r)
    flown = [
        json.loads((run / n / "evaluation.json").read_text())["interventions"].get("workspace", 0)
        for n in ("evaluate_before", "evaluate_after")
    ]
    teleop_rows = [json.loads(line) for line in (run / "teleop" / "metrics.jsonl").read_text().splitlines()]
    counts = [sum(r["interventions"].get("workspace", 0) for r in teleop_rows), flown[0], 42, flown[1]]
    assert re.findall(r'<td class="n">(.*?)</td>', row) == [str(c) if c else "–" for c in counts]


def test_each_films_bytes_are_in_the_page(run, page):
    films = sorted(run.glob("*/videos/*.mp4"))
    assert len(films) == 3 and page.count("<video") == 3


def test_the_exact_config_is_shown_and_escaped(run, page):
    assert html.escape((run / "teleop" / "config.yaml").read_text()) in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page and "<b>bold</b>" not in page


def test_the_python_it_advises_runs(page):
    source = html.unescape(re.search(r'<code id="deploy-python">(.*?)</code>', page, re.DOTALL)[1])
    assert "RobotConfig(body='fake', image_size=16)" in source
    scope = {}
    exec(compile(source, "deploy", "exec"), scope)
    assert scope["robot"].clock.now() > 9.0, "it drove a hundred decisions"


def test_the_command_it_advises_parses(page):
    from robolearn.cli import parse

    command = html.unescape(re.search(r'<code id="deploy-command">(.*?)</code>', page, re.DOTALL)[1]).split()
    assert command[:2] == ["robolearn", "evaluate"]
    config = parse("evaluate", evaluate.Config, command[2:])
    assert config.robot == FAKE and config.chunk == 4 and config.checkpoint.exists()


@pytest.mark.parametrize("kept", ["teleop", "train", "evaluate_before", "finetune", "evaluate_after"])
def test_it_renders_with_whatever_exists(run, tmp_path, kept):
    (tmp_path / kept).symlink_to(run / kept)
    read(report.run(report.Config(run=tmp_path, out=tmp_path / "one.html")).read_text())
    (tmp_path / kept).unlink()
    (tmp_path / kept).mkdir()
    (tmp_path / kept / "config.yaml").write_text((run / kept / "config.yaml").read_text())
    page = report.run(report.Config(run=tmp_path)).read_text()  # begun, nothing there yet
    assert "Not finished" in page
    read(page)


def test_nothing_to_report_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"nothing to report; expected a folder with any of teleop, train"):
        report.run(report.Config(run=tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []
