"""The evaluator of chat templates where no child process with limits can be had: what it cannot bound, it refuses.

The same sandbox renders, but only with the statements, filters, tests, methods and operators listed here. Each is paid for
before it is done: its work in units of about a nanosecond, what it makes in bytes. Values are nested at most so deep and
weigh at most so much written out, whatever they share, so that comparing, hashing or writing one is bounded, too. A round of
a loop costs what its body could. Both budgets are of a whole rendering, so it ends after seconds and keeps this much memory.
Ordinary templates never come near; anything else is an error that names what was not allowed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.ext import loopcontrols as LoopControls  # noqa: N812, a class under a small name
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from dllm_fast.text import sandbox
from dllm_fast.text.budget import ITEM, MOST_BITS, MOST_ODD_NAMES, VIEWS, Budget, NotBoundedError, Once, unbounded

LONGEST_TEMPLATE = 200_000
MOST_NODES = 20_000
DEEPEST_TEMPLATE = 100
MOST_CALLS = 40  # inside each other
WIDEST = 32  # of an indentation

_CALL, _NODE = 2_000, 100
_WRITTEN = 12  # characters that one can become: \\ud83d\\ude00

# What the compiled template calls around its own expressions. No template can write such a name.
_MARK = "!"

_STATEMENTS = (nodes.Template, nodes.Output, nodes.For, nodes.If, nodes.Macro, nodes.Assign, nodes.AssignBlock)
_LEAVES = (nodes.Break, nodes.Continue, nodes.Const, nodes.Name, nodes.NSRef, nodes.TemplateData)
_EXPRESSIONS = (
    *(nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.Operand, nodes.Filter, nodes.Test, nodes.Call),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Concat, nodes.Compare, nodes.And, nodes.Or, nodes.Not, nodes.Neg),
    *(nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.CondExpr),
)
_KNOWN = {*_STATEMENTS, *_LEAVES, *_EXPRESSIONS}
_UNBOUND_NAMES = {"varargs", "kwargs", "caller", "self", "super"}

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda left, right: left == right,
    "ne": lambda left, right: left != right,
    "lt": lambda left, right: left < right,
    "lteq": lambda left, right: left <= right,
    "gt": lambda left, right: left > right,
    "gteq": lambda left, right: left >= right,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}

# Filters whose work and result are in proportion to what they are given.
_FILTERS = (
    *("trim", "upper", "lower", "capitalize", "title", "length", "count", "first", "last", "list", "default", "d", "string"),
    *("int", "float", "abs", "items", "dictsort", "sort", "reverse", "safe", "select", "reject", "selectattr", "rejectattr"),
    *("map", "join", "replace", "indent", "tojson", "round"),
)
# Tests that look at the kind of a value alone, and those that read it.
_KINDS = (
    *("defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable"),
    *("true", "false", "callable"),
)
_READS = (
    *("odd", "even", "divisibleby", "upper", "lower", "sameas", "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<"),
    *("gt", "greaterthan", ">", "le", "<=", "ge", ">=", "in"),
)
_TEXT_METHODS = {
    *("strip", "lstrip", "rstrip", "startswith", "endswith", "split", "rsplit", "splitlines", "replace", "join", "upper"),
    *("lower", "title", "capitalize", "find", "rfind", "count", "removeprefix", "removesuffix", "isdigit", "isalpha"),
    *("isalnum", "isspace", "isupper", "islower", "isnumeric"),
}
_MAPPING_METHODS = {"get", "items", "keys", "values"}
_LOOP_METHODS = {"cycle", "changed"}
_DATE = re.compile(r"(?:[^%]|%-?[A-Za-z%]){0,100}")


def render(source: str, values: Mapping[str, Any]) -> sandbox.Outcome:
    """As `sandbox.render`, in this process. Each rendering has its own evaluator, so that threads share nothing."""
    if len(source) > LONGEST_TEMPLATE:
        return "failed", f"without a child process it must have at most {LONGEST_TEMPLATE:,} characters, got {len(source):,}"
    environment = _Environment()
    try:
        compiled = sandbox.compiled(environment, source)
        if environment.refusal:
            return "failed", environment.refusal
        if isinstance(compiled, str):
            return "invalid", compiled
        return sandbox.outcome(compiled, values, environment.written)
    except MemoryError:
        return "failed", "there is no memory for it"
    finally:
        environment.forget()


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            cache_size=0,
            finalize=self._finalized,  # with a context nothing is written when it is compiled
            extensions=[LoopControls, sandbox.Generation],
        )
        self.refusal = ""
        self._budget = Budget()
        self._calls, self._nodes = 0, 0
        self.globals = sandbox.helpers(self.globals["range"])
        self._functions = tuple(self.globals.values())
        self.filters["tojson"] = sandbox.to_json
        own = (self.compared, self.joined, self.sliced, self.made, self.named, self.counted)
        self.filters = {name: self._filter(name, self.filters[name]) for name in _FILTERS}
        self.filters |= {_MARK + function.__name__: function for function in own}
        kinds = {name: self.tests[name] for name in _KINDS}
        self.tests = {name: self._test(self.tests[name]) for name in _READS} | kinds

    def forget(self) -> None:
        """Lets go of values that were measured; the evaluator itself is in circles that are collected later."""
        self._budget = Budget()

    # What is allowed, when a template is compiled

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        try:
            self._allow(tree, 0)
        except NotBoundedError as error:
            self.refusal = str(error)
            raise
        return tree

    def _allow(self, node: nodes.Node, depth: int) -> int:
        """Puts what pays around each operation. Returns the number of nodes.

        Raises:
            NotBoundedError: the template has something else.
        """
        self._nodes += 1
        if type(node) not in _KNOWN:
            raise unbounded(f"a {type(node).__name__.lower()} ({{% {type(node).__name__.lower()} ... %}} or alike)")
        if depth > DEEPEST_TEMPLATE or self._nodes > MOST_NODES:
            raise unbounded(f"a template of more than {MOST_NODES:,} parts or nested deeper than {DEEPEST_TEMPLATE}")
        self._allow_itself(node)
        count = 1
        for field, value in node.iter_fields():
            if isinstance(value, list):
                count += sum(self._allow(item, depth + 1) for item in value if isinstance(item, nodes.Node))
                setattr(node, field, [self._paid(item) for item in value])
            elif isinstance(value, nodes.Node):
                count += self._allow(value, depth + 1)
                setattr(node, field, self._paid(value))
        if isinstance(node, nodes.For):
            node.iter = self._through("counted", node.iter, nodes.Const(count))
        return count

    def _allow_itself(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Name) and node.name in _UNBOUND_NAMES:
            raise unbounded(f"the name {node.name}")
        if isinstance(node, nodes.Const) and isinstance(node.value, int) and node.value.bit_length() > MOST_BITS:
            raise unbounded("a whole number of so many digits")
        if isinstance(node, nodes.Filter) and (node.name not in _FILTERS or node.node is None):
            raise unbounded(f"the filter {node.name}")
        if isinstance(node, nodes.Test) and node.name not in self.tests:
            raise unbounded(f"the test {node.name}")
        if isinstance(node, nodes.Filter | nodes.Test | nodes.Call) and (node.dyn_args or node.dyn_kwargs):
            raise unbounded("a call with * or **")
        if isinstance(node, nodes.For) and node.recursive:
            raise unbounded("a recursive loop")
        if isinstance(node, nodes.AssignBlock) and node.filter is not None:
            raise unbounded("a block with a filter")
        if isinstance(node, nodes.Compare) and len(node.ops) > 1:
            raise unbounded("a chain of comparisons")
        if isinstance(node, nodes.Dict) and len(node.items) > MOST_ODD_NAMES:
            raise unbounded(f"a mapping of more than {MOST_ODD_NAMES:,} written items")
        if isinstance(node, nodes.Output):
            # Text of the template is paid for as any other that is written.
            node.nodes = [_constant(item) if isinstance(item, nodes.TemplateData) else item for item in node.nodes]

    def _paid(self, node: Any) -> Any:
        if isinstance(node, nodes.Compare):
            return self._through("compared", node.expr, nodes.Const(node.ops[0].op), node.ops[0].expr)
        if isinstance(node, nodes.Concat):
            return self._through("joined", *node.nodes)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            parts: Iterable[Any] = (
                part if part is not None else nodes.Const(None) for part in (node.arg.start, node.arg.stop, node.arg.step)
            )
            return self._through("sliced", node.node, *parts)
        if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
            return self._through("made", node)
        if isinstance(node, nodes.Pair):
            node.key = self._through("named", node.key)
        return node

    def _through(self, method: str, value: nodes.Node, *others: nodes.Expr) -> nodes.Expr:
        node = nodes.Filter(value, _MARK + method, list(others), [], None, None)
        return node.set_lineno(value.lineno or 1).set_environment(self)  # type: ignore[return-value]

    # What it costs

    # Operations

    @staticmethod
    def _no_number(value: Any) -> bool:
        return type(value) not in (int, float, bool)

    @pass_context
    def _finalized(self, context: object, value: Any) -> Any:
        return self.written(value)

    def written(self, value: Any) -> Any:
        """What stands between `{{` and `}}`."""
        if not isinstance(value, str):
            self._budget.make(_WRITTEN * self._budget.measure(value)[1])
            return value
        return self._budget.result(value)

    def counted(self, items: Any, size: int) -> Iterator[Any]:
        """The items of a loop; a round costs what its body could."""
        self._budget.weigh(items)
        for item in self._budget.items(items):
            self._budget.spend(ITEM + _NODE * size)
            yield item

    def made(self, value: Any) -> Any:
        """A list, tuple or mapping that the template writes."""
        return self._budget.result(value)

    def named(self, name: Any) -> Any:
        """The name of an item in a mapping that the template writes."""
        return self._budget.name(name)

    def compared(self, left: Any, operator: str, right: Any) -> Any:
        """`left operator right`."""
        weight = self._budget.weigh(left, right)
        if operator in ("in", "notin"):
            if isinstance(left, str) and isinstance(right, str):
                self._budget.spend(len(left) * len(right))
            self._budget.spend(10 * weight)
            if isinstance(right, (dict, *VIEWS)):
                self._budget.name(left)
            right = self._budget.items(right)
        return _COMPARISONS[operator](left, right)

    def joined(self, *values: Any) -> str:
        """`a ~ b`."""
        for value in values:
            self._budget.make(4 * (_WRITTEN if not isinstance(value, str) else 1) * self._budget.measure(value)[1])
        return str(self._budget.result("".join(map(str, values))))

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """`value[start:stop:step]`."""
        if not isinstance(value, str | list | tuple | Undefined):
            raise unbounded(f"a slice of a {type(value).__name__}")
        self._budget.make(ITEM + 8 * len(value))
        return self._budget.result(value[start:stop:step])

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._budget.spend(_CALL)
        if isinstance(obj, dict):
            self._budget.name(argument)
        elif not isinstance(obj, str | list | tuple | Namespace | LoopContext | Undefined | Once | range):
            raise unbounded(f"an item of a {type(obj).__name__}")
        elif not isinstance(argument, str | int | Undefined):
            raise unbounded(f"a {type(argument).__name__} as an index")
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._budget.spend(_CALL)
        if not isinstance(obj, dict | str | list | tuple | Namespace | LoopContext | Undefined):
            raise unbounded(f"an attribute of a {type(obj).__name__}")
        return super().getattr(obj, attribute)

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        if self._no_number(arg):
            raise unbounded(f"the sign of a {type(arg).__name__}")
        return super().call_unop(context, operator, arg)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        weight = self._budget.weigh(left, right)
        if self._no_number(left) or self._no_number(right):
            if operator == "*":
                count, items = (left, right) if type(left) in (int, bool) else (right, left)
                if type(count) in (int, bool) and isinstance(items, str | list | tuple):
                    self._budget.bound(count)
                    self._budget.make(max(count, 0) * (4 * len(items) if isinstance(items, str) else 16 * len(items)))
            elif operator == "+":
                self._budget.make(16 * weight if isinstance(left, list | tuple) else 6 * weight)
            else:
                raise unbounded(f"the operator {operator} on a {type(left).__name__} and a {type(right).__name__}")
        elif operator == "**" and not abs(right) <= 64:
            raise unbounded(f"the exponent {right}")
        return self._budget.result(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        self._budget.spend(_CALL)
        given = [*arguments, *(value for name, value in named.items() if name not in ("_loop_vars", "_block_vars"))]
        if isinstance(function, Macro):
            self._budget.spend(10 * _CALL + _NODE * self._nodes)
            if self._calls >= MOST_CALLS:
                raise unbounded(f"more than {MOST_CALLS} calls inside each other")
            self._calls += 1
            try:
                return self._budget.result(super().call(context, function, *arguments, **named))
            finally:
                self._calls -= 1
        if isinstance(function, Undefined):
            return super().call(context, function)
        if any(function is known for known in self._functions):
            self._prepare_function(function, arguments, given)
            result = super().call(context, function, *arguments, **named)
            return result if isinstance(result, Namespace) else self._budget.result(result)
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, LoopContext) and name in _LOOP_METHODS:
            self._budget.weigh(*given)
        elif type(owner) is dict and name in _MAPPING_METHODS:
            self._budget.weigh(owner)
            for value in given[:1]:
                self._budget.name(value)
        elif type(owner) is str and name in _TEXT_METHODS:
            self._prepare_text(owner, name, given)
        else:
            raise unbounded(f"the call of {name or type(function).__name__}")
        return self._budget.result(super().call(context, function, *arguments, **named))

    def _prepare_function(self, function: Any, arguments: tuple[Any, ...], given: list[Any]) -> None:
        name = getattr(function, "__name__", "")
        for value in given:
            if "range" in name:
                self._budget.bound(value)
            elif not isinstance(value, Namespace):
                self._budget.weigh(value)
        if arguments and ("dict" in name or "namespace" in name):
            raise unbounded(f"{name.strip('_')} of anything but named values")
        if "strftime" in name and not (isinstance(given[0], str) and _DATE.fullmatch(given[0])):
            raise unbounded("such a form of a date")

    def _prepare_text(self, text: str, name: str, given: list[Any]) -> None:
        """Pays for a method of a text, for what it makes, too."""
        for value in given:
            self._budget.bound(value)
        weight = self._budget.weigh(text, *given)
        first = given[0] if given else None
        if name == "join":
            count = sum(1 for _ in self._copied(first))
            self._budget.make(4 * (weight + count * len(text)))
        elif name == "replace":
            self._prepare_replace(text, *given)
        elif name in ("split", "rsplit", "splitlines"):
            parts = len(text) // 2 + 1 if first is None or name == "splitlines" else self._count(text, first) + 1
            self._budget.make(100 * min(parts, len(text) + 1) + 4 * len(text))
        elif name.startswith(("is", "upper", "lower", "title", "cap")):
            self._budget.make(12 * len(text))
        else:
            for value in given:
                self._budget.spend(len(text) * self._budget.measure(value)[1])

    def _copied(self, value: Any) -> Iterable[Any]:
        if not isinstance(value, list | tuple | dict | str | Undefined | Once):
            raise unbounded(f"a join of a {type(value).__name__}")
        return value.rest if isinstance(value, Once) else value

    def _count(self, text: str, part: Any) -> int:
        if not isinstance(part, str):
            raise unbounded(f"a {type(part).__name__} as a part of a text")
        self._budget.spend(len(text) * (len(part) + 1))
        return text.count(part)

    def _prepare_replace(self, text: Any, old: Any = "", new: Any = "", *others: Any) -> None:
        if not isinstance(text, str) or not isinstance(old, str) or not isinstance(new, str):
            raise unbounded("a replacement in anything but texts")
        self._budget.make(4 * (len(text) + self._count(text, old) * len(new)))

    # Filters and tests

    def call_filter(self, name: str, *arguments: Any, **named: Any) -> Any:
        if name not in _FILTERS:
            raise unbounded(f"the filter {name}" if isinstance(name, str) else "a filter without a name")
        return super().call_filter(name, *arguments, **named)

    def call_test(self, name: str, *arguments: Any, **named: Any) -> Any:
        if name not in self.tests:
            raise unbounded(f"the test {name}" if isinstance(name, str) else "a test without a name")
        return super().call_test(name, *arguments, **named)

    def _filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        passed = hasattr(function, "jinja_pass_arg")

        @functools.wraps(function)  # with the marks by which jinja2 knows what to pass
        def filtered(*arguments: Any, **named: Any) -> Any:
            first, given = arguments[:passed], arguments[passed:]
            self._budget.spend(_CALL)
            self._prepare_filter(name, list(given), named)
            if name in ("default", "d"):
                return function(*first, *given, **named)
            result = function(*first, *map(self._budget.items, given), **named)
            if isinstance(result, Iterator):
                # The functions that it calls for each item pay for themselves.
                result = list(result)
                self._budget.make(ITEM * len(result))
                return Once(result)
            return self._budget.result(result)

        return filtered

    def _prepare_filter(self, name: str, given: list[Any], named: Mapping[str, Any]) -> None:
        """Pays for a filter, for what it makes, too."""
        if name in ("default", "d"):
            return
        others = [*given[1:], *named.values()]
        for value in others:
            self._budget.bound(value)
        weight = self._budget.weigh(*given, *named.values())
        value = given[0]
        if name == "replace":
            self._prepare_replace(str(value) if type(value) in (int, float, bool) else value, *others[:2])
        elif name == "tojson":
            self._budget.make(
                self._budget.measure(value)[1]
                * (_WRITTEN + sum(map(self._wide, others)) * (self._budget.measure(value)[0] + 1))
            )
        elif name == "indent":
            text = value if isinstance(value, str) else ""
            self._budget.make(4 * (len(text) + (text.count("\n") + 1) * sum(map(self._wide, others))) + 60 * weight)
        elif name == "round":
            sum(map(self._wide, others))
        elif name in ("int", "float") and isinstance(value, str) and len(value) > 1_000:
            raise unbounded("so long a number")
        elif name in ("sort", "dictsort"):
            self._budget.make(40 * weight)
            self._budget.spend(20 * weight * math.log2(weight + 2))
        elif name in ("map", "select", "reject", "selectattr", "rejectattr", "join"):
            size = len(self._copied(value)) if not isinstance(value, (range, *VIEWS)) else len(value)  # type: ignore[arg-type]
            texts = sum(len(item) + 1 for item in others if isinstance(item, str))
            self._budget.spend((size + 1) * 5 * _CALL)
            self._budget.make(_WRITTEN * weight + size * texts * 4)
        elif name == "trim":
            self._budget.spend(
                len(value) * texts if (texts := sum(len(str(item)) for item in others)) and isinstance(value, str) else 0
            )
        elif name in ("string", "list", "items", "reverse", "safe"):
            self._budget.make(_WRITTEN * weight)

    def _wide(self, value: Any) -> int:
        """Of an argument that says how wide something becomes."""
        if isinstance(value, list | tuple):
            return sum(map(self._wide, value))
        width = len(value) if isinstance(value, str) else value
        if isinstance(width, int) and abs(width) > WIDEST:
            raise unbounded(f"a width of more than {WIDEST}")
        return abs(width) if isinstance(width, int) else 0

    def _test(self, function: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def tested(*arguments: Any) -> Any:
            weight = self._budget.weigh(*arguments)
            if len(arguments) == 2 and isinstance(arguments[0], str) and isinstance(arguments[1], str):
                self._budget.spend(len(arguments[0]) * len(arguments[1]))
            if len(arguments) == 2 and isinstance(arguments[1], dict):
                self._budget.name(arguments[0])
            self._budget.spend(10 * weight)
            return function(*map(self._budget.items, arguments))

        return tested


def _constant(node: nodes.TemplateData) -> nodes.Expr:
    return nodes.Const(node.data).set_lineno(node.lineno)  # type: ignore[return-value]
