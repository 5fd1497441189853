"""The planner's choice from timings written by hand; and the whole command on this machine, into a config that runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import CAMERA
from typer.testing import CliRunner

from edge_fer.bench.camera import CameraResult
from edge_fer.bench.crowd import crowd_frames
from edge_fer.bench.detector_timing import DetectorTiming
from edge_fer.bench.plan import CameraPlan
from edge_fer.bench.planner import PlanReport, try_out
from edge_fer.bench.setups import HEADROOM, LONGEST_INTERVAL, EngineTiming, Setup, frame_ms, rank_setups
from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, DeviceError
from edge_fer.runtime.detectors.base import open_detector
from edge_fer.runtime.run_config import RunConfig, read_run_config, write_run_config


def engine(ms: float | None, top1: float | None = 0.69, **changes: object) -> EngineTiming:
    fields = {"engine": "m", "backend": "openvino", "precision": "int8", "threads": 1, "ms": ms, "top1": top1}
    return EngineTiming.model_validate({**fields, **changes})


def detector(ms: float | None, name: str = "own", error: str = "") -> DetectorTiming:
    return DetectorTiming(detector=name, p50_ms=ms, p90_ms=ms, crop_ms=0.1, error=error)


def chosen(engines: list[EngineTiming], detectors: list[DetectorTiming], **changes: object) -> Setup:
    return rank_setups(engines, detectors, **{"budget_ms": 33.0, "faces": 4, **changes})[0]  # type: ignore[arg-type]


def test_accuracy_comes_before_speed() -> None:
    setup = chosen([engine(2.0, 0.65), engine(9.0, 0.72, engine="large")], [detector(5.0)])
    assert setup.engine.engine == "large"


def test_what_test_faces_cannot_tell_apart_is_decided_by_cost() -> None:
    setup = chosen([engine(9.0, 0.692, precision="fp32"), engine(2.0, 0.690)], [detector(5.0)])
    assert setup.engine.precision == "int8"


def test_between_fp32_and_int8_a_hair_of_time_decides_where_accuracies_are_equal() -> None:
    for fp32_ms, wanted in ((2.02, "int8"), (1.98, "fp32")):
        setup = chosen([engine(fp32_ms, 0.692, precision="fp32"), engine(2.0, 0.690)], [detector(5.0)])
        assert setup.engine.precision == wanted


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


def tried(*drops: int, budget_ms: float = 33.0, ms: float = 12.0) -> tuple[PlanReport, list[CameraPlan]]:
    """The planner's trial with a loop that drops so many of 180 frames, run by run."""
    setups = rank_setups([engine(ms)], [detector(20.0 * ms / 12.0)], budget_ms=budget_ms, faces=4)
    report = PlanReport(
        budget_ms=budget_ms,
        faces=4,
        min_accuracy=None,
        setup=setups[0],
        engines=(engine(12.0),),
        detectors=(detector(20.0),),
    )
    asked: list[CameraPlan] = []

    def loop(plan: CameraPlan) -> CameraResult:
        asked.append(plan)
        dropped = drops[len(asked) - 1]
        return CAMERA.model_copy(update={"dropped": dropped, "frames": 180 - dropped, "faces": 4 * (180 - dropped)})

    return try_out(report, setups, (120, 160), None, lambda *_: None, loop), asked


def test_a_choice_that_loses_frames_is_put_aside_for_a_cheaper_one() -> None:
    report, asked = tried(60, 1)
    assert report.held
    assert [plan.detect_every for plan in asked] == [2, 5]
    assert report.setup.interval == 5
    assert "60 of 180 frames dropped" in report.problems[0]
    assert {plan.fps for plan in asked} == {1e3 / 33}
    assert any("1 of 180 frames dropped" in sentence for sentence in report.why())


def test_the_rate_that_is_told_is_the_one_that_was_tried() -> None:
    report, asked = tried(0, budget_ms=2.0, ms=0.5)
    assert asked[0].fps == 240
    assert any("240 frames a second" in sentence for sentence in report.why())
    assert not any("500 frames a second" in sentence for sentence in report.why())


def test_when_nothing_keeps_up_the_best_is_written_and_called_that() -> None:
    report, asked = tried(90, 60)
    assert report.held is False
    assert len(asked) == 2, "nothing that fits is so much cheaper again"
    assert report.check is not None
    assert report.check.dropped == 60
    assert "Nothing that was tried keeps up" in report.why()[-1]


def test_a_crowd_has_as_many_faces_as_asked_for_and_never_jumps() -> None:
    frames = crowd_frames(4, (360, 640), count=20)
    assert {frame.shape for frame in frames} == {(360, 640, 3)}
    haar = open_detector("haar", min_face_px=40)
    assert len(haar.detect(frames[0]).boxes_xyxy) == 4
    steps = [float(np.abs(a.astype(int) - b).mean()) for a, b in zip(frames, [*frames[1:], frames[0]], strict=True)]
    assert steps[-1] <= 1.5 * max(steps[:-1])


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
        ("- 1", "it holds no keys with values"),
        ("", "is empty"),
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
def test_the_command_measures_chooses_and_writes_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_fer.bench.planner.usable_threads", lambda: 1)  # half as many cases prove as much
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
        (["plan", "--budget", "33ms", "--min-accuracy", "0.99"], "top-1 of 99.0%; the best is edge-fer-compact with"),
    ],
)
def test_mistakes_are_told_at_once(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert says in f"{done.output} {done.exception}"
