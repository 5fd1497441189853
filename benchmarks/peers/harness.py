"""Runs inside a peer's own environment, which has NumPy but not edge-fer: times one peer on decoded pictures."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time

import numpy as np

WARM_UP = 5


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
    pipe.write(json.dumps({"cold_start_s": cold_s, "samples_ms": samples, "results": results}) + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
