"""What a sample is told to reach: a later row of its own episode, as a picture or as a state, or its instruction in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore

GoalRow = Literal["last", "future"]


@dataclass(frozen=True)
class Goals:
    """image, state: of a row of the sample's episode; language: an embedding of its instruction.

    row: last: the episode's last row, as a person shows it who sets a goal. future: drawn uniformly from the rows after the sample's own
    (hindsight relabelling, Andrychowicz et al., NeurIPS 2017; as goal-conditioned BC in BridgeData V2, Walke et al., CoRL 2023).
    embeddings: instruction -> float32 (L,); of an episode with several one is drawn.
    """

    kind: Literal["image", "state", "language"]
    row: GoalRow = "last"
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)

    def rows(self, rows: np.ndarray, last: np.ndarray, salt: int) -> np.ndarray:
        """(B,) the goal's row of each sample; `last`: of its episode. The last row's goal is itself."""
        if self.row == "last":
            return last
        return np.minimum(rows + 1 + (uniform(rows, salt) * (last - rows)).astype(np.int64), last)


def uniform(rows: np.ndarray, salt: int) -> np.ndarray:
    """A number in [0, 1) for each row, float64 (B,), by hashing both (SplitMix64, Steele et al., OOPSLA 2014).

    No stream of random numbers: whoever reads a batch, in whatever order, and after whatever interruption, draws the same.
    """
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt) * np.uint64(0xD1B54A32D192ED03)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 0xBF58476D1CE4E5B9)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x >> np.uint64(11)) / 2.0**53


def instructions(meta: Mapping[str, Any]) -> list[str]:
    """What an episode was told, in words: its instructions, else its task's name; empty where neither is known."""
    found = meta.get("instructions") or [meta.get("instruction") or meta.get("task")]
    return [text for text in found if isinstance(text, str) and text.strip()]


def all_instructions(stores: Iterable[EpisodeStore]) -> list[str]:
    """Every text once, in alphabetical order."""
    return sorted({text for store in stores for i in range(len(store)) for text in instructions(store.meta(i))})


class Told:
    """The embedded instructions of the episodes of some stores, found by row."""

    def __init__(self, stores: Sequence[EpisodeStore], takes_part: np.ndarray, embeddings: Mapping[str, np.ndarray]) -> None:
        """takes_part: bool, one for each episode of all stores. UserError: one of them has no instruction."""
        self._table = np.stack(list(embeddings.values())).astype(np.float32)
        number = {text: i for i, text in enumerate(embeddings)}
        said: list[list[int]] = []
        for store in stores:
            for episode in range(len(store)):
                texts = instructions(store.meta(episode)) if takes_part[len(said)] else []
                if not texts and takes_part[len(said)]:
                    raise UserError(
                        f"{store.url}: episode {episode} has no instruction (meta: instruction, instructions, task); a goal in words "
                        "needs one for each: robolearn ingest --map with `instruction` gives one"
                    )
                said.append([number[text] for text in texts])
        self._said = np.array([index for texts in said for index in texts], np.int64)
        counts = np.array([len(texts) for texts in said], np.int64)
        lengths = np.concatenate([store.lengths for store in stores])
        self._count, self._start = (np.repeat(part, lengths) for part in (counts, np.cumsum(counts) - counts))

    def read(self, rows: np.ndarray, salt: int) -> np.ndarray:
        """float32 (B, 1, L)"""
        drawn = (uniform(rows, salt) * self._count[rows]).astype(np.int64)
        return self._table[self._said[self._start[rows] + drawn]][:, None]
