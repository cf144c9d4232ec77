"""Operations on one episode: what is cut, what is kept, and that clocks, ends and rewards survive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.editing.edits import Redact, Rename, Resample, TrimIdle, chain, cut, pauses
from robolearn.data.episode import Episode, Stream, check_episode

ONE = ArraySpec(("x",), ("m",), (-9.0,), (9.0,))
TWO = ArraySpec(("a", "b"), ("rad", "rad"), (-9.0,) * 2, (9.0,) * 2)
SPEC = RobotSpec("arm", {"front": (8, 6), "wrist": (4, 4)}, {"q": ONE, "p": TWO}, TWO, "joint_pos", 10.0, {"force": ONE})
SCALE = np.ones(3)


def made(q: list[float], seed: int = 0, rate_hz: float = 10.0) -> Episode:
    """One row for each value of state q; everything else tells rows apart."""
    rows, rng = len(q), np.random.default_rng(seed)
    time = 100 + np.arange(rows) / rate_hz
    action = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    samples = np.arange(100 - 0.03, time[-1] + 0.08, 0.02)  # from before the first row to after the last
    return Episode(
        time=time,
        images={name: rng.integers(0, 256, (rows, *size, 3), dtype=np.uint8) for name, size in SPEC.cameras.items()},
        state={"q": np.array(q, np.float32)[:, None], "p": np.zeros((rows, 2), np.float32)},
        action=action,
        requested_action=action + 1,
        reward=np.zeros(rows, np.float32),
        terminal=np.zeros(rows, bool),
        source=np.full(rows, 2, np.uint8),
        meta={"success": True},
        image_time={"front": time - 0.02},
        streams={"force": Stream(samples, samples.astype(np.float32)[:, None])},
    )


def kept(episode: Episode) -> list[int]:
    """Which rows of a `made` episode these are: its actions count them."""
    return (episode.action[:, 0] / 2).astype(int).tolist()


def trimmed(episode: Episode, ends_s: float | None = None, inside_s: float | None = None) -> Episode:
    result = TrimIdle(SPEC, SCALE, ends_s, inside_s)(episode)
    check_episode(result, SPEC)
    return result


# Standing still for 5 steps, moving for 4, still for 6, moving for 3, still for 4: rows 0-5, 9-15, 18-22 are pauses.
Q = [0.0] * 5 + [0, 1, 2, 3] + [4] * 6 + [4, 5, 6] + [7] * 5


def test_where_it_stands() -> None:
    assert pauses(np.array(Q)[:, None], np.ones(1)) == [(0, 5), (9, 15), (18, 22)]
    assert pauses(np.arange(5.0)[:, None], np.ones(1)) == []
    assert pauses(np.zeros((4, 2)), np.array([1.0, np.inf])) == [(0, 3)]
    assert pauses(np.zeros((1, 1)), np.ones(1)) == []


def test_what_creeps_is_moving() -> None:
    """0.09 % of the range each step is still by itself; 1 % from where it began is not."""
    creeping = np.arange(100)[:, None] * 9e-4
    found = pauses(creeping, np.ones(1))
    assert found[0][0] == 0 and max(last - first for first, last in found) == 11
    assert max(abs(creeping[last, 0] - creeping[first, 0]) for first, last in found) <= 0.01


def test_trimming_the_ends() -> None:
    assert kept(trimmed(made(Q), ends_s=0.0)) == list(range(5, 19))
    assert kept(trimmed(made(Q), ends_s=0.21)) == list(range(3, 21))
    assert kept(trimmed(made(Q), ends_s=9.0)) == list(range(23))


def test_trimming_the_pauses_between() -> None:
    assert kept(trimmed(made(Q), inside_s=0.21)) == [*range(11), *range(14, 23)]
    assert kept(trimmed(made(Q), inside_s=0.61)) == list(range(23))
    assert kept(trimmed(made(Q), ends_s=0.0, inside_s=0.0)) == [*range(5, 10), *range(15, 19)]


def test_an_episode_that_never_moves_keeps_its_end() -> None:
    assert kept(trimmed(made([1.0] * 9), ends_s=0.31)) == [5, 6, 7, 8]


def test_rows_that_end_or_reward_a_task_stay() -> None:
    episode = made(Q)
    episode.terminal[22], episode.reward[21:] = True, 1.0
    short = trimmed(episode, ends_s=0.0)
    assert kept(short) == [*range(5, 19), 21, 22]
    assert short.terminal.tolist() == [False] * 15 + [True] and short.reward.tolist() == [0.0] * 14 + [1.0, 1.0]
    np.testing.assert_allclose(np.diff(short.time), 0.1)


def test_the_gap_closes_for_rows_frames_and_streams() -> None:
    episode = made(Q)
    short = trimmed(episode, ends_s=0.0, inside_s=0.0)
    rows = [*range(5, 10), *range(15, 19)]
    np.testing.assert_allclose(short.time, 100.5 + np.arange(9) / 10)
    np.testing.assert_allclose(short.image_time["front"], short.time - 0.02)
    for name in SPEC.cameras:
        np.testing.assert_array_equal(short.images[name], episode.images[name][rows])
    np.testing.assert_array_equal(short.state["q"], episode.state["q"][rows])
    np.testing.assert_array_equal(short.requested_action, short.action + 1)
    # Each stream sample holds the time at which it was taken: it lies as far behind its row as before.
    force = short.streams["force"]
    was, row = force.values[:, 0].astype(float), np.searchsorted(short.time, force.time + 1e-9, side="right") - 1
    np.testing.assert_allclose(force.time - short.time[row], was - episode.time[np.array(rows)[row]], atol=1e-4)
    assert len(force.time) == 5 * len(rows)  # 50 Hz, and nothing of the rows that went


@given(st.lists(st.booleans(), min_size=2, max_size=40).filter(any), st.integers(0, 2**32 - 1))
def test_whatever_is_cut_an_episode_stays_an_episode(mask, seed) -> None:
    rng = np.random.default_rng(seed)
    episode = made([0.0] * len(mask), seed)
    time = np.cumsum(rng.uniform(0.01, 0.3, len(mask)))
    samples = np.cumsum(rng.uniform(0.001, 0.05, 100))
    taken = np.maximum.accumulate(time - rng.uniform(0, 0.3, len(mask)))
    stream = Stream(samples, np.zeros((100, 1), np.float32))
    result = cut(replace(episode, time=time, image_time={"front": taken}, streams={"force": stream}), np.array(mask))
    check_episode(result, SPEC)
    assert len(result) == sum(mask) and result.time[0] == time[mask.index(True)]
    steps = np.diff(time)[np.flatnonzero(mask)[:-1]]
    np.testing.assert_allclose(np.diff(result.time), steps, rtol=1e-9)


def test_trimming_needs_a_state_and_sense() -> None:
    with pytest.raises(UserError, match="trim_idle: no state was recorded"):
        TrimIdle(replace(SPEC, state={}), np.ones(0), 1.0, None)
    with pytest.raises(UserError, match="trim_idle: -1.0 s; expected 0 or more"):
        TrimIdle(SPEC, SCALE, -1.0, None)
    with pytest.raises(UserError, match="trim_pauses: nan s"):
        TrimIdle(SPEC, SCALE, None, np.nan)


# Resampling -----------------------------------------------------------------------------------------------------------


def test_half_the_rate_is_every_other_row() -> None:
    episode = made([float(i) for i in range(9)])
    episode.reward[:] = np.arange(9)
    episode.terminal[8] = True
    half = Resample(SPEC, 5.0)
    assert half.spec == replace(SPEC, rate_hz=5.0)
    result = half(episode)
    check_episode(result, half.spec)
    assert kept(result) == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(result.time, 100 + np.arange(5) / 5)
    np.testing.assert_array_equal(result.images["front"], episode.images["front"][::2])
    np.testing.assert_array_equal(result.state["q"][:, 0], [0, 2, 4, 6, 8])
    assert result.reward.tolist() == [0 + 1, 2 + 3, 4 + 5, 6 + 7, 8] and result.terminal.tolist() == [False] * 4 + [True]
    np.testing.assert_allclose(result.image_time["front"], result.time - 0.02)
    np.testing.assert_array_equal(result.streams["force"].time, episode.streams["force"].time)


def test_between_two_rows_the_older_frame_and_command_and_the_state_in_between() -> None:
    episode = made([0.0, 1.0, 4.0])
    episode.reward[:] = [1, 2, 3]
    result = Resample(SPEC, 25.0)(episode)
    assert kept(result) == [0, 0, 0, 1, 1, 2]
    np.testing.assert_allclose(result.state["q"][:, 0], [0, 0.4, 0.8, 1.6, 2.8, 4], rtol=1e-6)
    assert result.reward.tolist() == [1, 0, 2, 0, 0, 3]  # in the tick in which each row began


@given(st.integers(1, 30), st.floats(0.5, 200), st.integers(0, 2**32 - 1))
def test_no_tick_sees_the_future_and_no_reward_is_lost(rows, rate_hz, seed) -> None:
    rng = np.random.default_rng(seed)
    episode = replace(made([0.0] * rows), time=np.cumsum(rng.uniform(0.01, 0.3, rows)), reward=rng.normal(size=rows).astype(np.float32))
    episode.terminal[-1] = True
    result = Resample(SPEC, rate_hz)(replace(episode, image_time={}))
    seen = episode.time[kept(result)]
    assert (seen <= result.time + 1e-3 / rate_hz).all()
    newest = [episode.time[episode.time <= tick + 1e-3 / rate_hz].max() for tick in result.time]
    np.testing.assert_array_equal(seen, newest)
    np.testing.assert_allclose(result.reward.sum(), episode.reward.sum(), atol=1e-4)
    assert result.terminal[-1] and result.terminal.sum() == 1
    assert episode.time[-1] - 1 / rate_hz < result.time[-1] <= episode.time[-1] + 1e-3 / rate_hz


def test_what_cannot_be_resampled() -> None:
    for rate in (0.0, -1.0, np.nan, np.inf, 1e9):
        with pytest.raises(UserError, match=r"rate_hz: .* Hz; expected above 0 and at most 10000"):
            Resample(SPEC, rate)
    with pytest.raises(UserError, match="actions of mode ee_delta are steps of one row; make them absolute first"):
        Resample(replace(SPEC, action_mode="ee_delta"), 5.0)
    long = replace(made([0.0, 1.0]), time=np.array([0.0, 1e9]))
    with pytest.raises(UserError, match="the resampled episode has shape .*GiB"):
        Resample(SPEC, 10_000)(long)


# Redacting and renaming -----------------------------------------------------------------------------------------------


def test_a_camera_is_dropped_or_blackened() -> None:
    episode = made([0.0, 1.0])
    redact = Redact(SPEC, ["wrist", "front:2,1,5,4"])
    result = redact(episode)
    check_episode(result, redact.spec)
    assert dict(redact.spec.cameras) == {"front": (8, 6)}
    inside = np.zeros((8, 6), bool)
    inside[2:5, 1:4] = True
    assert (result.images["front"][:, inside] == 0).all()
    np.testing.assert_array_equal(result.images["front"][:, ~inside], episode.images["front"][:, ~inside])
    assert (episode.images["front"][:, inside] != 0).any()  # the source's frames are not touched
    gone = Redact(SPEC, ["front", "front:0,0,1,1"])
    assert list(gone(episode).images) == ["wrist"] and gone(episode).image_time == {}


@pytest.mark.parametrize("text", ["front:1,2,3", "front:a,b,c,d", "front:5,0,2,3", "front:0,0,9,3", "front:0,0,8,7", "front:-1,0,3,3"])
def test_a_rectangle_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="expected front:top,left,bottom,right within 8x6 px"):
        Redact(SPEC, [text])


def test_what_is_no_camera_lists_them() -> None:
    for text in ("top", "top:0,0,1,1", "q", ""):
        with pytest.raises(UserError, match=f"redact: {text.split(':')[0]!r} is not a camera; valid: front, wrist"):
            Redact(SPEC, [text])


def test_renaming_takes_everything_along() -> None:
    names = [
        "front=wrist",
        "wrist=hand.left",
        "q=joints",
        "state.p.a=b",
        "state.p.b=a",
        "action.a=left",
        "force=load",
        "streams.force.x=fx",
    ]
    rename, episode = Rename(SPEC, names), made([0.0, 1.0])
    result = rename(episode)
    check_episode(result, rename.spec)
    assert dict(rename.spec.cameras) == {"wrist": (8, 6), "hand.left": (4, 4)}
    assert {k: v.names for k, v in rename.spec.state.items()} == {"joints": ("x",), "p": ("b", "a")}
    assert rename.spec.action.names == ("left", "b") and {k: v.names for k, v in rename.spec.streams.items()} == {"load": ("fx",)}
    assert result.images["wrist"] is episode.images["front"] and list(result.image_time) == ["wrist"]
    assert result.state["joints"] is episode.state["q"] and result.streams["load"] is episode.streams["force"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top=front", "rename: 'top' is not known; expected OLD=NEW with OLD one of: images.front"),
        ("front", "rename: 'front' is not known; expected OLD=NEW"),
        ("front=wrist", "rename: two of images would have the same name: wrist, wrist"),
        ("action.a=b", "rename: two of action would have the same name: b, b"),
        ("x=y", "rename: 'x' is not known"),
    ],
)
def test_a_rename_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rename(SPEC, [text])


def test_a_name_that_two_kinds_share_must_say_which() -> None:
    spec = replace(SPEC, state={"front": ONE, "p": TWO})
    with pytest.raises(UserError, match="'front' is not known; .*images.front.*state.front"):
        Rename(spec, ["front=top"])
    assert list(Rename(spec, ["images.front=top"]).spec.cameras) == ["top", "wrist"]
    assert list(Rename(spec, ["state.front=top"]).spec.state) == ["top", "p"]


def test_a_chain_hands_the_spec_on() -> None:
    spec, edits = chain(SPEC, lambda s: Redact(s, ["wrist"]), lambda s: Rename(s, ["front=top"]), lambda s: Resample(s, 5))
    assert dict(spec.cameras) == {"top": (8, 6)} and spec.rate_hz == 5.0 and len(edits) == 3
    with pytest.raises(UserError, match="'wrist' is not known"):
        chain(SPEC, lambda s: Redact(s, ["wrist"]), lambda s: Rename(s, ["wrist=top"]))
    assert chain(SPEC) == (SPEC, [])
