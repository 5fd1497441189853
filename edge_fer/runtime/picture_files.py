"""Picture files as pixels, for every part of the project: what ``run`` shows a network is what its data was."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError


def read_picture(path: Path, *, grey_stays: bool = False) -> NDArray[np.uint8]:
    """Decode a file, turned as its EXIF orientation says, without its alpha channel, 16 bits reduced to the upper 8.

    Args:
        grey_stays: a grey file gives (H, W) instead of three equal channels.

    Returns:
        (H, W, 3) uint8 BGR, or (H, W) uint8.

    Raises:
        BadInputError: the file is missing, empty, no picture, or larger than OpenCV decodes (2**30 pixels).
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise BadInputError(f"Cannot read {path}: {error.strerror or error}.") from None
    try:
        # Never IMREAD_UNCHANGED: it leaves a telephone's portraits lying on their side.
        image = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR if grey_stays else cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        raise BadInputError(f"{path} has more pixels than OpenCV decodes, or than memory holds.") from None
    if image is None:
        raise BadInputError(f"{path} is not a picture that OpenCV can decode.")
    return np.asarray(image, dtype=np.uint8)
