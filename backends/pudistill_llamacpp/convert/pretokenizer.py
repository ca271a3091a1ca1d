"""How byte-level BPE cuts text into words before it merges: tokenizer.json's steps, and llama.cpp's name for them.

llama.cpp has these cuts built in, by name. Upstream's converter tells the name by a hash of the ids of one text; here
it is told by the steps themselves, so a new vocabulary behind known steps is known too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

Step: TypeAlias = tuple[Any, ...]
Steps: TypeAlias = tuple[Step, ...]

_GPT2: Step = ("bytes", True)
"""ByteLevel with its own regular expression, GPT-2's."""
_BYTES: Step = ("bytes", False)

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
NAMES: Mapping[tuple[Steps, bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((("digits", True), _GPT2), False): "smollm",
    ((("split", _LLAMA3), _BYTES), True): "llama-bpe",
    ((("split", _LLAMA3), _BYTES), False): "dbrx",
    ((("split", _QWEN2), _BYTES), False): "qwen2",
}
"""By the steps, and whether a word of the vocabulary is taken whole, before any merge (`ignore_merges`).

Left out are `tekken` and `gpt-4o`: llama.cpp only approximates their expressions, and cuts letters from their
combining marks (Devanagari, Thai).
"""


def pretokenizer_name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the cuts of a tokenizer.json; None if it has none."""
    steps = steps_of(tokenizer.get("pre_tokenizer"))
    return None if steps is None else NAMES.get((steps, tokenizer["model"].get("ignore_merges") is True))


def steps_of(pre_tokenizer: Any) -> Steps | None:
    """The steps of a `pre_tokenizer`, without what changes no id; None if one of them is of another kind."""
    steps: list[Step] = []
    for step in _flat(pre_tokenizer):
        kind = step.get("type")
        if kind == "ByteLevel" and step.get("add_prefix_space") is False:
            steps.append(("bytes", step.get("use_regex", True)))
        elif kind == "Digits":
            steps.append(("digits", step.get("individual_digits", False)))
        elif kind == "Split" and (expression := _expression(step)) is not None:
            steps.append(("split", expression))
        else:
            return None
    return tuple(steps)


def _flat(pre_tokenizer: Any) -> list[dict[str, Any]]:
    if not isinstance(pre_tokenizer, dict):
        return []
    step = cast("dict[str, Any]", pre_tokenizer)
    if step.get("type") == "Sequence":
        return [inner for part in step["pretokenizers"] for inner in _flat(part)]
    return [step]


def _expression(step: Mapping[str, Any]) -> str | None:
    """The regular expression whose matches are the words.

    All that are known here match every character, so to keep only the matches (tiktoken's form) is to isolate them.
    """
    isolated = step.get("behavior") == "Isolated" and not step.get("invert")
    kept = step.get("behavior") == "Removed" and step.get("invert")
    return step["pattern"].get("Regex") if isolated or kept else None
