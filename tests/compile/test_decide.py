"""The last step of the ladder, by given times: the fastest that passes wins, and what does not win is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.backends.race import Timing
from edge_fer.compile.decide import Contestant, chosen_trial, decide
from edge_fer.core.manifest import LadderRecord


def runner(engine: str, *rounds_us: float, **more: object) -> Contestant:
    backend, precision = engine.split()
    return Contestant(backend, precision, Timing(rounds_us=rounds_us), **more)


def settle(*contestants: Contestant, min_speedup: float | None = None) -> LadderRecord:
    return decide(contestants, min_speedup=min_speedup, device="a CPU", threads=1)


def chosen(record: LadderRecord) -> str | None:
    trial = chosen_trial(record)
    return f"{trial.backend} {trial.precision}" if trial else None


def test_the_fastest_wins_and_the_reason_has_its_gain_and_the_runner_up():
    record = settle(
        runner("onnxruntime fp32", 1500, 1510, 1490),
        runner("openvino fp32", 1200, 1220, 1180),
        runner("openvino int8", 400, 410, 390),
        runner("onnxruntime int8", 460, 470, 450),
    )
    assert chosen(record) == "openvino int8"
    assert [t.verdict for t in record.trials] == ["chosen", "slower", "slower", "slower"]
    assert [t.median_us for t in record.trials] == sorted(t.median_us for t in record.trials)
    assert "0.4 ms a face, the fastest that passes, 3.00 times as fast as the fastest fp32 (openvino)" in record.reason
    assert "next is onnxruntime int8 with 0.46 ms" in record.reason


def test_a_machine_that_slows_down_between_rounds_changes_no_gain():
    steady = settle(runner("openvino fp32", 1200, 1200, 1200), runner("openvino int8", 400, 400, 400))
    drifting = settle(runner("openvino fp32", 1200, 2400, 6000), runner("openvino int8", 400, 800, 2000))
    assert chosen_trial(steady).speedup == chosen_trial(drifting).speedup == 3.0
    assert chosen_trial(drifting).speedup_range == (3.0, 3.0)


def test_rounds_that_disagree_are_said_to():
    calm = settle(runner("openvino fp32", 1000, 1000, 1000), runner("openvino int8", 400, 410, 390))
    busy = settle(runner("openvino fp32", 1000, 9000, 1000), runner("openvino int8", 400, 410, 390))
    assert "disagree" not in calm.reason
    assert "the rounds disagree (2.5 to 22.0 times), so other work disturbed them" in busy.reason


def test_a_gain_that_is_too_small_is_refused_by_name_and_fp32_wins():
    runners = [runner("openvino fp32", 1000), runner("openvino bf16", 980), runner("openvino int8", 950)]
    record = settle(*runners, min_speedup=1.1)
    assert chosen(record) == "openvino fp32"
    refused = {t.precision: t.why for t in record.trials if t.verdict == "refused"}
    assert refused == {
        "bf16": "1.02 times as fast as fp32, and --min-speedup asks for 1.1",
        "int8": "1.05 times as fast as fp32, and --min-speedup asks for 1.1",
    }
    assert "openvino int8 is faster but not chosen: 1.05 times" in record.reason
    assert chosen(settle(*runners, min_speedup=1.05)) == "openvino int8"


def test_between_int8_that_gains_too_little_and_fp32_stands_bf16():
    runners = [runner("openvino fp32", 1000), runner("openvino bf16", 600), runner("openvino int8", 590, barred="bad")]
    assert chosen(settle(*runners, min_speedup=1.5)) == "openvino bf16"


def test_without_an_fp32_engine_no_gain_can_be_shown_so_none_is_granted():
    record = settle(runner("openvino int8", 500), min_speedup=1.1)
    assert chosen(record) is None
    assert "no fp32 engine here" in record.reason


def test_what_fails_the_accuracy_gate_is_never_chosen_however_fast():
    record = settle(runner("openvino fp32", 1000), runner("openvino int8", 100, barred="loses 3.00 points of top-1"))
    assert chosen(record) == "openvino fp32"
    assert [t.verdict for t in record.trials] == ["failed", "chosen"]
    assert "openvino int8 is faster but not chosen: loses 3.00 points of top-1" in record.reason


def test_a_form_that_was_left_is_listed_and_cannot_win():
    record = settle(
        runner("openvino fp32", 1000),
        runner("openvino int8", 300, float_layers=("conv1",)),
        runner("openvino int8", 290, left=True),
    )
    assert [(t.verdict, t.float_layers) for t in record.trials] == [
        ("left", ()),
        ("chosen", ("conv1",)),
        ("slower", ()),
    ]


def test_an_engine_that_crashed_is_listed_last_with_what_it_said():
    crashed = Contestant("onnxruntime", "int8", Timing(error="crashed (status -11)"))
    record = settle(crashed, runner("onnxruntime fp32", 900))
    assert chosen(record) == "onnxruntime fp32"
    assert (record.trials[-1].verdict, record.trials[-1].why) == ("error", "crashed (status -11)")


def test_when_nothing_ran_nothing_is_chosen_and_every_reason_is_told():
    record = settle(Contestant("onnxruntime", "fp32", Timing(error="no kernel")))
    assert chosen(record) is None
    assert record.reason == "no engine was chosen: onnxruntime fp32: no kernel"


def test_an_engine_that_was_timed_in_two_heats_counts_with_the_last_and_gains_are_taken_within_a_heat():
    record = settle(
        runner("openvino fp32", 1000, heat=1),
        runner("openvino int8", 250, heat=1, left=True),
        runner("openvino fp32", 2000, heat=2),
        runner("openvino int8", 800, heat=2, float_layers=("a",)),
    )
    assert chosen_trial(record).float_layers == ("a",)
    assert chosen_trial(record).speedup == 2.5
    assert [(t.precision, t.median_us) for t in record.trials] == [("int8", 500), ("int8", 800), ("fp32", 2000)]
    assert record.trials[0].speedup == 4.0


def test_a_machine_that_was_quiet_in_an_earlier_heat_makes_no_form_of_that_heat_faster():
    record = settle(
        runner("openvino fp32", 1000, heat=1),
        runner("openvino int8", 400, heat=1, barred="loses 3.00 points of top-1"),
        runner("openvino fp32", 3000, heat=2),
        runner("openvino int8", 750, heat=2, float_layers=("a",)),
    )
    assert "is faster but not chosen" not in record.reason
    assert [(t.verdict, t.median_us) for t in record.trials] == [("chosen", 750), ("failed", 1200), ("slower", 3000)]


times = st.floats(min_value=1.0, max_value=1e6)


@given(
    st.lists(st.tuples(st.sampled_from(["fp32", "bf16", "int8"]), times, st.booleans()), min_size=1, max_size=8),
    st.one_of(st.none(), st.floats(min_value=0.5, max_value=4.0)),
)
def test_no_faster_engine_was_allowed_than_the_chosen_one(field, min_speedup):
    record = settle(
        *(
            runner(f"b{i} {precision}", us, barred="bad" if barred and precision != "fp32" else None)
            for i, (precision, us, barred) in enumerate(field)
        ),
        min_speedup=min_speedup,
    )
    floats = [us for precision, us, _ in field if precision == "fp32"]
    allowed = [
        us
        for precision, us, barred in field
        if precision == "fp32"
        or (not barred and (min_speedup is None or (bool(floats) and min(floats) / us >= min_speedup)))
    ]
    found = chosen_trial(record)
    assert (found.median_us if found else None) == (min(allowed) if allowed else None)
    assert len(record.trials) == len(field)


def test_ratios_never_divide_by_nothing():
    with pytest.raises(ValueError, match="greater than 0"):
        settle(runner("openvino fp32", 0.0))
