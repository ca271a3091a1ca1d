"""The marks between which models write their reasoning, as chat templates spell them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WORD = r"(?:think|thinking|thought|thoughts|reason|reasoning)"
_NAME = rf"(?:\w+:)?(?i:{_WORD})(?::\w+)?"
_PAIRS = (
    (rf"<(\|?)({_NAME})(\|?)>", r"<\1/\2\3>"),  # <think>, <seed:think>, <think:opensource>
    (rf"\[({_NAME})\]", r"[/\1]"),  # Magistral
    (rf"◁({_NAME})▷", r"◁/\1▷"),  # Kimi-VL
    (rf"<\|start((?:_of)?_{_WORD})\|>", r"<|end\1|>"),
    (rf"<\|begin((?:_of)?_{_WORD})\|>", r"<|end\1|>"),
    (rf"<\|START((?:_OF)?_{_WORD.upper()})\|>", r"<|END\1|>"),  # Cohere
    (r"<\|channel>thought", r"<channel|>"),  # Gemma 4
    (r"<\|channel\|>analysis<\|message\|>", r"<|end|>"),  # gpt-oss
    (r"<\|inner_prefix\|>", r"<|inner_suffix|>"),  # Apertus
)
"""Opening marks, and what closes each."""
_CLOSING = re.compile(
    rf"<\|?/{_NAME}\|?>|\[/{_NAME}\]|◁/{_NAME}▷|<\|(?i:end(?:_of)?_{_WORD})\|>|<channel\|>|<\|inner_suffix\|>"
)


@dataclass(frozen=True, slots=True, order=True)
class Opening:
    """A mark at which reasoning begins."""

    start: int
    end: int
    closing: str
    """The mark that ends it."""


def open_thought(text: str) -> Opening | None:
    """Where reasoning begins that does not end in `text`."""
    last = max(_openings(text), default=None)
    return last if last is not None and last.closing not in text[last.end :] else None


def without_thought_marks(text: str) -> str:
    """`text` without the marks, and without spaces at its end."""
    for opening in sorted(_openings(text), reverse=True):
        text = text[: opening.start] + text[opening.end :]
    return _CLOSING.sub("", text).rstrip()


def _openings(text: str) -> Iterator[Opening]:
    for opening, closing in _PAIRS:
        for match in re.finditer(opening, text):
            yield Opening(match.start(), match.end(), match.expand(closing))
