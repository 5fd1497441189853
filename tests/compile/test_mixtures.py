"""Which kinds of layers may stay in floating point for speed, and when that pays."""

from __future__ import annotations

import pytest

from edge_fer.backends.race import Timing
from edge_fer.compile.graph import Graph
from edge_fer.compile.mixtures import gain, kinds, promising
from edge_fer.compile.plan import plan_quantisation


def timing(*rounds_us: float) -> Timing:
    return Timing(rounds_us=rounds_us)


def test_a_resnet_has_a_first_convolution_only(resnet_onnx):
    graph = Graph(resnet_onnx)
    assert kinds(graph, plan_quantisation(graph)) == {"the first convolution": frozenset({"conv1"})}


def test_layers_that_are_in_floating_point_already_are_of_no_kind(resnet_onnx):
    graph = Graph(resnet_onnx)
    assert kinds(graph, plan_quantisation(graph, frozenset({"conv1"}))) == {}


def test_a_kind_that_is_everything_is_no_choice(tiny_onnx):
    graph = Graph(tiny_onnx)
    (first,) = kinds(graph, plan_quantisation(graph))["the first convolution"]
    others = frozenset(plan_quantisation(graph).layers) - {first}
    assert kinds(graph, plan_quantisation(graph, others)) == {}


def test_the_best_backend_of_each_form_decides():
    whole = [timing(900, 900), timing(500, 510)]
    mixture = [timing(400, 408), timing(800, 800)]
    assert gain(whole, mixture) == pytest.approx(1.25)


def test_a_few_lucky_rounds_are_no_gain():
    whole = [timing(500, 500, 500, 500, 900, 900, 900)]
    assert gain(whole, [timing(*[500] * 7)]) == 1.0


def test_what_cannot_run_gains_nothing_and_what_runs_alone_gains_all():
    broken = Timing(error="crashed")
    assert gain([timing(500)], [broken]) == 0.0
    assert gain([broken], [timing(500)]) == float("inf")


def test_a_gain_within_the_noise_keeps_the_simpler_form():
    assert promising({"a": 1.02, "b": 1.2, "c": 0.8, "d": 1.5}) == ["d", "b"]
