"""Whether an option was typed, or has its default or a config's value."""

from __future__ import annotations

import typer


def was_typed(context: typer.Context, name: str) -> bool:
    """Whether the parameter ``name`` (a Python name) stood on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def typed_options(context: typer.Context, *names: str) -> list[str]:
    """Those of the parameters that stood on the command line, as options, in the order given."""
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    return [options[name] for name in names if was_typed(context, name)]
