"""Options that may stand alone: ``--web`` as well as ``--web 8081``, which Typer has no word for."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from typer.core import TyperCommand

STANDALONE = {"--web": "8080"}
"""Option -> the value that it has when no number follows."""


class CommandWithOptionalValues(TyperCommand):
    """A command whose options in ``STANDALONE`` take a number or nothing."""

    # The context's class is click's or Typer's own copy of it, depending on Typer's version.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, filled(args))


def filled(args: list[str]) -> list[str]:
    """The arguments, with the value of every option of ``STANDALONE`` that stands alone; nothing after ``--``."""
    options = args[: args.index("--")] if "--" in args else args
    result = []
    for argument, following in zip_longest(options, options[1:], fillvalue=""):
        alone = argument in STANDALONE and not following.lstrip("-").isdecimal()
        result.append(f"{argument}={STANDALONE[argument]}" if alone else argument)
    return result + args[len(options) :]
