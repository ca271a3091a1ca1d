"""The MLX backend: the whole method on Apple Silicon, without torch. Importing this package imports no framework."""

from __future__ import annotations

from pudistill_mlx.mlx_backend import MlxBackend

backend = MlxBackend()
"""What the entry point `pudistill.backends: mlx` names."""

__all__ = ["backend"]
