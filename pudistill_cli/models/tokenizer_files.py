"""A checkpoint's tokenizer files: tokenizer.json or GPT-2's pair, special tokens, chat template, stop ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pudistill_cli.errors import DataError
from pudistill_cli.file_kinds import advice_for, kind_of_file
from pudistill_cli.models.chat_template import PLAIN, ChatTemplate
from pudistill_cli.models.checkpoint_files import read_json

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of tokenizer.json; without one, of vocab.json and merges.txt if the config names GPT-2.

    tokenizer.json is trusted over `tokenizer_class`: SmolLM2's, GPT2Tokenizer, lacks its digit split.

    Raises:
        DataError: neither is there, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    pair = (folder / "vocab.json", folder / "merges.txt")
    config = read_json(folder / "tokenizer_config.json")
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        elif all(p.is_file() for p in pair) and config.get("tokenizer_class") in _GPT2_CLASSES:
            tokenizer = _gpt2(*pair, add_prefix_space=config.get("add_prefix_space") is True)
        else:
            raise DataError(
                f"{folder} has no tokenizer.json.",
                "Save one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            )
    except DataError:
        raise
    except Exception as error:
        kind = kind_of_file(path)
        reason, advice = (f"{path.name} is {kind}" if kind else str(error)), advice_for(kind, "Copy it again.")
        raise DataError(f"Cannot read the tokenizer in {folder}: {reason}.", advice) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def within_embeddings(tokenizer: Tokenizer, rows: int, folder: Path) -> tuple[Tokenizer, tuple[str, ...]]:
    """The tokenizer without added tokens whose ids the embeddings have no row for, and how those are spelled.

    llama.cpp leaves them out as well: what spells one is read as the text it is.

    Raises:
        DataError: ids of the vocabulary itself have no row.
    """
    known = tokenizer.get_vocab_size(with_added_tokens=False)
    added = tokenizer.get_added_tokens_decoder()
    if known > rows:
        raise DataError(
            f"The tokenizer in {folder} has {known:,} tokens, and the model's embeddings have {rows:,} rows.",
            "Copy the tokenizer of this very model beside its weights.",
        )
    beyond = {i: token.content for i, token in sorted(added.items()) if i >= rows}
    if not beyond:
        return tokenizer, ()
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] not in beyond]
    return Tokenizer.from_str(json.dumps(content)), tuple(beyond.values())


def _gpt2(vocabulary: Path, merges: Path, *, add_prefix_space: bool) -> Tokenizer:
    model = models.BPE.from_file(str(vocabulary), str(merges))  # pyright: ignore[reportUnknownMemberType]
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def named_special_tokens(folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """bos, eos, unk and pad by the tokenizer's config, else by the ids in the model's.

    Those in the vocabulary that tokenizer.json does not mark as special become so.
    """
    config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
    model = read_json(folder / "config.json")
    special: dict[str, str] = {}
    for name in _SPECIAL_NAMES:
        value = config.get(name)
        token: Any = cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
        index = model.get(f"{name}_id")
        if token is None and isinstance(index, int):
            token = tokenizer.id_to_token(index)
        if isinstance(token, str) and tokenizer.token_to_id(token) is not None:
            special[name] = token
    mark_special(tokenizer, list(special.values()))
    return special


def mark_special(tokenizer: Tokenizer, tokens: list[str]) -> None:
    """Make tokens of the vocabulary special: parsed in text, left out of decoded text."""
    # One that is special already keeps its settings (Phi-3's swallow the space behind them): a name alone resets them.
    already = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    tokenizer.add_special_tokens([t for t in tokens if t not in already])  # pyright: ignore[reportUnknownMemberType]


def chat_template_of(
    folder: Path, special: Mapping[str, str], adds_bos: bool, now: datetime
) -> tuple[ChatTemplate, tuple[str, ...]]:
    """The checkpoint's template, or the plain one with a notice.

    Raises:
        DataError: a list of named templates without a "default".
    """
    path = folder / "chat_template.jinja"
    source: Any = read_json(folder / "tokenizer_config.json").get("chat_template")
    if path.is_file():
        source = _template_text(path)
    if isinstance(source, list):
        named = {t["name"]: t["template"] for t in cast("list[dict[str, str]]", source)}
        if "default" not in named:
            raise DataError(
                f"The chat templates in {folder} are named {', '.join(named)}; none is the default.",
                "Put the one to use into chat_template.jinja.",
            )
        source = named["default"]
    return template_or_plain(source if isinstance(source, str) else None, special, adds_bos, now)


def _template_text(path: Path) -> str:
    kind = kind_of_file(path)
    try:
        if kind is None:
            return path.read_text(encoding="utf-8")
        reason = f"it is {kind}"
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error)
    raise DataError(f"Cannot read {path}: {reason}.", advice_for(kind, "Download or copy it again, as UTF-8 text."))


def template_or_plain(
    source: str | None, special: Mapping[str, str], adds_bos: bool, now: datetime
) -> tuple[ChatTemplate, tuple[str, ...]]:
    """A student's own template, or the plain one with a notice."""
    if source is not None:
        return ChatTemplate(source, special, now), ()
    notice = (
        "The student has no chat template: conversations are written as 'User:', 'Assistant:' paragraphs. "
        "For a base model that should only continue text, set prompts.format to text."
    )
    return ChatTemplate("{{ bos_token }}" * adds_bos + PLAIN, special, now), (notice,)


def stop_ids(folder: Path) -> list[int]:
    """`eos_token_id` of generation_config.json, then of config.json: a number or a list each."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id")
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        ids += [v for v in values if isinstance(v, int)]
    return ids
