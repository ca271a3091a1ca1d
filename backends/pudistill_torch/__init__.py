"""The torch backend: CPU, CUDA, ROCm and MPS by the same code. Importing this package imports no framework."""

from __future__ import annotations

from pudistill_torch.torch_backend import TorchBackend

backend = TorchBackend()
"""What the entry point `pudistill.backends: torch` names."""

__all__ = ["backend"]
