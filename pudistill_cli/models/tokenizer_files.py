"""A checkpoint's tokenizer files: tokenizer.json or GPT-2's pair, special tokens, chat template, stop ids."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pudistill_cli.errors import DataError
from pudistill_cli.files.file_kinds import advice_for, kind_of
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.models.chat_template import PLAIN, ChatTemplate
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.config_fields import check_token_ids
from pudistill_cli.models.reading import COPY_AGAIN, parse_json, read_bytes, read_object, read_text
from pudistill_cli.models.tokenizer_limits import MOST_TOKENIZER_BYTES, check_tokenizer

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_MOST_TEMPLATE_BYTES = 1 << 20
_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of tokenizer.json; without one, of vocab.json and merges.txt if the config names GPT-2.

    tokenizer.json is trusted over `tokenizer_class`: SmolLM2's, GPT2Tokenizer, lacks its digit split.

    Raises:
        DataError: neither is there, it cannot be read, or it is beyond what `tokenizer_limits` allows.
    """
    path = folder / "tokenizer.json"
    pair = (folder / "vocab.json", folder / "merges.txt")
    config = read_json(folder / "tokenizer_config.json")
    if os.path.lexists(path):
        tokenizer = _whole_tokenizer(path)
    elif all(map(os.path.lexists, pair)) and config.get("tokenizer_class") in _GPT2_CLASSES:
        tokenizer = _gpt2(*pair, add_prefix_space=config.get("add_prefix_space") is True)
    else:
        raise DataError(
            f"{folder} has no tokenizer.json.",
            "Save one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _whole_tokenizer(path: Path) -> Tokenizer:
    data = read_bytes(path, MOST_TOKENIZER_BYTES, COPY_AGAIN)
    kind = kind_of(data)
    if kind is not None:
        raise DataError(
            f"Cannot read the tokenizer in {path.parent}: {path.name} is {kind}.", advice_for(kind, COPY_AGAIN)
        )
    with as_data_error(f"Cannot read the tokenizer {path}", COPY_AGAIN):
        check_tokenizer(parse_json(data, strictly=False))
        return Tokenizer.from_str(data.decode("utf-8"))


def within_embeddings(tokenizer: Tokenizer, rows: int, folder: Path) -> tuple[Tokenizer, tuple[str, ...]]:
    """The tokenizer without added tokens whose ids the embeddings have no row for, and how those are spelled.

    llama.cpp leaves them out as well: what spells one is read as the text it is.

    Raises:
        DataError: ids of the vocabulary itself have no row.
    """
    known = 1 + max(tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    added = tokenizer.get_added_tokens_decoder()
    if known > rows:
        whole = known == tokenizer.get_vocab_size(with_added_tokens=False)
        has = f"has {known:,} tokens" if whole else f"has tokens up to id {known - 1:,}"
        raise DataError(
            f"The tokenizer in {folder} {has}, and the model's embeddings have {rows:,} rows.",
            "Copy the tokenizer of this very model beside its weights.",
        )
    beyond = {i: token.content for i, token in sorted(added.items()) if i >= rows}
    if not beyond:
        return tokenizer, ()
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] not in beyond]
    return Tokenizer.from_str(json.dumps(content)), tuple(beyond.values())


def _gpt2(vocabulary: Path, merges: Path, *, add_prefix_space: bool) -> Tokenizer:
    vocab = read_object(vocabulary)
    lines = [line.removesuffix("\r") for line in read_text(merges).split("\n")]
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    with as_data_error(f"Cannot read the tokenizer of {vocabulary} and {merges.name}", COPY_AGAIN):
        check_tokenizer({"model": {"type": "BPE", "vocab": vocab, "merges": pairs}})
        model = models.BPE(vocab=vocab, merges=cast("list[tuple[str, str]]", pairs))
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
        if token is None and type(index) is int and 0 <= index < 1 << 32:
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
    if os.path.lexists(path):
        source = read_text(path, _MOST_TEMPLATE_BYTES, "Download or copy it again, as UTF-8 text.")
    if isinstance(source, list):
        named = _named_templates(cast("list[Any]", source), folder)
        if "default" not in named:
            raise DataError(
                f"The chat templates in {folder} are named {', '.join(named)}; none is the default.",
                "Put the one to use into chat_template.jinja.",
            )
        source = named["default"]
    return template_or_plain(source if isinstance(source, str) else None, special, adds_bos, now)


def _named_templates(templates: list[Any], folder: Path) -> dict[str, str]:
    """Templates by name, as tokenizer_config.json lists them."""
    named: dict[str, str] = {}
    for template in templates:
        entry = cast("dict[str, Any]", template if isinstance(template, dict) else {})
        name, source = entry.get("name"), entry.get("template")
        if not isinstance(name, str) or not isinstance(source, str):
            raise DataError(
                f"{folder / 'tokenizer_config.json'}: chat_template lists something else than names and templates.",
                "Put the one to use into chat_template.jinja.",
            )
        named[name] = source
    return named


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
        config = read_json(folder / name)
        check_token_ids(folder / name, config)
        value = config.get("eos_token_id")
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        ids += [v for v in values if type(v) is int]
    return ids
