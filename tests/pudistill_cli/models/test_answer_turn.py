"""What stands before and behind an answer, by templates whose writing is seen at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from pudistill_cli.models.answer_turn import amended, ending_of, misfit_of
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message
from tests.tiny import STUDENT

NOW = datetime(2026, 11, 30)
HI = [Message("user", "Hi")]
SHAPES = (("user",), ("system", "user"), ("user", "assistant", "user"))


def template_of(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"eos_token": "<|end|>"}, NOW)


def chat(user: str, assistant: str, prompt: str) -> str:
    """A template of `{0}` for the words of a user (and of the system), of an assistant, and the generation prompt."""
    around = {
        role: [f"{{{{ {part!r} }}}}" for part in form.split("{0}")]
        for role, form in (("user", user), ("assistant", assistant))
    }
    turns = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + "{{ m.content }}".join(around["assistant"])
        + "{% else %}"
        + "{{ m.content }}".join(around["user"])
        + "{% endif %}{% endfor %}"
    )
    return turns + (f"{{% if add_generation_prompt %}}{{{{ {prompt!r} }}}}{{% endif %}}" if prompt else "")


def prompt_and_opening(source: str, variables: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """The amended prompt for 'Hi' and what the answer begins with; it must fit every conversation."""
    template, opening = amended(template_of(source), variables or {})
    for roles in SHAPES:
        assert misfit_of(template, opening, roles, variables or {}) is None
    again, same = amended(replace(template, addition=""), variables or {})
    assert (again.source, same) == (template.source, opening)  # an export is a student again
    return template.render(HI, answer_follows=True, **(variables or {})), opening


# --- before an answer ---


@pytest.mark.parametrize(
    ("user", "assistant", "generation", "prompt", "opening"),
    [
        ("<u>{0}", "<a>{0}<e>", "<a>", "<u>Hi<a>", ""),
        # Mistral and Llama 2: no generation prompt, and a space that belongs to the answer's first word.
        ("[INST] {0} [/INST]", " {0}</s>", "", "[INST] Hi [/INST]", " "),
        # A template that knows no add_generation_prompt.
        ("<u>{0}<e>\n", "<a>\n{0}<e>\n", "", "<u>Hi<e>\n<a>\n", ""),
        ("User: {0}\n", "Bot: {0}\n", "", "User: Hi\nBot:", " "),
        # gpt-oss: the answer has a channel, which the model would choose.
        ("<u>{0}", "<a><channel>final<m>{0}<e>", "<a>", "<u>Hi<a><channel>final<m>", ""),
        # DeepSeek R1: opened, and nowhere written in a conversation.
        ("<u>{0}", "<a>{0}<e>", "<a><think>\n", "<u>Hi<a><think>\n\n</think>\n\n", ""),
        ("<u>{0}", "<a>{0}<e>", "<a><think>", "<u>Hi<a><think>\n\n</think>\n\n", ""),
        ("<u>{0}", "<a>{0}<e>", "<a><think>\nHm, ", "<u>Hi<a><think>\nHm, \n</think>\n\n", ""),
        ("<u>{0}", "<a>{0}<e>", "<a>[THINK]", "<u>Hi<a>[THINK][/THINK]", ""),
        # Qwen 3 with thinking on: the closed block is in the conversation alone.
        ("<u>{0}", "<a><think>\n\n</think>\n\n{0}<e>", "<a>", "<u>Hi<a><think>\n\n</think>\n\n", ""),
        ("<u>{0}", "<a><think>\n\n</think>\n\n{0}<e>", "<a><think>\n", "<u>Hi<a><think>\n\n</think>\n\n", ""),
        # Qwen 3 with thinking off, in an older turn; Gemma 4.
        ("<u>{0}", "<a>{0}<e>", "<a><think>\n\n</think>\n\n", "<u>Hi<a><think>\n\n</think>\n\n", ""),
        ("<u>{0}", "<a>{0}<e>", "<a><|channel>thought\n<channel|>", "<u>Hi<a><|channel>thought\n<channel|>", ""),
        # DeepSeek V3.1 and GLM 4.7: the mark that closes stands alone.
        ("<u>{0}", "<a></think>{0}<e>", "<a></think>", "<u>Hi<a></think>", ""),
        ("<u>{0}", "<a></think>{0}<e>", "<a><think></think>", "<u>Hi<a><think></think>", ""),
        # Cohere: another mark for the answer.
        ("<u>{0}", "<a><TEXT>{0}<e>", "<a><|START_THINKING|>", "<u>Hi<a><|START_THINKING|><|END_THINKING|><TEXT>", ""),
        # Nemotron Nano 2: left open in the conversation too.
        ("<u>{0}", "<a><think>\n{0}<e>", "<a><think>\n", "<u>Hi<a><think>\n\n</think>\n\n", ""),
        # Spaces alone.
        ("<u>{0}", "<a>\n{0}<e>", "<a>", "<u>Hi<a>", "\n"),
        ("<u>{0}", "<a>{0}<e>", "<a>\n", "<u>Hi<a>\n", ""),
    ],
)
def test_the_prompt_ends_where_an_answer_begins(
    user: str, assistant: str, generation: str, prompt: str, opening: str
) -> None:
    assert prompt_and_opening(chat(user, assistant, generation)) == (prompt, opening)


def test_reasoning_is_closed_as_the_template_closes_it() -> None:
    writes = "{% if m.{0} %}<think>\n{{ m.{0} }}\n</think>\n{% endif %}"
    for key in ("reasoning_content", "thinking"):
        source = chat("<u>{0}", "<a>{0}<e>", "<a><think>\n")
        source = source.replace(
            "{{ '<a>' }}{{ m.content", "{{ '<a>' }}" + writes.replace("{0}", key) + "{{ m.content", 1
        )
        assert prompt_and_opening(source) == ("<u>Hi<a><think>\n\n</think>\n", "")


def test_reasoning_between_unknown_marks_is_closed_if_the_template_can_write_it() -> None:
    source = chat("<u>{0}", "<a>{0}<e>", "<a><scratch>\n")
    writes = "{% if m.reasoning_content %}{{ '<scratch>\n' + m.reasoning_content + '\n<answer>' }}{% endif %}"
    assert misfit_of(*amended(template_of(source), {}), ("user",), {}) is not None
    source = source.replace("{{ '<a>' }}{{ m.content", "{{ '<a>' }}" + writes + "{{ m.content", 1)
    assert prompt_and_opening(source) == ("<u>Hi<a><scratch>\n\n<answer>", "")


def test_a_setting_of_the_template_is_kept() -> None:
    source = chat("<u>{0}", "<a>{0}<e>", "<a>") + "{{ '<think>\n' if think and add_generation_prompt }}"
    assert prompt_and_opening(source, {"think": True}) == ("<u>Hi<a><think>\n\n</think>\n\n", "")
    assert prompt_and_opening(source, {"think": False}) == ("<u>Hi<a>", "")


def test_the_end_of_the_source_writes_what_it_wrote() -> None:
    """Jinja drops one line's end there, and no more."""
    for end, written in (("\n", ""), ("-\n", "-"), ("-\n\n", "-\n"), ("-\r\n", "-"), ("  ", "  "), ("{# #}\n", "")):
        source = chat("<u>{0}", "<a>{0}<e>", "<a><think>\n") + end
        template, _ = amended(template_of(source), {})
        assert template_of(source).render(HI, answer_follows=True) == f"<u>Hi<a><think>\n{written}"
        assert template.render(HI, answer_follows=True).startswith(f"<u>Hi<a><think>\n{written}")
        assert template.render(HI, answer_follows=False) == template_of(source).render(HI, answer_follows=False)


def test_what_is_added_is_spelled_as_it_is() -> None:
    odd = "<a>\"'\\ {{ x }} é🙂\t|"
    assert prompt_and_opening(chat("<u>{0}", odd + "{0}<e>", ""))[0] == "<u>Hi" + odd


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (
            chat("<u>{0}", "<a>{0}<e>", "<a>Reasons:"),
            "ends a prompt with '<a>Reasons:', and writes '<a>' before an answer",
        ),
        (chat("<u>{0}", "<b>{0}<e>", "<a>"), "ends a prompt with '<a>', and writes '<b>'"),
        (
            "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}{% endif %}{% endfor %}<a>",
            "leaves out words",
        ),
        ("<u>{{ messages[-1].content }}<a>", "leaves out words in a conversation that an answer ends"),
        ("{% for m in messages %}<{{ m.role }}>{% endfor %}", "leaves out the words of message 1, the user's"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "leaves out the words of message 1, the user's"),
        ("{% for m in messages %}{{ m.content[:5] }}{% endfor %}", "leaves out the words of message 1, the user's"),
    ],
)
def test_what_cannot_be_mended_is_named(source: str, fault: str) -> None:
    template, opening = amended(template_of(source), {})
    assert fault in (misfit_of(template, opening, ("user",), {}) or "")


def test_every_order_of_roles_is_looked_at() -> None:
    """The generation prompt of longer conversations is another one."""
    source = chat("<u>{0}", "<a>{0}<e>", "<a>") + "{{ 'So:' if messages | length == 3 }}"
    template, opening = amended(template_of(source), {})
    assert misfit_of(template, opening, ("user",), {}) is None
    assert "'<a>So:'" in (misfit_of(template, opening, ("user", "assistant", "user"), {}) or "")
    drops = "{% for m in messages %}{{ '<u>' + m.content if not loop.first or loop.last }}{% endfor %}"
    template, opening = amended(template_of(drops), {})
    assert "message 1, the system's" in (misfit_of(template, opening, ("system", "user"), {}) or "")


# --- behind an answer ---


@pytest.fixture(scope="module")
def tokenizer() -> StudentTokenizer:
    """Its added tokens: <|user|>, <|assistant|>, <|end|>."""
    return StudentTokenizer.load(STUDENT)


def ending(tokenizer: StudentTokenizer, source: str) -> tuple[str, str | None]:
    found = ending_of(tokenizer.codec, template_of(source))
    return found.closing, None if found.token is None else tokenizer.codec.token_of(found.token)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (chat("<|user|>{0}", "<|assistant|>{0}<|end|>", "<|assistant|>"), ("", "<|end|>")),
        (chat("<|user|>{0}<|end|>", "<|assistant|>{0}<|end|>", "<|assistant|>"), ("", "<|end|>")),
        (chat("[{0}]", "{0}<|end|>", ""), ("", "<|end|>")),
        (chat("{0}<|end|>", "{0}<|end|>", ""), ("", "<|end|>")),
        # Llama 2, Reka and Apriel: text before it.
        (chat("[{0}]", " {0} <|end|>", ""), (" ", "<|end|>")),
        (chat("<|user|>{0}", "<|assistant|>{0}\n<|end|>\n", "<|assistant|>"), ("\n", "<|end|>")),
        # No end: what comes next is none.
        (chat("<|user|>{0}", "<|assistant|>{0}", "<|assistant|>"), ("", None)),
        (chat("<|user|>{0}", "<|assistant|>{0}\n", "<|assistant|>"), ("", None)),
        # The generation prompt at every end.
        (chat("<|user|>{0}", "<|assistant|>{0}", "") + "<|assistant|>", ("", None)),
        (chat("<|user|>{0}", "<|assistant|>{0}<|end|>", "") + "<|assistant|>", ("", "<|end|>")),
        # Apertus and Hunyuan: the last answer's end is left to the model.
        (
            chat("<|user|>{0}", "<|assistant|>{0}{1}", "").replace("{1}' }}", "' }}{{ '<|end|>' if not loop.last }}"),
            ("", "<|end|>"),
        ),
        # The same where the user's turn is ended alike, behind a default system turn.
        (
            "S<|end|>\n"
            + chat("<|user|>{0}<|end|>\n", "<|assistant|>{0}{1}", "").replace(
                "{1}' }}", "' }}{{ '<|end|>\n' if not loop.last }}"
            ),
            ("", "<|end|>"),
        ),
        # gpt-oss: another end for the last one.
        (
            chat("<|user|>{0}<|end|>", "<|assistant|>{0}{1}", "").replace(
                "{1}' }}", "' }}{{ '<pad>' if loop.last else '<|end|>' }}"
            ),
            ("", "<pad>"),
        ),
        # It is not written, or refused.
        ("{{ messages[0].content }}", ("", None)),
        ("{{ raise_exception('no') }}", ("", None)),
    ],
)
def test_the_end_of_turn_and_what_comes_before_it(
    tokenizer: StudentTokenizer, source: str, expected: tuple[str, str | None]
) -> None:
    assert ending(tokenizer, source) == expected
