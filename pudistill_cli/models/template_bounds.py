"""What Jinja's filters and tests, and the methods of text, cost a chat template: paid for before they are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from math import log2
from typing import Any, cast

from jinja2.filters import FILTERS, make_attrgetter  # pyright: ignore[reportUnknownVariableType]
from jinja2.tests import TESTS  # pyright: ignore[reportUnknownVariableType]
from jinja2.utils import pass_environment, pass_eval_context

from pudistill_cli.models.template_budget import DIGITS, ITEM, Budget, TooMuchWork, shallow

Function = Callable[..., Any]

NOT_OFFERED = frozenset(
    {"filesizeformat", "forceescape", "pprint", "random", "striptags", "urlencode", "urlize", "xmlattr"}
)
"""Filters for pages of the web and for chance: a conversation has no use for them, and some take quadratic time."""
REFUSED_METHODS = frozenset({"encode", "maketrans", "translate"})
_LAZY = frozenset(
    {"abs", "attr", "count", "d", "default", "first", "items", "last", "length", "map", "reject", "rejectattr"}
    | {"select", "selectattr"}
)
"""Filters that do not look into what they are given, or only as far as their result is read."""
_PASSING = frozenset({"map", "reject", "rejectattr", "select", "selectattr"})
"""Of those, the filters that take as many items as it needs to give one."""
_COPYING = frozenset({"batch", "list", "reverse", "slice"})
_SORTING = frozenset({"dictsort", "groupby", "max", "min", "sort", "unique"})
_PER_CHARACTER = {"title": 4, "wordcount": 4, "e": 6, "escape": 6}
_COMPARING = frozenset(
    {"in", "==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "ge", ">=", "<", "lt", "lessthan", "<=", "le"}
    | {"lower", "upper"}
)
_BY_ATTRIBUTE = _SORTING | _PASSING
_LONGEST_PATH = 10
"""Steps of an attribute's path, which each item is asked for."""
_LONGEST_WRAPPED = 1 << 16
"""Characters: Python's `textwrap` is of quadratic time on some texts."""
_PADDING = frozenset({"center", "ljust", "rjust", "zfill"})
_FORWARD = frozenset({"count", "find", "index", "partition", "replace", "split"})
_BACKWARD = frozenset({"rfind", "rindex", "rpartition", "rsplit"})
"""Python looks from the end by a method of quadratic time."""
_STRIPPING = frozenset({"lstrip", "rstrip", "strip"})
_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_WIDE_PERCENT = re.compile(r"(?<!\d)\d{5,}+(\.\d*+)?[hlL]?[diouxXeEfFgGcrsa%]|\.\d{5}|[%)][#0\- +.\d]*+\*")
"""A width or a precision of five digits, or one that comes with the values."""
_WIDTH = 9_999


class Bounds:
    """The filters, tests and methods of one environment, which pay from its budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    # --- operators and formatting ---

    def percent(self, text: str, values: Any) -> None:
        """Pay for `text % values`."""
        if _WIDE_PERCENT.search(text):
            raise TooMuchWork
        widest = _WIDTH if re.search(r"\d{3,}", text) else 100
        self.budget.spend(len(text) + text.count("%") * (widest + self.budget.measure(values)))

    def braces(self, text: str, values: Any) -> None:
        """Pay for `text.format(values)`."""
        plain = text.replace("{{", "").replace("}}", "")
        fields = re.findall(r"\{([^{}]*)\}", plain)
        if re.search(r"\{[^{}]*\{", plain) or any(re.search(r"\d{5,}", field) for field in fields):
            raise TooMuchWork
        widest = _WIDTH if any(re.search(r"\d{3,}", field) for field in fields) else 100
        self.budget.spend(len(text) + text.count("{") * (widest + self.budget.measure(values)))

    def operator(self, symbol: str, left: Any, right: Any) -> None:
        """Pay for `left symbol right`."""
        if isinstance(left, int | float) and isinstance(right, int | float):
            self._numbers(symbol, left, right)
        elif symbol == "%":
            if isinstance(left, str):
                self.percent(left, right)
        elif symbol == "*":
            times, value = (left, right) if isinstance(left, int) else (right, left)
            size = self.budget.measure(value) if isinstance(value, tuple) else shallow(value)
            self.budget.spend(size * max(0, times) if isinstance(times, int) else ITEM)
        elif isinstance(left, tuple):
            self.budget.measure(left)
            self.budget.measure(right)
        else:
            self.budget.spend(shallow(left) + shallow(right))

    def _numbers(self, symbol: str, left: float, right: float) -> None:
        bits = [n.bit_length() for n in (left, right) if isinstance(n, int)]
        if any(n > DIGITS for n in bits):
            raise TooMuchWork
        if symbol == "**" and len(bits) == 2 and right > 0 and bits[0] * right > DIGITS:
            raise TooMuchWork
        self.budget.spend(ITEM + sum(bits) // 8)

    # --- methods ---

    def method(self, text: str, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Pay for a method of a string; returns the arguments to call it with."""
        size, first = len(text), arguments[0] if arguments else None
        self.budget.spend(ITEM + (size >> 3))
        for argument in arguments:
            if isinstance(argument, str):
                self.budget.spend(len(argument) >> 3)
        if name == "join":
            return self._joined(size, arguments)
        if name in _PADDING and isinstance(first, int):
            self.budget.spend(max(size, first))
        elif name == "expandtabs":
            width = next((a for a in arguments if isinstance(a, int)), 8)
            self.budget.spend(size + text.count("\t") * max(0, width))
        elif name == "splitlines":
            self.budget.spend(size + ITEM * ITEM * sum(map(text.count, _LINE_ENDS)))
        elif name in _STRIPPING:
            self.budget.spend(size + (size * len(first) >> 4 if isinstance(first, str) else 0))
        elif name in _FORWARD or name in _BACKWARD:
            self._search(text, name, arguments)
        else:
            self.budget.spend(size)
        return arguments

    def _joined(self, separator: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(arguments) != 1:
            return arguments
        items = list(self.budget.counted(arguments[0]))
        self.budget.spend(sum(len(item) for item in items if isinstance(item, str)) + separator * len(items))
        return (items,)

    def _search(self, text: str, name: str, arguments: tuple[Any, ...]) -> None:
        size, sought = len(text), arguments[0] if arguments else None
        if isinstance(sought, str):
            longest = len(sought) if name in _BACKWARD else min(len(sought), 128)
            self.budget.spend(size * longest >> 6)
        if name == "replace" and len(arguments) >= 2 and isinstance(sought, str) and isinstance(arguments[1], str):
            self.budget.spend(size + (text.count(sought) if sought else size + 1) * len(arguments[1]))
        elif name in ("split", "rsplit"):
            most = self.budget.left // (ITEM * ITEM)
            pieces = text.count(sought) if isinstance(sought, str) and sought else len(text.split(None, most))
            self.budget.spend(size + ITEM * ITEM * pieces)
        elif name in ("partition", "rpartition"):
            self.budget.spend(size)

    # --- filters and tests ---

    def filters(self) -> Mapping[str, Function]:
        """Jinja's own, each paid for; without those that are not offered."""
        special = {"join": self._join(), "sum": self._sum()}
        return {
            name: special.get(name) or self._paid(name, cast("Function", function))
            for name, function in cast("Mapping[str, object]", FILTERS).items()
            if name not in NOT_OFFERED
        }

    def tests(self) -> Mapping[str, Function]:
        """Jinja's own; those that compare or search are paid for."""
        return {
            name: self._compared(function) if name in _COMPARING else function
            for name, function in cast("Mapping[str, Function]", TESTS).items()
        }

    def _compared(self, test: Function) -> Function:
        @wraps(test)
        def paid(*values: Any) -> Any:
            for value in values:
                if isinstance(value, str):
                    self.budget.spend(len(value) >> 4)
                elif not isinstance(value, dict) or test is not TESTS["in"]:
                    self.budget.measure(value)
            return test(*values)

        return paid

    def _paid(self, name: str, function: Function) -> Function:
        passed = hasattr(function, "jinja_pass_arg")
        plain = name not in _LAZY | _COPYING | _SORTING | _PER_CHARACTER.keys() and name != "round"

        @wraps(function)
        def paid(*arguments: Any, **settings: Any) -> Any:
            if plain and len(arguments) == 1 and type(arguments[0]) is str and not settings:
                self.budget.spend(ITEM + 2 * len(arguments[0]))
                return function(arguments[0])
            self._filter(name, [*(arguments[1:] if passed else arguments), *settings.values()], settings)
            if name in _PASSING and len(arguments) > passed and arguments[passed]:
                arguments = (*arguments[:passed], self.budget.counted(arguments[passed]), *arguments[passed + 1 :])
            result: Any = function(*arguments, **settings)
            if isinstance(result, str):
                self.budget.spend(len(result))
            elif isinstance(result, int) and result.bit_length() > DIGITS:
                raise TooMuchWork
            return self.budget.counted(cast("Any", result)) if hasattr(result, "__next__") else cast("Any", result)

        return paid

    def _filter(self, name: str, values: list[Any], settings: dict[str, Any]) -> None:
        """Pay for a filter: its value, and what is given to it."""
        budget = self.budget
        budget.spend(ITEM)
        if name in _BY_ATTRIBUTE:
            _refuse_long_paths(values[1:])
        if name in _LAZY:
            return
        if name in _COPYING:
            budget.spend(2 * shallow(values[0]) if values else 0)
            numbers = [value for value in values[1:] if isinstance(value, int | float)]
            budget.spend(int(min(max(0, *numbers, 0), 2 * budget.left)) if name == "batch" and len(values) > 2 else 0)
            return
        size = sum(map(budget.measure, values))
        if name in _SORTING:
            budget.spend(int(size * log2(size + 2)) >> 3)
        elif name == "round":
            if any(isinstance(value, int) and abs(value) > 100 for value in values[1:]):
                raise TooMuchWork
        elif name == "format" and values:
            self.percent(str(values[0]), [settings or values[1:]])
        elif name in ("center", "indent", "wordwrap", "replace", "trim") and values:
            self._layout(name, str(values[0]), values[1:])
        else:
            budget.spend(len(values[0]) * _PER_CHARACTER.get(name, 0) if values and isinstance(values[0], str) else 0)

    def _layout(self, name: str, text: str, values: list[Any]) -> None:
        widths = [v if isinstance(v, int) else len(v) for v in values if isinstance(v, int | str)]
        widest, size = max([0, *widths]), len(text)
        if name == "replace":
            old, new = (str(value) for value in values[:2]) if len(values) >= 2 else ("", "")
            self.budget.spend((text.count(old) if old else size + 1) * len(new))
        elif name == "trim":
            self.budget.spend(size * widest >> 4)
        elif name == "center":
            self.budget.spend(max(size, widest))
        elif name == "indent":
            self.budget.spend(size + max(4, widest) * (2 + sum(map(text.count, _LINE_ENDS))))
        else:
            if size > _LONGEST_WRAPPED:
                raise TooMuchWork
            narrow = max(1, min([79, *(v for v in values if isinstance(v, int) and not isinstance(v, bool))]))
            longest = max([1, *(len(v) for v in values if isinstance(v, str))])
            self.budget.spend(size * (8 + size // narrow // 64) + size * longest)

    def _join(self) -> Function:
        def join(eval_ctx: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
            """Jinja's, where nothing is escaped."""
            _refuse_long_paths([attribute])
            if attribute is not None:
                value = map(cast("Function", make_attrgetter(eval_ctx.environment, attribute)), value)
            items = [self.budget.text(item) for item in self.budget.counted(value)]
            between = self.budget.text(d)
            self.budget.spend(len(between) * len(items))
            return between.join(items)

        return pass_eval_context(join)

    def _sum(self) -> Function:
        def total(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
            """Jinja's, each addition paid for."""
            _refuse_long_paths([attribute])
            if attribute is not None:
                iterable = map(cast("Function", make_attrgetter(environment, attribute)), iterable)
            for item in self.budget.counted(iterable):
                self.operator("+", start, item)
                start = start + item
            return start

        return pass_environment(total)


def _refuse_long_paths(values: list[Any]) -> None:
    """Of attributes that every item is asked for, in several steps: `a.b.c`, or several of them: `a,b`."""
    if any(value.count(".") + value.count(",") > _LONGEST_PATH for value in values if isinstance(value, str)):
        raise TooMuchWork
