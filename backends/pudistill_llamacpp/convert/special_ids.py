"""Ids that have a name in llama.cpp: where a text begins, and every token that ends an answer."""

from __future__ import annotations

from pathlib import Path

from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.models.tokenizer_files import named_special_tokens

_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def special_ids(checkpoint: Path, student: StudentTokenizer) -> dict[str, int]:
    """Ids by llama.cpp's names.

    A runtime stops at eos, eot and eom, and at a few tokens that llama.cpp knows by their text. The student's stop
    tokens take these three places: the tokenizer's own eos, then the end of turn and what else ends an answer.
    """
    ids: dict[str, int] = {}
    for name, token in named_special_tokens(checkpoint, student.tokenizer).items():
        index = student.tokenizer.token_to_id(token)
        if index is not None:
            ids[_NAMES[name]] = index
    stops = list(student.stop_tokens)
    eos = ids.setdefault("eos", stops[0])
    others = [i for i in stops if i != eos]
    return ids | dict(zip(("eot", "eom"), others, strict=False))
