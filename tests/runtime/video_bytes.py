"""Video files cut and rearranged at the level of their containers."""

from __future__ import annotations


def with_index_first(data: bytes) -> bytes:
    """An MP4 with ``moov`` before ``mdat``, as web servers hold them; chunk offsets move by the index's size."""
    boxes, offset = [], 0
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 4], "big")
        boxes.append((data[offset + 4 : offset + 8], data[offset : offset + size]))
        offset += size
    moov = bytearray(next(box for kind, box in boxes if kind == b"moov"))
    at = moov.index(b"stco") + 8
    count = int.from_bytes(moov[at : at + 4], "big")
    for place in range(at + 4, at + 4 + 4 * count, 4):
        moved = int.from_bytes(moov[place : place + 4], "big") + len(moov)
        moov[place : place + 4] = moved.to_bytes(4, "big")
    rest = [box for kind, box in boxes if kind != b"moov"]
    return rest[0] + bytes(moov) + b"".join(rest[1:])
