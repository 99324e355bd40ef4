"""The evaluator of chat templates: programs that come with a checkpoint, run where they can reach nothing.

A template is rendered by jinja2's immutable sandbox, in which it sees the messages, the special tokens and a few helpers.
jinja2 bounds neither time nor memory. Every loop and every call is counted here, so that most of what is careless or greedy
gets an error that names its fault; what is hostile is ended by the limits of the child process in which this runs.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls  # noqa: N812, a class under a small name
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from dllm_fast.errors import shown

LONGEST_TEMPLATE = 1_000_000
MOST_STEPS = 10_000_000  # loop rounds, calls and items handed to them; a long conversation takes some thousands
CALL_STEPS = 20  # a call takes the time of so many rounds of an empty loop
LONGEST_VALUE = 10_000_000  # characters or items
LARGEST_ARGUMENT = 1_000_000
MOST_KEPT = 16  # compiled templates


# Filters that do not go through what they are given: `messages | length` in a loop would weigh a conversation each time.
_BRIEF = {"length", "count", "first", "last", "default", "d"}

# Widths in a format, given or computed: a few characters that make millions.
_WIDTHS = re.compile(r"\d{3}|\*|\{[^}]*\{")

#: What became of a rendering, and the text that says so: the rendered text, what the template says of the messages, what is
#: wrong with the template, how it failed.
Outcome = tuple[Literal["text", "refused", "invalid", "failed"], str]


def render(source: str, values: Mapping[str, Any]) -> Outcome:
    """What a template makes of values that hold plain data."""
    compiled = _compiled(source)
    if not isinstance(compiled, jinja2.Template):
        return "invalid", compiled
    environment: Any = compiled.environment
    environment.steps = 0
    return outcome(compiled, values, environment.written)


@functools.lru_cache(maxsize=MOST_KEPT)
def _compiled(source: str) -> jinja2.Template | str:
    """The template, or what is wrong with it."""
    return compiled(_Environment(), source)


def compiled(environment: jinja2.Environment, source: str) -> jinja2.Template | str:
    """The template, or what is wrong with it."""
    if len(source) > LONGEST_TEMPLATE:
        return f"it must have at most {LONGEST_TEMPLATE:,} characters, got {len(source):,}"
    try:
        return environment.from_string(source)
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile text makes of the parser and the compiler
        return str(error) or type(error).__name__


def outcome(template: jinja2.Template, values: Mapping[str, Any], written: Callable[[Any], Any]) -> Outcome:
    """Renders, and says what came of it. `written` bounds a value that is no text yet."""
    parts, length = [], 0
    try:
        for made in template.generate(values):
            # A block with a filter hands out what that made: a list, or nothing at all.
            part = made if isinstance(made, str) else str(written(made))
            parts.append(part)
            length += len(part)
            if length > LONGEST_VALUE:
                raise _too_large(length)
    except RefusedError as error:
        return "refused", str(error)
    except MemoryError:
        raise
    except Exception as error:  # a template may raise anything that Python can
        return "failed", f"{type(error).__name__}: {shown(str(error))}"
    return "text", "".join(parts)


class RefusedError(jinja2.TemplateError):
    """Raised by the template itself, about the messages."""


def _raise_exception(message: Any) -> None:
    raise RefusedError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike jinja2's own filter, this one escapes nothing for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Namespace(Namespace):
    """A namespace without names such as `__html__`, which others would look up and call outside the sandbox."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.TemplateError(f"a namespace takes no name with an underscore in front, got {name!r}")
        super().__setitem__(name, value)


def _namespace(*pairs: Any, **values: Any) -> Namespace:
    made = _Namespace()
    for name, value in dict(*pairs, **values).items():
        made[name] = value
    return made


def _dict(*pairs: Any, **values: Any) -> dict[Any, Any]:
    return dict(*pairs, **values)


def helpers(numbers: Any) -> dict[str, Any]:
    """What a template finds beside the values, as transformers gives it; `numbers` is `range`."""
    return {
        "range": numbers,
        "dict": _dict,
        "namespace": _namespace,
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }


class Generation(Extension):
    """`{% generation %}` marks the answers in a template for training; here its body is text like any other."""

    tags = {"generation"}  # noqa: RUF012, jinja2's own name

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a bound on what a template may do.

    A template runs long only by loops and calls, and both pass `_spend`. A value becomes large by the operators below,
    by `~`, and by calls and filters; their arguments are bounded before, their results after.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Without the optimizer nothing is computed before the counting begins.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self.written,
            extensions=[LoopControls, Generation],
        )
        self.steps = 0
        self.globals = helpers(self.globals["range"])
        self.filters["tojson"] = to_json
        self.filters = {
            name: function if name in _BRIEF else self._bounded_filter(function) for name, function in self.filters.items()
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = _through(self, "counted", loop.iter)  # type: ignore[arg-type]
        _wrap_joins(self, tree)
        return tree

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop, each of them a step."""
        for item in items:
            self._spend()
            yield item

    def bounded(self, value: Any) -> Any:
        """A value, if it is not too large."""
        if isinstance(value, str | list | tuple | dict) and len(value) > LONGEST_VALUE:
            raise _too_large(len(value))
        return value

    def written(self, value: Any) -> Any:
        """What stands between `{{` and `}}`."""
        self._weight(value)
        return value

    def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        self._spend(CALL_STEPS)
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # the text of a method of texts
        self._check((owner, *arguments), named, getattr(function, "__name__", ""))
        return self.bounded(super().call(context, function, *arguments, **named))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._spend()
        if operator == "*" and isinstance(left, int | float) != isinstance(right, int | float):
            count, items = (left, right) if isinstance(left, int | float) else (right, left)
            if len(items) * count > LONGEST_VALUE:
                raise _too_large(len(items) * count)
        if operator == "**" and abs(right) > 64:
            raise jinja2.TemplateError(f"an exponent must not be larger than 64, got {right}")
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateError("the operator % formats no strings here")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and result.bit_length() > 10_000:
            raise jinja2.TemplateError("a whole number has become too large")
        return self.bounded(result)

    def _spend(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise jinja2.TemplateError(f"more than {MOST_STEPS:,} steps")

    def _weight(self, value: Any) -> int:
        """Characters of a value when it is written out; lists that hold each other can be small and yet endless to write."""
        weight, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            weight += len(item) + 1 if isinstance(item, str) else 1
            if isinstance(item, list | tuple | dict):
                self._spend(len(item))
                waiting.extend(item)
                if isinstance(item, dict):
                    waiting.extend(item.values())
            if weight > LONGEST_VALUE:
                raise _too_large(weight)
        return weight

    def _check(self, arguments: Sequence[Any], named: Mapping[str, Any], function: str) -> None:
        """Whole numbers are widths and counts, and a text may be put into another as often as that is long."""
        product = 1
        for value in (*arguments, *named.values()):
            if isinstance(value, int) and abs(value) > LARGEST_ARGUMENT:
                raise jinja2.TemplateError(f"an argument must not be larger than {LARGEST_ARGUMENT:,}, got {shown(value)}")
            product *= self._weight(value)
            if product > 100 * LONGEST_VALUE:
                raise _too_large(product)
            if "format" in function and isinstance(value, str) and _WIDTHS.search(value[:LONGEST_TEMPLATE]):
                raise jinja2.TemplateError("a text is formatted without widths here")

    def _bounded_filter(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # with the marks by which jinja2 knows what to pass
        def filtered(*arguments: Any, **named: Any) -> Any:
            self._spend(CALL_STEPS)
            self._check(arguments, named, function.__name__)
            result = function(*arguments, **named)
            return self.counted(result) if isinstance(result, Iterator) else self.bounded(result)

        return filtered


def _too_large(length: float) -> jinja2.TemplateError:
    return jinja2.TemplateError(f"a value must not be longer than {LONGEST_VALUE:,}, got {length:,}")


def _through(environment: _Environment, method: str, value: nodes.Expr) -> nodes.Expr:
    """The expression `environment.method(value)`. It is compiled into a plain call, out of the reach of the template."""
    target = nodes.EnvironmentAttribute(method)
    call = nodes.Call(target, [value], [], None, None)
    call.set_lineno(value.lineno).set_environment(environment)
    return call


def _wrap_joins(environment: _Environment, node: nodes.Node) -> None:
    """Puts `bounded` around every `~`, and weighs its operands."""

    def wrapped(value: Any) -> Any:
        return _through(environment, "bounded", value) if isinstance(value, nodes.Concat) else value

    for child in node.iter_child_nodes():
        _wrap_joins(environment, child)
    for name, value in node.iter_fields():
        setattr(node, name, [wrapped(item) for item in value] if isinstance(value, list) else wrapped(value))
    if isinstance(node, nodes.Concat):
        node.nodes = [_through(environment, "written", item) for item in node.nodes]
