"""A GGUF file opened by llama.cpp, and the LoRA adapters loaded beside it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from pudistill_cli.errors import BackendError, DataError
from pudistill_llamacpp.gguf_file.soundness import refuse_unsound
from pudistill_llamacpp.native.library import captured, library
from pudistill_llamacpp.native.vocabulary import Vocabulary


class Lora:
    """A LoRA adapter in a model's memory. Free it before its model; while a context uses it, that waits."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._users = 0
        self._dropped = False

    @property
    def pointer(self) -> Any:
        """What llama.cpp's functions take."""
        if self._pointer is None:
            raise BackendError("The adapter was dropped.", "This is a bug in pudistill: please report it.")
        return self._pointer

    def acquire(self) -> None:
        """A context begins to use it."""
        self._users += 1

    def release(self) -> None:
        """A context no longer uses it."""
        self._users -= 1
        if self._dropped:
            self.close()

    def close(self) -> None:
        """Give its memory back, as soon as nobody uses it."""
        self._dropped = True
        if self._users == 0 and self._pointer is not None:
            library().llama_adapter_lora_free(self._pointer)
            self._pointer = None


class Model:
    """Weights and vocabulary. Close contexts and adapters first."""

    def __init__(self, pointer: Any, path: Path, gpu: bool) -> None:
        self._lib = library()
        self._pointer: Any = pointer
        self.path = path
        self.gpu = gpu
        """Whether layers may be computed on a GPU."""
        self.vocabulary = Vocabulary(self._lib.llama_model_get_vocab(pointer))

    @classmethod
    def open(cls, path: Path, *, vocab_only: bool = False, gpu: bool = False) -> Model:
        """Open a file: all of it, or its metadata and vocabulary alone.

        With `gpu`, every layer goes to the GPUs that this build of llama.cpp supports; without, none does.

        Raises:
            DataError: not there, no GGUF file, cut short, damaged, or of an architecture that llama.cpp does not know.
        """
        lib = library()
        if not path.exists():
            raise DataError(f"There is no file {path}.", "Name a GGUF file that is there.")
        refuse_unsound(path)
        params = lib.llama_model_default_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = -1 if gpu else 0
        with captured() as log:
            pointer = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not pointer:
            raise DataError(
                f"llama.cpp cannot load {path}: {log.reason}",
                "The file may be incomplete (fetch or write it again), or newer than the installed llama-cpp-python "
                "(pip install -U llama-cpp-python).",
            )
        return cls(pointer, path, gpu)

    @property
    def pointer(self) -> Any:
        """What llama.cpp's functions take."""
        if self._pointer is None:
            raise BackendError("The model is closed.", "This is a bug in pudistill: please report it.")
        return self._pointer

    def load_lora(self, path: Path, source: Path | None = None) -> Lora:
        """Load a GGUF LoRA file beside the weights; `source` is what an error names, if it was made of something else.

        Raises:
            DataError: it cannot be read, or belongs to another model.
        """
        with captured() as log:
            pointer = self._lib.llama_adapter_lora_init(self.pointer, os.fsencode(path))
        if not pointer:
            raise DataError(
                f"llama.cpp cannot load the adapter {source or path} for {self.path.name}: {log.reason}",
                "Use an adapter with the model that it was trained on.",
            )
        return Lora(pointer)

    # --- what the file says ---

    @property
    def metadata(self) -> dict[str, str]:
        """The file's scalar keys, as text."""
        keys = range(self._lib.llama_model_meta_count(self.pointer))
        return {
            self._text(self._lib.llama_model_meta_key_by_index, i): self._text(
                self._lib.llama_model_meta_val_str_by_index, i
            )
            for i in keys
        }

    @property
    def chat_template(self) -> str | None:
        """The file's default chat template."""
        text = self._lib.llama_model_chat_template(self.pointer, None)
        return None if text is None else text.decode("utf-8", "replace")

    @property
    def context_length(self) -> int:
        """Tokens of the longest sequence that it was trained on."""
        return int(self._lib.llama_model_n_ctx_train(self.pointer))

    @property
    def kv_entries(self) -> int:
        """Numbers that one token takes in the key-value cache: keys and values of all layers."""
        kv_heads, heads = self._lib.llama_model_n_head_kv(self.pointer), self._lib.llama_model_n_head(self.pointer)
        metadata = self.metadata
        arch = metadata["general.architecture"]
        width = self._lib.llama_model_n_embd(self.pointer) // heads
        key, value = (int(metadata.get(f"{arch}.attention.{part}_length", str(width))) for part in ("key", "value"))
        return self._lib.llama_model_n_layer(self.pointer) * kv_heads * (key + value)

    def close(self) -> None:
        """Give its memory back."""
        if self._pointer is not None:
            self._lib.llama_model_free(self._pointer)
            self._pointer = None

    def _text(self, function: Any, index: int) -> str:
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = function(self.pointer, index, buffer, room)
            if length < room:
                return buffer.raw[: max(0, length)].decode("utf-8", "replace")
            room = length + 1
