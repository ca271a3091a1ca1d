"""A key-value cache of many sequences, and the one call that computes: tokens in, logits out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from pudistill_cli.errors import BackendError
from pudistill_cli.types import Floats
from pudistill_llamacpp.native.library import captured, library
from pudistill_llamacpp.native.model import Lora, Model

KvType: TypeAlias = Literal["f32", "f16", "bf16", "q8_0"]
_KV_TYPES: dict[str, int] = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}
"""ggml's numbers."""
MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ: more are refused."""
OnTensor: TypeAlias = Callable[[int, bool], bool]
"""(address of a ggml_tensor, whether llama.cpp only asks) -> whether it is wanted; see cb_eval in llama.h."""


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """How a context is laid out."""

    n_ctx: int
    """Cells of the cache. Without `unified` every sequence owns n_ctx / n_seq_max of them."""
    n_seq_max: int = 1
    n_batch: int = 2048
    """Most tokens of one `decode`."""
    n_ubatch: int = 512
    """Most tokens of one pass through the model."""
    n_outputs: int = 0
    """Most tokens of one `decode` that want logits, which take room for a whole vocabulary each; 0 is all of them."""
    kv: KvType = "f16"
    unified: bool = False
    """One stream of cells for all sequences (a copied prefix is shared), instead of one each (it is copied)."""
    flash: bool = True
    threads: int = 1


class Context:
    """Sequences by number, 0 to n_seq_max - 1. Close it before its model."""

    def __init__(self, model: Model, settings: ContextSettings, on_tensor: OnTensor | None = None) -> None:
        self._lib = library()
        self.settings = settings
        self.n_vocab = model.vocabulary.size
        params = self._params(model, settings)
        if on_tensor is not None:
            # ctypes keeps no reference to a callback that C holds.
            self._on_tensor = self._lib.ggml_backend_sched_eval_callback(lambda t, ask, _: on_tensor(t or 0, ask))
            params.cb_eval = self._on_tensor
        with captured() as log:
            self._open: Any = self._lib.llama_init_from_model(model.pointer, params)
        if not self._open:
            raise BackendError(
                f"llama.cpp cannot make a context of {settings.n_ctx} tokens for {settings.n_seq_max} sequences: "
                f"{log.reason}",
                "Lower student.context or student.sample_rows, or choose another KV type.",
            )
        self._allocate(settings.n_batch)
        self._lora: Lora | None = None

    @property
    def _pointer(self) -> Any:
        if self._open is None:
            raise BackendError("The context is closed.", "This is a bug in pudistill: please report it.")
        return self._open

    @property
    def _memory(self) -> Any:
        return self._lib.llama_get_memory(self._pointer)

    def _params(self, model: Model, settings: ContextSettings) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = settings.n_ctx, settings.n_seq_max
        params.n_batch, params.n_ubatch = settings.n_batch, min(settings.n_ubatch, settings.n_batch)
        params.n_outputs_max = max(settings.n_outputs, settings.n_seq_max) if settings.n_outputs else 0
        params.n_threads = params.n_threads_batch = settings.threads
        params.type_k = params.type_v = _KV_TYPES[settings.kv]
        params.flash_attn_type = int(settings.flash)
        params.kv_unified = settings.unified
        params.offload_kqv = params.op_offload = model.gpu
        params.swa_full = True  # a sliding-window cache forgets the prefix that candidates share
        params.no_perf = True
        return params

    def _allocate(self, n: int) -> None:
        """The batch's arrays, filled anew by each `decode`."""
        self._token, self._position = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self._sequence, self._wanted = np.zeros(n, np.int32), np.zeros(n, np.int8)
        self._one = np.ones(n, np.int32)  # each token belongs to one sequence
        self._sequence_pointers = self._sequence.ctypes.data + self._sequence.itemsize * np.arange(n, dtype=np.uintp)
        batch = self._lib.llama_batch()
        int32 = ctypes.POINTER(ctypes.c_int32)
        batch.token, batch.pos = self._token.ctypes.data_as(int32), self._position.ctypes.data_as(int32)
        batch.n_seq_id = self._one.ctypes.data_as(int32)
        batch.seq_id = ctypes.cast(self._sequence_pointers.ctypes.data, ctypes.POINTER(int32))
        batch.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._batch = batch

    def decode(
        self, tokens: ArrayLike, positions: ArrayLike, sequences: ArrayLike, wants_logits: ArrayLike = True
    ) -> Floats:
        """Compute at most `n_batch` tokens; all four are (n,) or broadcast to it.

        Returns (rows, V) float32 logits of the tokens that want them, in batch order: a view that the next `decode`
        overwrites.

        Raises:
            BackendError: no room in the cache, or the computation failed.
        """
        n = np.size(tokens)
        if n > self.settings.n_batch:  # llama.cpp would abort the process
            raise ValueError(f"{n} tokens in a batch of at most {self.settings.n_batch}")
        self._token[:n], self._position[:n], self._sequence[:n] = tokens, positions, sequences
        self._wanted[:n] = wants_logits
        self._batch.n_tokens = n
        rows = int(np.count_nonzero(self._wanted[:n]))
        if rows > (self.settings.n_outputs or n):
            raise ValueError(f"{rows} rows of logits, and room for {self.settings.n_outputs}")
        with captured() as log:
            status = self._lib.llama_decode(self._pointer, self._batch)
        if status == 1:
            raise BackendError(
                f"The key-value cache of {self.settings.n_ctx} tokens is full.",
                "Lower student.sample_rows, or raise student.context.",
            )
        if status:
            raise BackendError(f"llama.cpp failed to compute a batch ({status}): {log.reason}", "Please report this.")
        if not rows:
            return np.empty((0, self.n_vocab), np.float32)
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self._pointer), shape=(rows, self.n_vocab))

    # --- sequences ---

    def copy(self, source: int, targets: Iterable[int]) -> None:
        """Make other sequences the same as `source`; what they held is forgotten."""
        for target in targets:
            if self.settings.unified:  # there, a copy adds to what is held
                self.remove(target)
            self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def remove(self, sequence: int, start: int = -1) -> None:
        """Forget a sequence's tokens from position `start` on; all of them by default."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def clear(self) -> None:
        """Forget all sequences."""
        self._lib.llama_memory_clear(self._memory, False)

    # --- adapter ---

    def use(self, lora: Lora | None) -> None:
        """Compute with an adapter, or with the bare base. What sequences hold already is not computed again."""
        if lora is self._lora:
            return
        if lora is None:
            self._lib.llama_set_adapters_lora(self._pointer, None, 0, None)
        else:
            adapters = (self._lib.llama_adapter_lora_p_ctypes * 1)(lora.pointer)
            self._lib.llama_set_adapters_lora(self._pointer, adapters, 1, (ctypes.c_float * 1)(1.0))
            lora.acquire()
        if self._lora is not None:
            self._lora.release()
        self._lora = lora

    def close(self) -> None:
        """Give its memory back."""
        if self._open is not None:
            self.use(None)
            self._lib.llama_free(self._open)
            self._open = None
