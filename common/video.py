"""Video files through PyAV: frames one by one, facts from the header, an H.264 writer."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import atomic_path, check_file

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video.

    Attributes:
        num_frames: As the header says, which may exceed what decodes by a few; counted where the header is silent.
        height: Rows of an upright frame.
        width: Columns of an upright frame.
        fps: Frames per second, 0 when unknown.
    """

    num_frames: int
    height: int
    width: int
    fps: float


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """(container, first video stream); what the decoder raises becomes an ``InputError``."""
    import av

    path = check_file(path, "video")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video stream; convert it to .mp4 (H.264)")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise InputError(f"{path}: not a readable video ({error.strerror}); convert it to .mp4 (H.264)") from error


def video_frames(path: str | os.PathLike[str]) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video in order, upright, each uint8 (H, W, 3) RGB, decoded as they are asked for.

    Raises:
        InputError: Missing, not a video, or damaged (also in the middle, when that frame is reached).
    """
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            image = frame.to_ndarray(format="rgb24")
            yield np.ascontiguousarray(np.rot90(image, _quarter_turns(frame)))


def _quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that put a frame upright: phones film lying and note how to turn."""
    return round(frame.rotation / 90)


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Number and size of the frames; all are decoded only when the header does not give their number.

    Raises:
        InputError: Missing, not a video, or one of which no frame can be decoded.
    """
    with _opened(path) as (container, stream):
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise InputError(f"{path}: no frame can be decoded; convert it to .mp4 (H.264)")
        num_frames = stream.frames or 1 + sum(1 for _ in frames)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
    lying = _quarter_turns(first) % 2 == 1
    height, width = (first.width, first.height) if lying else (first.height, first.width)
    return VideoInfo(num_frames, height, width, fps)


class VideoWriter:
    """Writes frames as H.264 (yuv420p, plays everywhere); the file appears under its name when the block ends well.

    H.264 in yuv420p needs even sizes: an odd last row or column is written twice.

    Example:
        >>> with VideoWriter("out.mp4", fps=25) as video:  # doctest: +SKIP
        ...     video.write(np.zeros((48, 64, 3), dtype=np.uint8))
    """

    def __init__(self, path: str | os.PathLike[str], fps: float = 25.0) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise InputError(f"{path}: videos are written as .mp4, .mkv or .mov")
        if not fps > 0:
            raise InputError(f"{path}: {fps} frames per second; a positive number is needed")
        self._fps = Fraction(fps).limit_denominator(1001)
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> "VideoWriter":
        import av

        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path))
            self._container = stack.enter_context(av.open(str(temporary), mode="w"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if value is not None:
            # the stack sees the exception, so that the temporary file goes and the final name is not touched
            self._stack.__exit__(kind, value, trace)
            return
        with self._stack:
            if self._stream is None:
                raise ValueError(f"{self._path}: no frame was written")
            self._container.mux(self._stream.encode(None))

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append a frame, uint8 (H, W, 3) RGB; all frames have the size of the first."""
        import av

        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is uint8 (H,W,3), got {frame.dtype} {frame.shape}")
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._fps)
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        elif (self._stream.height, self._stream.width) != frame.shape[:2]:
            raise ValueError(f"frame of {frame.shape[:2]}, the first one had {self._stream.height, self._stream.width}")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
