"""Whether the checkpoint that a GGUF file was made from reads text as the file does, which is what training sees."""

from __future__ import annotations

from pudistill_cli.backend_api.export_checks import STRESS
from pudistill_cli.errors import DataError
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.prompts import Format
from pudistill_cli.types import Message

_ASKED = (Message("user", " One\n two?"),)
_AGAIN = (*_ASKED, Message("assistant", "Three."), Message("user", "Four"))
_CONVERSATIONS = (_ASKED, _AGAIN, (Message("system", "Five."), *_ASKED))


def text_difference(file: StudentTokenizer, original: StudentTokenizer, format: Format) -> str | None:
    """What the original does otherwise, as the end of "... the original "; None where text is the same to both."""
    for text in STRESS:
        if original.codec.encode(text, special=True) != file.codec.encode(text, special=True):
            return f"makes other token ids of {text!r}"
    if original.stop_tokens[0] != file.stop_tokens[0]:
        ends = (tokenizer.codec.token_of(tokenizer.stop_tokens[0]) for tokenizer in (original, file))
        return "ends an answer with {!r}, the file with {!r}".format(*ends)
    dated = original.at(file.chat_template.now)
    if format == "chat" and any(_rendered(file, c) != _rendered(dated, c) for c in _CONVERSATIONS):
        return "has another chat template, which writes conversations otherwise"
    return None


def _rendered(tokenizer: StudentTokenizer, conversation: tuple[Message, ...]) -> str | None:
    try:
        return tokenizer.render(conversation)
    except DataError:  # it takes no system message
        return None
