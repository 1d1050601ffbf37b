"""PNG files that say how they were made."""

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

# zlib's quickest level: on photo-like images half the time of the default, for files a few percent larger.
COMPRESS_LEVEL = 1


def encode_png(image: NDArray[np.uint8], parameters: dict[str, Any]) -> bytes:
    """Return an image as PNG, with its parameters as JSON in an iTXt chunk named `parameters`.

    JSON escapes control characters, NUL included, which the PNG specification (section 11.3.3.4) keeps out of text.

    Args:
        image: `[height, width, 3]`, sRGB.
        parameters: what the image was made from.
    """
    info = PngInfo()
    info.add_itxt("parameters", json.dumps(parameters, ensure_ascii=False))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", pnginfo=info, compress_level=COMPRESS_LEVEL)
    return buffer.getvalue()
