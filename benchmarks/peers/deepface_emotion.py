"""``deepface``'s emotion model. The whole picture is the face, so its detectors are left out."""

REQUIREMENTS = ["deepface==0.0.103", "tf-keras", "flask"]
PACKAGES = ["deepface", "tensorflow"]
TASK = "classification"
WEIGHTS_FROM = "github.com/serengil/deepface_models"


def open_peer(threads):
    from deepface import DeepFace

    def label(face_bgr):
        found = DeepFace.analyze(
            face_bgr, actions=["emotion"], detector_backend="skip", enforce_detection=False, silent=True
        )
        return found[0]["dominant_emotion"]

    label.runs_on = "TensorFlow, Keras fp32"
    return label
