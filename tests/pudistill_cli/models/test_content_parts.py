"""Templates that take lists of parts, given text."""

from __future__ import annotations

from datetime import datetime

import pytest

from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.models.content_parts import taking_text
from pudistill_cli.types import Message

NOW = datetime(2026, 11, 30)
PARTS = "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}"  # SmolVLM
ASKED = [
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "1 < 2 & 'x'?"),
]
WRITTEN = "<system>Be brief.<user>Hi<assistant>Hello<user>1 < 2 & 'x'?"


def taking(source: str) -> ChatTemplate:
    return taking_text(ChatTemplate(source, {}, NOW))


@pytest.mark.parametrize(
    "content",
    [
        PARTS,
        "{{ m['content'][0]['text'] }}",
        "{{ m.content | map(attribute='text') | join('') }}",
        "{% if m.content is string %}{{ raise_exception('parts only') }}{% endif %}{{ m.content[0].text }}",
        # As strings the user's words alone.
        "{% if m.role == 'user' %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}",
        # The other way round.
        "{% if m.role != 'user' %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}",
    ],
)
def test_text_is_wrapped_for_a_template_that_takes_parts(content: str) -> None:
    source = f"{{% for m in messages %}}<{{{{ m['role'] }}}}>{content}{{% endfor %}}"
    template = taking(source)
    assert template.amended
    assert template.source.endswith(source)
    assert template.render(ASKED, answer_follows=True) == WRITTEN
    # What is in parts already is given on as it is, and so is what else a message holds.
    parts = [{"role": m.role, "content": [{"type": "text", "text": m.content}]} for m in ASKED]
    if "m.role" not in content:
        assert template.render_turns(parts, answer_follows=True) == WRITTEN  # type: ignore[arg-type]
    assert taking(template.source) == template  # an export is a student again


def test_what_else_a_message_holds_stays() -> None:
    template = taking(f"{{% for m in messages %}}{PARTS}{{{{ m.name }}}}{{% endfor %}}")
    turns = [{"role": "user", "content": "Hi", "name": "!"}]
    assert template.render_turns(turns, answer_follows=True) == "Hi!"


def test_nothing_is_written_before_the_template() -> None:
    """`lstrip_blocks` looks at the line that a tag stands in: the first one too."""
    source = f"  {{% for m in messages %}}\n-\n  {PARTS}\n  {{% endfor %}}\n"
    template = taking(source)
    assert template.amended
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    expected = ChatTemplate(source, {}, NOW).render_turns(parts, answer_follows=True)  # type: ignore[list-item]
    assert template.render([Message("user", "Hi")], answer_follows=True) == expected == "-\nHi"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content if m.content is string else m.content[0].text }}{% endfor %}",
        "{{ messages[-1].content }}",  # drops the others whatever they are
        "{{ raise_exception('never') }}",
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
        "{% endfor %}",
        # Python's spelling of a list holds the words too.
        "{% for m in messages %}{% if m.content is not string %}{{ m.content }}{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_takes_text_or_gains_nothing_is_left_alone(source: str) -> None:
    template = taking(source)
    assert (template.source, template.amended) == (source, False)
