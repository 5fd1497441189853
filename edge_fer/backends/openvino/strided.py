"""Keep strided 1x1 convolutions of an int8 network in int8.

Where all that reads a map are 1x1 convolutions of the same stride (networks from Caffe, VGGFace2's among them, begin
their stages so), OpenVINO 2026.4 leaves out early what they skip: it puts a pooling of one value before them and takes
their strides away. It does so where it no longer recognises the convolutions as quantised, and they run in fp32: of
VGGFace2's ResNet-50 six, which doubled its time. Done here, before it looks, they stay in int8.
"""

from __future__ import annotations

import importlib
from typing import Any


def skip_before_strided(model: Any) -> int:
    """Put a pooling of one value before strided 1x1 convolutions and take their strides away, in place.

    The same values are read, so the answer is the same. Where something else reads the map too, nothing changes.

    Args:
        model: an ``openvino.Model`` as it was read, before it is compiled.

    Returns:
        how many convolutions were changed.
    """
    # The library is there already, or there would be no model.
    opset: Any = importlib.import_module("openvino.opset8")
    changed = 0
    for source, convolutions in _all_strided(model):
        stride = _strides(convolutions[0])
        skipping = opset.max_pool(source, stride, [1, 1], [0, 0], [0, 0], [1, 1], "floor", "explicit")
        for old in convolutions:
            new = opset.convolution(
                skipping.output(0), old.input_value(1), [1, 1], [0, 0], [0, 0], old.get_attributes()["dilations"]
            )
            new.set_friendly_name(old.get_friendly_name())
            for reader in list(old.output(0).get_target_inputs()):
                reader.replace_source_output(new.output(0))
            changed += 1
    if changed:
        model.validate_nodes_and_infer_types()
    return changed


def _all_strided(model: Any) -> list[tuple[Any, list[Any]]]:
    """Outputs that are read by 1x1 convolutions of one stride above 1 and by nothing else, with those."""
    found = []
    for node in model.get_ordered_ops():
        for source in node.outputs():
            readers = [(reader.get_node(), reader.get_index()) for reader in source.get_target_inputs()]
            if not readers or not all(_is_strided_pointwise(reader) and index == 0 for reader, index in readers):
                continue
            convolutions = [reader for reader, _ in readers]
            if len({tuple(_strides(convolution)) for convolution in convolutions}) == 1:
                found.append((source, convolutions))
    return found


def _is_strided_pointwise(node: Any) -> bool:
    if node.get_type_name() != "Convolution":
        return False
    kernel = node.input(1).get_partial_shape()
    sides = [kernel[axis] for axis in range(2, len(kernel))]
    attributes = node.get_attributes()
    return (
        len(sides) == 2
        and all(side.is_static and side.get_length() == 1 for side in sides)
        and max(attributes["strides"]) > 1
        and not any([*attributes["pads_begin"], *attributes["pads_end"]])
    )


def _strides(convolution: Any) -> list[int]:
    return list(convolution.get_attributes()["strides"])
