"""SentencePiece-like BPE (Llama 2, Mistral, Gemma, Phi-3): spaces are a letter, unknown characters are bytes.

llama.cpp merges by the score of the merged piece, tokenizer.json by rank; the ranks become scores. A tokenizer.json
made from a tokenizer.model holds its pieces in the order of their scores, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from pudistill_llamacpp.convert.hyperparameters import Entry, boolean, string
from pudistill_llamacpp.convert.tokens import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, CannotBeWrittenError, Tokens

_ADDED = -1000.0
"""Score of a token that is added, by convention."""
_UNREACHED = -1e9
"""Score of a piece that no merge leads to: llama.cpp, which knows no list of merges, makes it last."""
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True, slots=True)
class SentencePieces:
    """Tokens, scores, and whether a space is put before a text."""

    tokens: Tokens
    scores: tuple[float, ...]
    space_first: bool

    def entries(self) -> list[Entry]:
        """The metadata."""
        return [
            string("tokenizer.ggml.model", "llama"),
            string("tokenizer.ggml.pre", "default"),
            *self.tokens.entries(),
            Entry("tokenizer.ggml.scores", "float32s", list(self.scores)),
            boolean("tokenizer.ggml.add_space_prefix", self.space_first),
        ]


def sentencepiece_like(content: Mapping[str, Any], tokens: Tokens) -> SentencePieces:
    """What a tokenizer.json says.

    Raises:
        CannotBeWrittenError: it is no BPE with byte fallback, or treats spaces as llama.cpp does not.
    """
    model = content["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise CannotBeWrittenError(f"its model is {model.get('type')} without a fall-back to bytes")
    if missing := [b for b in _BYTES if b not in model["vocab"]]:
        raise CannotBeWrittenError(f"it has no token {missing[0]}")
    types = [_type(text, kind, model.get("unk_token")) for text, kind in zip(tokens.texts, tokens.types, strict=True)]
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    scores = [_score(text, kind, ranks) for text, kind in zip(tokens.texts, types, strict=True)]
    return SentencePieces(replace(tokens, types=tuple(types)), tuple(scores), _space_first(content))


def _type(text: str, kind: int, unknown: str | None) -> int:
    if text == unknown:
        return UNKNOWN
    return BYTE if kind == NORMAL and text in _BYTES else kind


def _score(text: str, kind: int, ranks: Mapping[str, int]) -> float:
    if kind == NORMAL:
        return -float(ranks[text]) if text in ranks else 0.0 if len(text) == 1 else _UNREACHED
    return 0.0 if kind in (BYTE, CONTROL, UNKNOWN) else _ADDED


def _space_first(content: Mapping[str, Any]) -> bool:
    """Whether a text begins with a space of the tokenizer's own: at its start, and behind each special token.

    llama.cpp knows always and never. A tokenizer that puts one only at the very start is written as never: right for
    a chat, which begins with a special token, and not for bare text. One that puts a space where none is yet
    (Metaspace, "always") is neither.
    """
    steps = [*_flat(content.get("normalizer"), "normalizers"), *_flat(content.get("pre_tokenizer"), "pretokenizers")]
    known = {
        ("Replace", " ", SPACE): None,
        ("Prepend", SPACE, None): True,
        ("Metaspace", "first", False): False,
        ("Metaspace", "never", False): False,
        ("Split", " ", "MergedWithPrevious"): None,  # Gemma's, behind the Replace that leaves no space
    }
    said: list[bool] = []
    for step in steps:
        signature = _signature(step)
        if signature not in known:
            raise CannotBeWrittenError(f"llama.cpp has no step like {step}")
        if (value := known[signature]) is not None:
            said.append(value)
    replaces = any(step["type"] in ("Replace", "Metaspace") for step in steps)
    if not replaces:
        raise CannotBeWrittenError("it does not write spaces as SentencePiece does")
    return any(said)


def _flat(step: Any, parts: str) -> list[dict[str, Any]]:
    if not isinstance(step, dict):
        return []
    one = cast("dict[str, Any]", step)
    return [inner for part in one[parts] for inner in _flat(part, parts)] if one.get("type") == "Sequence" else [one]


def _signature(step: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    kind = step.get("type")
    if kind == "Replace":
        return kind, step["pattern"].get("String"), step["content"]
    if kind == "Prepend":
        return kind, step["prepend"], None
    if kind == "Metaspace":
        return kind, step.get("prepend_scheme", "always"), step.get("split", True)
    if kind == "Split":
        return kind, step["pattern"].get("String"), step.get("behavior")
    return kind, None, None
