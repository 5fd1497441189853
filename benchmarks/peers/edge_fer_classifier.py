"""Our default classifier as its users get it, on the engine that ``auto`` chooses here, in the same harness."""

REQUIREMENTS = []
PACKAGES = ["edge-fer", "openvino", "onnxruntime"]
TASK = "classification"


def open_peer(threads):
    from edge_fer.backends.choose import open_best
    from edge_fer.core.bundle import find_bundle
    from edge_fer.core.engine import INPUT, OUTPUT
    from edge_fer.runtime.preprocess import FaceCropper

    engine, _ = open_best(find_bundle(None), backend="auto", precision="auto", threads=threads)
    slot, classifier = engine.slots[0], engine.manifest.classifier
    cropper, row = FaceCropper(classifier.preprocess), slot.inputs[INPUT][0]

    def label(face_bgr):
        cropper.whole_into(row, face_bgr)
        engine.submit(slot, 1)
        engine.wait(slot)
        return classifier.labels[int(slot.outputs[OUTPUT][0].argmax())]

    label.runs_on = f"{classifier.name} on {engine.manifest.backend} {engine.manifest.precision}"
    return label
