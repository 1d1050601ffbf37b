"""PNG files (ISO/IEC 15948) that say how they were made.

Written here rather than by Pillow, whose deflate takes several times as long as ISA-L's for files of the same size.
"""

import json
import struct
import zlib
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB_8_BIT = struct.pack(">5B", 8, 2, 0, 0, 0)  # depth, colour type, deflate, the five filters, not interlaced
SUB = 1  # filter type: each byte less that of the pixel to its left
COMPRESS_LEVEL = 1


def encode_png(image: NDArray[np.uint8], parameters: dict[str, Any]) -> bytes:
    """Return an image as PNG, with its parameters as JSON in an iTXt chunk named `parameters`.

    JSON escapes NUL, which the PNG specification (section 11.3.3.4) keeps out of text.

    Args:
        image: `[height, width, 3]`, sRGB.
        parameters: what the image was made from.
    """
    height, width, channels = image.shape
    pixels = image.reshape(height, width * channels)
    lines = np.empty((height, 1 + width * channels), np.uint8)
    lines[:, 0] = SUB
    lines[:, 1 : 1 + channels] = pixels[:, :channels]
    np.subtract(pixels[:, channels:], pixels[:, :-channels], out=lines[:, 1 + channels :])
    # Keyword, not compressed, no language, no translated keyword.
    text = b"parameters\0\0\0\0\0" + json.dumps(parameters, ensure_ascii=False).encode()
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", struct.pack(">2I", width, height) + RGB_8_BIT),
            _chunk(b"iTXt", text),
            _chunk(b"IDAT", isal_zlib.compress(lines, COMPRESS_LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
