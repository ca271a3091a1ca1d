"""The adapters of an open model by handle: PEFT folders or GGUF files, loaded beside each other."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pudistill_cli.backend_api.shared_model import unknown_adapter
from pudistill_cli.errors import DataError
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.types import Adapter
from pudistill_llamacpp.lora_gguf import config_of, write_lora
from pudistill_llamacpp.native.model import Lora, Model

_ADVICE = "Use an adapter with the model that it was trained on."


class Adapters:
    """Handles stay the same while the model is unloaded and loaded again."""

    def __init__(self) -> None:
        self._paths: dict[Adapter, Path] = {}
        self._loras: dict[Adapter, Lora] = {}
        self._loaded = 0

    def load(self, model: Model, path: Path) -> Adapter:
        """Load an adapter and give it a handle.

        Raises:
            DataError: it is not whole, or not this model's.
        """
        lora = _load(model, path)
        self._loaded += 1
        handle = f"adapter-{self._loaded}"
        self._paths[handle], self._loras[handle] = path, lora
        return handle

    def reload(self, model: Model) -> None:
        """Load all of them again, from where they came."""
        self._loras = {handle: _load(model, path) for handle, path in self._paths.items()}

    def lora(self, handle: Adapter | None) -> Lora | None:
        """What a context uses; None is the bare base."""
        if handle is None:
            return None
        if handle not in self._loras:
            raise unknown_adapter(handle)
        return self._loras[handle]

    def drop(self, handle: Adapter) -> None:
        """Forget one."""
        self._paths.pop(handle, None)
        if handle in self._loras:
            self._loras.pop(handle).close()

    def unload(self) -> None:
        """Give the memory of all of them back; `reload` undoes it."""
        for lora in self._loras.values():
            lora.close()
        self._loras.clear()


def _load(model: Model, path: Path) -> Lora:
    if path.suffix == ".gguf":
        return model.load_lora(path)
    if not path.is_dir():
        raise DataError(f"There is no adapter {path}.", "An adapter is a folder in PEFT's format, or a GGUF file.")
    architecture, config = config_of(model.metadata)
    with tempfile.TemporaryDirectory(prefix="pudistill-") as folder:
        file = Path(folder) / f"{path.name}.gguf"
        with as_data_error(f"The adapter {path} does not fit {model.path.name}", _ADVICE):
            write_lora(path, architecture, config, file)
        return model.load_lora(file, path)
