"""A checkpoint's tokenizer as a GGUF file's metadata: tokens, types, scores or merges, special ids, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pudistill_cli.errors import ExportError
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_llamacpp.convert.bpe import byte_level
from pudistill_llamacpp.convert.hyperparameters import Entry, boolean, string, uint32
from pudistill_llamacpp.convert.naming import name_for
from pudistill_llamacpp.convert.sentencepiece import sentencepiece_like
from pudistill_llamacpp.convert.special_ids import special_ids
from pudistill_llamacpp.convert.tokens import CannotBeWrittenError, Pieces, tokens_of

ADDS_BOS = "tokenizer.ggml.add_bos_token"
"""Whether runtimes put a BOS before a text, a rendered conversation too."""
CHAT_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What is written of a tokenizer."""

    name: str
    """What the file must be called."""
    pieces: Pieces
    special: Mapping[str, int]
    """Ids by llama.cpp's names of them (`bos`, `eos`, `eot`, ...)."""
    adds_bos: bool
    adds_eos: bool
    chat_template: str
    """The checkpoint's own; the plain one where it has none, or a runtime would take one that training never saw."""

    def entries(self) -> list[Entry]:
        """The metadata."""
        return [
            *self.pieces.entries(),
            *(uint32(f"tokenizer.ggml.{name}_token_id", i) for name, i in self.special.items()),
            boolean(ADDS_BOS, self.adds_bos),
            boolean("tokenizer.ggml.add_eos_token", self.adds_eos),
            string(CHAT_TEMPLATE, self.chat_template),
        ]


def read_vocabulary(checkpoint: Path, rows: int | None, name: str) -> Vocabulary:
    """The tokenizer of a checkpoint whose embeddings have `rows` rows (None: as many as tokens), for a file `name`.

    Raises:
        ExportError: llama.cpp has no tokenizer that gives the same ids.
        DataError: there is no tokenizer that can be read.
    """
    student = StudentTokenizer.load(checkpoint)
    content: dict[str, Any] = json.loads(student.tokenizer.to_str())
    try:
        tokens = tokens_of(content, rows)
        name = name_for(name, tokens)
        pieces = byte_level(content, tokens) if _is_byte_level(content) else sentencepiece_like(content, tokens)
    except CannotBeWrittenError as error:
        raise ExportError(
            f"The student's tokenizer cannot be written as GGUF: {error}.",
            "Export as hf or adapter instead, or use a student whose tokenizer llama.cpp knows.",
        ) from error
    before, after = _added_around(student.tokenizer)
    template = student.chat_template.source
    return Vocabulary(name, pieces, special_ids(checkpoint, student), bool(before), bool(after), template)


def _added_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the post-processor puts before and after a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return whole[:start], whole[start + len(bare) :]


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return "ByteLevel" in json.dumps(content.get("decoder"))
