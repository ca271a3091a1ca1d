"""The sandbox that chat templates are rendered in: Jinja's own, with every piece of work paid for from a budget.

Jinja's sandbox keeps a template from files, from Python's internals and from changing what it is given, but not from
running for days or from filling the memory. Here the compiler puts a payment at the start of each block (as many units
as it has nodes), and operators, comparisons, calls, filters and output pay for the sizes that they are about to make.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from types import BuiltinMethodType, MethodType
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators, optimizeconst  # pyright: ignore[reportUnknownVariableType]
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from pudistill_cli.models.template_bounds import REFUSED_METHODS, Bounds
from pudistill_cli.models.template_budget import ITEM, Budget, shallow, size_of

_BODIES = frozenset({"body", "else_"})
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


class _Compiler(CodeGenerator):
    """Jinja's, with a payment at the start of every block, and around what looks into values."""

    _defaults = 0
    """Nodes of the macro's defaults whose body comes next."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        """A block: it is paid for each time that it is entered."""
        block = list(nodes)
        units, self._defaults = 1 + sum(map(_weight, block)) + self._defaults, 0
        self.writeline(f"spend({units})")
        super().blockvisit(block, frame)

    def write_commons(self) -> None:
        """What a template's functions begin with."""
        self.writeline("spend = environment.budget.spend")
        super().write_commons()

    def _output_child_to_const(self, node: Any, frame: Frame, finalize: Any) -> str:
        """Text of the template itself, which its block has paid for; what a constant makes is paid for each time."""
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def macro_body(self, node: Any, frame: Frame) -> Any:
        """A macro, its defaults being evaluated each time."""
        self._defaults = ITEM + sum(map(_weight, node.defaults))
        return super().macro_body(node, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        """A loop; what its `if` leaves out never comes to its body."""
        if node.test is not None:
            counted = nodes.EnvironmentAttribute("counted", lineno=node.lineno, environment=self.environment)
            arguments = [cast("nodes.Expr", node.iter), nodes.Const(ITEM + _weight(node.test))]
            node.iter = nodes.Call(counted, arguments, [], None, None, lineno=node.lineno, environment=self.environment)
        super().visit_For(node, frame)

    @optimizeconst
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """`a ~ b`."""
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    @optimizeconst
    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        """`a < b`, `a in b`."""
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        if len(sides) == 2 and any(map(_is_literal, sides)) and node.ops[0].op not in ("in", "notin"):
            CodeGenerator.visit_Compare(self, node, frame)  # costs no more than the literal is long
            return
        self.write("(")
        self._side("compared", node.expr, frame, free=len(sides) == 2 and _is_literal(sides[1]))
        for operand in node.ops:
            self.write(f" {operators[operand.op]} ")
            self._side("searched" if operand.op in ("in", "notin") else "compared", operand.expr, frame)
        self.write(")")

    def _side(self, paid_by: str, node: nodes.Expr, frame: Frame, free: bool = False) -> None:
        if free or _is_literal(node):
            self.visit(node, frame)
        else:
            self._through(paid_by, lambda: self.visit(node, frame))

    @optimizeconst
    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        """`a[b]`, `a[b:c]`."""
        if isinstance(node.arg, nodes.Slice):
            self._through("copied", lambda: CodeGenerator.visit_Getitem(self, node, frame))
        elif _is_literal(node.arg):
            CodeGenerator.visit_Getitem(self, node, frame)
        else:
            self.write("environment.getitem(")
            self.visit(node.node, frame)
            self.write(", ")
            self._through("sought", lambda: self.visit(node.arg, frame))
            self.write(")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        """`[a, b]`."""
        self._built(node, frame, CodeGenerator.visit_List)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        """`(a, b)`; also what is assigned to."""
        self._built(node, frame, CodeGenerator.visit_Tuple)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        """`{a: b}`; a key that is a tuple is hashed, all of it."""
        self._built(node, frame, CodeGenerator.visit_Dict)

    def _built(self, node: Any, frame: Frame, visit: Any) -> None:
        if _is_literal(node) or getattr(node, "ctx", "load") != "load":
            visit(self, node, frame)
        else:
            self._through("built", lambda: visit(self, node, frame))

    def _through(self, paid_by: str, write: Any) -> None:
        self.write(f"environment.{paid_by}(")
        write()
        self.write(")")


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """transformers' environment for chat templates (utils/chat_template_utils.py), with a budget."""

    code_generator_class = _Compiler

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


def _weight(node: nodes.Node) -> int:
    """The nodes that are evaluated once with a block that holds `node`, and its text: not those of blocks inside it."""
    total, stack = 0, [node]
    while stack:
        item = stack.pop()
        total += 1 + (len(item.data) if isinstance(item, nodes.TemplateData) else 0)
        stack.extend(item.iter_child_nodes(exclude=_BODIES))
    return total


def _is_literal(node: nodes.Node) -> bool:
    """Whether it holds nothing but constants."""
    return all(isinstance(n, nodes.Const | nodes.Literal | nodes.Pair) for n in (node, *node.find_all(nodes.Node)))
