"""A process of its own for one engine, and the pipe to it: orders and answers are lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

C = TypeVar("C", bound="Child")


class ChildFailed(Exception):  # noqa: N818 (an outcome that is reported in a table)
    """Why a child gave no answer, as a sentence."""


class Child:
    """``python -m MODULE`` with a time limit on every question; whatever else it prints cannot pass for an answer.

    Args:
        module: a module that calls :func:`serve`.
        timeout_s: seconds to wait for each answer.
        environment: variables added to this process's own.
    """

    def __init__(self, module: str, timeout_s: float, environment: Mapping[str, str] | None = None) -> None:
        self._timeout_s = timeout_s
        self._complaints = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
            env={**os.environ, **(environment or {})},
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send an order and return the answer.

        Raises:
            ChildFailed: it crashed, hung, or said why it cannot.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self._timeout_s)
        except queue.Empty:
            raise ChildFailed(f"no answer within {self._timeout_s:.0f} s") from None
        except OSError:
            line = ""
        if not line:
            raise ChildFailed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildFailed(str(answer["error"]))
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._complaints.seek(0)
        lines = [line.strip() for line in self._complaints.read().splitlines() if line.strip()]
        return f"crashed (status {status}){': ' + lines[-1] if lines else ''}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            if pipe is not None:
                # An order that the process did not live to read is still in the buffer, and closing tries to send it.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The child's side: answer orders from standard input until it ends.

    Libraries that print go to standard error instead, where they cannot be taken for an answer.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            answers.write(json.dumps(answer(json.loads(line))) + "\n")
            answers.flush()


__all__ = ["Child", "ChildFailed", "serve"]
