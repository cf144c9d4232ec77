from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.data.checks.duplicates import Twin
from robolearn.data.checks.flags import AMONG, RULES, compare, episode_flags, examine, flags
from robolearn.data.checks.footage import watch
from robolearn.data.checks.motion import jumps, roughness, steps_of
from robolearn.data.checks.synchrony import Profile, pooled, profile
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore

ROWS, RATE = 120, 20.0
POSE = ArraySpec(("x", "y"), ("m", "m"), (-1.0, -1.0), (1.0, 1.0))
ACTION = ArraySpec(("dx", "dy", "grip"), ("m", "m", "1"), (-1.0, -1.0, 0.0), (1.0, 1.0, 1.0))
SPEC = RobotSpec("arm", {"front": (24, 32), "wrist": (16, 16)}, {"pose": POSE}, ACTION, "ee_delta", RATE)
SCALE = np.array([1.0, 1.0])


def smooth(rows: int, seed: int = 0) -> np.ndarray:
    """(rows, 2) a slow random motion within +-0.5: sums of sines that differ for every seed."""
    rng, t = np.random.default_rng(seed), np.arange(rows)[:, None] / RATE
    waves = [rng.uniform(0.3, 1) * np.sin(2 * np.pi * rng.uniform(0.2, 0.8, 2) * t + rng.uniform(0, 6, 2)) for _ in range(3)]
    return (0.15 * np.sum(waves, axis=0)).astype(np.float32)


def filmed(pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A pattern of waves that is drawn along: the picture changes as fast as the pose does."""
    height, width = size
    down, across = np.linspace(0, 6, height)[None, :, None], np.linspace(0, 8, width)[None, None, :]
    grey = 128 + 50 * np.sin(across - 9 * pose[:, 0, None, None]) + 50 * np.sin(down - 9 * pose[:, 1, None, None])
    return grey.astype(np.uint8)[..., None].repeat(3, axis=-1)


def clean(rows: int = ROWS, seed: int = 0, **meta) -> Episode:
    pose = smooth(rows, seed)
    action = np.concatenate([np.clip(pose, -0.9, 0.9), (np.arange(rows) % 40 < 20)[:, None]], axis=1).astype(np.float32)
    terminal = np.zeros(rows, bool)
    terminal[-1] = True
    return Episode(
        time=np.arange(rows) / RATE,
        images={name: filmed(pose, size) for name, size in SPEC.cameras.items()},
        state={"pose": pose},
        action=action,
        requested_action=action,
        reward=np.zeros(rows, np.float32),
        terminal=terminal,
        source=np.full(rows, 2, np.uint8),
        meta={"success": True} | meta,
    )


def found(episode: Episode) -> dict[str, str]:
    """Rules that are broken -> what is said."""
    return {flag.rule.name: flag.says for flag in examine(0, episode, SPEC, SCALE).raised}


def with_frames(episode: Episode, camera: str, change) -> Episode:
    frames = episode.images[camera].copy()
    return replace(episode, images={**episode.images, camera: change(frames)})


def with_pose(episode: Episode, change) -> Episode:
    pose = episode.state["pose"].copy()
    change(pose)
    return replace(episode, state={"pose": pose})


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_episode_breaks_no_rule(seed):
    assert found(clean(seed=seed)) == {}


def test_the_docstring_lists_every_name_with_its_unit():
    listed = {}
    for names, unit in re.findall(r"^    ([a-z_, ]+) \[([^\]]+)\]", episode_flags.__doc__ or "", re.M):
        listed |= dict.fromkeys(names.split(", "), unit)
    assert listed == {name: rule.unit for name, rule in RULES.items()}
    assert all(name.isidentifier() for name in RULES | AMONG)
    assert not RULES.keys() & AMONG.keys()


def test_the_numbers_can_be_filtered_by():
    values = episode_flags(7, clean(), SPEC, SCALE)
    assert list(values) == list(RULES)
    assert {type(value) for name, value in values.items() if RULES[name].unit != "bool"} == {float}
    assert {type(value) for name, value in values.items() if RULES[name].unit == "bool"} == {bool}
    assert eval("idle < 0.3 and not unlabeled and frozen_camera <= 4", {}, dict(values))


def test_every_rule_says_why():
    for rule in (RULES | AMONG).values():
        assert rule.reason and rule.meaning and "\n" not in rule.reason + rule.meaning
        assert (rule.threshold is None) == (rule.unit == "bool")


def test_a_frozen_camera():
    def freeze(frames):
        frames[30:41] = frames[30]
        return frames

    assert found(with_frames(clean(), "wrist", freeze)) == {"frozen_camera": "wrist shows one picture for 11 rows"}


def test_frames_may_repeat_while_nothing_moves():
    def rest(pose):
        pose[30:60] = pose[30]

    still = with_pose(clean(), rest)
    still = replace(still, images={name: filmed(still.state["pose"], size) for name, size in SPEC.cameras.items()})
    values = episode_flags(0, still, SPEC, SCALE)
    assert (values["frozen_camera"], values["duplicated_frames"]) == (1.0, 0.0)
    assert values["idle"] == pytest.approx(29 / 119)


def test_a_slow_camera_repeats_frames():
    slow = with_frames(clean(), "front", lambda frames: frames[np.arange(ROWS) // 2 * 2])
    assert found(slow) == {"duplicated_frames": "front repeats 50% of its frames in motion"}
    assert episode_flags(0, slow, SPEC, SCALE)["duplicated_frames"] == pytest.approx(60 / 119)


@pytest.mark.parametrize("colour", [(0, 0, 0), (4, 9, 2), (0, 135, 0), (255, 255, 255)])
def test_a_camera_that_shows_nothing(colour):
    def cover(frames):
        frames[5:17] = colour
        return frames

    assert episode_flags(0, with_frames(clean(), "front", cover), SPEC, SCALE)["black_camera"] == 0.1


def test_noise_and_a_hot_pixel_make_no_light():
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 12, (3, 48, 64, 3), dtype=np.uint8)
    dark[:, 10, 10] = 255
    dim = np.full((3, 48, 64, 3), 8, np.uint8)
    dim[:, :8, :8] = 80  # a lamp in a dark room: two per cent of the frame
    assert watch(dark).blank.all() and not watch(dim).blank.any()


def test_a_change_of_one_pixel_is_a_change():
    frames = np.zeros((3, 480, 640, 3), np.uint8)
    frames[2, 479, 639, 2] = 1  # not among the pixels that are looked at first
    assert watch(frames).same.tolist() == [True, False]


def test_dropped_rows():
    late = clean()
    time = late.time.copy()
    time[50:] += 3 / RATE
    time[90:] += 1 / RATE
    assert found(replace(late, time=time)) == {"dropped_rows": "a step of 200 ms instead of 50 ms (4 missing)"}


def test_another_rate_than_promised():
    fast = clean()
    assert found(replace(fast, time=fast.time * 0.9)) == {"rate_error": "22.22 Hz instead of 20 Hz"}


@pytest.mark.parametrize("late", [3, -4])
def test_a_camera_out_of_step_is_found_by_its_motion(late):
    rows = 300
    moved = with_frames(clean(rows), "front", lambda frames: frames[np.clip(np.arange(rows) - late, 0, rows - 1)])
    assert found(moved)["desync"] == f"front is {abs(late) / RATE:.3f} s off its rows"
    assert examine(0, moved, SPEC, SCALE).lags["front"].best == late
    assert examine(0, moved, SPEC, SCALE).lags["wrist"].best == 0


def two_motions(rows: int, late: int, noise: float, seed: int) -> Profile:
    """What a camera sees of a motion, `late` rows late and with as much noise as `noise` times the motion."""
    speed = np.linalg.norm(steps_of(smooth(rows + 41, seed), SCALE), axis=1)
    seen = speed + noise * speed.std() * np.random.default_rng(1000 + seed).normal(size=len(speed))
    return profile(seen[20 - late : 20 - late + rows], speed[20 : 20 + rows], 20)


def test_synchronous_motions_are_never_called_late():
    assert not any(two_motions(300, 0, noise, seed).significant for seed in range(40) for noise in (0.5, 1.0, 2.0))


def test_late_motions_are_mostly_found_and_never_mistaken():
    lags = [(late, two_motions(300, late, 1.0, seed)) for late in (4, -6) for seed in range(40)]
    found = [one.best - late for late, one in lags if one.significant]
    assert len(found) > 48 and max(map(abs, found)) <= 1


def test_short_episodes_tell_together_what_few_tell_alone():
    late, none = ([two_motions(80, lag, 1.5, seed) for seed in range(60)] for lag in (4, 0))
    assert sum(one.significant for one in late) < 20
    assert (pooled(late).best, pooled(late).significant) == (4, True)
    assert (pooled(none).best, pooled(none).significant, pooled(none).related) == (0, False, True)
    assert not pooled([]).related


@pytest.mark.parametrize("seed", range(20))
def test_noise_tells_no_lag(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (ROWS, 24, 32, 3), dtype=np.uint8)
    blurred = with_frames(clean(seed=seed), "front", lambda frames: noise)
    assert episode_flags(0, blurred, SPEC, SCALE)["desync"] == 0.0


def test_stamps_are_believed_before_motion():
    stamped = clean()
    stamped = replace(stamped, image_time={"front": stamped.time - 0.12, "wrist": stamped.time - 0.02})
    assert found(stamped) == {"desync": "front is 0.120 s off its rows"}
    assert examine(0, stamped, SPEC, SCALE).stamps == pytest.approx({"front": -0.12, "wrist": -0.02})
    fine = replace(stamped, image_time={"front": stamped.time + 0.05})
    assert found(fine) == {}


def test_waiting_at_both_ends():
    def wait(pose):
        pose[:31] = pose[30]
        pose[-26:] = pose[-26]

    values = episode_flags(0, with_pose(clean(), wait), SPEC, SCALE)
    assert values["idle_start"] == pytest.approx(30 / RATE) and values["idle_end"] == pytest.approx(25 / RATE)
    assert values["idle"] == pytest.approx(55 / 119)


def test_nothing_moves_at_all():
    def rest(pose):
        pose[:] = 0.3

    values = episode_flags(0, with_pose(clean(), rest), SPEC, SCALE)
    assert (values["idle"], values["idle_start"], values["idle_end"]) == (1.0, 119 / RATE, 0.0)
    assert values["jerk"] == 0.0 and values["desync"] == 0.0


def test_roughness_of_what_is_known():
    t, rng = np.arange(20_000)[:, None], np.random.default_rng(0)
    for w in (0.1, math.pi / 3, 2.0):
        assert roughness(np.sin(w * t), np.ones(1))[0] == pytest.approx((2 * math.sin(w / 2)) ** 2, rel=1e-3)
    noise = rng.normal(size=(20_000, 1))
    assert roughness(noise, np.ones(1))[0] == pytest.approx(math.sqrt(10), rel=0.02)
    assert roughness(np.cumsum(noise, axis=0), np.ones(1))[0] == pytest.approx(math.sqrt(6), rel=0.02)
    assert np.isnan(roughness(np.ones((9, 1)), np.ones(1))).all() and np.isnan(roughness(np.ones((3, 1)), np.ones(1))).all()


def test_a_noisy_state_is_jerky():
    def shake(pose):
        pose += np.random.default_rng(0).normal(0, 0.05, pose.shape).astype(np.float32)

    assert set(found(with_pose(clean(), shake))) == {"jerk"}


def test_an_action_at_its_limit():
    pushed = clean()
    action = pushed.action.copy()
    action[:48, 1] = 1.0
    assert found(replace(pushed, action=action, requested_action=action)) == {"saturated": "dy at its limit in 40% of the rows"}
    assert episode_flags(0, clean(), SPEC, SCALE)["saturated"] == 0.0  # the gripper is a switch


def test_beyond_the_limits():
    def leave(pose):
        pose[40:46, 1] += 1.0

    says = found(with_pose(clean(), leave))
    assert says["outside"] == f"y beyond its limits in {(np.abs(smooth(ROWS)[40:46, 1] + 1) > 1).mean() * 6 / 120:.1%} of the rows"
    action = clean().action.copy()
    action[3, 0] = 1.01
    assert found(replace(clean(), action=action, requested_action=action)) == {"outside": "action dx beyond its limits in 0.8% of the rows"}


def test_a_lost_sample_jumps():
    def glitch(pose):
        pose[60, 0] = 0.9

    assert found(with_pose(clean(), glitch)) == {"jumps": "x jumps in 2 steps"}  # there and back


def test_what_jumps_and_what_does_not():
    t = np.arange(200) / 20
    one = np.ones(1)
    turning = (t[:, None] * 2 + 1) % (2 * np.pi)  # an angle that wraps three times
    assert jumps(turning, one * 2 * np.pi, t).sum() == 3
    flipped = np.sin(t)[:, None] * np.where(t > 5, -1, 1)[:, None]  # a quaternion that changes sign
    assert jumps(flipped, one, t).sum() == 1
    stairs = np.repeat(np.sin(np.arange(50) / 8), 4)[:, None]  # a sensor at a quarter of the rate
    assert not jumps(stairs, one, t).any()
    switch = (t > 5).astype(float)[:, None]
    assert not jumps(switch, one, t).any()
    start = np.where(t < 5, 0, np.sin(np.clip(t - 5, 0, None) * 6))[:, None]  # from rest into a quick motion
    assert not jumps(start, one * 2, t).any()
    gap = np.where(t < 5, t, t + 1.5)
    assert not jumps(np.sin(gap)[:, None], one, gap).any()  # far, but in a long time
    assert not jumps(np.zeros((2, 1)), one, t[:2]).any()


def test_labels():
    assert found(clean(success=None)) == {"unlabeled": "success unknown"}
    open_end = replace(clean(), terminal=np.zeros(ROWS, bool))
    assert set(found(open_end)) == {"unended"}
    assert found(replace(open_end, meta={"success": False})) == {}  # a time limit
    assert set(found(clean(interrupted=True))) == {"interrupted"}


def test_overruled():
    asked = clean().action.copy()
    asked[:36, 0] += 0.1
    assert found(replace(clean(), requested_action=asked)) == {"overruled": "overruled in 30% of its rows"}


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_the_shortest_episodes(rows):
    values = episode_flags(0, clean(rows), SPEC, SCALE)
    assert all(math.isfinite(value) for value in values.values())
    assert values["dropped_rows"] == values["jumps"] == 0.0


def test_without_cameras_and_without_states():
    bare = RobotSpec("arm", {}, {}, ACTION, "ee_delta", RATE)
    values = episode_flags(0, replace(clean(), images={}, state={}), bare, np.zeros(0))
    assert values["frozen_camera"] == values["desync"] == values["jerk"] == values["jumps"] == 0.0
    seen = RobotSpec("arm", {"front": (24, 32)}, {}, ACTION, "ee_delta", RATE)
    frozen = replace(clean(), images={"front": clean().images["front"][:1].repeat(ROWS, axis=0)}, state={})
    assert episode_flags(0, frozen, seen, np.zeros(0))["frozen_camera"] == ROWS  # nobody knows whether it moved


def test_a_store_and_what_only_others_show(tmp_path):
    with EpisodeStore.create(tmp_path / "d.zarr", SPEC) as store:
        for seed, rows in ((0, 120), (1, 120), (2, 20)):
            store.append(clean(rows, seed))
    measured = list(flags(store))
    assert [e.index for e in measured] == [0, 1, 2]
    twins = [Twin("", 1, 0.004, False), Twin("", 0, 0.0, True), None]
    compared = compare(measured, twins, SPEC)
    says = [[flag.says for flag in e.raised if flag.rule.name in AMONG] for e in compared]
    assert says == [["0.40% of the ranges from episode 1"], ["the same as episode 0"], ["only 20 rows, the median is 120"]]
    assert compared[0].values["near_duplicate"] == 0.004 and "near_duplicate" not in compared[2].values
