"""Ranges are reused when network, faces, preprocessing and method are the same, and never when they were changed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_networks import COMPACT

from edge_fer.compile import range_cache
from edge_fer.compile.calibrate import calibrate
from edge_fer.compile.graph import model_hash
from edge_fer.compile.range_cache import RangeCache, calibrate_or_recall, key_of, make_entry
from edge_fer.core.errors import CalibrationError, UsageError
from edge_fer.data.calibration_set import open_calibration_set


@pytest.fixture(scope="module")
def known(tiny_onnx, face_folder):
    faces = open_calibration_set(face_folder)
    return faces, calibrate(tiny_onnx, faces, COMPACT.preprocess, method="minmax")


@pytest.fixture
def cache(tmp_path, known):
    made = RangeCache(tmp_path / "cache" / "ranges.json")
    made.store(known[1], COMPACT.preprocess)
    return made


def refuse_to_measure(*args, **kwargs):
    raise AssertionError("measured although the ranges were known")


def test_what_was_measured_once_is_not_measured_again(cache, known, tiny_onnx, monkeypatch):
    monkeypatch.setattr(range_cache, "calibrate", refuse_to_measure)
    faces, measured = known
    found, note = calibrate_or_recall(tiny_onnx, faces, COMPACT.preprocess, cache=cache, method="minmax")
    assert found == measured
    assert "measured before" in note
    assert str(cache.path) in note


def test_a_cache_that_takes_no_files_stops_nothing(known, tiny_onnx, tmp_path, monkeypatch):
    faces, measured = known

    def refuse(self, target):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    cache = RangeCache(tmp_path / "ranges.json")
    found, note = calibrate_or_recall(tiny_onnx, faces, COMPACT.preprocess, cache=cache, method="minmax")
    assert found == measured
    assert "the ranges are not kept for the next time: No permission" in note
    assert "EDGE_FER_CACHE" in note


def test_another_network_set_preprocessing_or_method_finds_nothing(cache, known, tiny_onnx, resnet_onnx):
    faces, _ = known
    brighter = COMPACT.preprocess.model_copy(update={"mean": (0.4,)})
    assert cache.find(tiny_onnx, faces.sha256, COMPACT.preprocess, "minmax").calibration is not None
    assert cache.find(resnet_onnx, faces.sha256, COMPACT.preprocess, "minmax").calibration is None
    assert cache.find(tiny_onnx, "0" * 64, COMPACT.preprocess, "minmax").calibration is None
    assert cache.find(tiny_onnx, faces.sha256, brighter, "minmax").calibration is None
    assert cache.find(tiny_onnx, faces.sha256, COMPACT.preprocess, "mse").calibration is None


@pytest.mark.parametrize("change", ["threshold", "method", "key", "digest"])
def test_an_entry_that_was_changed_by_hand_is_refused_by_name(cache, known, tiny_onnx, change):
    tree = json.loads(cache.path.read_text())
    (key,) = tree["entries"]
    entry = tree["entries"][key]
    if change == "threshold":
        entry["calibration"]["tensors"]["input"]["threshold"] *= 1.5
    elif change == "method":
        entry["calibration"]["method"] = "entropy"
    elif change == "key":
        tree["entries"] = {key.replace("minmax", "mse"): entry}
    else:
        entry["sha256"] = "f" * 64
    cache.path.write_text(json.dumps(tree))
    with pytest.raises(CalibrationError, match=f"{model_hash(tiny_onnx)[:8]}.*were changed since they were measured"):
        cache.find(tiny_onnx, known[0].sha256, COMPACT.preprocess, "minmax")


@pytest.mark.parametrize("content", ["", "{}", '{"kind": "edge-fer-ranges", "format": 2}', '{"entries": 3}'])
def test_a_damaged_file_is_refused(cache, content):
    cache.path.write_text(content)
    if content == "{}":
        assert cache.entries() == {}
        return
    with pytest.raises(CalibrationError, match="not a valid cache of ranges"):
        cache.entries()


def test_ranges_of_other_calibration_code_are_stale_and_measured_anew(cache, known, tiny_onnx, monkeypatch):
    faces, measured = known
    monkeypatch.setattr(range_cache, "REVISION", range_cache.REVISION + 1)
    found, note = calibrate_or_recall(tiny_onnx, faces, COMPACT.preprocess, cache=cache, method="minmax")
    assert "stale" in note
    assert measured.model_sha256[:8] in note
    assert found.thresholds() == pytest.approx(measured.thresholds())


def test_only_the_newest_entries_are_kept(cache, known, monkeypatch):
    monkeypatch.setattr(range_cache, "LIMIT", 3)
    for number in range(5):
        other = known[1].model_copy(update={"data_sha256": f"{number:064d}"})
        cache.store(other, COMPACT.preprocess)
    assert [entry.calibration.data_sha256[-1] for entry in cache.entries().values()] == ["2", "3", "4"]


def test_two_that_store_at_once_lose_nothing_of_each_other(cache, known):
    """The lock is a file's, opened anew by each: threads are to it what processes are."""

    def store(number):
        other = known[1].model_copy(update={"data_sha256": f"{number:064d}"})
        RangeCache(cache.path).store(other, COMPACT.preprocess)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store, range(16)))
    assert len(cache.entries()) == 17
    assert [path.name for path in cache.path.parent.iterdir()] == ["ranges.json"]


def test_the_key_names_all_four(known):
    entry = make_entry(known[1], COMPACT.preprocess)
    assert key_of(entry).split("/")[:2] == [known[1].model_sha256, known[0].sha256]
    assert key_of(entry).endswith("/minmax")


def test_an_unknown_method_is_refused_before_anything_is_looked_up(cache, known, tiny_onnx):
    with pytest.raises(UsageError, match="Unknown calibration method"):
        calibrate_or_recall(tiny_onnx, known[0], COMPACT.preprocess, cache=cache, method="magic")
