"""The llama.cpp backend: fast sampling and scoring anywhere, GGUF in and out. Importing it imports no framework."""

from __future__ import annotations

from pudistill_llamacpp.llamacpp_backend import LlamaCppBackend

backend = LlamaCppBackend()
"""What the entry point `pudistill.backends: llamacpp` names."""

__all__ = ["backend"]
