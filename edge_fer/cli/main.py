"""The ``edge-fer`` command: registers one file per subcommand and turns errors into sentences and exit codes.

Modules of this package import nothing heavy at the top: ``edge-fer --help`` must not wait for OpenCV or a backend.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import warnings
from typing import NoReturn

import typer

from edge_fer import __version__
from edge_fer.cli.optional_value import CommandWithOptionalValues
from edge_fer.core.errors import BadInputError, DeviceError, EdgeFerError
from edge_fer.core.registry import resolve

COMMANDS: dict[str, str] = {
    "run": "edge_fer.cli.run:run",
    "compile": "edge_fer.cli.compile:compile_command",
    "calibrate": "edge_fer.cli.calibrate:calibrate",
    "eval": "edge_fer.cli.eval:evaluate",
    "explain": "edge_fer.cli.explain:explain",
    "explore": "edge_fer.cli.explore:explore",
    "bench": "edge_fer.cli.bench:app",
    "plan": "edge_fer.cli.plan:plan",
    "fetch": "edge_fer.cli.fetch:fetch",
    "data": "edge_fer.cli.data:app",
    "models": "edge_fer.cli.models:models",
    "train": "edge_fer.cli.train:train",
    "sweep": "edge_fer.cli.sweep:sweep",
    "verify": "edge_fer.cli.verify:verify",
    "doctor": "edge_fer.cli.doctor:doctor",
}

app = typer.Typer(
    name="edge-fer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Facial expression recognition that runs fast, and honestly, on a laptop.",
    epilog="Emotion recognition at work and in education is prohibited in the EU except for medical or safety reasons "
    "(AI Act, Art. 5(1)(f)); people must be told when it is used (Art. 50(3)). Frames stay on this machine.",
)
for _name in COMMANDS:
    _found = resolve(COMMANDS, _name, what="command")
    if isinstance(_found, typer.Typer):
        app.add_typer(_found, name=_name)
    else:
        app.command(_name, cls=CommandWithOptionalValues)(_found)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"edge-fer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def _end(error: EdgeFerError) -> NoReturn:
    typer.secho(f"edge-fer: {error.message}", fg="red", err=True)
    if error.fix:
        typer.secho(f"  {error.fix}", err=True)
    sys.exit(error.exit_code)


def _of_the_system(error: Exception) -> EdgeFerError | None:
    """What is nobody's bug although no command foresees it everywhere: names that are too long, and a full disk under
    standard output."""
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.ENAMETOOLONG:
        return BadInputError(f"A name is too long for this file system: {str(error.filename)[:60]}…")
    if error.errno == errno.ENOSPC and error.filename is None:
        return DeviceError("No space left where standard output goes.", fix="Free some space.")
    return None


def main() -> None:
    """Run the command that was typed; interruptions are answered by ``edge_fer/__main__.py``.

    Exit codes: 0 success, 1 a bug of ours, 2 usage, 3 bad input, 4 environment or device; 141, as of a program that a
    shell ends for it, when whoever reads the output has left (``| head``).
    """
    # A letter that matplotlib's font lacks is a box in the picture; three lines on the terminal do not mend that.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without a letter shows a question mark for it; it is no reason to end.
            stream.reconfigure(errors="replace")
    warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
    try:
        app()
    except SystemExit as end:
        # Typer and rich make 1 of it, which is our code for a bug.
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(141)
        raise
    except EdgeFerError as error:
        _end(error)
    except Exception as error:
        if (known := _of_the_system(error)) is not None:
            _end(known)
        if os.environ.get("EDGE_FER_TRACEBACK"):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        typer.secho(
            f"edge-fer: this is a bug in edge-fer: {type(error).__name__}: {error} ({where.filename}:{where.lineno}).\n"
            "  Please report it with the output of the same command under EDGE_FER_TRACEBACK=1.",
            fg="red",
            err=True,
        )
        sys.exit(1)
