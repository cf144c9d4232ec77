"""A pretrained text encoder through `transformers`: CLIP's or SigLIP's text tower, a sentence encoder, T5."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robolearn.core.errors import UserError
from robolearn.models.language.base import LanguageConfig, TextEncoder


@dataclass(frozen=True)
class TransformerConfig(LanguageConfig):
    """weights: a folder with a model and its tokenizer, else a model on the Hugging Face hub."""

    weights: str = "sentence-transformers/all-MiniLM-L6-v2"

    def build(self) -> Transformer:
        encoder = Transformer(*_fetch(self.weights))
        encoder.must_be(self, self.weights)
        return encoder


class Transformer(TextEncoder):
    """Of a tower that was trained beside an image encoder, its own answer; of any other model the mean over the words' states
    (Sentence-BERT, Reimers and Gurevych, EMNLP 2019)."""

    def __init__(self, model: Any, tokenizer: Any, absent: set[str]):
        self.model, self.tokenizer = model.eval(), tokenizer
        # SigLIP learned with texts padded to their full length, and without a mask; everyone else takes them as long as they are.
        self.full = model.config.model_type.startswith("siglip")
        limit = getattr(model.config, "max_position_embeddings", None) or 512
        self.longest = min(limit, tokenizer.model_max_length)
        self.digest = _digest(model, tokenizer, absent)
        self.dim = self.encode(["a"]).shape[1]

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self.tokenizer(
            list(texts), padding="max_length" if self.full else True, truncation=True, max_length=self.longest, return_tensors="pt"
        )
        mask = tokens["attention_mask"]
        given = {"input_ids": tokens["input_ids"]} | ({} if self.full else {"attention_mask": mask})
        output = self.model(**given)
        if (found := getattr(output, "text_embeds", None)) is None:
            found = output.pooler_output if self.full else (output.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return found.float().numpy()


def _fetch(weights: str) -> tuple[Any, Any, set[str]]:
    """(model, tokenizer, names of its tensors that the file does not have: only what is not used)."""
    try:
        import transformers  # an extra, and slow to import
    except ImportError as error:
        raise UserError("policy.language: a transformer needs `transformers`; pip install robolearn[language], or take hashed") from error
    towers = {"clip": transformers.CLIPTextModelWithProjection, "siglip": transformers.SiglipTextModel}
    try:
        with _quiet(transformers.utils.logging):
            kind = transformers.AutoConfig.from_pretrained(weights).model_type.removesuffix("_text_model")
            loader: Any = towers.get(kind, transformers.AutoModelForTextEncoding)
            model, loaded = loader.from_pretrained(weights, dtype=torch.float32, output_loading_info=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(weights)
    except Exception as error:  # a missing folder, no network, no such model, a damaged file, a model without text: many kinds
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"policy.language.weights: '{weights}' is neither a folder with a text encoder and its tokenizer nor one on the hub ({reason})"
        ) from error
    absent = set(loaded["missing_keys"])
    if used := sorted(name for name in absent if kind in towers or not name.startswith("pooler.")):
        raise UserError(
            f"policy.language.weights: '{weights}': '{used[0]}' and {len(used) - 1} more tensors of {type(model).__name__} are missing"
        )
    return model, tokenizer, absent


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without a bar for files that are read at once, and a list of the image tensors that a text tower leaves out."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _digest(model: Any, tokenizer: Any, absent: set[str]) -> str:
    """Of the weights and the vocabulary: everything that decides what a text becomes, but the library's version."""
    digest = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name, value in sorted(model.state_dict().items()):
        if name not in absent:
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
