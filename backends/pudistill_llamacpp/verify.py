"""What of an exported GGUF file is no distribution: token ids, chat template, end of turn, compared in llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unicodedata import normalize

from pudistill_cli.chat_template import PLAIN
from pudistill_cli.contract import Tokens
from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.tokenizer import StudentTokenizer
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.native.vocabulary import Vocabulary
from pudistill_llamacpp.runtimes.recognise import WITH_SYSTEM, WITHOUT_SYSTEM

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
"""Texts that tokenizers split in different ways. In Unicode's composed form: llama.cpp normalises nothing."""
_SPECIAL_TOKENS = 24
"""So many of a tokenizer's special tokens are spelled out: some have hundreds alike."""


class Encodes(Protocol):
    """A tokenizer. llama.cpp's own of a file (Vocabulary) is one."""

    def encode(self, text: str, *, special: bool, add_special: bool = False) -> Tokens:
        """Ids; `special` parses special tokens in the text, `add_special` adds BOS and EOS where it does so."""
        ...


@dataclass(frozen=True, slots=True)
class Expected:
    """What the run's student says of itself."""

    tokenizer: Encodes
    special_tokens: tuple[str, ...]
    template: str | None
    """None where the checkpoint brings none."""
    bos: str
    stop_tokens: Tokens
    prompts: tuple[tuple[str, Tokens], ...] = ()
    """Rendered conversations, and the ids that the run makes of them."""


class _HuggingFace:
    """A checkpoint's tokenizer."""

    def __init__(self, student: StudentTokenizer) -> None:
        self._tokenizer = student.tokenizer

    def encode(self, text: str, *, special: bool, add_special: bool = False) -> Tokens:
        self._tokenizer.encode_special_tokens = not special
        try:
            return tuple(self._tokenizer.encode(text, add_special_tokens=add_special).ids)
        finally:
            self._tokenizer.encode_special_tokens = False


def expected_of(student: StudentTokenizer, variables: Mapping[str, Any]) -> Expected:
    """What a file of this student has to do; `variables` are the recipe's settings for the template."""
    template = student.chat_template
    prompts: list[tuple[str, Tokens]] = []
    for messages in (*WITHOUT_SYSTEM, *WITH_SYSTEM):
        try:
            text = student.render(messages, **variables)
        except DataError:  # it takes no system message
            continue
        prompts.append((text, student.encode_prompt(messages, **variables)))
    added = student.tokenizer.get_added_tokens_decoder()
    return Expected(
        _HuggingFace(student),
        tuple(token.content for token in added.values() if token.special),
        None if PLAIN in template.source else template.source,
        template.special.get("bos_token", ""),
        student.stop_tokens,
        tuple(prompts),
    )


def check_text(path: Path, expected: Expected, texts: Sequence[str] = ()) -> tuple[str, ...]:
    """Compare a file with the student: ids of stress texts and of `texts`, template, end of turn.

    Returns notices: differences that the file cannot help.

    Raises:
        ExportError: llama.cpp reads or ends something differently.
        DataError: the file cannot be loaded.
    """
    model = Model.open(path, vocab_only=True)
    try:
        _check_template(model, expected)
        _check_ids(model.vocabulary, expected, texts)
        _check_end(model.vocabulary, expected)
        return _prompt_notices(model.vocabulary, expected)
    finally:
        model.close()


def _check_template(model: Model, expected: Expected) -> None:
    if expected.template is not None and model.chat_template != expected.template:
        raise ExportError("The chat template in the GGUF file is not the checkpoint's.", "Please report this.")


def _check_ids(vocabulary: Vocabulary, expected: Expected, texts: Sequence[str]) -> None:
    tokens = expected.special_tokens
    spelled = (
        f"Say{t} and {t} or\n{t}{t}." for t in (*tokens[: _SPECIAL_TOKENS // 2], *tokens[-_SPECIAL_TOKENS // 2 :])
    )
    for text in (*STRESS, *spelled, *(normalize("NFC", t) for t in texts)):
        for special, add_special in ((True, False), (False, False), (True, True)):
            wanted = expected.tokenizer.encode(text, special=special, add_special=add_special)
            found = vocabulary.encode(text, special=special, add_special=add_special)
            if found != wanted:
                at = next(
                    i for i, pair in enumerate(zip((*found, None), (*wanted, None), strict=False)) if pair[0] != pair[1]
                )
                raise ExportError(
                    f"llama.cpp makes other token ids of {text!r} than the student's tokenizer: at token {at} "
                    f"{found[at : at + 3]} instead of {wanted[at : at + 3]}.",
                    "Export as hf or adapter instead, and please report this with the student's tokenizer.json.",
                )


def _check_end(vocabulary: Vocabulary, expected: Expected) -> None:
    """The token that training ends answers with must end them in llama.cpp."""
    stop = expected.stop_tokens[0]
    if stop not in vocabulary.ends:
        raise ExportError(
            f"llama.cpp would not stop at {vocabulary.text(stop)!r}, with which the student ends its answers.",
            "Please report this with the student's tokenizer_config.json.",
        )


def _prompt_notices(vocabulary: Vocabulary, expected: Expected) -> tuple[str, ...]:
    """Whether a runtime feeds a rendered conversation to the model as training did.

    A runtime lets llama.cpp add the BOS, and takes one away that the template wrote already (common/chat.cpp).
    """
    for text, wanted in expected.prompts:
        rest = text.removeprefix(expected.bos) if vocabulary.adds_bos and expected.bos else text
        if vocabulary.encode(rest, special=True, add_special=True) != wanted:
            return (
                "llama.cpp's programs put a BOS token before every conversation; the student's chat template writes "
                "none, so it was trained without.",
            )
    return ()
