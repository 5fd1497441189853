"""The planner's choice from timings written by hand; and the whole command on this machine, into a config that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge_fer.bench.detector_timing import DetectorTiming
from edge_fer.bench.planner import HEADROOM, LONGEST_INTERVAL, EngineTiming, Setup, choose_setup, frame_ms
from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, DeviceError
from edge_fer.runtime.run_config import RunConfig, read_run_config, write_run_config


def engine(ms: float | None, top1: float | None = 0.69, **changes: object) -> EngineTiming:
    fields = {"engine": "m", "backend": "openvino", "precision": "int8", "threads": 1, "ms": ms, "top1": top1}
    return EngineTiming.model_validate({**fields, **changes})


def detector(ms: float | None, name: str = "own", error: str = "") -> DetectorTiming:
    return DetectorTiming(detector=name, p50_ms=ms, p90_ms=ms, crop_ms=0.1, error=error)


def chosen(engines: list[EngineTiming], detectors: list[DetectorTiming], **changes: object) -> Setup:
    return choose_setup(engines, detectors, **{"budget_ms": 33.0, "faces": 4, **changes})  # type: ignore[arg-type]


def test_accuracy_comes_before_speed() -> None:
    setup = chosen([engine(2.0, 0.65), engine(9.0, 0.72, engine="large")], [detector(5.0)])
    assert setup.engine.engine == "large"


def test_what_test_faces_cannot_tell_apart_is_decided_by_cost() -> None:
    setup = chosen([engine(9.0, 0.692, precision="fp32"), engine(2.0, 0.690)], [detector(5.0)])
    assert setup.engine.precision == "int8"


def test_a_network_that_is_too_slow_is_left_for_one_that_fits() -> None:
    setup = chosen([engine(40.0, 0.72, engine="large"), engine(2.0, 0.65)], [detector(5.0)])
    assert setup.engine.engine == "m"


def test_the_detector_named_first_is_taken_if_some_interval_fits() -> None:
    setup = chosen([engine(2.0)], [detector(60.0, "own"), detector(3.0, "haar")])
    assert (setup.detector.detector, setup.interval) == ("own", 3)
    # Ten frames between two searches are the most: 400 ms cannot be spread far enough.
    setup = chosen([engine(2.0)], [detector(400.0, "own"), detector(3.0, "haar")])
    assert (setup.detector.detector, setup.interval) == ("haar", 1)


def test_fewer_threads_are_enough_where_they_fit() -> None:
    setup = chosen([engine(3.0, threads=1), engine(1.5, threads=2)], [detector(5.0)])
    assert setup.engine.threads == 1
    setup = chosen([engine(30.0, threads=1), engine(15.0, threads=2)], [detector(5.0)])
    assert setup.engine.threads == 2


def test_an_accuracy_that_is_not_known_does_not_pass_for_enough() -> None:
    with pytest.raises(DeviceError, match="no accuracy is known"):
        chosen([engine(2.0, None)], [detector(5.0)], min_accuracy=0.5)
    with pytest.raises(DeviceError, match=r"the best is m with 69\.0%"):
        chosen([engine(2.0)], [detector(5.0)], min_accuracy=0.8)
    assert chosen([engine(2.0, None), engine(9.0)], [detector(5.0)], min_accuracy=0.65).engine.ms == 9.0


def test_when_nothing_fits_the_nearest_is_named() -> None:
    with pytest.raises(DeviceError, match=r"within 1 ms .* nearest is m on openvino int8 with haar: 2\.9 ms"):
        chosen([engine(2.0)], [detector(90.0), detector(5.0, "haar")], budget_ms=1.0)
    with pytest.raises(DeviceError, match="haar: no cascade"):
        chosen([engine(2.0)], [detector(None, "haar", "no cascade")])


times = st.floats(min_value=0.01, max_value=100)


@settings(deadline=None)
@given(
    st.lists(st.tuples(times, st.floats(0, 1)), min_size=1, max_size=6), st.lists(times, min_size=1, max_size=3), times
)
def test_a_choice_fits_and_nothing_that_fits_is_clearly_more_accurate(
    engines: list[tuple[float, float]], detectors: list[float], budget: float
) -> None:
    ways = [engine(ms, top1) for ms, top1 in engines]
    finders = [detector(ms, str(index)) for index, ms in enumerate(detectors)]

    def fits(way: EngineTiming) -> bool:
        return any(frame_ms(way, d, LONGEST_INTERVAL, 4) <= HEADROOM * budget for d in finders)

    try:
        setup = chosen(ways, finders, budget_ms=budget)
    except DeviceError:
        assert not any(fits(way) for way in ways)
        return
    assert setup.expected_ms <= HEADROOM * budget
    assert 1 <= setup.interval <= LONGEST_INTERVAL
    assert all((way.top1 or 0) <= (setup.engine.top1 or 0) + 0.00501 for way in ways if fits(way))


def test_a_config_survives_its_file_and_keeps_its_reasons(tmp_path: Path) -> None:
    config = Setup(engine=engine(2.0), detector=detector(5.0), interval=3, expected_ms=4.0).config()
    write_run_config(tmp_path / "run.yaml", config, ("because: it fits",))
    assert read_run_config(tmp_path / "run.yaml") == config
    assert (tmp_path / "run.yaml").read_text().startswith("# because: it fits\n")
    assert config.detect_every == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("thread: 2", "thread"),
        ("threads: many", "threads"),
        ("precision: int4", "precision"),
        ("[", "not valid YAML"),
        ("- 1", "not a run config"),
    ],
)
def test_a_wrong_config_names_its_mistake(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(BadInputError, match=says):
        read_run_config(tmp_path / "run.yaml")
    with pytest.raises(BadInputError, match=r"absent\.yaml"):
        read_run_config(tmp_path / "absent.yaml")


@pytest.mark.slow
def test_run_takes_a_config_and_what_is_typed_beats_it(tmp_path: Path) -> None:
    write_run_config(
        tmp_path / "run.yaml", RunConfig(backend="onnxruntime", precision="fp32", threads=1, detect_every=2)
    )
    command = ["run", "--demo", "--no-show", "--max-frames", "3", "--json", "--config", str(tmp_path / "run.yaml")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["backend"], summary["precision"]) == ("onnxruntime", "fp32")
    done = CliRunner().invoke(app, [*command, "--precision", "int8"])
    assert json.loads(done.stdout)["precision"] == "int8"


@pytest.mark.slow
def test_the_command_measures_chooses_and_writes_a_config(tmp_path: Path) -> None:
    out = tmp_path / "run.yaml"
    command = ["plan", "--budget", "5s", "--faces", "2", "--detector", "haar", "--frame", "320x240", "--no-check"]
    command += ["--rounds", "1"]
    done = CliRunner().invoke(app, [*command, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["setup"]["engine"]["top1"] > 0.6
    config = read_run_config(out)
    assert config.detector == "haar"
    assert config.engine == "edge-fer-compact"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "--budget", "soon"], "no time"),
        (["plan", "--budget", "33ms", "--frame", "large"], "no size"),
        (["plan", "--budget", "33ms", "--data", "no-such-folder"], "no-such-folder"),
        (["plan", "--budget", "33ms", "--model", "no-such-model", "--no-check"], "no-such-model"),
    ],
)
def test_mistakes_are_told_at_once(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert says in f"{done.output} {done.exception}"
