"""What ``--help`` shows is what was written."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from rich.text import Text

from edge_fer.cli.main import app


def help_texts() -> Iterator[tuple[str, str]]:
    """(command and option, help) of everything that the command line explains."""
    root = typer.main.get_command(app)
    waiting = [("edge-fer", root)]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {key}", value) for key, value in getattr(command, "commands", {}).items()]
        for parameter in command.params:
            if text := getattr(parameter, "help", None):
                yield f"{name} {parameter.name}", text


def test_no_bracket_is_taken_for_markup() -> None:
    """Typer's help is rich markup, in which ``[@FPS]`` is a tag and vanishes."""
    texts = dict(help_texts())
    assert len(texts) > 100
    lost = {where for where, text in texts.items() if Text.from_markup(text).plain != text.replace("\\[", "[")}
    assert lost == set()
