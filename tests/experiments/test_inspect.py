from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import av
import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.checks.flags import AMONG, RULES
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.data.writing import UNFINISHED
from robolearn.evaluation import album
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
    assert parser.pictures == 3 + 3 + 3 + 2  # first frames, last frames, flagged episodes, one strip for each episode shown
    assert html.count("<video") == 2
    assert "<script" not in html and "lift<b>" not in html
    assert html.count("<svg") >= 2 + 1 + 2 * 4  # two elements of state and of action for each episode shown
    assert len(html) < 15e6


def test_the_films_play(store, tmp_path):
    run(Config(path=store, shown=1))
    data = re.search(r'src="data:video/mp4;base64,([^"]+)"', store.with_name("d.html").read_text())
    assert data is not None
    (tmp_path / "film.mp4").write_bytes(base64.b64decode(data[1]))
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == 20
        assert len(list(film.decode(video=0))) == 20


def test_every_frame_is_read_once(store, monkeypatch):
    read, asked = EpisodeStore.read, []

    def counted(self, index, *span):
        asked.append((index, *span))
        return read(self, index, *span)

    monkeypatch.setattr(EpisodeStore, "read", counted)

    def refused(self, *_):
        raise AssertionError("read a second time")

    monkeypatch.setattr(EpisodeStore, "frames", refused)
    monkeypatch.setattr(EpisodeStore, "hold_frames", refused)
    run(Config(path=store, against=store, reference=store))
    assert asked == [(0,), (1,), (2,)]


def test_limits_are_drawn_and_what_is_beyond_them_marked(store):
    with EpisodeStore.open(store, "a") as writer:
        episode = writer.read(0)
        state = {"q": episode.state["q"].copy()}
        state["q"][5, 0] = 1.5
        writer.append(replace(episode, state=state))
    run(Config(path=store, shown=4))
    html = store.with_name("d.html").read_text()
    assert html.count('class="marks"') == 1 and html.count('class="limit"') > 8
    assert "reach beyond its limits in 5.0% of the rows" in html


def test_the_flags_and_their_reasons(store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run(Config(path=store))
    shown, html = capsys.readouterr().out, store.with_name("d.html").read_text()
    for name in ("frozen_camera", "dropped_rows", "unlabeled", "unended"):
        assert name in shown and name in html
    assert "above 4 rows" in shown and "a camera at a third of the rows&#x27; rate" in html
    for rule in RULES | AMONG:
        assert rule in html  # the page lists also what was not broken


def test_a_habit_is_said_once(store):
    with EpisodeStore.open(store, "a") as writer:
        for index in (0, 1, 2):
            episode = writer.read(index)
            writer.append(replace(episode, action=episode.action * 0.5, meta={"success": None}))
    run(Config(path=store))
    html = store.with_name("d.html").read_text()
    assert "Most episodes are flagged jerk, unlabeled: " in html
    assert "success unknown" not in html.partition("<h2>Flags</h2>")[0]


def test_copies_across_stores(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with EpisodeStore.create(tmp_path / "test.zarr", EpisodeStore.open(store).spec) as other:
        other.append(EpisodeStore.open(store).read(2))
    run(Config(path=store, against=tmp_path / "test.zarr", reference=tmp_path / "test.zarr"))
    shown = capsys.readouterr().out
    assert f"the same as episode 0 of {tmp_path / 'test.zarr'}" in shown and "SACo" in shown
    run(Config(path=store))
    shown = capsys.readouterr().out
    assert "the same as" not in shown and "unique pairs per row" in shown


def test_what_was_never_finished_is_told(store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    run(Config(path=store))
    assert "unfinished" not in capsys.readouterr().out
    with (store / "episodes.jsonl").open("a") as journal:
        journal.write('{"start": 768, "len')
    store.with_name(".d.zarr.partial").mkdir()
    (store / UNFINISHED / "abc").mkdir(parents=True)
    run(Config(path=store))
    shown = capsys.readouterr().out
    assert "the last 19 bytes of episodes.jsonl are no episode" in shown
    assert "an import was interrupted: .d.zarr.partial" in shown
    assert f"1 recordings without an end in {UNFINISHED}/" in shown


def test_a_camera_that_lags_in_the_whole_store(tmp_path, capsys, monkeypatch):
    """A pattern that is drawn along with the state, three rows late."""
    monkeypatch.setenv("COLUMNS", "400")
    one = ArraySpec(("x",), ("m",), (-np.inf,), (np.inf,))
    spec, rng, rows = RobotSpec("arm", {"front": (8, 8)}, {"q": one}, one, "joint_pos", 20.0), np.random.default_rng(0), 180
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        for _ in range(4):
            x = 0.05 * np.cumsum(np.repeat(rng.uniform(-1, 1, rows // 4), 4))[:, None].astype(np.float32)
            wave = 128 + 60 * np.sin(9 * x[:, :, None] + np.linspace(0, 6, 8)[None, None] + np.linspace(0, 3, 8)[None, :, None])
            frames = wave.astype(np.uint8)[np.clip(np.arange(rows) - 3, 0, rows - 1), ..., None].repeat(3, axis=-1)
            zeros, source = np.zeros(rows, np.float32), np.full(rows, 2, np.uint8)
            store.append(Episode(np.arange(rows) / 20, {"front": frames}, {"q": x}, x, x, zeros, zeros > 0, source, {"success": False}))
    run(Config(path=tmp_path / "d.zarr"))
    assert "0.150 s behind the state" in capsys.readouterr().out
    assert "front: 0.150 s behind the state" in (tmp_path / "d.html").read_text()


def test_a_page_stays_small_whatever_is_asked_for(store, monkeypatch):
    """The store is noise, the worst for films and pictures."""
    monkeypatch.setattr(album, "CLIPS_BYTES", 3 * 50_000)
    run(Config(path=store, shown=3))
    html = store.with_name("d.html").read_text()
    assert html.count("<video") > 0 and all(len(clip) < 50_000 * 4 / 3 + 100 for clip in re.findall(r"data:video[^\"]+", html))
    monkeypatch.setattr(album, "CLIPS_BYTES", 3 * 500)
    run(Config(path=store, shown=3))
    assert "<video" not in store.with_name("d.html").read_text()
    monkeypatch.setattr(album, "PAGE_BYTES", 100)
    run(Config(path=store, shown=3))
    html = store.with_name("d.html").read_text()
    assert "<h2>Episode 0</h2>" in html and "<h2>Episode 1</h2>" not in html
    assert "Not shown, or the page would be too large: 1, 2." in html


@pytest.mark.parametrize("kind", ["one row", "nothing but actions", "huge", "requests that are not numbers", "all still"])
def test_odd_stores_get_a_page_too(tmp_path, kind):
    one, bare, rows = ArraySpec(("x",), ("m",), (-1.0,), (1.0,)), kind == "nothing but actions", 1 if kind == "one row" else 12
    spec = RobotSpec("arm", {} if bare else {"front": (1, 3)}, {} if bare else {"q": one}, one, "joint_pos", 20.0)
    x = np.linspace(-1, 1, rows, dtype=np.float32)[:, None] * np.float32({"huge": 3e38, "all still": 0}.get(kind, 0.5))
    asked = np.full_like(x, np.nan) if "requests" in kind else x
    episode = Episode(
        time=np.arange(rows) / 20,
        images={} if bare else {"front": np.zeros((rows, 1, 3, 3), np.uint8)},
        state={} if bare else {"q": x},
        action=x,
        requested_action=asked,
        reward=np.zeros(rows, np.float32),
        terminal=np.zeros(rows, bool),
        source=np.full(rows, 77, np.uint8),
        meta={"a": {"b": [1]}},
    )
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        for _ in range(1 if kind == "one row" else 2):
            store.append(episode)
    run(Config(path=tmp_path / "d.zarr"))
    page = re.sub(r"base64,[^\"]+", "", (tmp_path / "d.html").read_text())
    Balanced().feed(page)
    assert "M nan" not in page and "Lnan" not in page and 'cy="nan' not in page


def test_wrong_words(store, tmp_path):
    with pytest.raises(UserError, match="shown: -1 episodes; expected 0 or more"):
        run(Config(path=store, shown=-1))
    with pytest.raises(UserError, match="nowhere: no such store"):
        run(Config(path=store, against=tmp_path / "nowhere"))
    run(Config(path=store, shown=0))
    assert "<video" not in store.with_name("d.html").read_text()


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
