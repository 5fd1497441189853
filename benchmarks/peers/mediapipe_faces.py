"""MediaPipe's short-range face detector, as its documentation shows it; the model travels in the wheel."""

REQUIREMENTS = ["mediapipe==0.10.21"]
PACKAGES = ["mediapipe"]
TASK = "detection"


def open_peer(threads):
    import cv2
    import mediapipe

    detector = mediapipe.solutions.face_detection.FaceDetection(model_selection=0, min_detection_confidence=0.5)

    def find(image_bgr):
        height, width = image_bgr.shape[:2]
        found = detector.process(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB))
        boxes = [face.location_data.relative_bounding_box for face in found.detections or ()]
        return [
            (box.xmin * width, box.ymin * height, (box.xmin + box.width) * width, (box.ymin + box.height) * height)
            for box in boxes
        ]

    find.runs_on = "TensorFlow Lite, its short-range model"
    return find
