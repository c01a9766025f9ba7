"""Pictures as PNG files, quickly: a fixed filter and zlib's first level, without trying what would compress best.

Step 2 writes five files a frame, and the encoders of Pillow and OpenCV take longer than the networks. zlib works
outside the lock of Python, so that threads write while the networks draw. Source: the specification of PNG,
www.w3.org/TR/png.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.files import atomic_path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
"""By channels: grey, RGB, RGBA."""
UP = 2
"""Filter: each row less the one above."""


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, as a whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(png_bytes(picture))


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """The PNG file of uint8 (H, W), (H, W, 3) RGB or (H, W, 4) RGBA."""
    height, width = picture.shape[:2]
    channels = picture.shape[2] if picture.ndim == 3 else 1
    rows = picture.reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as the filter is defined
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    pixels = zlib.compress(filtered.data, 1)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
