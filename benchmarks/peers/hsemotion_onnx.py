"""``hsemotion-onnx`` (Savchenko): EfficientNet-B0 trained on AffectNet, through ONNX Runtime. Eight classes."""

REQUIREMENTS = ["hsemotion-onnx==0.3.1", "opencv-python-headless<5"]
PACKAGES = ["hsemotion-onnx", "onnxruntime"]
TASK = "classification"
WEIGHTS_FROM = "github.com/HSE-asavchenko/face-emotion-recognition"


def open_peer(threads):
    import urllib.request  # noqa: F401 (the package uses it and imports only `urllib`)

    import cv2
    from hsemotion_onnx.facial_emotions import HSEmotionRecognizer

    network = HSEmotionRecognizer(model_name="enet_b0_8_best_afew")

    def label(face_bgr):
        name, _ = network.predict_emotions(cv2.cvtColor(face_bgr, cv2.COLOR_BGR2RGB), logits=True)
        return name

    label.runs_on = "ONNX Runtime fp32"
    return label
