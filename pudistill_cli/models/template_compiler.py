"""Jinja's compiler, with a payment at the start of every block of a template, and around what looks into values.

The code that it makes calls the methods of `TemplateSandbox` (template_sandbox.py), which pay from the budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators, optimizeconst  # pyright: ignore[reportUnknownVariableType]

from pudistill_cli.models.template_budget import ITEM, TooMuchWork

_BODIES = frozenset({"body", "else_"})
_MOST_CODE = 4_000_000
"""Characters of Python that a template may become."""
_WEIGHTS: dict[type[nodes.Node], int] = {
    nodes.Getattr: 8,
    nodes.Getitem: 8,
    nodes.Call: 2 * ITEM,
    nodes.CallBlock: 2 * ITEM,
    nodes.Filter: ITEM,
    nodes.For: ITEM,
    nodes.Test: ITEM,
    nodes.Compare: 4,
    nodes.Concat: 4,
    nodes.Block: 20 * ITEM,
}
"""Units of nodes that take longer than one; a block may copy every variable that there is."""


class TemplateCompiler(CodeGenerator):
    """Jinja's, with a payment at the start of every block, and around what looks into values."""

    _defaults = 0
    """Nodes of the macro's defaults whose body comes next."""
    _written = 0

    def write(self, x: str) -> None:
        """Python code; a scoped block names every variable that there is, and a template can have many of both."""
        self._written += len(x)
        if self._written > _MOST_CODE:
            raise TooMuchWork
        super().write(x)

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


def _weight(node: nodes.Node) -> int:
    """The nodes that are evaluated once with a block that holds `node`, and its text: not those of blocks inside it."""
    total, stack = 0, [node]
    while stack:
        item = stack.pop()
        total += len(item.data) if isinstance(item, nodes.TemplateData) else _WEIGHTS.get(type(item), 1)
        stack.extend(item.iter_child_nodes(exclude=_BODIES))
    return total


def _is_literal(node: nodes.Node) -> bool:
    """Whether it holds nothing but constants."""
    return all(isinstance(n, nodes.Const | nodes.Literal | nodes.Pair) for n in (node, *node.find_all(nodes.Node)))
