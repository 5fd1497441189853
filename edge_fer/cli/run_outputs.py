"""Where the results of ``edge-fer run`` go: sinks, the page, metrics, and the reports at the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_fer.core.errors import EdgeFerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from edge_fer.core.manifest import EngineManifest
    from edge_fer.runtime.frames import FrameSource, SourceInfo
    from edge_fer.runtime.pipeline import Pipeline
    from edge_fer.runtime.results import Sink
    from edge_fer.runtime.sinks.local_server import LocalServer
    from edge_fer.runtime.sinks.score_record import ScoreRecord
    from edge_fer.runtime.sinks.web_page import WebSink


class Wanted(NamedTuple):
    """The options of outputs, as they were given; ports may be 0 for any."""

    show: bool
    save: Path | None
    jsonl: Path | None
    csv: Path | None
    summary: Path | None
    timeline: Path | None
    web: int | None
    metrics: int | None

    @property
    def files(self) -> list[Path]:
        return [p for p in (self.save, self.jsonl, self.csv, self.summary, self.timeline) if p is not None]

    @property
    def most_sinks(self) -> int:
        """How many sinks there will be at most: each may hold frames."""
        given = (self.save, self.jsonl, self.csv, self.timeline, self.web)
        # One for the window, or else for the status line.
        return 1 + sum(option is not None for option in given)


class Outputs:
    """Made before the source is opened, so that a wrong path or a port in use is told at once.

    Raises:
        EdgeFerError: two outputs share a file, a path cannot be written, a port is in use, matplotlib is missing.
    """

    def __init__(self, wanted: Wanted, console: Console) -> None:
        from edge_fer.runtime.sinks.text_file import check_target

        self._wanted, self._console = wanted, console
        if len({os.path.realpath(path) for path in wanted.files}) < len(wanted.files):
            raise UsageError(
                "Two outputs would go to the same file.",
                fix="Give --save, --jsonl, --csv, --summary and --timeline paths of their own.",
            )
        for path in wanted.files:
            check_target(path)
        if wanted.save is not None:
            from edge_fer.runtime.sinks.video import check_video

            check_video(wanted.save)
        if wanted.timeline is not None:
            from edge_fer.runtime.timeline import check_timeline

            check_timeline(wanted.timeline)
        self._page = self._numbers = None
        self._web: WebSink | None = None
        self._record: ScoreRecord | None = None
        if wanted.web is not None:
            self._page = _server(wanted.web, "--web")
        if wanted.metrics is not None and (wanted.web is None or wanted.metrics != wanted.web):
            try:
                self._numbers = _server(wanted.metrics, "--metrics")
            except EdgeFerError:
                self.close()
                raise

    def open(self, source: FrameSource, manifest: EngineManifest) -> tuple[list[Sink], Callable[[str], None]]:
        """The sinks, and who is told in words when something breaks and works again."""
        wanted, info, labels = self._wanted, source.info, manifest.classifier.labels
        sinks: list[Sink] = []
        tellers: list[Callable[[str], None]] = []
        if wanted.show:
            from edge_fer.runtime.sinks.window import WindowSink

            window = WindowSink()
            sinks.append(window)
            tellers.append(window.tell)
        if wanted.save is not None:
            from edge_fer.runtime.sinks.video import VideoSink
            from edge_fer.runtime.sources.images import PACE_S

            # Pictures that have nothing to do with each other are looked at one by one, as in the window.
            fps = info.fps if info.continuous else 1 / PACE_S
            sinks.append(VideoSink(wanted.save, fps, keep_time=info.live))
        if wanted.jsonl is not None:
            from edge_fer.runtime.sinks.jsonl import JsonlSink

            sinks.append(JsonlSink(wanted.jsonl))
        if wanted.csv is not None:
            from edge_fer.runtime.sinks.table import CsvSink

            sinks.append(CsvSink(wanted.csv, labels))
        if wanted.timeline is not None:
            from edge_fer.runtime.sinks.score_record import ScoreRecord

            self._record = ScoreRecord(len(labels))
            sinks.append(self._record)
        if self._page is not None:
            from edge_fer.runtime.sinks.web_page import WebSink

            about = {
                "model": manifest.model.name,
                "backend": manifest.backend,
                "precision": manifest.precision,
                "source": info.description,
            }
            self._web = WebSink(self._page, labels=labels, about=about, dropped=lambda: source.dropped)
            sinks.append(self._web)
            tellers.append(self._web.tell)
        if not wanted.show and self._console.is_terminal:
            from edge_fer.cli.status import StatusSink

            status = StatusSink(self._console)
            sinks.append(status)
            tellers.append(status.tell)
        else:
            tellers.append(_say(self._console))

        def tell(state: str) -> None:
            for teller in tellers:
                teller(state)

        return sinks, tell

    def start(
        self, pipeline: Pipeline, source: FrameSource, manifest: EngineManifest, *, detector: str, threads: int
    ) -> None:
        """Let the servers answer, and say where."""
        if self._page is None and self._numbers is None:
            return
        from edge_fer.runtime.metrics import Metrics

        metrics = Metrics(pipeline, source, manifest, detector=detector, threads=threads, web=self._web)
        routes = {"/metrics": metrics.reply}
        if self._page is not None and self._web is not None:
            self._web.start(routes)
            self._console.print(f"page: {self._page.url} (this machine only)", highlight=False)
        if self._numbers is not None:
            self._numbers.start(routes)
        if self._wanted.metrics is not None and (server := self._numbers or self._page) is not None:
            self._console.print(f"metrics: {server.url}metrics", highlight=False)

    def report(self, record: dict[str, Any], info: SourceInfo, manifest: EngineManifest) -> None:
        """Write what is written at the end, also of a run that failed: as far as it got. ``record``: the summary."""
        wanted = self._wanted
        if wanted.summary is not None:
            import json

            from edge_fer.runtime.sinks.text_file import TextFile

            file = TextFile(wanted.summary)
            try:
                file.write(json.dumps(record, indent=2) + "\n")
            finally:
                file.close()
        if wanted.timeline is not None and self._record is not None:
            from edge_fer.runtime.timeline import draw_timeline

            title = f"{info.description}: {manifest.model.name}, {manifest.backend} {manifest.precision}"
            draw_timeline(wanted.timeline, self._record, manifest.classifier.labels, title=title)

    def close(self) -> None:
        for server in (self._page, self._numbers):
            if server is not None:
                server.close()


def _server(port: int, option: str) -> LocalServer:
    from edge_fer.runtime.sinks.local_server import LocalServer

    return LocalServer(port, option=option)


def _say(console: Console) -> Callable[[str], None]:
    """Where there is no status line: a line when something breaks, and one when it works again."""
    return lambda state: console.print(state or "working again", style="yellow", markup=False, highlight=False)
