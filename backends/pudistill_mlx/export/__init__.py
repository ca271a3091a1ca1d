"""The format `mlx`: merged weights, full or quantised, in the folder that mlx-lm and LM Studio load."""

from __future__ import annotations

from pudistill_mlx.export.checking import check_export, open_base, open_export
from pudistill_mlx.export.problem import export_bytes, export_problem
from pudistill_mlx.export.writing import write_export

__all__ = ["check_export", "export_bytes", "export_problem", "open_base", "open_export", "write_export"]
