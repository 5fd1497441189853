"""The command line as a shell sees it: exit codes, one sentence on stderr, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_fer import __version__


def edge_fer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_fer", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_the_version_is_printed() -> None:
    assert edge_fer("--version").stdout.strip() == f"edge-fer {__version__}"


def test_no_command_shows_the_help_with_the_law() -> None:
    shown = edge_fer().stdout
    assert "Usage:" in shown
    assert "AI Act" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("fly",), 2, "No such command"),
        (("run", "--no-such-option"), 2, "No such option"),
        (("run", "--demo", "--no-show", "--engine", "no-such-model"), 2, "no-such-model"),
        (("run", "--demo", "--no-show", "--backend", "coreml"), 2, "coreml"),
        (("run", "--source", "no-such-file.mp4", "--no-show"), 3, "no-such-file.mp4"),
        (("eval", "--data", "no-such-folder"), 3, "no-such-folder"),
        (("compile", "no-such-checkpoint.pt"), 3, "no-such-checkpoint.pt"),
        (("train", "--data", "no-such-folder"), 3, "no-such-folder"),
    ],
)
def test_mistakes_end_in_one_sentence_and_the_right_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = edge_fer(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_a_bug_of_ours_is_called_one_and_shows_its_traceback_on_request() -> None:
    code = (
        "import edge_fer.cli.main as m\n"
        "def broken():\n    raise RuntimeError('planted')\n"
        "m.app.command('broken')(broken)\n"
        "import sys; sys.argv = ['edge-fer', 'broken']\nm.main()\n"
    )
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert plain.returncode == 1
    assert "this is a bug in edge-fer: RuntimeError: planted" in plain.stderr
    assert "Traceback" not in plain.stderr
    loud = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "EDGE_FER_TRACEBACK": "1"}
    )
    assert "Traceback" in loud.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(
    "meets",
    [
        "kill(getpid(), SIGINT); sleep(9)",
        "exec('kill(getpid(), SIGINT); sleep(9)')",
        "load('swallows')",
    ],
    ids=["plainly", "in a string that is run", "in a library that swallows it"],
)
def test_ctrl_c_while_libraries_load_is_one_sentence(tmp_path: Path, meets: str) -> None:
    (tmp_path / "swallows.py").write_text(
        "from os import getpid, kill\nfrom signal import SIGINT\nfrom time import sleep\n"
        "try:\n    kill(getpid(), SIGINT)\n    sleep(0.1)\nexcept KeyboardInterrupt:\n    pass\n"
    )
    (tmp_path / "interrupted.py").write_text(
        "import builtins, sys\nfrom os import getpid, kill\nfrom signal import SIGINT\nfrom time import sleep\n"
        "from edge_fer.__main__ import main\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        f"    if name == 'edge_fer.runtime.pipeline':\n        {meets}\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupted\nsys.argv = ['edge-fer', 'run', '--demo', '--no-show']\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (130, "edge-fer: interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
@pytest.mark.parametrize("command", [["models"], ["--help"]])
def test_a_reader_that_leaves_ends_a_command_silently_and_is_no_bug_of_ours(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # what `| head` does, before anything is written
    try:
        done = subprocess.run([sys.executable, "-m", "edge_fer", *command], stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
