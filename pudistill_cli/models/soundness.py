"""What makes a checkpoint unfit or ambiguous whatever backend reads it, found from its config and headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pudistill_cli.errors import DataError
from pudistill_cli.models.checkpoint_files import dtypes_of, shapes_of, weight_files
from pudistill_cli.models.config_fields import check_sizes
from pudistill_cli.models.safetensors_io import FLOATS, equal_values, stored_tensors

Config = Mapping[str, Any]

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
_HEAD_IS_NAMED = ("embed_tokens.weight", "wte.weight")
"""Embeddings of architectures that call their head lm_head."""
_QUANTISED = ("quantization_config", "quantization", "compression_config")
"""Entries of config.json: of transformers, of mlx-lm, of compressed-tensors."""
_SIXTEEN_BIT = "Give the 16-bit checkpoint it was made from."


def refuse_unsound(folder: Path, config: Config, files: Sequence[Path]) -> None:
    """See that the weights are floats, of the config's shape, and that it is clear which matrix is the head.

    Raises:
        DataError: what is wrong, and what to do.
    """
    _refuse_other_than_floats(files)
    shapes = shapes_of(files)
    embeddings = embeddings_of(shapes)
    if embeddings is not None:
        _refuse_other_shape(folder, config, embeddings, shapes[embeddings])
    check_sizes(folder / "config.json", config, shapes)
    if embeddings is not None:
        _refuse_two_heads(folder, config, files, shapes, embeddings)


def refuse_quantised(folder: Path, config: Config) -> None:
    """Raise the DataError for a checkpoint that its config calls quantised."""
    if any(config.get(key) is not None for key in _QUANTISED):
        raise DataError(
            f"{folder} is a quantised checkpoint; an adapter merged into it would be lost in rounding.", _SIXTEEN_BIT
        )


def embeddings_of(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The token embeddings' name, where one tensor is called as they usually are."""
    return _only([n for n, shape in shapes.items() if len(shape) == 2 and n.endswith(_EMBEDDINGS)])


def embedding_rows(folder: Path) -> int | None:
    """How many token ids the weights have embeddings for; None where there are no weights, or it cannot be told."""
    if not any(folder.glob("*.safetensors")):
        return None
    shapes = shapes_of(weight_files(folder))
    name = embeddings_of(shapes)
    return None if name is None else shapes[name][0]


def _refuse_other_than_floats(files: Sequence[Path]) -> None:
    """Buffers may be integers (position ids, masks); weights may not, and floats of 8 bits or less neither."""
    strange = {
        name: dtype
        for name, dtype in dtypes_of(files).items()
        if dtype not in FLOATS and (dtype.startswith("F") or "weight" in name.rpartition(".")[2] or "zeros" in name)
    }
    if strange:
        first = min(strange)
        raise DataError(
            f"{files[0].parent} is a quantised checkpoint: {len(strange):,} of its weights are no floats of 16 bits or "
            f"more ({first} is {strange[first]}); an adapter merged into them would be lost in rounding.",
            _SIXTEEN_BIT,
        )


def _refuse_other_shape(folder: Path, config: Config, name: str, shape: tuple[int, ...]) -> None:
    wanted = (config.get("vocab_size"), config.get("hidden_size", config.get("n_embd")))
    if "word_embed_proj_dim" in config or not all(isinstance(n, int) for n in wanted) or shape == wanted:
        return
    raise DataError(
        f"{folder / 'config.json'} is not of these weights: by it, {name} is {wanted[0]} x {wanted[1]}, and it is "
        f"{' x '.join(map(str, shape))}.",
        "Download or copy the student again, config.json together with the weights.",
    )


def _refuse_two_heads(
    folder: Path,
    config: Config,
    files: Sequence[Path],
    shapes: Mapping[str, tuple[int, ...]],
    embeddings: str,
) -> None:
    """Whether the head is the embeddings must be the same by the config and by the weights."""
    tied = config.get("tie_word_embeddings")
    head = _only([name for name in shapes if name.endswith(_HEADS)])
    if tied and head is not None:
        tensors = {t.spec.name: t for path in files for t in stored_tensors(path)}
        if not equal_values(tensors[head], tensors[embeddings]):
            raise DataError(
                f"{folder}: config.json says that the head is the embeddings (tie_word_embeddings: true), but the "
                f"weights hold a {head} that differs from {embeddings}. transformers would use it, MLX and llama.cpp "
                "the embeddings.",
                "If it is the head, set tie_word_embeddings to false in config.json; if not, take it out of the file.",
            )
    if tied is False and head is None and embeddings.endswith(_HEAD_IS_NAMED):
        raise DataError(
            f"{folder}: config.json says that the head is not the embeddings (tie_word_embeddings: false), but the "
            "weights hold no lm_head.weight.",
            "Download or copy the student again; if the head is the embeddings, set tie_word_embeddings to true.",
        )


def _only(names: Sequence[str]) -> str | None:
    return names[0] if len(names) == 1 else None
