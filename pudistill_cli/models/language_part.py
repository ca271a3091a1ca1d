"""The language model of a checkpoint that holds more (a vision tower, say), as a checkpoint of its own in the cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pudistill_cli.errors import DataError
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.models.kept_checkpoint import kept_checkpoint, write_json
from pudistill_cli.models.merged_checkpoint import COPIED_FILES
from pudistill_cli.models.safetensors_io import Bits, StoredTensor, TensorSpec, blocks_of, stored_tensors, write_tensors

Config = Mapping[str, Any]

CLASSES = {
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Language models that are the same beside a vision tower and alone, by `model_type`."""
_PARTS = ("text_config", "vision_config", "audio_config", "speech_config", "image_config", "vq_config")
"""Entries of config.json that describe a part of a model."""
_PREFIXES = (("language_model.model.", "model."), ("language_model.", ""), ("model.language_model.", "model."))
"""What the language model's tensors are called in the whole, and alone: of transformers 4, and of 5."""
_HEAD = "lm_head.weight"
_OF_THE_WHOLE = (
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "dtype", "torch_dtype"
)  # fmt: skip
"""Entries that may stand beside `text_config` instead of in it."""
_BLOCK = 1 << 24


def parts_of(config: Config) -> tuple[str, ...]:
    """The entries of config.json that describe parts; none of a plain language model."""
    return tuple(name for name in _PARTS if isinstance(config.get(name), dict))


def language_part(folder: Path, config: Config, files: Sequence[Path], content: str) -> Path:
    """The folder of the language model in a checkpoint of several parts; `content` is the checkpoint's hash.

    Raises:
        DataError: it is not one that is known to be the same alone, or there is no room for it.
    """
    text = cast("Config", config.get("text_config") or {})
    kind = str(text.get("model_type"))
    tensors = {t.spec.name: t for path in files for t in stored_tensors(path)}
    names = {own_name: name for name in tensors if (own_name := _alone(name)) is not None}
    if kind not in CLASSES or not names:
        raise DataError(
            f"{folder} is more than a language model ({', '.join(parts_of(config))}): an adapter on it would fit none "
            "of the runtimes that an export is for.",
            f"Use a student that is a language model alone, or one around {', '.join(CLASSES)}.",
        )
    alone: dict[str, Any] = {
        **{key: config[key] for key in _OF_THE_WHOLE if key in config},
        **{key: value for key, value in text.items() if not (key in _OF_THE_WHOLE and value is None)},
        "architectures": [CLASSES[kind]],
    }
    specs = [TensorSpec(new, tensors[old].spec.dtype, tensors[old].spec.shape) for new, old in names.items()]

    def blocks(name: str) -> Iterator[Bits]:
        return _blocks(tensors[names[name]])

    def write(out: Path) -> None:
        write_tensors(out / "model.safetensors", specs, blocks)
        for path in (p for pattern in COPIED_FILES for p in folder.glob(pattern) if p.is_file()):
            shutil.copyfile(path, out / path.name)  # of a link, what it leads to
        write_json(out / "config.json", alone)

    takes = f"The language model in {folder.name} takes"
    out = cache_path() / "language-model" / f"{folder.name}-{content}"
    return kept_checkpoint(out, sum(spec.nbytes for spec in specs), takes, write)


def _alone(name: str) -> str | None:
    """What a tensor of the whole is called in the language model alone; None if it is of another part."""
    return next((new + name.removeprefix(old) for old, new in _PREFIXES if name.startswith(old)), None) or (
        _HEAD if name == _HEAD else None
    )


def _blocks(tensor: StoredTensor) -> Iterator[Bits]:
    return (tensor.read(start, stop) for start, stop in blocks_of(tensor.spec.size, _BLOCK))
