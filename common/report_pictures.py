"""Pictures as data URIs that together stay below a size."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# long sides and WebP qualities to try, best first; the last is used even when it is too large
_STEPS = ((1600, 85), (1200, 80), (960, 75), (720, 70), (540, 65), (400, 60), (300, 50), (200, 40))


@dataclass(frozen=True)
class Picture:
    """A captioned picture, uint8 (H, W, 3)."""

    caption: str
    image: NDArray[np.uint8]


def data_uri(image: NDArray[np.uint8], max_bytes: int) -> str:
    """The picture as a WebP data URI of at most ``max_bytes`` characters, if its smallest form allows.

    Small pictures are enlarged by whole factors, so that single pixels can be seen.
    """
    from PIL import Image

    source = Image.fromarray(image)
    factor = max(1, 160 // max(source.size))
    if factor > 1:
        source = source.resize((source.width * factor, source.height * factor), Image.Resampling.NEAREST)
    uri, size = "", float("inf")
    used_side, used_quality = 1, 1
    for side, quality in _STEPS:
        side = min(side, max(source.size))
        # bytes go about with area and quality: leave out encodings that cannot fit
        if (
            uri
            and (side, quality) != _STEPS[-1]
            and size * (side / used_side) ** 2 * quality / used_quality > max_bytes
        ):
            continue
        scaled = source.copy()
        scaled.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        scaled.save(buffer, "WEBP", quality=quality, method=2)
        uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        size, used_side, used_quality = len(uri), side, quality
        if size <= max_bytes:
            break
    return uri


def embed_pictures(
    galleries: Mapping[str, Sequence[Picture]], total_bytes: int = 5_000_000
) -> list[dict[str, str | list[dict[str, str]]]]:
    """Galleries with pictures as data URIs, ``wide`` for panels and ``strip`` for rows; empty ones are left out.

    Args:
        galleries: Pictures by the gallery's title.
        total_bytes: Characters for all pictures together, shared evenly; a page with curves has 5 MB of script too.
    """
    count = sum(len(pictures) for pictures in galleries.values())
    return [
        {
            "title": title,
            "pictures": [
                {
                    "caption": picture.caption,
                    "uri": data_uri(picture.image, total_bytes // count),
                    "wide": _width(picture.image),
                }
                for picture in pictures
            ],
        }
        for title, pictures in galleries.items()
        if pictures
    ]


def _width(image: NDArray[np.uint8]) -> str:
    share = image.shape[1] / image.shape[0]
    return "strip" if share > 6 else "wide" if share > 2.2 else ""
