"""Faces to scores on a GPU: pixels in, four bytes per face and class out, one graph launch in between.

    pinned frame --rows with faces--> device --crop, resize, normalise--> network --softmax--> mapped host memory
                 or read in place, through the mapped address --^

What changes from frame to frame (boxes, size, where the picture lies) is in a mapped buffer that the first kernel
reads, so that the captured graph never changes. Each place has a stream: while the GPU works on frame n, frame n + 1 is
searched for faces, copied and queued, and n + 2 is decoded into the ring.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import DeviceEngine, DeviceSlot, Slot
from edge_fer.core.errors import DeviceError
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.cuda.copies import Copies
from edge_fer.cuda.device import CudaDevice, DeviceBuffer, Graph, HostBuffer, Stream
from edge_fer.cuda.lane import Lane
from edge_fer.cuda.pinned_pictures import PinnedPictures
from edge_fer.cuda.raw_picture import Pixels, RawPicture
from edge_fer.runtime.face_stage import IN_FLIGHT
from edge_fer.runtime.preprocess import square_around
from edge_fer.runtime.transfer import Transfer, TransferChoice

ENGINES_ON_GPU = "tensorrt or onnxruntime-cuda"
"""Backends to name where an engine of another one cannot work on the GPU's memory."""
STEADY = 4
"""Frames with a number of faces, in one place, before the work for that number is captured: a capture costs more than
one launch of it saves. Graphs of several numbers stay valid beside each other where the engine keeps apart what it
captured for each of them (:class:`edge_fer.core.engine.DeviceEngine`), and are thrown away where it does not."""


TURN_ROUNDING = 1 / 16
"""Of a pixel: how far the places that a turn reads at may be off what arithmetic says."""


class FaceKernels(Protocol):
    """The kernels before and after the network, for one frame in flight."""

    def describe(
        self,
        picture_pointer: int,
        size_hw: tuple[int, int],
        boxes_xyxy: NDArray[np.float32],
        *,
        whole: bool = False,
        angles_deg: Sequence[float] = (),
        pixels: Pixels = "bgr24",
    ) -> None:
        """Say what the next run of ``preprocess`` reads, in memory that the device sees; queues nothing.

        Args:
            picture_pointer: device address of the picture, whose rows follow each other without a gap.
            boxes_xyxy: float32 (n, 4).
            whole: the picture is the face.
            angles_deg: see :class:`edge_fer.runtime.face_stage.FaceStage`.
            pixels: what the picture's bytes mean.
        """
        ...

    def preprocess(self, input_pointer: int, n: int, stream: Stream) -> None:
        """Queue one launch that writes float32 (n, C, H, W)."""
        ...

    def softmax(self, logits_pointer: int, scores_pointer: int, n: int, stream: Stream) -> None:
        """Queue one launch: float32 (n, classes) to float32 (n, classes), rows sum to 1."""
        ...


def load_face_kernels(device: CudaDevice, model: ModelSpec, max_faces: int) -> FaceKernels:
    """The kernels that ship with the project."""
    from edge_fer.cuda.face_kernels import CudaFaceKernels

    return CudaFaceKernels(device, model, max_faces)


class CudaPlace:
    """Everything that one frame in flight needs on the device."""

    def __init__(self, device: CudaDevice, slot: DeviceSlot, kernels: FaceKernels, faces: int, classes: int) -> None:
        self.slot, self.kernels = slot, kernels
        self.stream = device.stream()
        self.began, self.arrived, self.done = (device.event(timing=True) for _ in range(3))
        """Marks of the work under way: before the pixels, after them, and behind the scores."""
        self.scores: HostBuffer = device.pinned((faces, classes), np.float32, mapped=True)
        self.picture: DeviceBuffer | None = None
        self.staging: HostBuffer | None = None
        self.source: HostBuffer | None = None
        """The memory that the work under way reads, kept from being freed even if its frame is dropped."""
        self.way: Transfer = "copy"
        self.busy = self.timed = False
        self.seen: dict[int, int] = {}
        """How often each number of faces came up here."""
        self.graphs: dict[int, Graph] = {}
        self.latest = 0
        """The number of faces that came up last."""


class CudaFaceStage:
    """A :class:`edge_fer.runtime.face_stage.FaceStage` whose pixels never pass through the CPU.

    Args:
        pictures: the memory that frames are decoded into; a frame from elsewhere is copied once more, and counted.
        transfer: how pixels reach the GPU; ``None``: see :class:`TransferChoice`.
        graphs: replay captured work; to be off with an adapter that has no graphs.
        load_kernels: default: :func:`load_face_kernels`.

    Raises:
        DeviceError: no memory, or the engine takes no device addresses.
    """

    def __init__(
        self,
        lane: Lane,
        engine: DeviceEngine,
        pictures: PinnedPictures,
        copies: Copies,
        *,
        transfer: Transfer | None = None,
        graphs: bool = True,
        load_kernels: Callable[[CudaDevice, ModelSpec, int], FaceKernels] = load_face_kernels,
    ) -> None:
        for slot in engine.slots:
            _addressed(slot)
        self._lane, self._engine, self._pictures = lane, engine, pictures
        self.copies, self.graphs = copies, graphs and engine.capturable
        self._why_no_graphs = (
            f"{engine.manifest.backend} launches its own kernels" if graphs else "this adapter has no CUDA graphs"
        )
        self.replays = 0
        self.transfer = TransferChoice(integrated=lane.info.integrated, fixed=transfer)
        model, faces = engine.manifest.classifier, engine.manifest.max_batch
        self._spec: PreprocessSpec = model.preprocess
        with lane as device:
            self.places = tuple(
                CudaPlace(device, _addressed(slot), load_kernels(device, model, faces), faces, len(model.labels))
                for slot in engine.slots[:IN_FLIGHT]
            )

    def notes(self) -> tuple[str, ...]:
        """See :class:`edge_fer.runtime.face_stage.FaceStage`."""
        if not self.copies.frames:
            return ()
        launches = (
            f"{self.replays} of {self.copies.frames} launches replayed a CUDA graph."
            if self.graphs
            else f"Every kernel was launched by itself: {self._why_no_graphs}."
        )
        return (self.copies.sentence(), self.transfer.sentence(), launches)

    def prepare(
        self,
        place: CudaPlace,
        image_bgr: NDArray[np.uint8],
        boxes: Sequence[NDArray[np.float32]],
        *,
        whole: bool,
        angles_deg: Sequence[float] = (),
        raw: RawPicture | None = None,
    ) -> None:
        """See :class:`edge_fer.runtime.face_stage.FaceStage`. Queues everything up to the scores and returns.

        Raises:
            DeviceError: no memory for the picture, or the device was lost.
        """
        picture = raw or RawPicture(image_bgr)
        with self._lane as device:
            if place.busy:
                # Nobody asked for the last scores; their work may still read what is written below.
                place.stream.synchronize()
            place.busy = True
            place.timed, place.way = self.transfer.chosen is None, self.transfer.next()
            source = self._pictures.find(picture.memory) or self._staged(device, place, picture.memory)
            place.source = source
            place.began.record(place.stream)
            if place.way == "copy":
                rows = (0, picture.size_hw[0])
                if not whole:
                    rows = rows_with_faces(boxes, self._spec.margin, picture.size_hw[0], angles_deg)
                pointer = self._copied(device, place, source, picture, rows)
            else:
                pointer = source.device_pointer
                self.copies.in_place += 1
            place.arrived.record(place.stream)
            place.kernels.describe(
                pointer,
                picture.size_hw,
                np.asarray(boxes, np.float32),
                whole=whole,
                angles_deg=angles_deg,
                pixels=picture.pixels,
            )
            self._launch(device, place, len(boxes))
            place.done.record(place.stream)
            self.copies.frames += 1

    def scores(self, place: CudaPlace, n: int) -> NDArray[np.float32]:
        """See :class:`edge_fer.runtime.face_stage.FaceStage`."""
        place.done.synchronize()
        place.busy = False
        if place.timed:
            with self._lane:
                self.transfer.add(place.way, place.done.elapsed_ms_since(place.began))
        scores: NDArray[np.float32] = place.scores.array[:n]
        self.copies.scores_bytes += scores.nbytes
        return scores

    def _staged(self, device: CudaDevice, place: CudaPlace, memory: NDArray[np.uint8]) -> HostBuffer:
        """A picture that was decoded elsewhere, such as one of a folder, in pinned memory."""
        if place.staging is None or place.staging.array.shape != memory.shape:
            place.staging = device.pinned(memory.shape, np.uint8, mapped=True)
        self._pictures.copy_in(place.staging.array, memory)
        return place.staging

    def _copied(
        self, device: CudaDevice, place: CudaPlace, source: HostBuffer, picture: RawPicture, rows: tuple[int, int]
    ) -> int:
        """Queue a copy of rows to where they lie in the whole picture; the picture's address."""
        if place.picture is None or place.picture.nbytes < source.nbytes:
            place.picture = device.allocate(source.nbytes)
        for first, nbytes in picture.parts(*rows):
            device.copy_to_device(place.picture.pointer + first, source, nbytes, place.stream, offset=first)
            self.copies.to_device_bytes += nbytes
        self.copies.to_device += 1
        return place.picture.pointer

    def _launch(self, device: CudaDevice, place: CudaPlace, n: int) -> None:
        """The work after the pixels have arrived: call by call at first, then as a graph."""
        if n != place.latest and not self._engine.keeps_captured:
            place.graphs.clear()
            place.seen.clear()
        place.latest = n
        graph, seen = place.graphs.get(n), place.seen.get(n, 0)
        place.seen[n] = seen + 1
        if self.graphs and graph is None and seen == STEADY:
            device.begin_capture(place.stream)
            try:
                self._enqueue(place, n)
            except BaseException:
                with contextlib.suppress(DeviceError):
                    device.end_capture(place.stream)
                raise
            graph = place.graphs[n] = device.end_capture(place.stream)
        if graph is None:
            self._enqueue(place, n)
            return
        graph.launch(place.stream)
        self.replays += 1

    def _enqueue(self, place: CudaPlace, n: int) -> None:
        place.kernels.preprocess(place.slot.input_pointer, n, place.stream)
        self._engine.enqueue(place.slot, place.stream.handle, n)
        place.kernels.softmax(place.slot.output_pointer, place.scores.device_pointer, n, place.stream)

    def close(self) -> None:
        """Wait for what is under way and give the memory back; before the engine is closed."""
        places, self.places = self.places, ()
        with self._lane:
            for place in places:
                place.stream.synchronize()

    def __enter__(self) -> CudaFaceStage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DeviceError):
            # A lost device answers every call with the same error; the first one is what people are told.
            with contextlib.suppress(DeviceError):
                self.close()
        else:
            self.close()


def rows_with_faces(
    boxes: Sequence[NDArray[np.float32]], margin: float, height: int, angles_deg: Sequence[float] = ()
) -> tuple[int, int]:
    """The rows of a picture, [top, bottom), that cropping these boxes reads: at least one."""
    top, bottom = height, 0
    for index, box in enumerate(boxes):
        _, first, side = square_around(box, margin)
        last = first + side - 1
        if len(angles_deg) and angles_deg[index]:
            angle, middle = math.radians(angles_deg[index]), (first + last) / 2
            reach = (abs(math.sin(angle)) + abs(math.cos(angle))) * (side - 1) / 2 + TURN_ROUNDING
            # A turned square's pixels are blended from two rows each.
            first, last = math.floor(middle - reach), math.floor(middle + reach) + 1
        top = min(top, max(0, min(first, height - 1)))
        bottom = max(bottom, max(0, min(last, height - 1)) + 1)
    return top, bottom


def _addressed(slot: Slot) -> DeviceSlot:
    if not isinstance(slot, DeviceSlot):
        raise DeviceError("The engine takes no addresses on the GPU.", fix=f"Use --backend {ENGINES_ON_GPU}.")
    return slot
