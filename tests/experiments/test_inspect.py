from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.experiments.inspect import Config, run

VOID = {"meta", "img", "br", "rect", "line", "circle", "path"}


class Balanced(HTMLParser):
    """Every element is closed; what would be loaded from elsewhere is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]
        self.pictures += tag == "img"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def store(tmp_path):
    limits = ArraySpec(("reach", "lift<b>"), ("m", "m"), (0.0, -np.inf), (1.0, np.inf))
    spec = RobotSpec("arm", {"front": (8, 8)}, {"q": limits}, limits, "ee_delta", 20.0)
    rng = np.random.default_rng(0)
    with EpisodeStore.create(tmp_path / "d.zarr", spec, {"import": {"from": "there"}}) as store:
        for index in range(3):
            rows = 20
            images = rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
            time = np.arange(rows) / 20
            if index == 1:
                images[3:10] = images[3]
                time[12:] += 0.3
            values = rng.uniform(0.1, 0.9, (rows, 2)).astype(np.float32)
            store.append(
                Episode(
                    time=time,
                    images={"front": images},
                    state={"q": values},
                    action=values,
                    requested_action=values,
                    reward=np.zeros(rows, np.float32),
                    terminal=np.zeros(rows, bool),
                    source=np.full(rows, 2, np.uint8),
                    meta={"success": [True, False, None][index], "task": "<script>"},
                )
            )
    return store.path


def test_the_table_tells_the_facts(store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run(Config(path=store))
    shown = capsys.readouterr().out
    for fact in ("3, 20 to 20 rows", "60, 0.1 min", "1 yes, 1 no, 1 unknown", "human 100.0%", "front 8x8 px", "import.from: there"):
        assert fact in shown
    assert "20.00 Hz measured" in shown and "1 episodes with a late row" in shown
    assert "front shows one picture for 7 rows; a step of 350 ms instead of 50 ms" in shown
    assert "reach" in shown and "0 to 1" in shown and "-inf to inf" in shown


def test_the_page_is_whole_and_needs_nothing_else(store):
    run(Config(path=store, shown=2))
    html = store.with_name("d.html").read_text()
    parser = Balanced()
    parser.feed(html)
    assert parser.open == [] and parser.links == []
    assert parser.pictures == 2  # one contact sheet for each episode shown
    assert "<script" not in html and "lift<b>" not in html
    assert html.count("<svg") >= 2 + 1 + 2 * 3


def test_the_seed_chooses_what_is_shown(store, tmp_path):
    pages = []
    for seed in (0, 0, 1, 2, 3, 4):
        run(Config(path=store, out=tmp_path / "p.html", shown=1, seed=seed))
        pages.append((tmp_path / "p.html").read_text())
    assert pages[0] == pages[1] and len(set(pages)) > 1


def test_nothing_to_inspect(tmp_path, store):
    with pytest.raises(UserError, match="no such store"):
        run(Config(path=tmp_path / "nowhere"))
    spec = EpisodeStore.open(store).spec
    EpisodeStore.create(tmp_path / "empty.zarr", spec).close()
    with pytest.raises(UserError, match="holds no episode yet"):
        run(Config(path=tmp_path / "empty.zarr"))
    assert not (tmp_path / "empty.html").exists()
