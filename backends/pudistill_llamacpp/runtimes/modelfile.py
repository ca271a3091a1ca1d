"""Ollama's Modelfile: weights, adapter, template, stop tokens, and sampling as the run evaluated it."""

from __future__ import annotations

from collections.abc import Sequence

from pudistill_cli.types import Sampling


def modelfile(
    weights: str,
    *,
    template: str | None,
    stops: Sequence[str],
    sampling: Sampling,
    context: int,
    adapter: str | None = None,
) -> str:
    """The file's text; `weights` and `adapter` are paths from its folder, `weights` may be an Ollama model's name.

    Without a template Ollama renders the GGUF file's own, or in older versions the one of its own that looks most
    like it. Ollama's own sampling defaults cut the distribution, so all settings are written down.
    """
    lines = [f"FROM {weights}"]
    if adapter is not None:
        lines.append(f"ADAPTER {adapter}")
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines += [
        f"PARAMETER temperature {sampling.temperature:g}",
        f"PARAMETER top_p {sampling.top_p:g}",
        f"PARAMETER top_k {sampling.top_k}",
        "PARAMETER min_p 0",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_ctx {context}",
    ]
    return "\n".join(lines) + "\n"
