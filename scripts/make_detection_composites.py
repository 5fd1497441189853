"""Write composites as PNG files: pictures to calibrate the detector on, or to look at.

    python scripts/make_detection_composites.py --data DIR --teacher YUNET.onnx --out DIR [--count 256] [--boxes]

DIR holds scenes/ and faces/. Only pictures outside the recipe's held-out part are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from edge_fer.data.detection.compose import ComposeSpec, Compositor, Picture
from edge_fer.data.detection.folder import list_pictures, read_bgr, to_gray
from edge_fer.data.detection.labels import Teacher, label_crop, label_scene
from edge_fer.train.detection_recipe import load_detection_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--sources", type=int, default=200, help="how many scenes and faces to draw from")
    parser.add_argument("--boxes", action="store_true", help="draw the labels")
    options = parser.parse_args()
    recipe = load_detection_recipe("detector")
    teacher = Teacher(options.teacher)
    pictures = {}
    for kind, label in (("scenes", label_scene), ("faces", label_crop)):
        rest, _ = list_pictures(options.data / kind).split(recipe.holdout_fraction, recipe.holdout_salt)
        chosen = rest.paths[:: max(1, len(rest) // options.sources)]
        images = [read_bgr(path) for path in chosen]
        pictures[kind] = [Picture(to_gray(image), label(teacher, image)) for image in images]
    compositor = Compositor(pictures["scenes"], pictures["faces"], [], ComposeSpec(size=options.size))
    options.out.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        composite = compositor.draw(np.random.default_rng((recipe.seed + 2, number)))
        canvas = composite.gray
        if options.boxes:
            canvas = cv2.cvtColor(canvas, cv2.COLOR_GRAY2BGR)
            for box, skip in zip(composite.boxes_xyxy.astype(int), composite.ignore, strict=True):
                colour = (0, 0, 255) if skip else (0, 255, 0)
                cv2.rectangle(canvas, box[:2].tolist(), box[2:].tolist(), colour, 1)
        cv2.imwrite(str(options.out / f"{number:05d}.png"), canvas)


if __name__ == "__main__":
    main()
