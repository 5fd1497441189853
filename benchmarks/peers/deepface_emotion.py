"""``deepface``'s emotion model. The whole picture is the face, so its detectors are left out."""

REQUIREMENTS = ["deepface==0.0.103", "tf-keras"]
TASK = "classification"


def open_peer(threads):
    from deepface import DeepFace

    def label(face_bgr):
        found = DeepFace.analyze(
            face_bgr, actions=["emotion"], detector_backend="skip", enforce_detection=False, silent=True
        )
        return found[0]["dominant_emotion"]

    return label
