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
            name, sound = _METADATA[kind](body[:-4])
            if name in seen or not (sound or kind == b"iCCP"):
                continue
            seen.add(name)
            head, body = (head, body) if sound else _empty_profile()
        parts += [head, body]
    return b"".join(parts)


def _exif(data: bytes) -> tuple[bytes, bool]:
    return b"eXIf", True


def _profile(data: bytes) -> tuple[bytes, bool]:
    return b"iCCP", _inflates(data.partition(b"\0")[2][1:])


def _text(data: bytes) -> tuple[bytes, bool]:
    name = data.partition(b"\0")[0]
    return name, name in ORIENTATION_TEXTS


def _deflated_text(data: bytes) -> tuple[bytes, bool]:
    name, _, content = data.partition(b"\0")
    return name, name in ORIENTATION_TEXTS and _inflates(content[1:])  # after the compression method


def _international_text(data: bytes) -> tuple[bytes, bool]:
    name, _, rest = data.partition(b"\0")
    content = rest[2:].split(b"\0", 2)[-1]  # after two flags, a language and a translated keyword
    return name, name in ORIENTATION_TEXTS and (rest[:1] != b"\1" or _inflates(content))


_METADATA = {
    b"eXIf": _exif,
    b"iCCP": _profile,
    b"tEXt": _text,
    b"zTXt": _deflated_text,
    b"iTXt": _international_text,
}
"""By the type of a chunk: a function of its data that returns its key, and whether it is wanted and intact."""


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
