"""What a running loop tells Prometheus. Read from the loop's own counts at each scrape: nothing is counted twice."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from edge_fer import __version__
from edge_fer.core.manifest import EngineManifest
from edge_fer.runtime.exposition import CONTENT_TYPE, Family, exposition
from edge_fer.runtime.frames import FrameSource
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.sinks.local_server import Reply
from edge_fer.runtime.sinks.web_page import WebSink
from edge_fer.runtime.timing import BUCKETS_MS, Reservoir

BOUNDS_S = tuple(round(bound / 1000, 7) for bound in BUCKETS_MS)


class Metrics:
    """Answers ``/metrics`` of a pipeline.

    Args:
        source: what the pipeline reads; a source that reconnects has ``state`` and ``reconnections``.
        detector: its name.
        threads: of the engine.
        web: the page, whose clients are counted, or ``None``.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: FrameSource,
        manifest: EngineManifest,
        *,
        detector: str,
        threads: int,
        web: WebSink | None = None,
    ) -> None:
        self._pipeline, self._source, self._web = pipeline, source, web
        self._about = {
            "version": __version__,
            "model": manifest.model.name,
            "backend": manifest.backend,
            "backend_version": manifest.backend_version,
            "precision": manifest.precision,
            "device": manifest.device,
            "detector": detector,
            "threads": str(threads),
        }
        self._source_about = {
            "description": source.info.description,
            "kind": "live" if source.info.live else "file",
            "size": f"{source.info.width}x{source.info.height}",
        }

    def reply(self) -> Reply:
        return Reply(CONTENT_TYPE, exposition([*self._loop(), *self._times(), *self._outputs(), *self._process()]))

    def _loop(self) -> list[Family]:
        pipeline, stats = self._pipeline, self._pipeline.stats
        return [
            Family("edge_fer_engine_info", "gauge", "What computes the scores, and in which precision.").add(
                1, **self._about
            ),
            Family("edge_fer_source_info", "gauge", "Where the frames come from.").add(1, **self._source_about),
            Family("edge_fer_source_up", "gauge", "1 while the source delivers, 0 while it is being opened again.").add(
                getattr(self._source, "state", "live") == "live"
            ),
            Family(
                "edge_fer_source_reconnections_total", "counter", "Times that the source was lost and came back."
            ).add(getattr(self._source, "reconnections", 0)),
            Family("edge_fer_frames_read_total", "counter", "Frames that arrived, dropped ones included.").add(
                pipeline.read
            ),
            Family("edge_fer_frames_labelled_total", "counter", "Frames that went through all stages.").add(
                stats.frames
            ),
            Family("edge_fer_frames_dropped_total", "counter", "Frames that came while the loop was busy.").add(
                pipeline.dropped
            ),
            Family("edge_fer_frames_failed_total", "counter", "Frames on which the detector or the engine broke.").add(
                pipeline.failed
            ),
            Family("edge_fer_retries_total", "counter", "Attempts repeated on a frame that could wait.").add(
                pipeline.retries
            ),
            Family("edge_fer_frames_with_faces_total", "counter", "Labelled frames that show a face.").add(
                stats.frames_with_faces
            ),
            Family("edge_fer_faces_total", "counter", "Faces labelled, one per face and frame.").add(stats.faces),
            Family("edge_fer_detections_total", "counter", "Searches of the whole picture.").add(pipeline.detections),
            Family("edge_fer_detection_interval_frames", "gauge", "Frames from one such search to the next.").add(
                pipeline.detect_interval
            ),
        ]

    def _times(self) -> list[Family]:
        stats = self._pipeline.stats
        stages = Family("edge_fer_stage_duration_seconds", "histogram", "Time that one frame spends in a stage.")
        for name, reservoir in stats.stages.items():
            _add(stages, reservoir, stage=name)
        age = Family("edge_fer_frame_age_seconds", "histogram", "From a frame's capture to its labels.")
        return [stages, _add(age, stats.age)]

    def _outputs(self) -> list[Family]:
        written = Family("edge_fer_sink_results_written_total", "counter", "Results that an output has taken.")
        dropped = Family("edge_fer_sink_results_dropped_total", "counter", "Results that an output was too slow for.")
        for runner in self._pipeline.runners:
            written.add(runner.written, sink=runner.sink.name)
            dropped.add(runner.dropped, sink=runner.sink.name)
        if self._web is None:
            return [written, dropped]
        return [
            written,
            dropped,
            Family("edge_fer_web_clients", "gauge", "Streams that browsers hold open.").add(self._web.clients),
            Family("edge_fer_web_missed_total", "counter", "Pictures and events that slow browsers missed.").add(
                self._web.missed
            ),
        ]

    def _process(self) -> list[Family]:
        """Under the names that Prometheus' own clients use, so that stock dashboards show them."""
        families = [
            Family("process_cpu_seconds_total", "counter", "Processor time of this process.").add(time.process_time()),
        ]
        if (resident := resident_bytes()) is not None:
            families.append(
                Family("process_resident_memory_bytes", "gauge", "Memory that is really occupied.").add(resident)
            )
        return families


def _add(family: Family, reservoir: Reservoir, **labels: str) -> Family:
    return family.add_histogram(BOUNDS_S, list(reservoir.buckets), reservoir.total_ms / 1000, **labels)


def resident_bytes() -> int | None:
    """Resident memory of this process; ``None`` where the system tells it in another way."""
    if sys.platform != "linux":
        return None
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
