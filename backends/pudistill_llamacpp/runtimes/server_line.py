"""The llama-server line that speaks to the student as the run did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.types import Message, Sampling

WITHOUT_BOS = ("--override-kv", "tokenizer.ggml.add_bos_token=bool:false")
"""What llama.cpp's programs are told where the file has them put a BOS that training did not see."""
_DATE = "date_string"
_MARK = "THE DATE"


def llama_server(
    weights: Path, variables: Mapping[str, Any], sampling: Sampling, context: int, adapter: Path | None
) -> list[str]:
    """The words of the line. The run's own sampling is spelled out: the server's defaults cut the distribution."""
    words = ["llama-server", "-m", str(weights), "-c", str(context), "--jinja"]
    if adapter is not None:
        words += ["--lora", str(adapter)]
    words += ["--temp", f"{sampling.temperature:g}", "--top-k", str(sampling.top_k), "--top-p", f"{sampling.top_p:g}"]
    words += ["--min-p", "0"]
    return [*words, "--chat-template-kwargs", json.dumps(dict(variables))] if variables else words


def template_variables(template: ChatTemplate, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What the server must tell the template: the recipe's settings that it has a word for, and the date.

    llama.cpp gives templates today's date; training saw the template's own (Llama 3.1) or the run's.
    """
    known = {name: value for name, value in variables.items() if template.mentions(name)}
    if template.mentions(_DATE) and _DATE not in known:
        one = (Message("user", "x"),)
        before, written, after = template.render(one, answer_follows=True, **known, **{_DATE: _MARK}).partition(_MARK)
        plain = template.render(one, answer_follows=True, **known)
        if written:
            known[_DATE] = plain[len(before) : len(plain) - len(after)]
    return known
