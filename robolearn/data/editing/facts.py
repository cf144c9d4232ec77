"""What can be asked about an episode by name: its length and number, its meta, and the flags that `robolearn inspect` shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from robolearn.data.checks.duplicates import twins
from robolearn.data.checks.flags import AMONG, RULES, EpisodeFlags, compare, examine
from robolearn.data.checks.statistics import state_scale
from robolearn.data.editing.merged import Merged
from robolearn.data.editing.selection import Expression, episode_numbers


class Raised(float):
    """A flag's number. In a yes-or-no question it answers whether the flag is raised, as `inspect` would."""

    raised: bool

    def __new__(cls, value: float, raised: bool) -> Raised:
        made = super().__new__(cls, value)
        made.raised = raised
        return made

    def __bool__(self) -> bool:
        return self.raised


class Facts:
    """Of all episodes of some stores. Flags are measured once, and only if they are asked for: that reads every frame."""

    def __init__(self, episodes: Merged, watched: Callable[[Sequence[int], str], Iterable[int]] = lambda indices, _: indices) -> None:
        """watched: hands the indices of a store, of this name, on while it shows somebody how far the measuring is."""
        self._episodes, self._watched = episodes, watched
        self.meta = [episodes.meta(number) for number in range(len(episodes))]

    def choose(self, field: str, text: str) -> list[int]:
        """The episodes of "4,7-9", or those for which an expression holds; in order. UserError begins with `field`."""
        if re.fullmatch(r"[0-9,\s-]+", text):
            return sorted(episode_numbers(field, text, len(self._episodes)))
        expression = Expression(field, text)
        expression.require_known(self.known)
        return [number for number in range(len(self._episodes)) if expression(self._of(number, expression))]

    @property
    def known(self) -> list[str]:
        """All names."""
        keys = list(dict.fromkeys(key for meta in self.meta for key, _ in _flat(meta)))
        bare = [key for key in keys if "." not in key]
        return list(dict.fromkeys(["index", "length", "success", *RULES, *AMONG, *bare, *(f"meta.{key}" for key in ["success", *keys])]))

    def _of(self, number: int, expression: Expression) -> dict[str, Any]:
        meta = dict(_flat(self.meta[number]))
        facts: dict[str, Any] = dict.fromkeys(expression.names)
        facts |= {name: meta.get(name.removeprefix("meta.")) for name in expression.names}
        facts |= {"index": number, "length": self._episodes.length(number)}
        if expression.names.keys() & (RULES.keys() | AMONG.keys()):
            facts |= {name: self._flags[number].get(name) for name in (*RULES, *AMONG)}
        return facts

    @cached_property
    def _flags(self) -> list[dict[str, Raised]]:
        found = list[dict[str, Raised]]()
        for store in self._episodes.stores:
            scale, indices = state_scale(store), self._watched(range(len(store)), store.path.name)
            examined = [examine(index, store.read(index), store.spec, scale) for index in indices]
            # Of two that are alike the first is fine, or neither would be kept.
            nearest = [twin if twin is not None and twin.index < index else None for index, twin in enumerate(twins(store))]
            found += map(_numbers, compare(examined, nearest, store.spec))
        return found


def _numbers(found: EpisodeFlags) -> dict[str, Raised]:
    return {flag.rule.name: Raised(flag.value, flag.raised) for flag in found.flags}


def _flat(meta: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("origin", {...}), ("origin.file", "a.hdf5"), ..."""
    for key, value in meta.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
