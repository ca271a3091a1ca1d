"""A dialect as a template of Go's text/template, over the values that Ollama passes: .System and .Messages."""

from __future__ import annotations

import re

from pudistill_llamacpp.runtimes.recognise import Dialect

TEXT = "{{ .Prompt }}"
"""For a student that continues bare text."""
_SPECIAL = re.compile(r'\{\{|\{$|"""')
"""What would begin an action, or end a Modelfile's quotes."""


def go_template(dialect: Dialect) -> str:
    """The template; no action trims the text around it, since every newline counts."""
    family = dialect.family
    user, assistant = (_literal(family.user[0]), _literal(family.user[1])), map(_literal, family.assistant)
    alone = _system(dialect, ".System") if family.place == "own" else ""
    inside = _system(dialect, "$.System") if family.place != "own" else ""
    set_up = ""
    if family.place == "first":
        set_up = "{{ $first := true }}"
        inside = _if("$first", inside) + "{{ $first = false }}"
    elif family.place == "last":
        inside = _if("eq (len (slice $.Messages $i)) 1", inside)
    content = "{{ .Content }}"
    return "".join(
        (
            _literal(dialect.starts),
            alone,
            set_up,
            "{{ range $i, $_ := .Messages }}" if family.place == "last" else "{{ range .Messages }}",
            _if('eq .Role "user"', user[0] + inside + content + user[1]),
            _if('eq .Role "assistant"', content.join(assistant)),
            "{{ end }}",
            _literal(family.opens + dialect.answer),
        )
    )


def _system(dialect: Dialect, words: str) -> str:
    """The system's part: left out where there are no words, unless the dialect has it always."""
    before, after = _literal(dialect.family.system[0] + dialect.preface), _literal(dialect.family.system[1])
    given = f"{{{{ {words} }}}}"
    if dialect.default is None:
        return _if(words, before + given + after)
    return before + _if(words, given, _literal(dialect.default)) + after


def _if(condition: str, then: str, otherwise: str = "") -> str:
    alternative = f"{{{{ else }}}}{otherwise}" if otherwise else ""
    return f"{{{{ if {condition} }}}}{then}{alternative}{{{{ end }}}}"


def _literal(text: str) -> str:
    """Text that comes out as it is: what could be read otherwise is written as a string of Go."""
    marked = _SPECIAL.sub(lambda match: _string(match.group()), text)
    # A Modelfile's reader drops what is not printable.
    return "".join(c if c.isprintable() or c in "\n\t" else _string(c) for c in marked)


def _string(text: str) -> str:
    quoted = "".join(rf"\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'{{{{ "{quoted}" }}}}'
