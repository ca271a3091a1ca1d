"""The student's base weights, once, and the adapters on them. Every call names the adapter it runs with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.shared_model import SharedModel, unknown_adapter
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.types import Adapter
from pudistill_mlx import oom
from pudistill_mlx.adapter_files import read_adapter
from pudistill_mlx.base_weights import load_base, windows_of
from pudistill_mlx.cache import LayerRows, RowCache
from pudistill_mlx.head import Head
from pudistill_mlx.lora import LowRanks, Switch, adapt
from pudistill_mlx.placement import place


class Model(SharedModel):
    """A causal language model of mlx-lm, the adapters of its linear layers our own."""

    is_out_of_memory = staticmethod(oom.is_out_of_memory)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.placement = place(spec)
        self.placement.use()
        self.causal: Any = load_base(spec.folder, self.placement.mlx_dtype, spec.base)
        self.switch = Switch()
        self.shapes: Mapping[str, tuple[int, int]] = adapt(self.causal, self.switch)
        """(out, in) of the adapted layers by name."""
        self._windows = windows_of(self.causal, spec.folder)
        self._mask_axes = _mask_axes(self.causal)
        self._frozen: dict[Adapter, LowRanks] = {}
        self.head = Head(self.causal, _vocabulary(self.causal))
        self._verify()

    def hidden(self, ids: mx.array, adapter: LowRanks, cache: RowCache | None = None) -> mx.array:
        """(B, L) ids -> (B, L, D) last hidden states; positions go on from the cache."""
        self.forward_tokens += ids.size
        if cache is None and None not in self._windows:  # windows of all layers are in our mask alone
            cache = self.empty_cache([0] * len(ids))
        with self.switch.on(adapter):
            return self.causal.model(ids, cache=None if cache is None else cache.layers)

    def empty_cache(self, padding: list[int], *, grows: bool = False) -> RowCache:
        """A cache of rows that begin with `padding` columns each."""
        return RowCache([LayerRows(w, self._mask_axes, grows=grows) for w in self._windows], padding)

    # --- adapters ---

    def load_adapter(self, path: Path, handle: Adapter | None = None) -> Adapter:
        """Load a PEFT folder, frozen; DataError if it is not whole or not this student's."""
        adapter = read_adapter(path, self.shapes)
        handle = handle or self.new_handle()
        self._frozen[handle] = adapter
        return handle

    def drop_adapter(self, handle: Adapter) -> None:
        """Forget an adapter; BackendError if there is none of this handle."""
        self.adapter(handle)
        del self._frozen[handle]

    def adapter(self, handle: Adapter | None) -> LowRanks:
        """The weights behind a handle; the bare base has none."""
        if handle is None:
            return {}
        if handle not in self._frozen:
            raise unknown_adapter(handle)
        return self._frozen[handle]

    def _free_cached_memory(self) -> None:
        mx.clear_cache()

    def _free_weights(self) -> None:
        self.causal = self.head = cast("Any", None)
        self._frozen = {}
        mx.clear_cache()

    def _verify(self) -> None:
        """Run a few tokens in every way that is used, once, at load.

        Raises:
            DataError: the weights give logits that are not finite.
            BackendError: this architecture of mlx-lm cannot be batched, branched, or read behind its decoder.
        """
        ids = mx.arange(min(6, self.head.vocabulary))[None]
        try:
            own = self.causal(ids)[0].astype(mx.float32)  # (6, V)
            ours = self._in_every_way(ids)
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            # A part of mlx-lm that takes no cache but its own, or wants more of the config than its constructor.
            raise self._unknown() from error
        if not bool(mx.isfinite(own).all()):
            raise DataError("The student's logits are not finite: its weights are damaged.", "Fetch them again.")
        expected = mx.concatenate([own, own[4:5], own[2:3]])
        if float(mx.abs(ours - expected).max()) > 2e-2 * max(float(mx.abs(expected).max()), 1e-3):
            raise self._unknown()

    def _unknown(self) -> BackendError:
        return BackendError(
            f"Models of type {self.causal.model_type!r} cannot be run in batches through mlx-lm.",
            "Use another backend: --set backend=torch, or another student.",
        )

    def _in_every_way(self, ids: mx.array) -> mx.array:
        """Logits of (1, 6) ids behind the decoder, then of the fifth and the third behind rows of four and two."""
        cache = self.empty_cache([0, 2])
        both = mx.concatenate([ids[:, :4], mx.concatenate([mx.zeros((1, 2), ids.dtype), ids[:, :2]], axis=1)])
        self.hidden(both, {}, cache)
        branch = self.hidden(mx.concatenate([ids[:, 4:5], ids[:, 2:3]]), {}, cache.rows([0, 1]))  # (2, 1, D)
        return self.head.logits(mx.concatenate([self.hidden(ids, {})[0], branch[:, 0]]))


def _vocabulary(causal: Any) -> int:
    return int(causal(mx.zeros((1, 1), mx.int32)).shape[-1])


def _mask_axes(causal: Any) -> int:
    """mlx-lm's Gemma 2 keeps the heads that share keys on an axis of their own, before which a mask has to fit."""
    grouped = causal.model_type == "gemma2" and causal.layers[0].self_attn.repeats > 1
    return 5 if grouped else 4
