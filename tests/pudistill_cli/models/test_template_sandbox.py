"""Chat templates that would run for days or fill the memory are refused; all others render as in Jinja's own sandbox."""

# ruff: noqa: E501 - tables of templates
from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from benchmarks.fuzzing.templates import HOSTILE, real
from pudistill_cli.errors import DataError
from pudistill_cli.models.chat_template import LONGEST, ChatTemplate
from pudistill_cli.models.template_budget import BASE, Budget, TooMuchWork, size_of
from pudistill_cli.models.template_sandbox import TemplateSandbox
from pudistill_cli.types import Message

NOW = datetime(2026, 11, 30)
TURNS = [{"role": "user", "content": "Hi  there\n you"}, {"role": "assistant", "content": "<b>&amp; é"}]
VALUES: dict[str, Any] = {
    "messages": TURNS,
    "text": "a b\n\nc,d",
    "items": [3, 1, 2],
    "pairs": {"b": 1, "A": [2, None]},
    "none": None,
    "people": [{"n": "x", "a": 2}, {"n": "y", "a": 1}, {"n": "z", "a": 2}],
}


def render(source: str) -> str:
    return ChatTemplate(source, {}, NOW).render([Message("user", "Hi")], answer_follows=True)


def refusal(source: str) -> DataError:
    with pytest.raises(DataError) as error:
        render(source)
    assert error.value.exit_code == 3
    assert len(error.value.message) < 600
    return error.value


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:60])
def test_what_was_made_to_do_harm_ends_soon(source: str) -> None:
    """Each of them took seconds, gigabytes or the process in Jinja's own sandbox, or could have in ours."""
    with suppress(DataError):
        assert len(render(source)) <= BASE


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 3000000000 }}",
        "{{ 'a'.center(3000000000) }}",
        "{{ '%3000000000d' % 1 }}",
        "{{ 10 ** 1000000000 }}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    ],
)
def test_too_much_work_is_said_to_be_so(source: str) -> None:
    error = refusal(source)
    assert "far more work or memory than a conversation needs" in error.message
    assert "chat template that the model's publisher gives" in error.hint


def test_the_refusal_does_not_hang_on_the_machine() -> None:
    """Work is counted, not timed: what is left after a template is the same number each time."""
    sandbox = TemplateSandbox()
    template = sandbox.from_string("{% for i in range(9) %}{{ i ~ ('a' * i)|upper }}{% endfor %}")
    left: list[int] = []
    for _ in range(3):
        sandbox.budget.left = BASE
        template.render()
        left.append(sandbox.budget.left)
    assert len(set(left)) == 1
    assert BASE - 3_000 < left[0] < BASE


def test_long_conversations_have_more() -> None:
    source = "{% for m in messages %}{{ m.content|trim ~ m.content.replace('a', 'bb') }}{% endfor %}"
    long = [Message("user", "a" * 400_000), Message("assistant", "a" * 400_000)] * 4
    text = ChatTemplate(source, {}, NOW).render(long, answer_follows=True)
    assert len(text) == 8 * 3 * 400_000


def test_each_rendering_has_a_budget_of_its_own() -> None:
    source = "{% for m in messages %}{{ m.content }}{% for i in range(3000) %}{% endfor %}{% endfor %}"
    template = ChatTemplate(source, {}, NOW)
    with ThreadPoolExecutor(4) as pool:
        texts = [*pool.map(lambda i: template.render([Message("user", str(i))], answer_follows=True), range(400))]
    assert texts == [str(i) for i in range(400)]


EXPRESSIONS = (
    "text|upper", "text|title", "text|trim", "text|trim('a')", "text|center(20)", "text|indent", "text|indent(2, true)",
    "text|indent('>> ')", "text|wordwrap(3)", "text|replace(',', ';')", "text|replace('', '-', 2)", "text|wordcount",
    "text|truncate(5)", "text|length", "text|list", "text|reverse", "text|first", "text|last", "text|escape", "'<'|safe + '<'",
    "text|capitalize", "text|string", "text|batch(3)|list", "text|batch(3, '-')|list", "text|slice(2)|list", "text|d('x')",
    "items|sort", "items|sort(reverse=true)", "items|sum", "items|max", "items|min", "items|join", "items|join(', ')",
    "people|join(', ', attribute='n')", "people|sum(attribute='a')", "people|sum('a', 10)", "people|sort(attribute='a')|map(attribute='n')|list",
    "people|groupby('a')|list", "people|selectattr('a', 'equalto', 2)|map(attribute='n')|join", "people|rejectattr('a', 'eq', 2)|list",
    "people|map(attribute='q', default='-')|list", "items|select('odd')|list", "items|reject('gt', 1)|list", "items|map('string')|join('+')",
    "items|unique|list", "none|select|list", "missing|map('upper')|list", "pairs|dictsort", "pairs|items|list", "pairs|tojson",
    "'%s of %d' % ('a', 3)", "'%5.1f|' % 2", "'%(a)s' % {'a': 1}", "'%s'|format(3)", "'{} {b:>4}'.format(1, b=2)", "'{{x}} {}'.format(1)",
    "'{a}'.format_map({'a': 1})", "text.split()", "text.split(',')", "text.split(' ', 1)", "text.rsplit('\\n', 1)", "text.splitlines()",
    "text.partition('b')", "text.rpartition('b')", "text.strip()", "text.lstrip('a ')", "text.find('b')", "text.rfind('x')", "text.count('\\n')",
    "text.replace('b', 'BB')", "text.replace('b', 'BB', 0)", "'-'.join(['a', 'b'])", "'-'.join(items|map('string'))", "'a'.center(5, '*')",
    "'7'.zfill(3)", "'a\\tb'.expandtabs(4)", "text.title()", "text.startswith(('a', 'b'))", "text.upper().lower()", "'3'.isdigit()",
    "1 + 2 * 3 - 4 / 5 // 1 % 7", "2 ** 10", "2 ** -1", "'ab' * 3", "3 * [1, 2]", "[1] + items", "(1,) + (2,)", "'a' ~ 1 ~ none ~ missing ~ [1]",
    "1 < 2 < 3", "1 in items", "'b' in text", "'b' not in pairs", "missing == 1", "text == 'x'", "items == [3, 1, 2]", "pairs.b is divisibleby 1",
    "text is string", "2 is in items", "1 is sameas 1", "items[0]", "items[-2:]", "text[::-1]", "text[1:3]", "pairs['A'][0]", "pairs.get('q', 5)",
    "pairs.items()|list", "pairs.keys()|list", "pairs.values()|list", "messages[0].content", "messages[-1]['role']", "[text, items, pairs]",
    "{'a': items, text: 1}", "(1, 'a', none)", "range(5)|list", "range(0, 9, 3)|list|length", "dict(a=1, b=items)", "3.5|round", "3.14159|round(2)",
    "2.5|int", "'0x1f'|int(base=16)", "'x'|int(7)", "'1.5'|float", "-7|abs", "true and missing", "items or 1", "not items", "1 if none else 2",
    "'yes' if items", "'\\x3c\\u00e9'", "none", "3.0", "true", "missing", "namespace(a=1).a", "cycler(1, 2).next()", "joiner('|')() ~ 'a'",
    "loop is defined", "text|attr('upper') is callable", "items|first + items|last", "[1, 2, 3]|batch(2)|map('first')|list",
)  # fmt: skip
STATEMENTS = (
    "{% for x in items if x > 1 %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% else %}none{% endfor %}",
    "{% for k, v in pairs|dictsort %}{{ k }}={{ v }};{% endfor %}{% for k, v in pairs.items() %}{{ k }}{{ loop.previtem }}{% endfor %}",
    "{% for x in items|select('odd') %}{{ loop.revindex }}{{ loop.nextitem }}{% endfor %}{% for x in [] %}a{% else %}b{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}-{{ loop.depth }}{% endif %}{% endfor %}",
    "{% set n = namespace(x=0, l=[]) %}{% for x in items %}{% set n.x = n.x + x %}{% set n.l = n.l + [x] %}{% endfor %}{{ n.x }}{{ n.l }}",
    "{% macro m(a, b='-', c=a) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{{ caller('q') if caller }}{% endmacro %}"
    "{{ m(1) }}{{ m(1, 2, 3, 4, d=5) }}{% call(x) m(9) %}<{{ x }}>{% endcall %}{{ m.name }}{{ m.arguments }}",
    "{% set x %}a{{ text }}b{% endset %}{{ x|length }}{% set y | upper %}a{% endset %}{{ y }}{% filter upper|trim %} a{{ text }}{% endfilter %}",
    "{% with a = 1, b = items %}{{ a }}{{ b }}{% endwith %}{% block c %}{{ text }}{% endblock %}{{ self.c() }}{% raw %}{{ x }}{% endraw %}",
    "{% for x in range(9) %}{% if x == 2 %}{% continue %}{% elif x == 5 %}{% break %}{% endif %}{{ x }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in items %}{{ loop.changed(x) }}{% for y in items %}{{ loop.index0 }}{% endfor %}{{ loop.index0 }}{% endfor %}",
    "{%- if items -%}  a  {%- endif %}  \n  {% if 1 %}\n b\n  {% endif %}\n{# c #}{{- 'd' -}}  \n e",
    "{% set a, b = (1, 2) %}{{ a }}{{ b }}{% set c = [1] * 3 %}{{ c }}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
)  # fmt: skip


def jinja(source: str) -> str:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    return environment.from_string(source).render(VALUES)


def ours(source: str) -> str:
    return TemplateSandbox().from_string(source).render(VALUES)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_what_it_is_in_jinja(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    if "tojson" not in source:  # Jinja's own escapes for HTML
        assert ours(source) == jinja(source)
    in_macro = f"{{% macro m() %}}{source}{{% endmacro %}}{{{{ m() }}}}"
    assert ours(in_macro) == ours(source)


@pytest.mark.parametrize("source", STATEMENTS)
def test_a_statement_does_what_it_does_in_jinja(source: str) -> None:
    assert ours(source) == jinja(source)


@pytest.mark.parametrize(
    "expression", ["1 + 'a'", "items.append(1)", "''.__class__.x", "1 / 0", "[] < 1", "1|join", "none|length"]
)
def test_an_expression_fails_as_it_does_in_jinja(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    with pytest.raises(Exception) as theirs:
        jinja(source)
    with pytest.raises(type(theirs.value)) as own:
        ours(source)
    assert str(own.value) == str(theirs.value)


@pytest.mark.parametrize("method", ["(1).to_bytes(9, 'big')", "'a'.encode()", "'a'.translate({})", "(1.5).hex()"])
def test_what_makes_bytes_is_not_there(method: str) -> None:
    assert "unsafe" in refusal(f"{{{{ {method} }}}}").message


@pytest.mark.parametrize("name", ["urlize", "random", "pprint", "striptags"])
def test_filters_for_pages_of_the_web_are_not_there(name: str) -> None:
    assert f"No filter named '{name}'" in refusal(f"{{{{ 'a'|{name} }}}}").message


def test_a_long_template_is_refused_before_it_is_read() -> None:
    assert render("x" * LONGEST) == "x" * LONGEST
    assert "131,073 characters, more than 131,072" in refusal("x" * (LONGEST + 1)).message


def test_half_a_character_is_no_text() -> None:
    assert "surrogates not allowed" in refusal("{{ '\\ud800' }}").message


def test_python_s_warnings_about_a_template_are_not_shown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refusal("{{ 1[2:3] }}")


def test_a_long_reason_is_cut() -> None:
    said = refusal("{{ raise_exception('no' * 1000) }}").message
    assert said.endswith(": " + "no" * 150 + "...")


def test_the_real_ones_are_there() -> None:
    for source in real()[:2]:
        assert ChatTemplate(source, {"eos_token": "</s>"}, NOW).render([Message("user", "Hi")], answer_follows=True)


def test_what_is_shared_counts_each_time_that_it_comes() -> None:
    assert size_of("abc", 100) == 8 + 3
    inner = ["abc"]  # 8 + 11
    assert size_of([inner, inner], 1000) == 8 + 2 * 19
    assert size_of({"k": inner}, 1000) == 8 + 9 + 19
    for _ in range(60):
        inner = [inner, inner]
    assert 1000 < size_of(inner, 1000) < 1100
    budget = Budget()
    with pytest.raises(TooMuchWork):
        budget.text(inner)
