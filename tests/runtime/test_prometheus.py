"""The exposition is what Prometheus reads, counts add up, and they do so while the loop runs."""

from __future__ import annotations

import http.client
import re
import threading
from pathlib import Path

import pytest
from obedient_parts import CountingSource, FixedFaces
from prometheus_client.parser import text_string_to_metric_families

from edge_fer.core.engine import Engine
from edge_fer.runtime.exposition import CONTENT_TYPE, Family, exposition
from edge_fer.runtime.loop_stats import STAGES
from edge_fer.runtime.metrics import Metrics
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sinks.local_server import LocalServer
from edge_fer.runtime.timing import BUCKETS_MS, Reservoir

BOX = (20.0, 20.0, 90.0, 90.0)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(body: bytes) -> Samples:
    """Name and sorted labels -> value, as Prometheus' own parser reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def plain(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def scrape(port: int) -> Samples:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.getheader("Content-Type") == CONTENT_TYPE
    return parse(answer.read())


class Gate:
    """A sink that lets the loop go on when it is told to."""

    name, lossless = "gate", True

    def __init__(self, hold_at: int) -> None:
        self.hold_at, self.reached, self.open = hold_at, threading.Event(), threading.Event()

    def write(self, result: FrameResult) -> None:
        if result.frame.index == self.hold_at:
            self.reached.set()
            assert self.open.wait(30)

    def close(self, *, complete: bool) -> None: ...


def test_counts_are_right_in_the_middle_of_a_run_and_after_it(engine: Engine) -> None:
    source, gate = CountingSource(40), Gate(hold_at=20)
    pipeline = Pipeline(source, FixedFaces(BOX), engine, [gate])
    server = LocalServer(0, option="--metrics")
    server.start({"/metrics": Metrics(pipeline, source, engine.manifest, detector="fixed", threads=1).reply})
    loop = threading.Thread(target=pipeline.run)
    loop.start()
    assert gate.reached.wait(30)
    during = scrape(server.port)
    assert 20 < plain(during, "edge_fer_frames_labelled_total") < 40
    done = sum(plain(during, f"edge_fer_frames_{what}_total") for what in ("labelled", "dropped", "failed"))
    assert done <= plain(during, "edge_fer_frames_read_total") <= done + 2
    assert plain(during, "edge_fer_sink_results_written_total", sink="gate") == 20
    gate.open.set()
    loop.join(30)
    after = scrape(server.port)
    assert plain(after, "edge_fer_frames_read_total") == plain(after, "edge_fer_frames_labelled_total") == 40
    assert plain(after, "edge_fer_faces_total") == 40
    assert plain(after, "edge_fer_sink_results_written_total", sink="gate") == 40
    assert plain(after, "edge_fer_frame_age_seconds_count") == 40
    for name, value in during.items():
        if name[0].endswith(("_total", "_count", "_sum", "_bucket")):
            assert after[name] >= value, f"the counter {name} went back"
    server.close()


def test_every_stage_is_a_whole_histogram(engine: Engine) -> None:
    source = CountingSource(10)
    pipeline = Pipeline(source, FixedFaces(BOX), engine, [])
    pipeline.run()
    body = Metrics(pipeline, source, engine.manifest, detector="fixed", threads=1).reply().body
    assert isinstance(body, bytes)
    samples = parse(body)
    for stage in STAGES:
        bounds = sorted(
            (float(dict(labels)["le"]), value)
            for (name, labels), value in samples.items()
            if name == "edge_fer_stage_duration_seconds_bucket" and dict(labels)["stage"] == stage
        )
        counts = [count for _, count in bounds]
        assert bounds[-1][0] == float("inf")
        assert len(bounds) == len(BUCKETS_MS) + 1
        assert counts == sorted(counts)
        assert counts[-1] == plain(samples, "edge_fer_stage_duration_seconds_count", stage=stage)
    assert plain(samples, "edge_fer_stage_duration_seconds_count", stage="infer") == 10


def test_the_engine_says_what_it_computes_in(engine: Engine) -> None:
    source = CountingSource(1)
    pipeline = Pipeline(source, FixedFaces(), engine, [])
    body = Metrics(pipeline, source, engine.manifest, detector="fixed", threads=3).reply().body
    assert isinstance(body, bytes)
    (labels,) = [dict(labels) for (name, labels) in parse(body) if name == "edge_fer_engine_info"]
    assert (labels["backend"], labels["precision"], labels["threads"]) == ("onnxruntime", "int8", "3")
    assert labels["model"] == engine.manifest.model.name


def test_a_source_that_is_away_is_down(engine: Engine) -> None:
    source = CountingSource(1, live=True)
    source.state, source.reconnections = "reconnecting", 2  # type: ignore[attr-defined]
    pipeline = Pipeline(source, FixedFaces(), engine, [])
    body = Metrics(pipeline, source, engine.manifest, detector="fixed", threads=1).reply().body
    assert isinstance(body, bytes)
    assert plain(parse(body), "edge_fer_source_up") == 0
    assert plain(parse(body), "edge_fer_source_reconnections_total") == 2


def test_names_follow_the_conventions(engine: Engine) -> None:
    source = CountingSource(1)
    pipeline = Pipeline(source, FixedFaces(), engine, [Gate(-1)])
    body = Metrics(pipeline, source, engine.manifest, detector="fixed", threads=1).reply().body
    assert isinstance(body, bytes)
    names = []
    for line in body.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            names.append(name)
            assert re.fullmatch(r"(edge_fer|process)_[a-z_]+", name)
            assert name.endswith("_total") == (kind == "counter")
            assert kind != "histogram" or name.endswith("_seconds")
    assert len(names) == len(set(names)) > 15


@pytest.mark.parametrize("value", ['a "quoted" name', "back\\slash", "two\nlines", "Gesicht – ü 😀", "", "}{,="])
def test_any_text_survives_as_a_label(value: str) -> None:
    body = exposition([Family("a_info", "gauge", "Back\\slash\nand line.").add(1, text=value, other="x")])
    assert parse(body) == {("a_info", (("other", "x"), ("text", value))): 1.0}


@pytest.mark.parametrize("value", [0, 1, 0.1, 1e-9, 123456789.25, 2.0**60, float("inf"), -3.5])
def test_any_number_reads_back_as_itself(value: float) -> None:
    assert parse(exposition([Family("a", "gauge", "A.").add(value)])) == {("a", ()): value}


def test_a_value_on_a_bound_belongs_below_it() -> None:
    times = Reservoir()
    for value_ms in (0.05, 1.0, 1.0001, 5000.0):
        times.add(value_ms)
    assert sum(times.buckets) == 4
    assert times.buckets[BUCKETS_MS.index(1.0)] == 1
    assert times.buckets[BUCKETS_MS.index(1.0) + 1] == 1
    assert times.buckets[-1] == 1
    assert times.total_ms == pytest.approx(5002.0501)


def test_memory_is_told_where_the_system_tells_it() -> None:
    from edge_fer.runtime.metrics import resident_bytes

    resident = resident_bytes()
    assert resident is None or 10e6 < resident < 100e9
    assert (resident is None) == (not Path("/proc/self/statm").exists())
