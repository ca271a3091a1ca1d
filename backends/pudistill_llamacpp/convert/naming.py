"""The name in a file, which llama.cpp takes more seriously than one would think.

A file whose name contains "phi-3" or "phi3" is loaded with special tokens that swallow the spaces behind them, as
Phi-3's own tokenizer has them; in no other file can they. So the name must say what the tokenizer does.
"""

from __future__ import annotations

import re

from pudistill_llamacpp.convert.tokens import CONTROL, UNKNOWN, USER_DEFINED, CannotBeWrittenError, Tokens

_PHI3 = re.compile(r"phi-?3", re.IGNORECASE)
_PLAIN = frozenset({"<unk>", "<s>", "<|endoftext|>"})
"""Those that do not swallow; with "</s>" they must be there, or the file does not load."""


def name_for(name: str, tokens: Tokens) -> str:
    """`name`, changed where it would make llama.cpp treat spaces as the tokenizer does not.

    Raises:
        CannotBeWrittenError: some special tokens swallow spaces, and not as Phi-3's.
    """
    if not tokens.swallowing:
        return _PHI3.sub("Phi 3", name)
    special = {
        text for text, kind in zip(tokens.texts, tokens.types, strict=True) if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    }
    if tokens.swallowing != special - _PLAIN or not {*_PLAIN, "</s>"} <= special:
        raise CannotBeWrittenError(f"{min(tokens.swallowing)!r} takes the spaces behind it away, not as Phi-3's do")
    return name if _PHI3.search(name) else f"{name} (Phi-3)"
