"""What of an exported GGUF file is no distribution: token ids, chat template, end of turn, compared in llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pudistill_cli.backend_api.codec import Codec, LibraryCodec
from pudistill_cli.backend_api.export_checks import STRESS, check_ids, spelled
from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.models.chat_template import PLAIN
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Tokens
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.native.vocabulary import Vocabulary
from pudistill_llamacpp.runtimes.recognise import WITH_SYSTEM, WITHOUT_SYSTEM
from pudistill_llamacpp.runtimes.server_line import WITHOUT_BOS

RUNTIME = "llama.cpp"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the run's student says of itself."""

    codec: Codec
    special_tokens: tuple[str, ...]
    added_tokens: tuple[str, ...]
    """Those that are not special: llama.cpp makes some of them so (<|fim_prefix|>), whatever the file says."""
    template: str | None
    """None for a GGUF student that brings none: its metadata is kept as it is."""
    bos: str
    stop_tokens: Tokens
    prompts: tuple[tuple[str, Tokens], ...] = ()
    """Rendered conversations, and the ids that the run makes of them."""
    adds_bos: bool = True
    """Whether the file has runtimes put the tokenizer's BOS before a text."""

    @property
    def unseen_bos(self) -> bool:
        """Whether the tokenizer puts a BOS before a text, and the chat template before no conversation."""
        bos = self.codec.bos
        return bool(bos) and all(ids[: len(bos)] != bos for _, ids in self.prompts)


def expected_of(student: StudentTokenizer, variables: Mapping[str, Any]) -> Expected:
    """What a file of this student has to do; `variables` are the recipe's settings for the template."""
    template, codec = student.chat_template, student.codec
    prompts: list[tuple[str, Tokens]] = []
    for messages in (*WITHOUT_SYSTEM, *WITH_SYSTEM):
        with suppress(DataError):  # it takes no system message
            prompts.append((student.render(messages, **variables), student.encode_prompt(messages, **variables)))
    # A GGUF student's tokenizer is llama.cpp's own, which needs no list.
    added = list(codec.tokenizer.get_added_tokens_decoder().values()) if isinstance(codec, LibraryCodec) else []
    written = isinstance(codec, LibraryCodec) or PLAIN not in template.source
    return Expected(
        codec,
        tuple(token.content for token in added if token.special),
        tuple(token.content for token in added if not token.special),
        template.source if written else None,
        template.special.get("bos_token", ""),
        student.stop_tokens,
        tuple(prompts),
    )


def bos_notices(path: Path, expected: Expected) -> tuple[str, ...]:
    """What a file has runtimes put before conversations that training saw otherwise."""
    model = Model.open(path, vocab_only=True)
    try:
        return _prompt_notices(model.vocabulary, expected)
    finally:
        model.close()


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
        notices = _check_ids(model.vocabulary, expected, texts)
        _check_end(model.vocabulary, expected)
        return (*notices, *_prompt_notices(model.vocabulary, expected))
    finally:
        model.close()


def _check_template(model: Model, expected: Expected) -> None:
    if expected.template is not None and model.chat_template != expected.template:
        raise ExportError("The chat template in the GGUF file is not the checkpoint's.", "Please report this.")


def _check_ids(vocabulary: Vocabulary, expected: Expected, texts: Sequence[str]) -> tuple[str, ...]:
    rendered = [text for text, _ in expected.prompts]
    composed = [normalize("NFC", text) for text in texts]
    before = expected.codec.bos if expected.adds_bos else ()
    plain = [*STRESS, *spelled(expected.special_tokens), *rendered, *composed]
    if expected.bos and vocabulary.encode("a", special=True) != expected.codec.encode("a", special=True):
        # A space of the tokenizer's own at the very start alone (Mistral), which llama.cpp knows always or never.
        for text in (*plain, *spelled(expected.added_tokens)):
            behind = text if text.startswith(expected.bos) else expected.bos + text
            ids = expected.codec.encode(behind, special=True)
            check_ids(RUNTIME, text, vocabulary.encode(behind, special=True), ids)
        return (
            "Bare text begins with another token in llama.cpp than in training; conversations, which begin with "
            f"{expected.bos}, are the same.",
        )
    for text in (*plain, *spelled(expected.added_tokens)):
        ids = expected.codec.encode(text, special=True)
        check_ids(RUNTIME, text, vocabulary.encode(text, special=True), ids)
        check_ids(RUNTIME, text, vocabulary.encode(text, special=True, add_special=True), before + ids)
    for text in plain:
        check_ids(RUNTIME, text, vocabulary.encode(text, special=False), expected.codec.encode(text, special=False))
    return ()


def _check_end(vocabulary: Vocabulary, expected: Expected) -> None:
    """The token that training ends answers with must end them in llama.cpp."""
    stop = expected.stop_tokens[0]
    if stop not in vocabulary.ends:
        raise ExportError(
            f"llama.cpp would not stop at {vocabulary.text(stop)!r}, with which the student ends its answers.",
            "Please report this with the student's tokenizer_config.json.",
        )


def _prompt_notices(vocabulary: Vocabulary, expected: Expected) -> tuple[str, ...]:
    """Whether a runtime puts a BOS before rendered conversations that training saw without.

    It lets llama.cpp add one, and takes one away that the template wrote already (common/chat.cpp).
    """
    for text, wanted in expected.prompts:
        rest = text.removeprefix(expected.bos) if vocabulary.adds_bos and expected.bos else text
        if vocabulary.encode(rest, special=True, add_special=True) != wanted:
            return (
                "llama.cpp's programs put a BOS token before every conversation; the student's chat template writes "
                f"none, so it was trained without. They are told by {' '.join(WITHOUT_BOS)}, as in the llama-server "
                "line; Ollama has no such switch.",
            )
    return ()
