"""One sink in a thread of its own: a slow disk or window never holds up the loop, and what it missed is counted."""

from __future__ import annotations

import contextlib
import queue
import threading
import time

from edge_fer.core.errors import DeviceError
from edge_fer.runtime.results import FrameResult, Sink, StopRun

QUEUE, TEXT_QUEUE = 3, 512
"""Results that may wait before a sink: each holds a frame, unless the sink needs no pictures. Those of a live source
have the longer queue: a memory card that pauses for a second would otherwise cost 27 lines at 30 frames a second."""
SINK_TIMEOUT_S = 30.0
"""A lossless sink that takes longer for one result hangs, and ends the run instead of stopping it for ever."""
FINISH_TIMEOUT_S = 10.0
"""For each result that waits before a sink when the run is over, and for closing it."""
SERVE_S, POLL_S = 0.02, 0.2


class SinkRunner:
    """Runs one sink in a thread and counts what it missed."""

    def __init__(self, sink: Sink, *, may_drop: bool) -> None:
        self.sink, self.dropped, self.written = sink, 0, 0
        self.finish_timeout_s, self.write_timeout_s = FINISH_TIMEOUT_S, SINK_TIMEOUT_S
        self._error: list[BaseException] = []
        self._may_drop, self._complete = may_drop, True
        self._needs_picture = bool(getattr(sink, "needs_picture", True))
        # A file waits for its sinks; there a long queue would only put off the end.
        longer = may_drop and not self._needs_picture
        self._queue: queue.Queue[FrameResult | None] = queue.Queue(TEXT_QUEUE if longer else QUEUE)
        self.on_caller = bool(getattr(sink, "on_caller", False))
        self._thread = threading.Thread(target=self._run, name=f"sink-{sink.name}", daemon=True)
        if not self.on_caller:
            self._thread.start()

    def failure(self) -> BaseException | None:
        """The first thing that went wrong in the sink's thread."""
        return self._error[0] if self._error else None

    def _run(self) -> None:
        while (result := self._queue.get()) is not None:
            self._take(result)
        self._close()

    def _take(self, result: FrameResult) -> None:
        if self.failure() is None:
            try:
                self.sink.write(result)
                self.written += 1
            except BaseException as error:  # handed to the loop, which raises it
                self._error.append(error)
        result.frame.release()

    def serve(self) -> None:
        """In the caller's thread: write what waits; otherwise let the sink idle for a moment."""
        try:
            result = self._queue.get(timeout=SERVE_S)
        except queue.Empty:
            if self.failure() is None:
                try:
                    self.sink.idle()  # type: ignore[attr-defined]
                except BaseException as error:
                    self._error.append(error)
            return
        if result is not None:
            self._take(result)

    def _close(self) -> None:
        try:
            # In the thread that wrote, because a window belongs to the thread that opened it.
            self.sink.close(complete=self._complete and self.failure() is None)
        except BaseException as error:
            self._error.append(error)

    def _raise_failure(self) -> None:
        if (error := self.failure()) is not None:
            raise error

    def _hanging(self) -> DeviceError:
        return DeviceError(
            f"The output {self.sink.name} hangs; it was abandoned.",
            fix="Does anybody read it, and is its disk still there?",
        )

    def offer(self, result: FrameResult) -> None:
        """Queue a result; when the queue is full, drop it or wait for room."""
        self._raise_failure()
        if self._needs_picture:
            result.frame.retain()
        else:
            result = result.without_picture()
        end = time.perf_counter() + self.write_timeout_s
        while True:
            try:
                self._queue.put(result, block=not self._may_drop, timeout=POLL_S)
                return
            except queue.Full:
                if self._may_drop:
                    result.frame.release()
                    self.dropped += 1
                    return
                if self.failure() is not None:
                    result.frame.release()
                    self._raise_failure()
                if time.perf_counter() > end:
                    result.frame.release()
                    raise self._hanging() from None

    def finish(self, *, complete: bool) -> None:
        """Let the queue run empty, then close the sink. One that hangs, taking nothing for the time-out, is left
        behind.

        Raises:
            DeviceError: it hangs.
            EdgeFerError: it failed.
        """
        self._complete = complete
        if self.on_caller:
            while not self._queue.empty():
                self.serve()
            self._close()
        else:
            self._await_end()
        if not isinstance(self.failure(), StopRun):
            self._raise_failure()

    def _await_end(self) -> None:
        asked, written, end = False, self.written, time.perf_counter() + self.finish_timeout_s
        while self._thread.is_alive():
            if asked:
                self._thread.join(POLL_S)
            else:
                with contextlib.suppress(queue.Full):
                    self._queue.put(None, timeout=POLL_S)
                    asked = True
            if self.written > written:
                written, end = self.written, time.perf_counter() + self.finish_timeout_s
            elif self._thread.is_alive() and time.perf_counter() > end:
                raise self._hanging()
