"""Runs inside a peer's own environment, which has NumPy but not edge-fer: times one peer on decoded pictures.

A detector is also run over the clip as its users do: read a frame, search it, read the next. Whatever goes wrong is an
answer too: the stage (``opening`` or ``running``) and the words of the exception.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np

WARM_UP = 5
DOWNLOAD_TIMEOUT_S = 30.0


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


def status(key):
    """A size from /proc/self/status in bytes: ``VmRSS`` now, ``VmHWM`` at most; ``None`` where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def versions(packages):
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            module = sys.modules.get(name.replace("-", "_"))  # a source tree on the path is no installed package
            if module is not None:
                found[name] = module.__version__
    return found


def words(error):
    """An exception as ``Type: first line``."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def refusal(error):
    """The failed connection or file that an exception goes back to, in words; ``None`` where there is none."""
    found = None
    while error is not None:
        if isinstance(error, OSError):
            found = words(error)
        error = error.__cause__ or error.__context__
    return found


def open_peer(order, first):
    """The peer's function, and seconds from before its imports to the end of its first call."""
    spec = importlib.util.spec_from_file_location("peer", order["peer"])
    assert spec is not None
    assert spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    began = time.perf_counter()
    spec.loader.exec_module(peer)
    call = peer.open_peer(order["threads"])
    call(first)
    return call, time.perf_counter() - began


def run(call, order, images):
    """Times of the first pictures, back to back; then the rest without a clock."""
    for image in images[:WARM_UP]:
        call(image)
    timed = images[: order["timed"]]
    samples, results, processor = [], [], time.process_time()
    for image in timed:
        began = time.perf_counter_ns()
        results.append(call(image))
        samples.append(time.perf_counter_ns() - began)
    processor = time.process_time() - processor
    # Before the clip, whose decoder keeps frames of its own; and before the untimed pictures, which change nothing.
    peak = status("VmHWM")
    if order["label_all"]:
        results += [call(image) for image in images[len(timed) :]]
    answer = {"samples_ns": samples, "results": results, "cpu_ms": 1e3 * processor / len(timed), "peak": peak}
    if order["clip"]:
        answer["clip_fps"] = over_clip(call, order["clip"])
    return answer


def main() -> None:
    # The packages print while they load; only the answer belongs on standard output.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.read())
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # a peer that waits for its weights for ever has none
    with np.load(order["pictures"]) as pictures:
        images = [pictures[f"arr_{index}"] for index in range(len(pictures.files))]
    before = status("VmRSS")
    stage = "opening"
    try:
        call, cold_s = open_peer(order, images[0])
        stage = "running"
        answer = {"cold_start_s": cold_s, **run(call, order, images)}
    except Exception as error:  # whatever a foreign package raises is its answer
        answer = {"failed": stage, "error": words(error), "refusal": refusal(error)}
    else:
        peak = answer.pop("peak")
        # What the peer adds to a process that already holds the pictures.
        answer["memory_bytes"] = None if peak is None or before is None else peak - before
        answer["runs_on"] = getattr(call, "runs_on", "")
    pipe.write(json.dumps({**answer, "versions": versions(order["packages"])}) + "\n")
    pipe.flush()
    # Some packages hang or crash when their threads are torn down, long after everything was measured.
    os._exit(0)


if __name__ == "__main__":
    main()
