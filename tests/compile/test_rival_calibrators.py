"""Our ranges beside those of other calibrators, on the same network and the same inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from edge_fer.compile.calibrate import choose_ranges, collect
from edge_fer.compile.calibrators import PERCENTILE
from edge_fer.compile.graph import Graph
from edge_fer.compile.plan import plan_quantisation

NNCF = """
import json, os, sys
os.environ["NNCF_CI"] = "1"  # else it reports to Google Analytics
import numpy as np
from edge_fer.backends.openvino.build import TELEMETRY, import_openvino
openvino = import_openvino()
sys.modules[TELEMETRY] = None
import nncf
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

inputs = np.load(sys.argv[2])
settings = AdvancedQuantizationParameters(
    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX, disable_bias_correction=True
)
model = nncf.quantize(
    openvino.Core().read_model(sys.argv[1]),
    nncf.Dataset([inputs[i : i + 1] for i in range(len(inputs))]),
    subset_size=len(inputs),
    advanced_parameters=settings,
)
found = {}
for operator in model.get_ordered_ops():
    if operator.get_type_name() == "FakeQuantize":
        high = np.ravel(operator.input_value(2).get_node().data)
        found[operator.get_friendly_name().split("/")[0]] = [float(value) for value in high]
json.dump(found, open(sys.argv[3], "w"))
"""
"""Its min-max ranges: the upper end of every tensor that it quantises. It patches torch, hence its own process."""

OPERATORS = ["Conv", "Relu", "Add", "MaxPool"]
BATCHES = 4


class Reader(CalibrationDataReader):
    """Feeds one array in batches."""

    def __init__(self, inputs: np.ndarray) -> None:
        self.batches = iter(np.array_split(inputs, BATCHES))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch}


def theirs(model, inputs, folder, method, **options) -> dict[str, tuple[float, float]]:
    """ONNX Runtime's ranges as (low, high) by tensor."""
    onnx.save(model, folder / "model.onnx")
    calibrator = create_calibrator(
        folder / "model.onnx",
        op_types_to_calibrate=OPERATORS,
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=method,
        extra_options=options,
    )
    calibrator.collect_data(Reader(inputs))
    ranges = {name: found.range_value for name, found in calibrator.compute_data().data.items()}
    return {
        name: (float(np.asarray(r[0]).ravel()[0]), float(np.asarray(r[1]).ravel()[0])) for name, r in ranges.items()
    }


def ours(model, inputs, method) -> dict[str, float]:
    plan = plan_quantisation(Graph(model))
    stats = collect(model, plan.measured, lambda: iter(np.array_split(inputs, BATCHES)))
    return {name: found.threshold for name, found in choose_ranges(stats, plan, method).items()}


def shared_peaks(mine, other) -> list[tuple[float, float]]:
    pairs = [(mine[name], max(abs(low), abs(high))) for name, (low, high) in other.items() if name in mine]
    assert len(pairs) > 20
    return pairs


def test_minmax_is_onnxruntimes(resnet_onnx, resnet_inputs, tmp_path):
    found = theirs(resnet_onnx, resnet_inputs, tmp_path, CalibrationMethod.MinMax, symmetric=True)
    for mine, other in shared_peaks(ours(resnet_onnx, resnet_inputs, "minmax"), found):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_percentile_is_onnxruntimes_within_one_of_its_bins(resnet_onnx, resnet_inputs, tmp_path):
    bins = 2048
    found = theirs(
        resnet_onnx,
        resnet_inputs,
        tmp_path,
        CalibrationMethod.Percentile,
        percentile=PERCENTILE,
        num_bins=bins,
        symmetric=True,
    )
    peaks = ours(resnet_onnx, resnet_inputs, "minmax")
    mine = ours(resnet_onnx, resnet_inputs, "percentile")
    for name, (low, high) in found.items():
        if name in mine:
            # Its first batch sets the width of its bins, later ones only add bins; ours is the whole range's.
            assert mine[name] == pytest.approx(max(abs(low), abs(high)), abs=3 * peaks[name] / bins)


def test_a_moving_average_lies_between_the_batches_extremes(resnet_onnx, resnet_inputs):
    """ONNX Runtime averages extremes evenly, we give the newest batch a fixed share; both stay among the batches'."""
    measured = plan_quantisation(Graph(resnet_onnx)).measured
    parts = np.array_split(resnet_inputs, BATCHES)
    single = [collect(resnet_onnx, measured, lambda part=part: iter([part])) for part in parts]
    for name, value in ours(resnet_onnx, resnet_inputs, "moving-average").items():
        peaks = [stats[name].peak for stats in single]
        assert min(peaks) * (1 - 1e-5) <= value <= max(peaks) * (1 + 1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)  # it takes half a minute to import on a busy machine
@pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")
def test_minmax_is_nncfs(tiny_onnx, tiny_inputs, tmp_path):
    onnx.save(tiny_onnx, tmp_path / "model.onnx")
    np.save(tmp_path / "inputs.npy", tiny_inputs[:32])
    files = [str(tmp_path / name) for name in ("model.onnx", "inputs.npy", "ranges.json")]
    subprocess.run([sys.executable, "-c", NNCF, *files], check=True, capture_output=True)
    found = json.loads((tmp_path / "ranges.json").read_text())
    mine = ours(tiny_onnx, tiny_inputs[:32], "minmax")
    pairs = [(mine[name], high[0]) for name, high in found.items() if name in mine and len(high) == 1]
    assert len(pairs) >= 8
    np.testing.assert_allclose([pair[0] for pair in pairs], [pair[1] for pair in pairs], rtol=1e-4)
