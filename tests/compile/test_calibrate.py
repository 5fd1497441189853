"""Ranges of a real network: equal to another implementation's, complete, and refused when they mean nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator
from tiny_networks import COMPACT

from edge_fer.compile.calibrate import (
    calibrate,
    collect,
    peak_magnitudes,
    read_calibration,
    write_calibration,
)
from edge_fer.compile.graph import Graph, model_hash
from edge_fer.compile.plan import plan_quantisation
from edge_fer.core.errors import CalibrationError, UsageError
from edge_fer.data.calibration_set import open_calibration_set


class Reader(CalibrationDataReader):
    """Feeds one array in batches, as ONNX Runtime's own calibrator wants it."""

    def __init__(self, inputs: np.ndarray) -> None:
        self.batches = iter(np.array_split(inputs, 4))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch}


def test_extremes_are_those_that_onnxruntimes_calibrator_finds(resnet_onnx, resnet_inputs, tmp_path):
    onnx.save(resnet_onnx, tmp_path / "model.onnx")
    theirs = create_calibrator(
        tmp_path / "model.onnx",
        op_types_to_calibrate=["Conv", "Relu", "Add", "MaxPool"],
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
    )
    theirs.collect_data(Reader(resnet_inputs))
    expected = theirs.compute_data().data
    measured = plan_quantisation(Graph(resnet_onnx)).measured
    ours = collect(resnet_onnx, measured, lambda: iter(np.array_split(resnet_inputs, 4)))
    shared = [name for name in measured if name in expected]
    assert len(shared) > 20
    for name in shared:
        low, high = (float(np.asarray(value).ravel()[0]) for value in expected[name].range_value)
        assert ours[name].minimum == pytest.approx(low, rel=1e-5, abs=1e-6)
        assert ours[name].maximum == pytest.approx(high, rel=1e-5, abs=1e-6)


def test_the_batch_size_changes_no_histogram(tiny_onnx, tiny_inputs):
    measured = plan_quantisation(Graph(tiny_onnx)).measured
    one = collect(tiny_onnx, measured, lambda: iter([tiny_inputs]))
    many = collect(tiny_onnx, measured, lambda: iter(np.array_split(tiny_inputs, 7)))
    for name in measured:
        assert one[name].peak == pytest.approx(many[name].peak, rel=1e-5)
        assert one[name].histogram.sum() == many[name].histogram.sum()
        assert np.abs(one[name].histogram - many[name].histogram).sum() <= 0.001 * one[name].histogram.sum()
        assert len(many[name].batch_peaks) == 7


def test_ranges_are_kept_in_one_file_with_the_hashes_of_network_and_faces(tiny_onnx, face_folder, tmp_path):
    faces = open_calibration_set(face_folder)
    found = calibrate(tiny_onnx, faces, COMPACT.preprocess, method="entropy")
    assert found.model_sha256 == model_hash(tiny_onnx)
    assert found.data_sha256 == faces.sha256
    assert set(found.tensors) == set(plan_quantisation(Graph(tiny_onnx)).measured)
    write_calibration(tmp_path / "calibration.json", found)
    assert read_calibration(tmp_path / "calibration.json") == found


@pytest.mark.parametrize("content", ["", "{}", '{"kind": "edge-fer-calibration", "format": 2}', "[1]"])
def test_a_damaged_calibration_file_is_refused(tmp_path, content):
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(CalibrationError, match="not a valid calibration file"):
        read_calibration(tmp_path / "calibration.json")
    with pytest.raises(CalibrationError, match="Cannot read"):
        read_calibration(tmp_path / "absent.json")


def test_a_network_that_gives_nan_has_no_ranges(tiny_onnx, tiny_inputs):
    broken = onnx.ModelProto()
    broken.CopyFrom(tiny_onnx)
    for tensor in broken.graph.initializer:
        if tensor.name == "stages.1.1.0.bias":
            bias = numpy_helper.to_array(tensor).copy()
            bias[0] = np.inf
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    measured = plan_quantisation(Graph(broken)).measured
    with pytest.raises(CalibrationError, match=r"NaN or infinite values at stages\.1\.1\.0\.relu"):
        collect(broken, measured, lambda: iter([tiny_inputs]))


def test_no_batches_and_unknown_methods_are_refused(tiny_onnx, face_folder):
    with pytest.raises(CalibrationError, match="empty"):
        collect(tiny_onnx, ["input"], lambda: iter([]))
    with pytest.raises(UsageError, match=r"Unknown calibration method 'magic'. Known: minmax"):
        calibrate(tiny_onnx, open_calibration_set(face_folder), COMPACT.preprocess, method="magic")


def test_peaks_cover_every_tensor(tiny_onnx, tiny_inputs):
    peaks = peak_magnitudes(tiny_onnx, tiny_inputs[:8])
    assert set(peaks) == {"input", *(name for node in tiny_onnx.graph.node for name in node.output)}
    assert all(np.isfinite(value) and value >= 0 for value in peaks.values())


def test_ranges_do_not_depend_on_the_order_of_the_files(tiny_onnx, face_folder):
    faces = open_calibration_set(face_folder)
    reversed_faces = replace(faces, ids=faces.ids[::-1], images=faces.images[::-1], labels=faces.labels[::-1])
    first = calibrate(tiny_onnx, faces, COMPACT.preprocess).thresholds()
    second = calibrate(tiny_onnx, reversed_faces, COMPACT.preprocess).thresholds()
    assert first == pytest.approx(second, rel=1e-3)
