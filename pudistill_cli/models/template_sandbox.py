"""The sandbox that chat templates are rendered in: Jinja's own, with every piece of work paid for from a budget.

Jinja's sandbox keeps a template from files, from Python's internals and from changing what it is given, but not from
running for days or from filling the memory. Here the compiler (template_compiler.py) puts a payment at the start of
each block, as many units as it has nodes, and operators, comparisons, calls, filters and output pay for the sizes that
they are about to make.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import BuiltinMethodType, MethodType
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from pudistill_cli.models.template_bounds import REFUSED_METHODS, Bounds
from pudistill_cli.models.template_budget import ITEM, Budget, shallow, size_of
from pudistill_cli.models.template_compiler import TemplateCompiler

_DEEPEST_JSON = 100
_SMALL = 1 << 60


class Generation(Extension):
    """`{% generation %}`: transformers' mark of the assistant's tokens; here its content passes through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own class attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Keep what is inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateNamespace(Namespace):
    """Jinja's `namespace`, which lets a template store dunder attributes: a way out of the sandbox."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template may not set {name!r}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:  # one may hold another twice, and so on
        return "<Namespace>"


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """transformers' environment for chat templates (utils/chat_template_utils.py), with a budget."""

    code_generator_class = TemplateCompiler

    def __init__(self) -> None:
        self.budget = Budget()
        self._bounds = Bounds(self.budget)
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], finalize=self.budget.text
        )
        self.filters = {**self._bounds.filters(), "tojson": self._tojson}
        self.tests = dict(self._bounds.tests())
        self.intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})
        del self.globals["lipsum"]  # pyright: ignore[reportUnknownMemberType]

    # --- what the compiler's code calls ---

    def counted(self, items: Any, weight: int) -> Any:
        """What a loop with a condition goes through."""
        return self.budget.counted(items, weight)

    def joined(self, parts: Sequence[Any]) -> str:
        """`a ~ b`."""
        return "".join([self.budget.text(part) for part in parts])

    def compared(self, value: Any) -> Any:
        """A side of a comparison."""
        if isinstance(value, str):
            self.budget.spend(len(value) >> 4)
        elif isinstance(value, list | tuple | dict):
            self.budget.measure(value)
        return cast("Any", value)

    def searched(self, value: Any) -> Any:
        """What `in` looks into; a mapping is asked by its key."""
        if isinstance(value, str):
            self.budget.spend(len(value) >> 4)
        elif not isinstance(value, dict) and value is not None:
            self.budget.measure(value)
        return cast("Any", value)

    def copied(self, value: Any) -> Any:
        """A slice."""
        self.budget.spend(shallow(value))
        return value

    def built(self, value: Any) -> Any:
        """A list, a tuple or a mapping that the template has just made."""
        self.budget.measure(value)
        return value

    def sought(self, value: Any) -> Any:
        """What stands in the brackets of `a[b]`: a tuple is hashed, all of it, and what is not there is named."""
        if isinstance(value, list | tuple | dict):
            self.budget.measure(value)
        return cast("Any", value)

    # --- Jinja's hooks ---

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`; what is small is paid for with its block."""
        if type(left) is str and type(right) is str and operator == "+":
            self.budget.spend(len(left) + len(right))
            return left + right
        if (
            type(left) is not int
            or type(right) is not int
            or operator == "**"
            or max(left, right, -left, -right) > _SMALL
        ):
            self._bounds.operator(operator, left, right)
        return self.binop_table[operator](left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Not what makes bytes or tables, nor methods of numbers."""
        if isinstance(obj, str | bytes) and attr in REFUSED_METHODS:
            return False
        if isinstance(obj, int | float | complex) and callable(value) and attr != "is_integer":
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """`text.format`, in the sandbox, and paid for."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def paid(*args: Any, **kwargs: Any) -> str:
            self._bounds.braces(value.__self__, (args, kwargs))
            return wrapped(*args, **kwargs)

        return paid

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of anything."""
        kind, budget = cast("type[Any]", type(__obj)), __self.budget
        budget.spend(2 * ITEM)
        if kind is BuiltinMethodType and isinstance(__obj.__self__, str):
            args = __self._bounds.method(__obj.__self__, __obj.__name__, (*args, *kwargs.values()))[: len(args)]
        elif kind is LoopContext:
            args = (budget.counted(args[0]), *args[1:])
        elif kind is MethodType and __obj.__self__ is __self:
            return __obj(*args)
        elif kind is Macro:
            budget.spend(ITEM * len(args))
        elif args:
            budget.measure(args)
        if not __self.is_safe_callable(__obj):
            raise SecurityError(f"{kind.__name__} is not safely callable")
        result: Any = __context.call(__obj, *args, **kwargs)
        if type(result) is str:
            budget.spend(len(result))
        return result

    # --- filters ---

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """Unlike Jinja's own filter this one does not escape for HTML."""
        size = size_of(value, self.budget.left)
        deep = _DEEPEST_JSON * (indent if isinstance(indent, int) else len(indent or ""))
        self.budget.spend(size + size // ITEM * (deep + sum(map(len, separators or ()))) // ITEM)
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        self.budget.spend(len(text))
        return text
