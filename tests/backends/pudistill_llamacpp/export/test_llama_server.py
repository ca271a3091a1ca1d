"""llama.cpp's own Jinja engine renders what training rendered, and its server ends an answer where training does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message
from pudistill_llamacpp.convert.writer import write_gguf
from pudistill_llamacpp.runtimes.server_line import template_variables
from tests.backends.pudistill_llamacpp.export.chat_templates import REAL, WRITTEN, real
from tests.backends.pudistill_llamacpp.export.server import serving
from tests.tiny import STUDENT

CONVERSATIONS = [
    [Message("user", "Print {{ x }}, please:\n\n\t你好 🙂 <b>&amp;</b>")],
    [Message("user", "Hi"), Message("assistant", "Hello!  Two spaces."), Message("user", "Bye")],
    [Message("system", "Be brief.\nBe kind."), Message("user", "Hi")],
    [Message("system", "Be brief."), Message("user", "A"), Message("assistant", "B"), Message("user", "C")],
]
VARIABLES = {"enable_thinking": False}


def rendered_alike(source: str | None, program: Path, folder: Path) -> int:
    """Write a file with the template, serve it, and compare; the number of conversations that the template took.

    Where a template refuses a system message, llama.cpp puts it into the first user turn.
    """
    checkpoint = folder / "student"
    shutil.copytree(STUDENT, checkpoint)
    if source is not None:
        (checkpoint / "chat_template.jinja").write_text(source, encoding="utf-8")
        config = json.loads((checkpoint / "tokenizer_config.json").read_text())
        (checkpoint / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "<|user|>"}))
    tokenizer = StudentTokenizer.load(checkpoint).answering(VARIABLES)
    own = tokenizer.chat_template.source if tokenizer.chat_template.amended else None
    file = write_gguf(checkpoint, folder / "student.gguf", dtype="f32", chat_template=own).path
    variables = template_variables(tokenizer.chat_template, VARIABLES)
    taken = 0
    with serving(program, file, folder / "log.txt", "-c", "256") as server:
        for conversation in CONVERSATIONS:
            applied = server.applied([{"role": m.role, "content": m.content} for m in conversation], **variables)
            try:
                assert applied == tokenizer.render(conversation, **VARIABLES)
                taken += 1
            except DataError:
                assert conversation[0].role == "system"
    return taken


def test_the_quickstarts_template(llama_server: Path, tmp_path: Path) -> None:
    assert rendered_alike(None, llama_server, tmp_path) == 2  # it has no system role


@pytest.mark.parametrize("family", [f for f in WRITTEN if f != "plain"])
def test_a_familys_template(family: str, llama_server: Path, tmp_path: Path) -> None:
    assert rendered_alike(WRITTEN[family], llama_server, tmp_path) == (2 if family == "Mistral v0.2" else 4)


AMENDED = (
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "openai-gpt-oss-120b",
    "NVIDIA-Nemotron-Nano-v2",
    "upstage-Solar-Open-100B",
)
"""Of llama.cpp's: what they lack before an answer is added."""


@pytest.mark.parametrize("name", [*REAL, "HuggingFaceTB-SmolLM3-3B", *AMENDED])
def test_a_real_template(name: str, llama_server: Path, upstream: Path, tmp_path: Path) -> None:
    taken = rendered_alike(real(upstream, name).source, llama_server, tmp_path)
    assert taken == (2 if "gemma-2" in name else 4)


def test_a_template_that_takes_parts_is_given_text(llama_server: Path, tmp_path: Path) -> None:
    """SmolVLM's, without what is for pictures."""
    source = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}{{ ': ' }}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% endif %}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    assert rendered_alike(source, llama_server, tmp_path) == 4
