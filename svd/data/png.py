"""PNG files stripped of ancillary chunks.

Texts of megabytes (workflows, prompts) and profiles of any size are stored beside the pixels, deflated. Pillow inflates
them up to a limit, and beyond it refuses the whole picture.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

MAX_METADATA = 2**20
"""Bytes of a profile or a text once inflated; Pillow refuses more."""

ORIENTATION_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords of the texts that may state the orientation."""

_METADATA = (b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt")
"""Types of the chunks beside the picture that may be kept."""


def strip_metadata(file: BinaryIO, limit: int) -> bytes:
    """The PNG file with pixels, palette, transparency, colour profile and orientation alone, each metadatum once.

    Kept chunks are unchanged, checksums included; but a profile that is damaged or larger than MAX_METADATA is replaced
    by an empty one, so that the picture still has one that cannot be used. Dropped chunks are not even read. Raises
    ValueError where more than `limit` bytes would be kept.
    """
    file.seek(0)
    parts, size, seen = [file.read(8)], 8, set()
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">L4s", head)
        picture = kind[:1].isupper() or kind == b"tRNS"
        if not picture and (kind not in _METADATA or length > MAX_METADATA):
            file.seek(length + 4, 1)
            if kind != b"iCCP":
                continue
            body = b""
        else:
            size += length
            if size > limit:
                raise ValueError(f"more than {limit // 2**20} MB of picture data")
            body = file.read(length + 4)  # with its checksum; Pillow reports truncation
        if not picture:
            name, sound = _examined(kind, body[:-4])
            if name in seen or not (sound or kind == b"iCCP"):
                continue
            seen.add(name)
            head, body = (head, body) if sound else _empty_profile()
        parts += [head, body]
    return b"".join(parts)


def _examined(kind: bytes, data: bytes) -> tuple[bytes, bool]:
    """What a chunk of _METADATA says something about, and whether it is wanted and intact."""
    name, _, content = data.partition(b"\0")
    if kind == b"eXIf":
        return kind, True
    if kind == b"iCCP":
        return kind, _inflates(content[1:])  # after the compression method
    if name not in ORIENTATION_TEXTS:
        return name, False
    if kind == b"zTXt":
        return name, _inflates(content[1:])
    if kind == b"iTXt" and content[:1] == b"\1":  # deflated, after two flags, a language and a translated keyword
        return name, _inflates(content[2:].split(b"\0", 2)[-1])
    return name, True


def _inflates(content: bytes) -> bool:
    """Whether deflated data are complete and inflate to at most MAX_METADATA."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(content, MAX_METADATA)
    except zlib.error:
        return False
    return stream.eof


def _empty_profile() -> tuple[bytes, bytes]:
    """Head and body of an iCCP chunk with an empty profile."""
    data = b"empty\0\0" + zlib.compress(b"")
    return struct.pack(">L4s", len(data), b"iCCP"), data + struct.pack(">L", zlib.crc32(b"iCCP" + data))
