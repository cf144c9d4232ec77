"""A hashed bag of words: no download, and no meaning beyond shared words. Neither their order nor a synonym is understood."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import UserError, require_at_least
from robolearn.models.language.base import LanguageConfig, TextEncoder


@dataclass(frozen=True)
class HashedConfig(LanguageConfig):
    """Tells apart the instructions of a dataset; a new one lies near those it shares words with, and nowhere else."""

    dim: int = 256

    def build(self) -> HashedWords:
        require_at_least("policy.language.dim", self.dim, 1, "numbers")
        encoder = HashedWords(self.dim)
        encoder.must_be(self, "hashed")
        return encoder


class HashedWords(TextEncoder):
    """Each word is a vector of signs that its hash gives (feature hashing, Weinberger et al., ICML 2009), a text their sum."""

    digest = "hashed-1"  # of the rule below

    def __init__(self, dim: int):
        self.dim = dim

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._text(text) for text in texts])

    def _text(self, text: str) -> np.ndarray:
        words = re.findall(r"\w+", text.casefold())
        if not words:
            raise UserError(f"instruction: {text!r}; expected words")
        return np.sum([self._word(word) for word in words], axis=0, dtype=np.float32)

    def _word(self, word: str) -> np.ndarray:
        bits = np.frombuffer(hashlib.shake_256(word.encode()).digest(-(-self.dim // 8)), np.uint8)
        return 2.0 * np.unpackbits(bits)[: self.dim] - 1.0
