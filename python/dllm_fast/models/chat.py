"""Chat templates: programs that come with a checkpoint, run where they can reach nothing and come to an end.

A template is rendered by jinja2's immutable sandbox, in which it sees the messages, the special tokens and a few helpers.
jinja2 bounds neither time nor memory, so every loop and every call is counted here, and values cannot become huge.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls  # noqa: N812, a class under a small name
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError, shown

LONGEST_TEMPLATE = 1_000_000
MOST_STEPS = 10_000_000  # loop rounds, calls and items handed to them; a long conversation takes some thousands
CALL_STEPS = 20  # a call takes the time of so many rounds of an empty loop
LONGEST_VALUE = 10_000_000  # characters or items
LARGEST_ARGUMENT = 1_000_000


# Widths in a format, given or computed: a few characters that make millions.
_WIDTHS = re.compile(r"\d{3}|\*|\{[^}]*\{")


class ChatTemplate:
    """One template, ready to be rendered.

    Args:
        source: text of the template.
        origin: where it comes from, for errors.
    """

    def __init__(self, source: str, origin: str) -> None:
        self.source = source
        self._origin = origin
        self._lock = threading.Lock()  # the count of steps belongs to one rendering
        self._environment = _Environment()
        # Compiled when it is first used: a template that nobody needs does not keep a checkpoint from being opened.
        self._compiled: jinja2.Template | None = None

    def _template(self) -> jinja2.Template:
        if self._compiled is None:
            if len(self.source) > LONGEST_TEMPLATE:
                raise CheckpointError(
                    f"{self._origin} must have at most {LONGEST_TEMPLATE:,} characters, got {len(self.source):,}; shorten it"
                )
            try:
                self._compiled = self._environment.from_string(self.source)
            except Exception as error:  # whatever a hostile text makes of the parser and the compiler
                raise CheckpointError(
                    f"{self._origin} is no valid template: {error}; correct it, or pass text instead"
                ) from error
        return self._compiled

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The text of a conversation.

        Args:
            messages: each with `role` and `content`.
            variables: further names that the template sees.

        Raises:
            InvalidTypeError, InvalidValueError: messages of another form, or messages that the template refuses.
            CheckpointError: the template fails, reaches for what it must not see, or does not end.
        """
        seen = {name: plain(value) for name, value in variables.items()} | {"messages": _checked(messages)}
        with self._lock:
            template = self._template()
            self._environment.steps = 0
            parts, length = [], 0
            try:
                for part in template.generate(seen):
                    parts.append(part)
                    length += len(part)
                    if length > LONGEST_VALUE:
                        raise _too_large(length)
            except _RefusedError as error:
                raise InvalidValueError(f"the chat template refuses these messages: {error}; change them") from error
            except Exception as error:  # a template may raise anything that Python can
                raise CheckpointError(
                    f"{self._origin} failed: {type(error).__name__}: {shown(str(error))}; correct it, or pass text instead"
                ) from error
        return "".join(parts)


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    if not messages:
        raise InvalidValueError("messages must hold at least one, got none; pass [{'role': 'user', 'content': ...}]")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidTypeError(
                f"a message must be a mapping with role and content, got {shown(message)}; "
                "pass {'role': 'user', 'content': ...}"
            )
    return [plain(message) for message in messages]


def plain(value: Any) -> Any:
    """The same value out of JSON's own types: the methods of any other object would be within reach of the template."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise InvalidTypeError(
        f"a chat template takes strings, numbers, lists and mappings, got {type(value).__name__}; convert it"
    )


class _RefusedError(jinja2.TemplateError):
    """Raised by the template itself, about the messages."""


def _raise_exception(message: Any) -> None:
    raise _RefusedError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
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


class _Generation(Extension):
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
            extensions=[LoopControls, _Generation],
        )
        self.steps = 0
        self.globals = {
            "range": self.globals["range"],
            "dict": _dict,
            "namespace": _namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self.filters["tojson"] = _to_json
        self.filters = {name: self._bounded_filter(function) for name, function in self.filters.items()}

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
