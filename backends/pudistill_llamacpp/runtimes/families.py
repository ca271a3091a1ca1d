"""Prompt formats that many models share, as data: what stands around the words of each role.

A checkpoint's own Jinja template is recognised by what it renders (recognise.py), never by its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Around: TypeAlias = tuple[str, str]
"""Text before and after a role's words."""
Place: TypeAlias = Literal["own", "first", "last"]
"""Where the system's words stand: in a turn of their own, or inside the first or the last user turn."""


@dataclass(frozen=True, slots=True)
class Family:
    """One format. `{bos}` and `{eos}` stand for the checkpoint's own tokens."""

    name: str
    user: Around
    assistant: Around
    system: Around
    place: Place = "own"
    opens: str = ""
    """What comes before the answer, when it is the model's turn."""

    def spelled(self, special: Mapping[str, str]) -> Family:
        """The same with the checkpoint's special tokens filled in."""

        def filled(text: str) -> str:
            return text.replace("{bos}", special.get("bos_token", "")).replace("{eos}", special.get("eos_token", ""))

        def both(around: Around) -> Around:
            return filled(around[0]), filled(around[1])

        return replace(self, user=both(self.user), assistant=both(self.assistant), system=both(self.system))


FAMILIES = (
    Family(
        "ChatML",
        user=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        opens="<|im_start|>assistant\n",
    ),
    Family(
        "Llama 3",
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        opens="<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    # A BOS before every user turn; the first one begins the text, which recognise.py looks after.
    Family(
        "Llama 2",
        user=("[INST] ", " [/INST]"),
        assistant=(" ", " {eos}{bos}"),
        system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        place="first",
    ),
    Family(
        "Gemma",
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        system=("", "\n\n"),
        place="first",
        opens="<start_of_turn>model\n",
    ),
    # Mistral's own numbers of its tokenizers; "v0.2" is the template of 2023 that many fine-tunes carry.
    Family("Mistral v0.2", ("[INST] ", " [/INST]"), ("", "{eos}"), ("", "\n\n"), "first"),
    Family("Mistral V1", (" [INST] ", " [/INST]"), (" ", "{eos}"), ("", "\n\n"), "first"),
    Family("Mistral V3", ("[INST] ", "[/INST]"), (" ", "{eos}"), ("", "\n\n"), "last"),
    Family("Mistral V3-Tekken", ("[INST]", "[/INST]"), ("", "{eos}"), ("", "\n\n"), "last"),
    Family("Mistral V7", ("[INST]", "[/INST]"), ("", "{eos}"), ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "own"),
    Family(
        "Phi-3",
        user=("<|user|>\n", "<|end|>\n"),
        assistant=("<|assistant|>\n", "<|end|>\n"),
        system=("<|system|>\n", "<|end|>\n"),
        opens="<|assistant|>\n",
    ),
    Family("quickstart", ("<|user|>", ""), ("<|assistant|>", "<|end|>"), ("", "\n\n"), "first", "<|assistant|>"),
    # chat_template.PLAIN: for a student that brings no template.
    Family(
        "plain",
        user=("User:\n", "\n\n"),
        assistant=("Assistant:\n", "{eos}\n\n"),
        system=("System:\n", "\n\n"),
        opens="Assistant:\n",
    ),
)
