"""What every text encoder shares: an instruction in words becomes one vector; which encoder it was can be told by its digest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import UserError


@dataclass(frozen=True)
class LanguageConfig:
    """`build` gives the text encoder. It stays outside of the policy, which holds only what it makes of an embedding."""

    width: int = 64  # numbers that the policy makes of an embedding, by a linear map it learns
    dim: int = 0  # of an embedding; 0: not known yet, train asks the encoder
    digest: str = ""  # of the encoder's weights and words; filled in by train, and another encoder is refused

    def build(self) -> TextEncoder:
        """UserError: it cannot be had, or it is another one than `digest` says."""
        raise UserError(f"policy.language.type: {type(self).__name__} is what all share; pick a kind of text encoder by its type")


class TextEncoder(ABC):
    """Frozen, deterministic."""

    dim: int
    digest: str

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, dim), of any length."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, dim): each text's direction, of mean square 1, the size of a network's other inputs. UserError: no words."""
        if empty := [text for text in texts if not text.strip()]:
            raise UserError(f"instruction: {empty[0]!r}; expected words")
        # One at a time: what a text is padded with, to the length of its neighbours, moves its last digits.
        vectors = np.concatenate([np.empty((0, self.dim), np.float32), *(self.encode([text]) for text in texts)]).astype(np.float64)
        size = np.sqrt(np.square(vectors).mean(1, keepdims=True))
        return (vectors / np.where(size > 0, size, 1.0)).astype(np.float32)

    def must_be(self, config: LanguageConfig, name: str) -> None:
        """UserError unless this is the encoder that `config` was filled in with."""
        if config.digest and (config.digest, config.dim) != (self.digest, self.dim):
            raise UserError(
                f"policy.language: {name} is not the text encoder the policy learned with: its digest is {self.digest} "
                f"({self.dim} numbers), the policy's {config.digest} ({config.dim})"
            )
