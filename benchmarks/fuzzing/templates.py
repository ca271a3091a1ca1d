"""Chat templates as no publisher writes them: made by a grammar, or real ones that are damaged, or made to do harm.

`inputs(seed, count)` gives the inputs; a callable renders one, and returns, or raises a PudistillError. Anything else is
a fault, and so is one that takes long: the work of a template is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from random import Random

from benchmarks.fuzzing.mutations import damaged_bytes
from benchmarks.fuzzing.template_grammar import statement
from pudistill_cli.models.chat_template import PLAIN, ChatTemplate
from pudistill_cli.types import Message

NOW = datetime(2026, 11, 30)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CONVERSATION = (
    Message("system", "You are terse."),
    Message("user", 'Print {{ x }}:\n"a" <b>'),
    Message("assistant", "<think>\nWell\n</think>\n\nx"),
    Message("user", "More"),
)
CHATML = (
    "{%- if messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}"
    "{%- set ns = namespace(last=messages|length - 1, found=false) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if not ns.found and message.role == 'user' %}{%- set ns.last = index %}{%- set ns.found = true %}{%- endif %}{%- endfor %}"
    "{%- for message in messages if message.role != 'system' %}"
    "{%- set content = message.content if message.content is string else message.content|join('\\n') %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>' ~ message.role ~ '\\n' ~ content|trim ~ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if tools %}{% for tool in tools %}{{ tool|tojson(indent=2) }}{% endfor %}{% endif %}"
    "{%- macro turn(role) %}{{ '<|im_start|>' + role + '\\n' }}{{ caller() if caller }}{% endmacro %}"
    "{%- if add_generation_prompt %}{{ turn('assistant') }}{% endif %}"
)
"""What real templates are made of, in one."""
_DOUBLING = "{{% set n = namespace(x={}) %}}{{% for i in range(60) %}}{{% set n.x = {} %}}{{% endfor %}}{{{{ {} }}}}"
HOSTILE = (
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if b is lower %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ range(99999)|reject('defined')|list|length }}{% endfor %}",
    "{% for a in range(99999) %}{{ range(99999)|map('string')|select('eq', 'a')|first }}{% endfor %}",
    "{{ 'a' * 3000000000 }}", "{{ 'a' * 3e9 }}", "{{ 'a'.center(3000000000) }}", "{{ 'a'|center(3000000000) }}",
    "{{ 'a'.zfill(3000000000) }}", "{{ 'a'.ljust(3000000000)|length }}", "{{ '\\t'.expandtabs(tabsize=3000000000) }}",
    "{{ '%3000000000d' % 1 }}", "{{ '%*d' % (3000000000, 1) }}", "{{ '%.3000000000f'|format(1) }}",
    "{{ '%((a))3000000000d' % {'(a)': 1} }}", "{{ ('%9999d' * 100000) % (range(100000)|list) }}",
    "{{ '{:3000000000}'.format(1) }}", "{{ '{:{}}'.format(1, 3000000000) }}", "{{ '{a:3000000000}'.format_map({'a': 1}) }}",
    "{{ lipsum(100000000) }}", "{{ range(99999)|join('a' * 99999) }}", "{{ ('a' * 99999).join(range(99999)|map('string')) }}",
    "{{ 9 ** 9 ** 9 }}", "{{ 10 ** 1000000000 }}", "{{ 10.0 ** 400 }}", "{{ 5|round(-1000000000) }}",
    "{{ 5|round(1000000000, 'ceil') }}", "{{ ('f' * 1000000)|int(base=16) }}", "{{ (1).to_bytes(3000000000, 'big') }}",
    _DOUBLING.format("'a'", "n.x ~ n.x", "n.x|length"), _DOUBLING.format("'a'", "n.x + n.x", "n.x|length"),
    _DOUBLING.format("[1]", "n.x + n.x", "n.x|length"), _DOUBLING.format("[1]", "[n.x, n.x]", "n.x"),
    _DOUBLING.format("(1,)", "(n.x, n.x)", "{n.x: 1}"), _DOUBLING.format("{}", "dict(a=n.x, b=n.x)", "n.x|tojson"),
    _DOUBLING.format("1", "namespace(a=n.x, b=n.x)", "n.x"), _DOUBLING.format("9", "n.x * n.x", "n.x"),
    _DOUBLING.format("'<'|safe", "(n.x|escape)", "n.x"), _DOUBLING.format("[1, 2]", "(n.x * 2)|batch(1)|list", "n.x"),
    "{% set x %}aaaaaaaaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60 + "{{ x|length }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m() %}" * 18 + "x" + "{% endcall %}" * 18,
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}", "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "{{ ('a\\n' * 99999)|indent(99999) }}", "{{ ('a' * 999999)|wordwrap(1) }}", "{{ [1]|batch(3000000000, 'x')|list }}",
    "{{ [1]|slice(3000000000)|list }}", "{{ range(99999)|list|tojson(indent=99999) }}",
    "{{ ('a' * 99999).replace('a', 'b' * 99999) }}", "{{ ('a' * 99999)|replace('', 'b' * 99999) }}",
    "{{ ([range(9999)|list] * 9999)|sum(start=[]) }}", "{{ ('a ' * 999999).split()|length }}",
    "{% set x = 'a' * 999999 %}{% for i in range(9999) %}{{ x.rfind('b' + 'a' * 499999) }}{% endfor %}",
    "{% set x = 'a' * 999999 %}{{ x.strip('b' * 999998 + 'a') }}", "{% for i in range(99999) %}{{ 'a' in range(99999) }}{% endfor %}",
    "{% for i in range(99999) %}" + "{{ i + i }}" * 5000 + "{% endfor %}", "{% macro m() %}{{ varargs|length }}{% endmacro %}"
    "{% for i in range(99999) %}{{ m(*range(99999)) }}{% endfor %}", "{{ strftime_now('%c' * 99999) }}", "{{ '\\ud800' }}",
    "{{ raise_exception('a' * 5000000) }}", "{{ 'aaaa'|truncate(1) }}", "{% include 'x' %}", "{% extends 'x' %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{{ " + "[" * 3000 + "]" * 3000 + " }}", "{% if 1 %}" * 3000,
    "{% for a in b %}" * 30 + "{% endfor %}" * 30, "{{ " + "not " * 5000 + "1 }}", "{{ 1" + "+1" * 20000 + " }}",
    "{{ a" + ".b" * 20000 + " }}", "{{ a" + "|upper" * 9000 + " }}", "x" * 1_000_000, "{{ a }}" * 18000, "{# " * 40000,
    "{{ " + "9" * 10000 + " }}", "{{ ''.__class__.__mro__ }}", "{{ ''|attr('__class__') }}", "{{ '{0.__class__}'.format(1) }}",
    "{{ ('a' * 9999)|list|map(attribute='0.' * 6000 ~ '0')|list|length }}", "{{ ('%' + '1' * 2000000) % 1 }}",
    "".join(f"{{% set v{i} = 1 %}}" for i in range(2000)) + "".join(f"{{% block b{i} scoped %}}{{% endblock %}}" for i in range(500)),
    "{% for i in range(99999) %}" + "{{ i.real.real.real.real }}" * 3000 + "{% endfor %}",
    "{% set n = namespace() %}{% set n.x = n %}{{ n }}", "{% set n = namespace(x=[]) %}{% for i in range(99999) %}"
    "{% set n.x = [n.x] %}{% endfor %}{{ n.x }}", "{{ dict.fromkeys(range(99999), 'a' * 99999) }}",
)  # fmt: skip
"""Each of them once took seconds, gigabytes, or the process with it, in Jinja's own sandbox or in ours."""


def inputs(seed: int, count: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """`count` templates: (its number and kind, what renders it)."""
    for number in range(count):
        rng = Random(f"{seed}/{number}")
        kind, source = _source(rng)
        yield f"template {seed}/{number}: {kind}", partial(_render, source, rng.random() < 0.5)


def _render(source: str, answer_follows: bool) -> object:
    template = ChatTemplate(source, SPECIAL, NOW)
    return template.render(CONVERSATION, answer_follows=answer_follows, enable_thinking=False, x=[1, {"a": "b"}])


def _source(rng: Random) -> tuple[str, str]:
    kind = rng.choices(("grammar", "damaged", "hostile", "hostile inside"), (60, 34, 3, 3))[0]
    if kind == "grammar":
        return kind, "".join(statement(rng, 3) for _ in range(rng.randrange(1, 5)))
    if kind == "damaged":
        what, data = damaged_bytes(rng.choice(real()).encode(), rng)
        return f"{kind}: {what}", data.decode("utf-8", "replace")
    hostile = rng.choice(HOSTILE)
    if kind == "hostile":
        return kind, hostile
    real_one = rng.choice(real())
    at = rng.randrange(len(real_one))
    return kind, real_one[:at] + hostile + real_one[at:]


@cache
def real() -> tuple[str, ...]:
    """Templates that people use, in part from the students that come with the recipes."""
    root = Path(__file__).resolve().parents[2]
    found = sorted(
        (*root.glob("recipes/*/student/*.jinja"), *root.glob(".upstream/*/vendor/llama.cpp/models/templates/*.jinja"))
    )
    return (PLAIN, CHATML, *(path.read_text(encoding="utf-8") for path in found))
