"""Pictures as byte strings that Pillow would not write: PNG chunks, EXIF blocks, colour profiles."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(pixels: np.ndarray, *before: bytes, depth: int = 8, after: tuple[bytes, ...] = ()) -> bytes:
    """A PNG file of samples [h w c], c of 1 to 4, with other chunks before and after the pixels."""
    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2" if depth == 16 else np.uint8))
    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + data + b"".join(after) + chunk(b"IEND", b"")


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """An EXIF block of entries (tag, type, count, value); values of more than 4 bytes lie behind."""
    start, rows, behind = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, count, value in entries:
        rows += struct.pack(f"{order}HHL", tag, kind, count)
        if len(value) > 4:
            rows += struct.pack(f"{order}L", start + len(behind))
            behind += value
        else:
            rows += value.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}L", 8)
    return b"Exif\0\0" + head + struct.pack(f"{order}H", len(entries)) + rows + b"\0\0\0\0" + behind


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 from its tags' content."""
    tags = {b"desc": _description(), b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": _xyz(0.9642, 1, 0.8249), **tags}
    place, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        table += name + struct.pack(">LL", place + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">L4sL4s4s4s", place + len(data), b"none", 0x02100000, kind, space, connection)
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(24)
    head += struct.pack(">L3l", 0, *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">L", len(tags)) + table + data


def display_p3() -> bytes:
    """The primaries of Display P3 with a power of 2.2."""
    primaries = {
        b"rXYZ": _xyz(0.51512, 0.24120, -0.00105),
        b"gXYZ": _xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": _xyz(0.15710, 0.06657, 0.78407),
    }
    return profile(b"RGB ", b"XYZ ", primaries | {name: _power(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")})


def linear_grey() -> bytes:
    """Grey whose values are proportional to light."""
    return profile(b"GRAY", b"XYZ ", {b"kTRC": _power(1.0)})


def one_ink() -> bytes:
    """CMYK of a press whose cyan ink is all black, and whose other inks do nothing."""
    ramp = bytes(range(256))
    # sixteen corners, C M Y K, the last fastest: Lab of paper white without cyan, of black with it
    corners = b"".join(bytes([0 if corner & 8 else 255, 128, 128]) for corner in range(16))
    identity = struct.pack(">9l", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    return profile(b"CMYK", b"Lab ", {b"A2B0": table})


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3l", *(round(value * 65536) for value in values))


def _power(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">LH", 1, round(gamma * 256))


def _description() -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">L", 5) + b"made\0" + bytes(4 + 4 + 2 + 1 + 67)
