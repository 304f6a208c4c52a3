"""PNG, 8-bit RGB. Source: W3C, Portable Network Graphics, third edition."""

from __future__ import annotations

import struct
import zlib


def encode_png(width: int, height: int, pixels: bytes | bytearray) -> bytes:
    """Encode rows of RGB bytes, the top row first."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(pixels[3 * width * y : 3 * width * (y + 1)]) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
