"""Byte-level BPE (GPT-2's kind): tokens are written as they are, with the merges and the name of the cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pudistill_llamacpp.convert.hyperparameters import Entry, string, strings
from pudistill_llamacpp.convert.pretokenizer import pretokenizer_name
from pudistill_llamacpp.convert.tokens import CannotBeWrittenError, Tokens

_NORMALIZERS = (None, "NFC")
"""llama.cpp normalises nothing: behind NFC, text that is not composed gets other ids there, as in every GGUF file."""


@dataclass(frozen=True, slots=True)
class ByteLevelPieces:
    """Tokens, merges, and how words are cut."""

    tokens: Tokens
    merges: tuple[str, ...]
    pre: str

    def entries(self) -> list[Entry]:
        """The metadata."""
        return [
            string("tokenizer.ggml.model", "gpt2"),
            string("tokenizer.ggml.pre", self.pre),
            *self.tokens.entries(),
            strings("tokenizer.ggml.merges", self.merges),
        ]


def byte_level(content: Mapping[str, Any], tokens: Tokens) -> ByteLevelPieces:
    """What a tokenizer.json says.

    Raises:
        CannotBeWrittenError: another model than BPE, or cuts that llama.cpp does not have.
    """
    model = content["model"]
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise CannotBeWrittenError(f"its model is {model.get('type')}, of a kind that llama.cpp does not have")
    normalizer = (content.get("normalizer") or {}).get("type")
    if normalizer not in _NORMALIZERS:
        raise CannotBeWrittenError(f"its normalizer is {normalizer}")
    pre = pretokenizer_name(content)
    if pre is None:
        raise CannotBeWrittenError(f"llama.cpp has no pre-tokenizer like {content.get('pre_tokenizer')}")
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return ByteLevelPieces(tokens, tuple(" ".join(pair) for pair in merges), pre)
