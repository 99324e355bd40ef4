"""The parser of `dllm-fast`: what is wrong is said in one line, with the nearest of what there is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence


class Parser(argparse.ArgumentParser):
    """Of the command and, as argparse makes subparsers of the class of their parent, of each subcommand."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # An abbreviation that works today would name two options once another is added.
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Options that do not exist are refused first, so that what they leave missing is not blamed instead."""
        if args is not None and self._subparsers is None:
            for argument in args[: args.index("--")] if "--" in args else args:
                option = argument.partition("=")[0]
                if option.startswith("--") and " " not in argument:  # what holds a space is a text, to argparse, too
                    self._check_option(option)
        found, rest = super().parse_known_args(args, namespace)
        for argument in rest:
            if argument.startswith("-") and argument.strip("-"):
                self._check_option(argument)
            self.error(f"there must be no further argument, got {argument!r}; put a text with spaces into quotes")
        return found, rest

    def _check_option(self, option: str) -> None:
        if option in self._option_string_actions:
            return
        from dllm_fast.commands.answers import answer

        self.error(f"{option} is not an option{answer(option, self._option_string_actions)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            known = [str(choice) for choice in action.choices]
            self.error(f"{value} is not a {kind}{_question(str(value), known) or '; there are ' + ', '.join(known)}")

    def error(self, message: str) -> NoReturn:
        """One line and status 2, as for everything else that is wrong with the input."""
        self.exit(2, f"{self.prog}: {message}{' ' if message.endswith('?') else '; '}see {self.prog} --help\n")


def _question(name: str, known: Sequence[str]) -> str:
    from dllm_fast.nearest import nearest

    near = nearest(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
