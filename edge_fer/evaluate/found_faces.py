"""Faces as the live loop sees them: found by a detector, and cut by the network's contract.

A test set of ready-made crops says how good a network is on those crops. In the loop the crop is the detector's box
with the contract's margin, and a face that is not found gets no label; no table of crops shows what both cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.faces import eye_angles_deg, most_prominent
from edge_fer.core.spec import Frozen, PreprocessSpec
from edge_fer.data.samples import Image, Samples
from edge_fer.evaluate.compare import Difference, compare
from edge_fer.runtime.detectors.base import FaceDetector
from edge_fer.runtime.preprocess import levelling, resize, to_bgr

LEAST_PX = 192
"""A smaller picture is enlarged until its longer side has so many pixels, as a face before a camera has them."""
BORDER = 1 / 3
"""Share of the picture's longer side that is added around it by repeating its border: a box may reach over a tight
crop's edge, and detectors expect surroundings."""


class FoundFaces(Frozen):
    """What finding and cutting cost, face by face against the data set's own pictures.

    Attributes:
        detector: its name.
        pictures: of the data; ``found``: those in which it finds a face, which all metrics are of.
        found_share: by class.
        top1_of_all: accuracy when a face that is not found counts as wrong.
        top1_as_given: accuracy on the same ``found`` pictures as the data set has them.
        difference: accuracy on the loop's cuts minus that.
        margin: of the contract: share of the box's longer side that is added on each side of it.
        margin_of_data: by which margin the data set's pictures were cut around what the detector takes for the face,
            quartiles; below 0 they end inside of its box.
    """

    detector: str
    pictures: int
    found: int
    found_share: dict[str, float]
    top1_of_all: float
    top1_as_given: float
    difference: Difference
    margin: float
    margin_of_data: tuple[float, float, float]

    def told(self) -> tuple[str, str]:
        """The two sentences that every report says."""
        low, high = (100 * value for value in self.difference.interval)
        first, middle, last = self.margin_of_data
        return (
            f"Found by {self.detector}: {self.found:,} of {self.pictures:,} ({self.found / self.pictures:.1%}); with "
            f"the others as wrong, top-1 is {self.top1_of_all:.1%}. On the found ones the data set's own pictures give "
            f"{self.top1_as_given:.1%}: the loop's cuts are {100 * self.difference.gain:+.1f} points away (95 %: "
            f"{low:+.1f} to {high:+.1f}).",
            f"The contract's margin is {self.margin:.2f}; the data set's pictures have {middle:.2f} around the "
            f"detector's box (quartiles {first:.2f} to {last:.2f}).",
        )


@dataclass(frozen=True)
class Located:
    """Where the faces of a data set are, whatever network looks at them.

    Attributes:
        samples: the pictures in which a face was found, as the data set has them.
        boxes_xyxy: float32 (n, 4) in the pixels of :func:`in_a_frame`; ``angles_deg``: float32 (n,) of their eyes.
        margins: float64 (n,), by which margin the picture was cut around the box.
        found: bool (all,).
        levelled: whether the detector tells where the eyes are; ``detector``: its name.
    """

    samples: Samples
    boxes_xyxy: NDArray[np.float32]
    angles_deg: NDArray[np.float32]
    margins: NDArray[np.float64]
    found: NDArray[np.bool_]
    levelled: bool
    detector: str

    def cut(self, preprocess: PreprocessSpec) -> Samples:
        """The same faces as the loop would cut them for a network: uint8 (side, side, 3) BGR, not yet resized.

        Raises:
            UsageError: the network wants level eyes, and the detector does not tell where they are.
        """
        level = preprocess.alignment == "eyes"
        if level and not self.levelled:
            raise UsageError(
                "The model wants faces with level eyes, and this detector does not tell where the eyes are.",
                fix="--detector edge-fer-face",
            )

        def read(row: int) -> Image:
            frame = in_a_frame(self.samples.read(row))
            angle_deg = float(self.angles_deg[row]) if level else 0.0
            turn, side = levelling(self.boxes_xyxy[row], preprocess.margin, angle_deg)
            cut = cv2.warpAffine(frame, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            return np.asarray(cut, dtype=np.uint8)

        own = self.samples
        return Samples(own.ids, own.labels, own.class_names, read, own.source, own.left_out)

    def views(self, preprocess: PreprocessSpec) -> tuple[Samples, Samples]:
        """The found faces as the loop would cut them, and as the data set has them."""
        return self.cut(preprocess), self.samples

    def summary(
        self,
        preprocess: PreprocessSpec,
        names: tuple[str, ...],
        labels: NDArray[np.int64],
        *,
        as_given: NDArray[np.float64],
        as_cut: NDArray[np.float64],
    ) -> FoundFaces:
        """What finding and cutting cost one network.

        Args:
            names: the classes; ``labels``: int64 (all,), of every picture.
            as_given, as_cut: float64 (n, classes), scores of the found ones.
        """
        wanted = labels[self.found]
        (difference,) = compare(wanted, {"given": as_given, "cut": as_cut})
        right = int((as_cut.argmax(axis=1) == wanted).sum())
        first, middle, last = (float(value) for value in np.quantile(self.margins, [0.25, 0.5, 0.75]))
        return FoundFaces(
            detector=self.detector,
            pictures=len(labels),
            found=len(wanted),
            found_share={
                name: float(self.found[labels == k].mean()) for k, name in enumerate(names) if (labels == k).any()
            },
            top1_of_all=right / len(labels),
            top1_as_given=float((as_given.argmax(axis=1) == wanted).mean()),
            difference=difference.top1,
            margin=preprocess.margin,
            margin_of_data=(first, middle, last),
        )


def in_a_frame(image: Image) -> Image:
    """A picture amid its repeated border, uint8 (side, side, 3) BGR; small ones are enlarged first."""
    bgr = to_bgr(image)
    height, width = bgr.shape[:2]
    if (longer := max(height, width)) < LEAST_PX:
        factor = LEAST_PX / longer
        bgr = resize(bgr, (max(1, round(height * factor)), max(1, round(width * factor))), "linear")
        height, width = bgr.shape[:2]
    side = round(max(height, width) * (1 + 2 * BORDER))
    top, left = (side - height) // 2, (side - width) // 2
    edges = (top, side - height - top, left, side - width - left)
    return np.asarray(cv2.copyMakeBorder(bgr, *edges, cv2.BORDER_REPLICATE), dtype=np.uint8)


def locate(samples: Samples, detector: FaceDetector, progress: Callable[[int, int], None] | None = None) -> Located:
    """Find the most prominent face of every picture.

    Raises:
        BadInputError: a picture cannot be decoded, or no picture shows a face.
    """
    boxes, angles, margins = [], [], []
    found = np.zeros(len(samples), np.bool_)
    for row in range(len(samples)):
        frame = in_a_frame(samples.read(row))
        faces = detector.detect(frame)
        if (best := most_prominent(faces)) is not None:
            found[row] = True
            box = faces.boxes_xyxy[best]
            boxes.append(box)
            angles.append(eye_angles_deg(faces)[best])
            longer = float((box[2:] - box[:2]).max())
            margins.append((frame.shape[0] / (1 + 2 * BORDER) / longer - 1) / 2)
        if progress is not None:
            progress(row + 1, len(samples))
    if not boxes:
        raise BadInputError(f"{detector.name} finds no face in any of the {len(samples)} pictures of {samples.source}.")
    return Located(
        samples.select(np.flatnonzero(found)),
        np.asarray(boxes, np.float32),
        np.asarray(angles, np.float32),
        np.asarray(margins, np.float64),
        found,
        detector.landmarks,
        detector.name,
    )
