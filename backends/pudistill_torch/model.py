"""The student's base weights, once, and the adapters on them. Every call names the adapter it runs with."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.save_and_load import get_peft_model_state_dict
from torch import Tensor, nn
from torch.nn import Parameter
from transformers.pytorch_utils import Conv1D

from pudistill_cli.backend_api.contract import LoraSpec, ModelSpec
from pudistill_cli.backend_api.shared_model import SharedModel, unknown_adapter
from pudistill_cli.errors import DataError
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.types import Adapter
from pudistill_torch import oom
from pudistill_torch.adapter_files import read_adapter
from pudistill_torch.base_weights import load_base
from pudistill_torch.cache import RowCache
from pudistill_torch.head import Head
from pudistill_torch.placement import place
from pudistill_torch.targets import target_modules

POLICY: Adapter = "policy"
"""The adapter that is trained. peft's `set_adapter` is not used: it would train what it activates."""


class Model(SharedModel):
    """A causal language model of transformers, its adapters peft's."""

    is_out_of_memory = staticmethod(oom.is_out_of_memory)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.placement = place(spec)
        torch.set_num_threads(self.placement.threads)
        self._causal = load_base(spec.folder, self.placement)
        self._decoder = cast("nn.Module", self._causal.get_decoder())
        self.head = Head(self._causal)
        self.head.verify(self._causal, self._decoder)
        self._peft: PeftModel | None = None
        self._layers: list[LoraLayer] = []

    @property
    def device(self) -> torch.device:
        """Where token ids must be."""
        return self.placement.device

    def hidden(
        self,
        ids: Tensor,
        adapter: Adapter | None,
        *,
        cache: RowCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B, L) ids -> (B, L, D) last hidden states; `mask` (B, cached + L) is false at padding."""
        self.forward_tokens += ids.numel()
        with self._using(adapter):
            output = self._decoder(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return output.last_hidden_state

    # --- adapters ---

    def load_adapter(self, path: Path, handle: Adapter | None = None) -> Adapter:
        """Load a PEFT folder, frozen.

        Raises:
            DataError: it is no whole LoRA adapter of this student.
        """
        config, weights = read_adapter(path)
        handle = handle or self.new_handle()
        # None of its modules is in this architecture, say.
        with as_data_error(f"{path} does not fit this student", "Use its own student."):
            self._add(handle, config)
        try:
            self.set_weights(handle, weights)
        except DataError:
            self.drop_adapter(handle)
            raise
        return handle

    def new_policy(self, lora: LoraSpec) -> list[Parameter]:
        """A fresh trainable adapter on the layers of `targets`; returns its parameters by name order."""
        config = LoraConfig(
            r=lora.r,
            lora_alpha=cast("int", lora.alpha),  # the scale is lora_alpha / r, whatever its type
            target_modules=target_modules(self._causal),
            task_type="CAUSAL_LM",
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self._causal.modules()),  # GPT-2
        )
        with torch.random.fork_rng(devices=[]):  # peft draws on the CPU, wherever the model is
            torch.manual_seed(lora.seed)
            self._add(POLICY, config)
        parameters = dict(sorted(self._named_parameters(POLICY)))
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return list(parameters.values())

    def drop_adapter(self, handle: Adapter) -> None:
        """Forget an adapter.

        Raises:
            BackendError: there is none of this handle.
        """
        self._check(handle)
        assert self._peft is not None
        for layer in self._layers:
            layer.delete_adapter(handle)
        del self._peft.peft_config[handle]

    def config(self, handle: Adapter) -> LoraConfig:
        """An adapter's settings."""
        self._check(handle)
        assert self._peft is not None
        return cast("LoraConfig", self._peft.peft_config[handle])

    def weights(self, handle: Adapter) -> dict[str, Tensor]:
        """An adapter's weights by PEFT's names; not copies."""
        self._check(handle)
        # False: whether embeddings changed is otherwise asked of the hub.
        return get_peft_model_state_dict(self._peft, adapter_name=handle, save_embedding_layers=False)

    def set_weights(self, handle: Adapter, weights: Mapping[str, Tensor]) -> None:
        """Copy weights into an adapter.

        Raises:
            DataError: names or shapes are not this adapter's.
        """
        own = self.weights(handle)
        wrong = [n for n in own.keys() | weights.keys() if n not in own or n not in weights]
        wrong = wrong or [n for n in own if own[n].shape != weights[n].shape]
        if wrong:
            raise DataError(
                f"The adapter does not fit this student: {sorted(wrong)[0]} and {len(wrong) - 1} others differ.",
                "Use an adapter that was trained on the same student, with the same lora.r.",
            )
        with torch.no_grad():  # not by peft, which renames what transformers renamed, by an adapter that may be gone
            for name, weight in own.items():
                weight.copy_(weights[name])

    def _free_cached_memory(self) -> None:
        gc.collect()  # what went through a library's frames may still be held by a cycle: seen with transformers 5.17
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _free_weights(self) -> None:
        self._causal = self._decoder = self._peft = self.head = cast("Any", None)
        self._layers = []
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _add(self, handle: Adapter, config: LoraConfig) -> None:
        """Inject an adapter; all others keep whether they are trained."""
        trained = {name for name, p in self._causal.named_parameters() if p.requires_grad}
        config.inference_mode = handle != POLICY
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft reads a property that transformers has renamed; it means nothing here.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            if self._peft is None:
                self._peft = PeftModel(self._causal, config, adapter_name=handle)
                # Or peft would look for it after it was dropped.
                cast("Any", self._peft.base_model).active_adapter = []
            else:
                self._peft.add_adapter(handle, config)
        self._layers = [module for module in self._causal.modules() if isinstance(module, LoraLayer)]
        for name, parameter in self._causal.named_parameters():
            parameter.requires_grad_(name in trained)
        self._activate([])

    def _named_parameters(self, handle: Adapter) -> Iterator[tuple[str, Parameter]]:
        for name, parameter in self._causal.named_parameters():
            if ".lora_" in name and f".{handle}." in f"{name}.":
                yield name, parameter

    @contextmanager
    def _using(self, adapter: Adapter | None) -> Iterator[None]:
        if adapter is not None:
            self._check(adapter)
        self._activate([] if adapter is None else [adapter])
        try:
            yield
        finally:
            self._activate([])

    def _activate(self, names: list[str]) -> None:
        # Not the public setter, which also sets requires_grad of every adapter of the layer.
        for layer in self._layers:
            layer._active_adapter = names

    def _check(self, handle: Adapter) -> None:
        if self._peft is None or handle not in self._peft.peft_config:
            raise unknown_adapter(handle)
