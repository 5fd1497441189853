"""Let the pixels of an int8 network be rearranged after they are rounded: bytes are moved instead of floats.

The first convolution reads blocks of pixels (``compile/align.py``), for the sake of ONNX Runtime, and its file says:
rearrange, then quantise. Rearranging changes no value, so the result is the same either way; ONNX Runtime gains nothing
from the other order, and OpenVINO then moves a quarter of the memory.
"""

from __future__ import annotations

from typing import Any


def round_before_rearranging(model: Any) -> int:
    """Swap every ``SpaceToDepth`` with the quantisation that is all that reads it, in place.

    Args:
        model: an ``openvino.Model`` as it was read, before it is compiled.

    Returns:
        how many were swapped.
    """
    swapped = 0
    for rearranged in model.get_ordered_ops():
        if rearranged.get_type_name() != "SpaceToDepth":
            continue
        rounded = _only_reader(rearranged, "FakeQuantize")
        integers = _only_reader(rounded, "Convert") if rounded is not None else None
        if rounded is None or integers is None or not _one_scale(rounded):
            continue
        readers = list(integers.output(0).get_target_inputs())
        rounded.input(0).replace_source_output(rearranged.input_value(0))
        rearranged.input(0).replace_source_output(integers.output(0))
        for reader in readers:
            reader.replace_source_output(rearranged.output(0))
        swapped += 1
    if swapped:
        model.validate_nodes_and_infer_types()
    return swapped


def _only_reader(operator: Any, kind: str) -> Any | None:
    readers = list(operator.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_index() != 0:
        return None
    found = readers[0].get_node()
    return found if found.get_type_name() == kind else None


def _one_scale(rounded: Any) -> bool:
    """Whether one range serves all channels, so that it does not matter where a value stands."""
    shapes = [rounded.input(index).get_partial_shape() for index in range(1, 5)]
    return all(shape.is_static and all(length.get_length() == 1 for length in shape) for shape in shapes)
