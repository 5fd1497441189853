"""The loop that the ResNet paper describes, as it is written in a hundred repositories. Nothing of edge-fer runs in it.

    VideoCapture.read -> Haar cascade (1.3, 5) on the full frame -> resize to 224 -> torch eager ResNet18 -> label

    python benchmarks/rival.py CLIP --seconds 10

OpenCV and torch keep their own thread counts, as they do there. Every face is classified by itself, as it is there;
the weights are untrained, which costs the same time. Prints one line of JSON; the clip is read again until the time is
over.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import torch

from edge_fer.models.resnet import resnet18  # torchvision's network and names; torchvision is not installed here

LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
WARM_UP_S = 1.0


def label_clip(clip: Path, cascade: cv2.CascadeClassifier, model: torch.nn.Module, seconds: float) -> tuple[int, int]:
    """The loop; the clip is begun again when it is over. Returns frames and faces."""
    frames, labels = 0, list[str]()
    end = time.perf_counter() + seconds
    capture = cv2.VideoCapture(str(clip))
    while time.perf_counter() < end:
        grabbed, frame = capture.read()
        if not grabbed:
            capture = cv2.VideoCapture(str(clip))
            continue
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        for x, y, w, h in cascade.detectMultiScale(gray, 1.3, 5):
            face = cv2.cvtColor(frame[y : y + h, x : x + w], cv2.COLOR_BGR2RGB)
            face = cv2.resize(face, (224, 224))
            tensor = (torch.from_numpy(face).permute(2, 0, 1).float() / 255 - MEAN) / STD
            scores = torch.softmax(model(tensor[None])[0], 0)
            labels.append(LABELS[int(scores.argmax())])
        frames += 1
    return frames, len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    if not cv2.VideoCapture(str(arguments.clip)).read()[0]:
        parser.error(f"{arguments.clip} is not a video that OpenCV can decode")

    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    torch.manual_seed(0)
    model = resnet18(num_classes=len(LABELS)).eval()
    with torch.no_grad():
        label_clip(arguments.clip, cascade, model, WARM_UP_S)
        began, cpu_began = time.perf_counter(), time.process_time()
        frames, faces = label_clip(arguments.clip, cascade, model, arguments.seconds)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    record = {
        "frames": frames,
        "faces_per_frame": faces / frames,
        "fps": frames / seconds,
        "cpu_ms_per_frame": 1e3 * cpu / frames,
    }
    sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
