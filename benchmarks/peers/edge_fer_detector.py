"""Our default detector as its users get it, in the same harness."""

REQUIREMENTS = []
PACKAGES = ["edge-fer", "openvino", "onnxruntime"]
TASK = "detection"
SMALLEST = 80
"""Pixels: what ``edge-fer run`` looks for in 720p."""


def open_peer(threads):
    from edge_fer.backends.face_detector import open_face_detector

    detector = open_face_detector("edge-fer-face", min_face_px=SMALLEST, threads=threads)

    def find(image_bgr):
        return detector.detect(image_bgr).boxes_xyxy.tolist()

    find.runs_on = detector.name
    return find
