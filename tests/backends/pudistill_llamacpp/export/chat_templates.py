"""Chat templates to render: real ones by where they lie; from a family's documentation where none is at hand."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pudistill_cli.models.chat_template import PLAIN, ChatTemplate
from pudistill_cli.models.checkpoint_files import read_json

NOW = datetime(2026, 8, 21, 12, 0)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
REAL = {
    "Qwen-Qwen2.5-7B-Instruct": "ChatML",
    "Qwen-Qwen3-0.6B": "ChatML",
    "meta-llama-Llama-3.1-8B-Instruct": "Llama 3",
    "meta-llama-Llama-3.2-3B-Instruct": "Llama 3",
    "google-gemma-2-2b-it": "Gemma",
    "mistralai-Mistral-Nemo-Instruct-2407": "Mistral V3-Tekken",
    "Mistral-Small-3.2-24B-Instruct-2506": "Mistral V7",
    "microsoft-Phi-3.5-mini-instruct": "Phi-3",
}
"""Of llama.cpp's models/templates, with the family that each belongs to."""
UNKNOWN = ("HuggingFaceTB-SmolLM3-3B", "CohereForAI-c4ai-command-r7b-12-2024-tool_use", "openai-gpt-oss-120b")
"""Real ones of other families."""

_ALTERNATE = """{% if messages[0].role == 'system' %}
{% set system = messages[0].content %}{% set turns = messages[1:] %}
{% else %}
{% set system = '' %}{% set turns = messages %}
{% endif %}
{% for m in turns %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}
{% endfor %}
"""
"""Sets `system` and `turns`; refuses two turns of one role."""

WRITTEN = {
    # https://github.com/meta-llama/llama: each pair of turns is a text of its own, between BOS and EOS.
    "Llama 2": _ALTERNATE
    + "{% for m in turns %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    + "{% if loop.first and system %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
    + "{{ m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
    # https://llama.meta.com/docs/model-cards-and-prompt-formats/meta-llama-3: no default system turn.
    "Llama 3": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' "
    "+ (m.content | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    # https://ai.google.dev/gemma/docs/core/prompt-structure: instructions for the system stand in the first user turn.
    "Gemma": "{{ bos_token }}"
    + _ALTERNATE
    + "{% for m in turns %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    + "{% if loop.first and system %}{{ system + '\\n\\n' }}{% endif %}{{ (m.content | trim) + '<end_of_turn>\\n' }}"
    + "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
    # https://docs.mistral.ai/guides/tokenization, "Chat templates": V1, V3; and the template of 2023 without a system.
    "Mistral v0.2": "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
    "{{ m.content + eos_token }}{% else %}{{ raise_exception('roles') }}{% endif %}{% endfor %}",
    "Mistral V1": "{{ bos_token }}"
    + _ALTERNATE
    + "{% for m in turns %}{% if m.role == 'user' %}{{ ' [INST] ' }}"
    + "{% if loop.first and system %}{{ system + '\\n\\n' }}{% endif %}{{ m.content + ' [/INST]' }}"
    + "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "Mistral V3": "{{ bos_token }}"
    + _ALTERNATE
    + "{% for m in turns %}{% if m.role == 'user' %}{{ '[INST] ' }}"
    + "{% if loop.last and system %}{{ system + '\\n\\n' }}{% endif %}{{ m.content + '[/INST]' }}"
    + "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "plain": PLAIN,
}
"""By family."""


def written(family: str) -> ChatTemplate:
    return ChatTemplate(WRITTEN[family], SPECIAL, NOW)


def real(folder: Path, name: str) -> ChatTemplate:
    """One of llama.cpp's `models/templates`; `folder` is its checkout."""
    return ChatTemplate((folder / "models" / "templates" / f"{name}.jinja").read_text("utf-8"), SPECIAL, NOW)


def of_tokenizer(folder: Path) -> ChatTemplate:
    """A tokenizer's own template and special tokens."""
    config = read_json(folder / "tokenizer_config.json")
    path = folder / "chat_template.jinja"
    source = path.read_text("utf-8") if path.is_file() else config["chat_template"]
    return ChatTemplate(source, {k: config[k] for k in ("bos_token", "eos_token") if config.get(k)}, NOW)
