"""What to type to use an export: mlx-lm's programs, and LM Studio's folder."""

from __future__ import annotations

import json
import shlex
from typing import Any

from pudistill_cli.backend_api.exporter import ExportRequest
from pudistill_cli.models.chat_template import ChatTemplate

PUBLISHER = "pudistill"
"""LM Studio looks for models/<publisher>/<model>/ and reads nothing at another depth."""


def next_steps(request: ExportRequest, template: ChatTemplate) -> tuple[str, ...]:
    """Commands, one a line; templates and sampling as the run evaluated the model."""
    folder, sampling = str(request.out), request.generation.sampling
    variables = variables_of(request, template)
    drawn = ["--temp", f"{sampling.temperature:g}", "--max-tokens", str(sampling.max_new_tokens)]
    asked = ["mlx_lm.generate", "--model", folder, "--prompt", "Hello", *drawn]
    served = ["mlx_lm.server", "--model", folder, *drawn]
    if request.generation.format == "text":
        asked.append("--ignore-chat-template")
    if variables:
        asked += ["--chat-template-config", json.dumps(variables)]
        served += ["--chat-template-args", json.dumps(variables)]
    models = f"~/.lmstudio/models/{PUBLISHER}"
    name = shlex.quote(f"{request.name}-mlx-{request.variant}")
    studio = f"mkdir -p {models} && cp -R {shlex.quote(folder)} {models}/{name}"
    return (shlex.join(asked), shlex.join(served), studio)


def variables_of(request: ExportRequest, template: ChatTemplate) -> dict[str, Any]:
    """The recipe's settings that the chat template reads."""
    if request.generation.format == "text":
        return {}
    return {name: value for name, value in request.generation.variables.items() if template.mentions(name)}
