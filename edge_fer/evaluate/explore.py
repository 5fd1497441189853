"""The page of ``edge-fer explore``: a network in three dimensions, and what it sees in a picture that is given to it.

The browser sends a picture, the page shows scores, Grad-CAM with its deletion check, and feature maps. Pictures stay in
this process, the newest one only, and are gone with it.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from edge_fer.core.errors import BadInputError, DeviceError, EdgeFerError
from edge_fer.core.findings import findings
from edge_fer.core.spec import Frozen
from edge_fer.evaluate.deletion import deletion_check
from edge_fer.evaluate.explain import CHANNELS, PLACES_OF_FEW, as_pictures, cropped, find_faces
from edge_fer.evaluate.grad_cam import Explainer, stages, telling_channels
from edge_fer.evaluate.picture_bytes import decode_picture
from edge_fer.runtime.annotate import colour_of_label
from edge_fer.runtime.detectors.base import FaceDetector, require_eyes
from edge_fer.runtime.preprocess import FaceCropper
from edge_fer.runtime.sinks.local_server import ADDRESS, Post, Reply, Route

ASSETS = Path(__file__).resolve().parent / "assets" / "explore"
ICON = Path(__file__).resolve().parents[1] / "runtime" / "assets" / "web" / "icon.svg"
PAGES = {
    "/": (ASSETS / "index.html", "text/html; charset=utf-8"),
    "/explore.css": (ASSETS / "explore.css", "text/css; charset=utf-8"),
    "/explore.js": (ASSETS / "explore.js", "text/javascript; charset=utf-8"),
    "/network3d.js": (ASSETS / "network3d.js", "text/javascript; charset=utf-8"),
    "/icon.svg": (ICON, "image/svg+xml"),
}
PICTURE_BYTES, ASK_BYTES = 16 << 20, 4096
SHOWN_PX = 480
"""Longer side of the picture as the page shows it."""
MOST_FACES = 12
CAMERA_S = 8.0

A = TypeVar("A", bound="Ask")


class Ask(Frozen):
    """What the page asks about: a face of the newest picture, or the whole picture (``face`` is ``None``)."""

    picture: int
    face: int | None = Field(default=None, ge=0)


class AskHeat(Ask):
    """Grad-CAM of a class (default: the one that the face is taken for) at a layer (default: the explainer's own)."""

    explained: str | None = None
    layer: str | None = None


class AskMaps(Ask):
    layer: str


class Explore:
    """Answers the page. Requests come from many threads; the network works for one at a time.

    Args:
        detector: finds the faces of pictures.
        camera_port: of a page of ``edge-fer run --web`` on this machine, whose picture can be taken; or ``None``.
    """

    def __init__(self, explainer: Explainer, detector: FaceDetector, *, camera_port: int | None = None) -> None:
        self._explainer, self._detector, self._camera_port = explainer, detector, camera_port
        require_eyes(detector, explainer.spec)
        self._cropper = FaceCropper(explainer.spec.preprocess)
        self._lock = threading.Lock()
        self._number = 0
        self._image: NDArray[np.uint8] | None = None
        self._boxes, self._angles = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)

    def routes(self) -> dict[str, Route]:
        return {path: _file(file, kind) for path, (file, kind) in PAGES.items()}

    def posts(self) -> dict[str, Post]:
        return {
            "/network": Post(self._guarded(lambda _body: self._network()), ASK_BYTES),
            "/picture": Post(self._guarded(self._take), PICTURE_BYTES),
            "/camera": Post(self._guarded(lambda _body: self._take(self._from_camera())), ASK_BYTES),
            "/heat": Post(self._guarded(lambda body: self._heat(_read(AskHeat, body))), ASK_BYTES),
            "/check": Post(self._guarded(lambda body: self._check(_read(AskHeat, body))), ASK_BYTES),
            "/maps": Post(self._guarded(lambda body: self._maps(_read(AskMaps, body))), ASK_BYTES),
        }

    def _guarded(self, answer: Callable[[bytes], dict[str, Any]]) -> Callable[[bytes], Reply]:
        """One at a time; what is wrong with a request is told as a sentence."""

        def guarded(body: bytes) -> Reply:
            status = HTTPStatus.OK
            with self._lock:
                try:
                    told = answer(body)
                except EdgeFerError as error:
                    told, status = {"error": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY
            return Reply("application/json", json.dumps(told).encode(), status)

        return guarded

    def _network(self) -> dict[str, Any]:
        explainer, graph = self._explainer, self._explainer.graph
        maps = {m.name for m in graph.maps if m.calls == 1}
        return {
            "model": explainer.spec.name,
            "arch": explainer.spec.arch,
            "labels": [{"name": name, "colour": _hex(name)} for name in explainer.spec.labels],
            "parameters": graph.parameters,
            "macs": graph.macs,
            "layer": explainer.layer,
            "stages": [m.name for m in stages(graph)],
            "camera": self._camera_port is not None,
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "shape": layer.shape,
                    "follows": layer.follows,
                    "inputs": layer.inputs,
                    "parameters": layer.parameters,
                    "macs": layer.macs,
                    "map": layer.name in maps,
                }
                for layer in graph.layers
            ],
        }

    def _take(self, data: bytes) -> dict[str, Any]:
        """A new picture takes the place of the one before."""
        image = decode_picture(data)
        boxes, angles = find_faces(image, self._detector)
        self._boxes, self._angles = boxes[:MOST_FACES], angles[:MOST_FACES]
        self._image, self._number = image, self._number + 1
        height, width = image.shape[:2]
        scale = min(1.0, SHOWN_PX / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shown = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        shown_boxes = [] if self._detector.whole_frame else (self._boxes * scale).round(1).tolist()
        return {
            "picture": self._number,
            "shown": _pixels(np.asarray(cv2.cvtColor(shown, cv2.COLOR_BGR2RGB), np.uint8)),
            "faces": shown_boxes,
        }

    def _from_camera(self) -> bytes:
        """The next frame of the run's page, as JPEG."""
        if self._camera_port is None:
            raise BadInputError("No camera was named.", fix="edge-fer explore --camera-page 8080")
        connection = http.client.HTTPConnection(ADDRESS, self._camera_port, timeout=CAMERA_S)
        try:
            connection.request("GET", "/picture")
            answer = connection.getresponse()
            data = answer.read(PICTURE_BYTES + 1)
        except (OSError, http.client.HTTPException):
            raise DeviceError(
                f"There is no page of edge-fer run at port {self._camera_port}.",
                fix=f"Start it: edge-fer run --camera 0 --web {self._camera_port}",
            ) from None
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK:
            raise DeviceError(
                f"Port {self._camera_port} gave no picture ({answer.status}).",
                fix=f"edge-fer run --camera 0 --web {self._camera_port}, without --show and --save",
            )
        return data

    def _input(self, ask: Ask) -> NDArray[np.float32]:
        """float32 (1, C, H, W) of the face that is asked about."""
        if self._image is None or ask.picture != self._number:
            raise BadInputError("That picture is not here any more.", fix="Send it again.")
        spec = self._explainer.spec
        if ask.face is None:
            row = np.empty(spec.input_shape, np.float32)
            self._cropper.whole_into(row, self._image)
            return row[None]
        if ask.face >= len(self._boxes):
            raise BadInputError(f"The picture has no face {ask.face + 1}.")
        box, angle = self._boxes[ask.face], self._angles[ask.face]
        return cropped(self._image, box, angle, self._detector, self._cropper, spec)[None]

    def _class_of(self, ask: AskHeat) -> NDArray[np.int64] | None:
        if ask.explained is None:
            return None
        labels = self._explainer.spec.labels
        if ask.explained not in labels:
            raise BadInputError(f"The network has no class {ask.explained!r}.")
        return np.array([labels.index(ask.explained)], np.int64)

    def _heat(self, ask: AskHeat) -> dict[str, Any]:
        inputs, explainer = self._input(ask), self._explainer
        found = explainer.heat(inputs, self._class_of(ask), ask.layer)
        labels = explainer.spec.labels
        scales = stages(explainer.graph)
        outputs = explainer.maps(inputs, [s.name for s in scales])
        return {
            "scores": {name: float(v) for name, v in zip(labels, found.scores[0], strict=True)},
            "predicted": labels[int(found.scores[0].argmax())],
            "explained": labels[int(found.classes[0])],
            "layer": ask.layer or explainer.layer,
            "evidence": bool(found.peak[0] > 0),
            "face": _pixels(as_pictures(inputs, explainer.spec.preprocess)[0]),
            "heat": _plane(found.heat[0], 0.0, 1.0),
            "stages": [{"layer": s.name, "shape": s.shape, "maps": _channels(outputs[s.name][0])} for s in scales],
        }

    def _check(self, ask: AskHeat) -> dict[str, Any]:
        inputs = self._input(ask)
        found = self._explainer.heat(inputs, self._class_of(ask), ask.layer)
        check = deletion_check(
            self._explainer.scores, inputs, found.heat, found.classes, places=PLACES_OF_FEW, seed=self._number
        )
        if check is None:
            return {
                "holds": False,
                "sentence": "NOT CHECKED: nothing in this layer speaks for the class.",
                "curves": None,
            }
        curves = {"fractions": check.fractions, "marked": check.curve, "elsewhere": check.elsewhere.curve}
        return {"holds": check.holds, "sentence": check.sentence(), "curves": curves}

    def _maps(self, ask: AskMaps) -> dict[str, Any]:
        output = self._explainer.maps(self._input(ask), [ask.layer])[ask.layer][0]
        return {"layer": ask.layer, "shape": output.shape, "maps": _channels(output)}


def _read(kind: type[A], body: bytes) -> A:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise BadInputError(f"The request is not valid: {findings(error, kind, first=True)}.") from None


def _file(path: Path, kind: str) -> Route:
    content = path.read_bytes()
    return lambda: Reply(kind, content)


def _pixels(image_rgb: NDArray[np.uint8]) -> dict[str, Any]:
    """uint8 (H, W, 3) RGB for the page."""
    height, width = image_rgb.shape[:2]
    return {"width": width, "height": height, "rgb": base64.b64encode(np.ascontiguousarray(image_rgb).data).decode()}


def _plane(values: NDArray[np.float32], low: float, high: float) -> dict[str, Any]:
    """(H, W) as bytes, ``low`` being 0 and ``high`` 255."""
    span = high - low if high > low else 1.0
    scaled = np.clip(np.rint((values - low) * (255 / span)), 0, 255).astype(np.uint8)
    height, width = values.shape
    return {
        "width": width,
        "height": height,
        "values": base64.b64encode(scaled.data).decode(),
        "low": low,
        "high": high,
    }


def _channels(maps: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The telling channels of (C, H, W), each from its own smallest to its own largest value."""
    return [
        {"channel": int(k), **_plane(maps[k], float(maps[k].min()), float(maps[k].max()))}
        for k in telling_channels(maps, CHANNELS)
    ]


def _hex(label: str) -> str:
    blue, green, red = colour_of_label(label)
    return f"#{red:02x}{green:02x}{blue:02x}"
