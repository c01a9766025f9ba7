"""Animated GIFs written frame by frame: Pillow's own writer keeps all frames in memory until the end."""

import os
import struct
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

from PIL import GifImagePlugin, Image

from common.errors import InputError
from common.files import atomic_path
from transformer_seg.dino.pictures import Picture

LOOP = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
FASTEST_CS = 2  # hundredths of a second; players slow down what is faster


class GifWriter:
    """Writes frames as an endless GIF, each with its own 256 colours; appears under its name when the block ends well.

    Example:
        >>> with GifWriter("out.gif", fps=10) as gif:  # doctest: +SKIP
        ...     gif.write(np.zeros((48, 64, 3), dtype=np.uint8))
    """

    def __init__(self, path: str | os.PathLike[str], fps: float = 10.0) -> None:
        self._path = Path(path)
        if not fps > 0:
            raise InputError(f"{path}: {fps} frames per second; a positive number is needed")
        self._delay_cs = max(round(100 / fps), FASTEST_CS)
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> "GifWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path))
            self._file = stack.enter_context(temporary.open("wb"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is not None:
            self._stack.__exit__(kind, value, trace)  # the temporary file goes
            return
        with self._stack:
            if self._size is None:
                raise ValueError(f"{self._path}: no frame was written")
            assert self._file is not None
            self._file.write(b";")

    def write(self, frame: Picture) -> None:
        """Append a frame, uint8 (H, W, 3) RGB; all frames have the size of the first."""
        assert self._file is not None
        size = (frame.shape[1], frame.shape[0])
        if self._size is None:
            self._size = size
            self._file.write(b"GIF89a" + struct.pack("<HHBBB", *size, 0, 0, 0) + LOOP)
        elif self._size != size:
            raise ValueError(f"frame of {size}, the first one had {self._size}")
        image = Image.fromarray(frame).quantize(256, method=Image.Quantize.FASTOCTREE)
        self._file.write(b"\x21\xf9\x04" + struct.pack("<BHBB", 0, self._delay_cs, 0, 0))
        for block in GifImagePlugin.getdata(image, include_color_table=True):
            self._file.write(block)
