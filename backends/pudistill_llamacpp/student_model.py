"""The student as llama.cpp holds it: its file, converted once if need be, and what contexts of it take."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from weakref import WeakSet

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.errors import BackendError
from pudistill_llamacpp.native.context import Context, ContextSettings, KvType
from pudistill_llamacpp.native.model import Lora, Model
from pudistill_llamacpp.placement import Placement

_CELLS = 256
"""llama.cpp rounds the cache of a sequence up to a multiple of this."""
_KV_BYTES: Mapping[KvType, float] = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}


class StudentModel:
    """An open model, how it is placed, and the spec that it was opened with."""

    def __init__(self, spec: ModelSpec, placement: Placement, file: Path) -> None:
        self.spec, self.placement = spec, placement
        self.model = Model.open(file, gpu=placement.gpu)
        self._contexts: WeakSet[Context] = WeakSet()
        _refuse_two_rope_factors(self.model, spec.context)

    @cached_property
    def cache_bytes_per_token(self) -> int:
        """Of keys and values, over all layers."""
        return int(self.model.kv_entries * _KV_BYTES[self.placement.kv])

    def cells(self, tokens: int) -> int:
        """Room in the cache for a sequence of so many tokens."""
        return tokens + -tokens % _CELLS

    def context(
        self, cells: int, rows: int, lora: Lora | None, *, n_batch: int, n_ubatch: int, n_outputs: int
    ) -> Context:
        """A context of `rows` sequences with `cells` each, that computes with an adapter.

        Every sequence has a stream of its own: an attention that sees the cells of all took 1.5 times as long at 64
        sequences, more than copying prefixes costs.
        """
        settings = ContextSettings(
            n_ctx=cells * rows,
            n_seq_max=rows,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_outputs=n_outputs,
            kv=self.placement.kv,
            flash=self.placement.flash,
            threads=self.placement.threads,
        )
        context = Context(self.model, settings)
        context.use(lora)
        self._contexts.add(context)
        return context

    def close_contexts(self) -> None:
        """Close those that are still open: they must outlive neither the adapters that they use nor the model."""
        for context in self._contexts:
            context.close()


def _refuse_two_rope_factors(model: Model, context: int) -> None:
    """LongRoPE: beyond the original context llama.cpp rotates every sequence of a context otherwise, short ones too.

    transformers, with which the student is trained, goes by the length of each sequence.
    """
    metadata = model.metadata
    arch = metadata["general.architecture"]
    original = int(metadata.get(f"{arch}.rope.scaling.original_context_length", 0))
    stretched = f"{arch}.rope.scaling.attn_factor" in metadata and metadata.get(f"{arch}.rope.scaling.type") != "yarn"
    if stretched and context > original:
        model.close()
        raise BackendError(
            f"This student rotates positions otherwise in contexts beyond the {original} tokens it was first trained "
            "on, and llama.cpp then does so in short sequences too.",
            f"Stay within them: --set student.context={original}, or sample with torch.",
        )
