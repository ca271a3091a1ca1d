"""A grammar of chat templates: statements and expressions of Jinja, in combinations that no publisher writes."""

from __future__ import annotations

from random import Random

_NUMBERS = ("0", "1", "-1", "2", "7", "255", "99999", "3000000000", "10**6", "0.5", "1e308", "-3000000000", "9" * 40)
_TEXTS = (
    "''",
    "'a'",
    "'user'",
    "'a b\\n\\tc'",
    "'%s'",
    "'%5d'",
    "'%(a)s'",
    "'{}'",
    "'{0!r:>9}'",
    "'\\ud800'",
    "'é\\u2028'",
    "'<&>'",
)
_NAMES = (
    "messages",
    "message",
    "loop",
    "ns",
    "ns.x",
    "x",
    "tools",
    "bos_token",
    "add_generation_prompt",
    "caller",
    "self",
    "m",
)
_NAMED = (
    "messages",
    "messages[0]",
    "messages[0].content",
    "messages[-1].role",
    "range(9)",
    "range(99999)",
    "namespace(a=1)",
    "dict(a=1)",
)
_FILTERS = [
    "abs",
    "batch",
    "capitalize",
    "center",
    "count",
    "default",
    "dictsort",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
    "wordwrap",
    "urlize",
    "random",
    "pprint",
    "xmlattr",
]
_TESTS = [
    "defined",
    "undefined",
    "none",
    "string",
    "mapping",
    "sequence",
    "iterable",
    "number",
    "odd",
    "even",
    "lower",
    "upper",
    "callable",
    "true",
    "eq",
    "lt",
    "in",
    "sameas",
]
_METHODS = [
    "strip",
    "lstrip",
    "rstrip",
    "split",
    "rsplit",
    "splitlines",
    "replace",
    "find",
    "rfind",
    "count",
    "startswith",
    "endswith",
    "upper",
    "title",
    "center",
    "ljust",
    "zfill",
    "join",
    "format",
    "format_map",
    "encode",
    "translate",
    "expandtabs",
    "partition",
    "rpartition",
    "get",
    "items",
    "keys",
    "values",
    "append",
    "pop",
    "index",
    "copy",
    "__class__",
    "bit_length",
    "to_bytes",
]


def statement(rng: Random, depth: int) -> str:
    """A statement with others in it, at most so deep."""

    def body() -> str:
        return "".join(statement(rng, depth - 1) for _ in range(rng.randrange(3))) if depth else "x"

    def value() -> str:
        return _expression(rng, rng.choice((0, 1, 1, 2, 3)))

    match rng.randrange(12):
        case 0:
            loop = rng.choice(("", " if " + value(), " recursive"))
            return (
                "{% for x in " + value() + loop + " %}" + body() + "{% else %}" * (rng.random() < 0.1) + "{% endfor %}"
            )
        case 1:
            return "{% if " + value() + " %}" + body() + "{% elif " + value() + " %}" + body() + "{% endif %}"
        case 2:
            return "{% set " + rng.choice(("x", "ns.x", "x, y", "ns", "loop")) + " = " + value() + " %}"
        case 3:
            return "{% set x %}" + body() + "{% endset %}"
        case 4:
            return "{% macro m(x, y=" + value() + ") %}" + body() + "{% endmacro %}"
        case 5:
            return "{% call m(" + value() + ") %}" + body() + "{% endcall %}"
        case 6:
            return "{% filter " + rng.choice(_FILTERS) + " %}" + body() + "{% endfilter %}"
        case 7:
            return "{% set ns = namespace(x=" + value() + ") %}" + body()
        case 8:
            return rng.choice(
                (
                    "{% break %}",
                    "{% continue %}",
                    "{% generation %}x{% endgeneration %}",
                    "{%- raw %}{{{% endraw -%}",
                    "é\n",
                )
            )
        case _:
            return rng.choice(("{{ ", "{{- ")) + value() + rng.choice((" }}", " -}}"))


def _expression(rng: Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.15:
        return rng.choice((*_NUMBERS, *_TEXTS, *_NAMES, *_NAMED, *_NAMED, "[]", "{}", "()", "none", "true"))

    def inner() -> str:
        return _expression(rng, depth - 1)

    def arguments() -> str:
        made = [inner() for _ in range(rng.randrange(3))]
        named = rng.choice(
            ("", "", "", "width=" + inner(), "attribute='role'", "start=[]", "indent=" + inner(), "*" + inner())
        )
        return ", ".join([*made, *([named] if named else [])])

    match rng.randrange(13):
        case 0 | 1 | 2:
            return f"({inner()} {rng.choice(('+', '-', '*', '/', '//', '%', '**', '~'))} {inner()})"
        case 3:
            return f"({inner()} {rng.choice(('==', '!=', '<', '>=', 'in', 'not in', 'and', 'or'))} {inner()})"
        case 4 | 5:
            return f"({inner()}|{rng.choice(_FILTERS)}({arguments()}))"
        case 6:
            return f"({inner()}|{rng.choice(_FILTERS)})"
        case 7:
            return f"{inner()}.{rng.choice(_METHODS)}({arguments()})"
        case 8:
            return f"({inner()} is {rng.choice(('', 'not '))}{rng.choice(_TESTS)})"
        case 9:
            return f"{inner()}[{rng.choice((inner(), inner() + ':' + inner(), '::-1', ':2'))}]"
        case 10:
            return rng.choice((f"[{inner()}, {inner()}]", f"({inner()}, {inner()})", f"{{{inner()}: {inner()}}}"))
        case 11:
            return f"({inner()} if {inner()} else {inner()})"
        case _:
            return f"{rng.choice(('m', 'range', 'dict', 'namespace', 'cycler', 'joiner', 'raise_exception', 'strftime_now'))}({arguments()})"
