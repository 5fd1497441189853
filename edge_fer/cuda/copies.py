"""How often a picture is copied on its way to the network, counted where each copy is ordered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Copies:
    """Counts of one run of the loop on a GPU.

    Attributes:
        frames: how often faces of a frame were sent on their way: once for a frame with faces, and once more for every
            further batch of them.
        on_host: pictures copied within the host's memory, because the decoder did not write where the GPU reads.
        to_device: pictures of which a part was copied to the GPU's memory, by its copy engine.
        in_place: pictures that the GPU read where the decoder had put them.
        on_host_bytes, to_device_bytes: what these copies moved.
        scores_bytes: results, which the GPU writes where the host reads them: no copy.
        searched: frames that the GPU searched for faces; ``searched_bytes`` were copied to it for that, frame by frame
            as a whole.
    """

    frames: int = 0
    on_host: int = 0
    on_host_bytes: int = 0
    to_device: int = 0
    to_device_bytes: int = 0
    in_place: int = 0
    scores_bytes: int = 0
    searched: int = 0
    searched_bytes: int = 0

    @property
    def per_frame(self) -> float:
        """Copies that a frame with faces went through between decoder and scores."""
        return (self.on_host + self.to_device) / self.frames if self.frames else 0.0

    def sentence(self) -> str:
        """For people."""
        searched = ""
        if self.searched:
            searched = f" For {self.searched} searches, {self.searched_bytes / self.searched / 1e6:.2f} MB each."
        if not self.frames:
            return f"No face went to the GPU.{searched}"
        parts = []
        if self.to_device:
            parts.append(f"{self.to_device} to the GPU, {self.to_device_bytes / self.to_device / 1e6:.2f} MB each")
        if self.on_host:
            parts.append(f"{self.on_host} within host memory, {self.on_host_bytes / self.on_host / 1e6:.2f} MB each")
        if self.in_place:
            parts.append(f"{self.in_place} frames read in place without one")
        return f"Copies of a frame with faces: {self.per_frame:.2f} ({'; '.join(parts)}).{searched}"


__all__ = ["Copies"]
