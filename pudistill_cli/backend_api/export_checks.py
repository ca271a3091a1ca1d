"""What an export's tokenizer is tried on in its own runtime, and what is said where that reads otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pudistill_cli.errors import ExportError
from pudistill_cli.types import Tokens

STRESS = (
    "0 7 42 365 1984 31415 1,000,000.50 3.14e-10 0xFF ½ x² H₂O ٣٤٥ 二〇二六",
    " leading, trailing   three    four\ttab\t\ttabs \n\n\nlines\r\nend \n ",
    "I'm we'll they'd IT'S don't Y'ALL ''quoted'' \"double\" `back` — – … ‘’ “”",
    "🙂 👩‍👩‍👧‍👦 🇪🇺 👍🏽 ❤️ ⏎ ☃ ✓",
    "Ünïcode naïve façade Straße Œuvre İstanbul ěščřž",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "你好，世界。日本語のテキスト。カタカナ 한국어 문장",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # <tag attr='v'/>\n\nfor(int i=0;i<n;++i){a[i]^=~b;}\n",
    "https://example.org/a_b-c?d=%20&e=f#g user@example.com snake_case camelCase SCREAMING_CASE ../path\\to",
    "a",
    " ",
    "\n",
)
"""Texts that tokenizers split in different ways, in Unicode's composed form: llama.cpp normalises nothing."""
_SPELLED = 24
"""So many of a tokenizer's special tokens are spelled out: some have hundreds alike."""


def spelled(tokens: Sequence[str]) -> list[str]:
    """Texts with the first and the last tokens of a list in words, spaces, lines and after each other."""
    chosen = dict.fromkeys((*tokens[: _SPELLED // 2], *tokens[-_SPELLED // 2 :]))
    return [f"Say{t} and {t} or\n{t}{t}." for t in chosen]


def check_ids(runtime: str, text: str, ids: Sequence[int], expected: Tokens) -> None:
    """Whether a runtime makes the ids of a text that the run makes of it.

    Raises:
        ExportError: it makes others.
    """
    if tuple(ids) == expected:
        return
    pairs = enumerate(zip(ids, expected, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(expected)))
    raise ExportError(
        f"{runtime} makes other token ids of {text!r} than the student's tokenizer: at token {at} "
        f"{tuple(ids[at : at + 3])} instead of {expected[at : at + 3]}.",
        "Export as hf or adapter instead, and please report this with the student's tokenizer.json.",
    )


def template_notice(variables: Mapping[str, Any]) -> str:
    """What the user of a runtime that gives a chat template no settings has to know; `variables` are the run's."""
    named = ", ".join(f"{name} = {value!r}" for name, value in variables.items())
    return f"Training told the chat template {named}; LM Studio has to be told so too."
