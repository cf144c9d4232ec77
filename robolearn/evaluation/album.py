"""The pictures of a store, gathered while its episodes go by once: nobody holds more than a few thumbnails of those gone by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from html import escape
from typing import Any

import numpy as np

from hardware.types import RobotSpec
from robolearn.data.checks import motion
from robolearn.data.checks.flags import EpisodeFlags
from robolearn.data.episode import Episode
from robolearn.evaluation.contact import clip, picture, sheet, strip, thumbnail
from robolearn.evaluation.multiples import curves
from robolearn.evaluation.page import card, section, text
from robolearn.evaluation.plots import Line, chart

SHEET_EPISODES = 24  # whose first and last frames are shown
STRIP_FRAMES = 8  # of one episode
STRIPS = 24  # flagged episodes shown as a strip
CLIPS_BYTES = 6_000_000  # of all films together
PAGE_BYTES = 9_000_000  # of all episodes' sections; what comes after is named, not shown


class Album:
    """Feed it every episode in order; then read `starts`, `ends`, `strips`, `episodes`."""

    def __init__(self, spec: RobotSpec, count: int, shown: Collection[int]) -> None:
        """count: episodes that will come. shown: those that get a section of their own."""
        self.spec, self.shown = spec, frozenset(shown)
        self._sampled = frozenset(np.linspace(0, count - 1, min(count, SHEET_EPISODES)).round().astype(int).tolist())
        self._clip_bytes = CLIPS_BYTES // max(len(self.shown), 1)
        self.starts: dict[str, dict[str, np.ndarray]] = {name: {} for name in spec.cameras}
        self.ends: dict[str, dict[str, np.ndarray]] = {name: {} for name in spec.cameras}
        self.strips: dict[int, str] = {}
        self.episodes: dict[int, str] = {}
        self.omitted: list[int] = []  # of `shown`
        self._seen, self._raised, self._bytes = 0, Counter[str](), 0

    def add(self, found: EpisodeFlags, episode: Episode) -> None:
        """One more episode, and what was found about it."""
        if found.index in self._sampled:
            for name, frames in episode.images.items():
                self.starts[name][str(found.index)] = thumbnail(frames[0])
                self.ends[name][str(found.index)] = thumbnail(frames[-1])
        self._seen += 1
        self._raised.update(flag.rule.name for flag in found.raised)
        # What most episodes have is the dataset's habit, and no reason to show one of them.
        odd = [flag for flag in found.raised if self._seen < 4 or self._raised[flag.rule.name] <= self._seen / 2]
        if odd and episode.images and len(self.strips) < STRIPS:
            camera = next((flag.where for flag in odd if flag.where in episode.images), next(iter(episode.images)))
            image = strip(episode.images[camera], spread(len(episode), STRIP_FRAMES))
            self.strips[found.index] = picture(image, f"{camera} in episode {found.index}")
        if found.index in self.shown:
            if self._bytes > PAGE_BYTES:
                self.omitted.append(found.index)
                return
            self.episodes[found.index] = self._section(found, episode)
            self._bytes += len(self.episodes[found.index])

    def _section(self, found: EpisodeFlags, episode: Episode) -> str:
        spec, time = self.spec, episode.time - episode.time[0]
        parts = [text("; ".join(f"{k}: {v}" for k, v in flat(dict(episode.meta)).items()), soft=True)]
        if found.raised:
            parts.append(text("Flagged: " + "; ".join(flag.says for flag in found.raised)))
        parts.append(clip(episode, spec.rate_hz, self._clip_bytes))
        rows = spread(len(episode), STRIP_FRAMES)
        for name, frames in episode.images.items():
            parts.append(f"<h3>{escape(name)} at rows {', '.join(map(str, rows))}</h3>{picture(strip(frames, rows), name)}")
        parts.append("<h3>action, executed (grey: requested)</h3>")
        asked = np.where(np.isfinite(episode.requested_action), episode.requested_action, np.nan)
        beyond = motion.outside(episode.action, spec.action)
        parts.append(card(curves(spec.action, time, [("thin", asked), ("strong", episode.action)], beyond)))
        for name, part in spec.state.items():
            beyond = motion.outside(episode.state[name], part)
            parts.append(f"<h3>{escape(name)}</h3>" + card(curves(part, time, [("strong", episode.state[name])], beyond)))
        if episode.reward.any():
            parts.append("<h3>reward</h3>" + card(chart([Line("", time, episode.reward)], "s", "reward", height=160)))
        return section(f"Episode {found.index}", *parts)


def sheets(pictures: Mapping[str, Mapping[str, np.ndarray]], words: str) -> str:
    """One contact sheet for each camera."""
    return "".join(f"<h3>{escape(name)}</h3>{card(sheet(found, f'{words} in {name}'))}" for name, found in pictures.items() if found)


def spread(rows: int, count: int) -> list[int]:
    """At most `count` rows from the first to the last."""
    return np.unique(np.linspace(0, rows - 1, min(count, rows)).round().astype(int)).tolist()


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data with dotted keys, to be read by people: six digits are enough for them."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = f"{value:.6g}" if isinstance(value, float) else value
    return found
