"""The files and commands that go with an exported GGUF file, for llama-server, Ollama and LM Studio."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pudistill_cli.backend_api.export_checks import template_notice
from pudistill_cli.files.atomic_files import write_atomic
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.types import Sampling
from pudistill_llamacpp.runtimes.go_template import TEXT, go_template
from pudistill_llamacpp.runtimes.lmstudio import PUBLISHER, lay_out
from pudistill_llamacpp.runtimes.modelfile import modelfile
from pudistill_llamacpp.runtimes.recognise import recognise
from pudistill_llamacpp.runtimes.server_line import WITHOUT_BOS, llama_server, template_variables

_AMENDED = (
    "The run used another chat template (chat_template.jinja) than the student's file has, and Ollama cannot be given "
    "it with an adapter: use the llama-server line, or export gguf."
)


@dataclass(frozen=True, slots=True)
class Prompting:
    """How the run spoke to the student, and how it was sampled when it was evaluated."""

    template: ChatTemplate | None
    """None for a student that continues bare text."""
    stops: tuple[str, ...]
    """Texts of the stop tokens."""
    adds_bos: bool
    """Whether the GGUF file says that BOS comes before a text."""
    sampling: Sampling
    context: int
    unseen_bos: bool = False
    """Whether that BOS would come before conversations that training saw without."""
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The recipe's settings for the chat template."""


@dataclass(frozen=True, slots=True)
class RuntimeFiles:
    """What was written beside the weights."""

    family: str | None
    """Of the Modelfile's template; None where it has none."""
    next_steps: tuple[str, ...]
    """Commands to type, one a line."""
    notices: tuple[str, ...]


def write_runtime_files(
    folder: Path, weights: str, name: str, prompting: Prompting, adapter: str | None = None
) -> RuntimeFiles:
    """Write `Modelfile`, and for whole weights `lmstudio/`, into `folder`.

    `weights` and `adapter` are files in `folder`; with an adapter, `weights` is any path to the GGUF file of the
    student as it was before training. LM Studio loads no adapters, so it gets no folder then.

    Raises:
        RunError: the Modelfile cannot be written.
    """
    template, family, notices = _template(prompting)
    amended = prompting.template if prompting.template is not None and prompting.template.amended else None
    text = modelfile(
        _path(weights),
        template=template,
        stops=prompting.stops,
        sampling=prompting.sampling,
        context=prompting.context,
        adapter=None if adapter is None else _path(adapter),
    )
    write_atomic(folder / "Modelfile", text)
    variables = template_variables(prompting.template, prompting.variables) if prompting.template else {}
    lora = None if adapter is None else folder / adapter
    file = None
    if amended is not None and adapter is not None:  # the student's own file has its own template
        file = folder / "chat_template.jinja"
        write_atomic(file, amended.source)
        notices = (*notices, _AMENDED) if template is None else notices
    steps = [
        [
            *llama_server(folder / weights, variables, prompting.sampling, prompting.context, lora),
            *(WITHOUT_BOS if prompting.unseen_bos else ()),
            *(() if file is None else ("--chat-template-file", str(file))),
        ],
        ["ollama", "create", _ollama_name(name), "-f", str(folder / "Modelfile")],
    ]
    if adapter is None:
        lay_out(folder / weights, folder / "lmstudio", name)
        steps.append(["lms", "import", "--copy", "--user-repo", f"{PUBLISHER}/{name}", str(folder / weights)])
        if variables:
            notices = (*notices, template_notice(variables))
    return RuntimeFiles(family, tuple(map(shlex.join, steps)), notices)


def _template(prompting: Prompting) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The Go template, its family's name, and what the user should know."""
    if prompting.template is None:
        return TEXT, "text", ()
    dialect = recognise(prompting.template, prompting.variables, adds_bos=prompting.adds_bos)
    if dialect is not None:
        return go_template(dialect), dialect.family.name, ()
    notice = (
        "The chat template belongs to no family that has a tested Go template, so the Modelfile has no TEMPLATE line: "
        "recent versions of Ollama render the template in the GGUF file, older ones guess. llama-server is exact."
    )
    return None, None, (notice,)


def _path(name: str) -> str:
    """A path as a Modelfile wants it: a bare name would be a model of Ollama's."""
    return name if Path(name).is_absolute() or name.startswith(".") else f"./{name}"


def _ollama_name(name: str) -> str:
    """Letters, digits, dot, dash and underscore, in lower case, with a letter or digit at both ends."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-") or "student"


def stop_texts(tokens: Sequence[str | None]) -> tuple[str, ...]:
    """Texts of stop tokens that a runtime can look for."""
    return tuple(dict.fromkeys(t for t in tokens if t and t.strip()))
