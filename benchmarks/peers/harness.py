"""Runs inside a peer's own environment, which has NumPy but not edge-fer: times one peer on decoded pictures.

A detector is also run over the clip as its users do: read a frame, search it, read the next.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time

import numpy as np

WARM_UP = 5


def over_clip(call, clip):
    """Frames a second of reading and searching, second pass over the clip."""
    import cv2

    for _ in range(2):
        capture, count, began = cv2.VideoCapture(clip), 0, time.perf_counter()
        while (read := capture.read())[0]:
            call(read[1])
            count += 1
        seconds = time.perf_counter() - began
        capture.release()
    return count / seconds


def main() -> None:
    # The packages print while they load; only the answer belongs on standard output.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.read())
    spec = importlib.util.spec_from_file_location("peer", order["peer"])
    assert spec is not None
    assert spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    with np.load(order["pictures"]) as pictures:
        images = [pictures[f"arr_{index}"] for index in range(len(pictures.files))]
    began = time.perf_counter()
    spec.loader.exec_module(peer)
    call = peer.open_peer(order["threads"])
    call(images[0])
    cold_s = time.perf_counter() - began
    for image in images[:WARM_UP]:
        call(image)
    samples, results = [], []
    for image in images:
        began = time.perf_counter()
        results.append(call(image))
        samples.append(1e3 * (time.perf_counter() - began))
    answer = {"cold_start_s": cold_s, "samples_ms": samples, "results": results}
    if order["clip"]:
        answer["clip_fps"] = over_clip(call, order["clip"])
    pipe.write(json.dumps(answer) + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
