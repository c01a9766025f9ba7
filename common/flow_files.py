"""Optical flow on disk: ``.flo`` (Middlebury), ``.png`` (KITTI, 16 bit), ``.npy`` and ``.npz``.

Flow is float32 (2, H, W): channel 0 is u, to the right, channel 1 is v, downwards, both in pixels.
"""

import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import atomic_path, check_file, image_size, read_array, write_array

FLO_TAG = 202021.25  # the Middlebury check number; its four bytes read "PIEH"
FLO_HEADER = struct.Struct("<fii")
UNKNOWN_FLOW = 1e9  # Middlebury: larger magnitudes mark pixels without flow
FLOW_SUFFIXES = (".flo", ".png", ".npy", ".npz")


def read_flow(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """The flow of a file: float32 (2, H, W), (u, v) in pixels.

    ``.npy`` and ``.npz`` (one array, or one named ``flow``) hold (2, H, W) or (H, W, 2).

    Raises:
        InputError: Missing, damaged, of another length than its header says, not finite, or with unknown pixels.
    """
    suffix = _suffix(path)
    if suffix == ".flo":
        flow = _read_flo(path)
    elif suffix == ".png":
        flow = _read_kitti(path)
    else:
        flow = _read_array_flow(path)
    bad = flow.size - int(np.count_nonzero(np.isfinite(flow)))
    if bad:
        raise InputError(f"{path}: {bad} of {flow.size} flow values are NaN or infinite; estimate this flow again")
    unknown = int(np.count_nonzero(np.abs(flow) > UNKNOWN_FLOW))
    if unknown:
        raise InputError(f"{path}: {unknown} flow values exceed 1e9 (unknown flow); a dense flow field is needed")
    return flow


def write_flow(path: str | os.PathLike[str], flow: NDArray[np.floating]) -> None:
    """Write flow (2, H, W) in the format of the suffix.

    ``.png`` rounds to 1/64 pixel and holds [-512, 512); the other formats keep float32.
    """
    suffix = _suffix(path)
    flow = np.asarray(flow, dtype=np.float32)
    if flow.ndim != 3 or flow.shape[0] != 2 or flow.size == 0:
        raise ValueError(f"flow is (2,H,W), got {flow.shape}")
    if suffix == ".flo":
        height, width = flow.shape[1:]
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(FLO_HEADER.pack(FLO_TAG, width, height))
            file.write(np.ascontiguousarray(flow.transpose(1, 2, 0), dtype="<f4").data)
    elif suffix == ".png":
        _write_kitti(path, flow)
    else:
        write_array(path, flow)


def flow_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of a flow file; of a ``.flo`` from its header and length only."""
    if _suffix(path) == ".flo":
        return _flo_header(path)
    height, width = read_flow(path).shape[1:]
    return height, width


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in FLOW_SUFFIXES:
        raise InputError(f"{path}: unknown flow format '{suffix}'; use one of {', '.join(FLOW_SUFFIXES)}")
    return suffix


def _flo_header(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of a ``.flo`` file whose length fits them: nothing is allocated for a header that lies."""
    path = check_file(path, "flow")
    actual = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(FLO_HEADER.size)
    if len(header) < FLO_HEADER.size:
        raise InputError(f"{path}: truncated .flo header, expected {FLO_HEADER.size} bytes, found {actual}")
    tag, width, height = FLO_HEADER.unpack(header)
    if tag != FLO_TAG:
        raise InputError(f"{path}: tag {tag:.8g} instead of {FLO_TAG}; not a (little endian) .flo file")
    if width < 1 or height < 1:
        raise InputError(f"{path}: .flo header says {width}x{height} pixels; make the file again")
    expected = FLO_HEADER.size + 8 * width * height
    if actual != expected:
        raise InputError(
            f"{path}: .flo of {width}x{height} pixels needs {expected} bytes, found {actual}; make it again"
        )
    return height, width


def _read_flo(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    height, width = _flo_header(path)
    values = np.fromfile(path, dtype="<f4", count=2 * height * width, offset=FLO_HEADER.size)
    return np.ascontiguousarray(values.reshape(height, width, 2).transpose(2, 0, 1), dtype=np.float32)


def _read_kitti(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """KITTI: 16-bit RGB holding 64 u + 2^15, 64 v + 2^15 and validity."""
    import cv2  # Pillow reduces 16-bit colour to 8 bit

    image_size(path)  # refuses headers that claim a size beyond all reason
    data = np.frombuffer(check_file(path, "flow").read_bytes(), dtype=np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise InputError(f"{path}: not a readable PNG ({' '.join(str(error).split())[:100]}); make it again") from error
    if picture is None:
        raise InputError(f"{path}: not a readable PNG; make it again")
    if picture.dtype != np.uint16 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"{path}: {picture.dtype} {picture.shape} is no KITTI flow (16-bit RGB); use a .flo file")
    invalid = int(np.count_nonzero(picture[..., 0] == 0))  # channels come as B, G, R
    if invalid:
        raise InputError(f"{path}: {invalid} pixels are marked as without flow; a dense flow field is needed")
    return np.ascontiguousarray((picture[..., :0:-1].transpose(2, 0, 1).astype(np.float32) - 2**15) / 64)


def _write_kitti(path: str | os.PathLike[str], flow: NDArray[np.float32]) -> None:
    import cv2

    values = np.rint(flow.astype(np.float64) * 64 + 2**15)  # float32 would round twice
    if not (values.min() >= 0 and values.max() < 2**16):
        raise InputError(f"{path}: KITTI .png holds flow in [-512, 512), got [{flow.min()}, {flow.max()}]; use .flo")
    picture = np.ones((*flow.shape[1:], 3), dtype=np.uint16)
    picture[..., 2], picture[..., 1] = values[0], values[1]
    _, data = cv2.imencode(".png", picture)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _read_array_flow(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    try:
        flow = np.asarray(read_array(path))
    except InputError:
        if Path(path).suffix.lower() != ".npz":
            raise
        flow = np.asarray(read_array(path, "flow"))
    if flow.dtype.kind not in "fiu":
        raise InputError(f"{path}: {flow.dtype} values are no flow; expected numbers")
    if flow.ndim == 3 and flow.shape[0] != 2 and flow.shape[2] == 2:
        flow = flow.transpose(2, 0, 1)
    if flow.ndim != 3 or flow.shape[0] != 2 or flow.size == 0:
        raise InputError(f"{path}: shape {flow.shape} is no flow; expected (2,H,W) or (H,W,2)")
    return np.ascontiguousarray(flow, dtype=np.float32)
