"""Images, masks, label maps and arrays on disk: checked readers, atomic writers.

A reader either returns what its docstring says or raises ``InputError`` with one line that names the file; it never
returns a guess. A writer writes to a temporary name in the same folder and renames, so that an interrupted run leaves
no half file under a final name. Flow is in ``common.flow_files``, video in ``common.video``. No torch is imported here.
"""

import errno
import os
import secrets
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from common.errors import InputError

MaskEncoding = Literal["auto", "255", "binary01", "palette_ids", "threshold128", "cdnet"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
CDNET_VALUES = {0, 50, 85, 170, 255}  # changedetection.net: static, shadow, outside, unknown, moving
# What the decoders of Pillow, of numpy's headers and of zip archives raise for a damaged file
IMAGE_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error)
ARRAY_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


@contextmanager
def atomic_path(path: str | os.PathLike[str], suffix: str | None = None) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` that becomes ``path`` when the block ends well.

    Parent folders are made. On an error (an interruption included) the temporary file is removed and an older file
    under the final name stays as it was.

    Args:
        path: Final name.
        suffix: Ending of the temporary name, for writers that choose a format by it; default that of ``path``.

    Raises:
        InputError: The folder cannot be made or written, or ``path`` is a folder.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot make its folder ({error.strerror}); choose another output folder") from error
    if path.is_dir():
        raise InputError(f"{path}: is a folder, a file name is needed")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: its folder is not writable; choose another output folder")
    temporary = (
        path.parent / f".{path.stem[:100]}.{secrets.token_hex(4)}.tmp{path.suffix if suffix is None else suffix}"
    )
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        if full and error.filename in (None, str(temporary)):
            raise InputError(f"{path}: cannot write ({error.strerror}); free space or choose another folder") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike[str], flag: str = "--out") -> None:
    """Whether files can be written into a folder, which need not exist yet; nothing is made.

    Raises:
        InputError: A file stands in the way, or no permission.
    """
    nearest = Path(folder).absolute()
    try:
        while not nearest.exists():
            nearest = nearest.parent
    except OSError as error:
        raise InputError(f"{flag} {folder}: cannot be used ({error.strerror}); choose another folder") from error
    if not nearest.is_dir():
        raise InputError(f"{flag} {folder}: {nearest} is a file, not a folder; choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {folder}: {nearest} is not writable; choose another folder")


def check_file(
    path: str | os.PathLike[str], what: str, remedy: str = "check --base_dir and the paths of the split"
) -> Path:
    """``path`` as a ``Path`` when it is a readable file that is not empty.

    Args:
        path: File to look at.
        what: What it should hold, for the message ("image", "flow" ...).
        remedy: What to do when it is missing, for the message; by default that of a file named in a split.

    Raises:
        InputError: Missing, a folder, unreadable or empty.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a file holding {what}")
        if path.exists() and not path.is_file():  # opening a pipe would wait, reading a device never end
            raise InputError(f"{path}: a pipe or device, expected a file holding {what}")
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such {what} file; {remedy}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read this {what} file ({error.strerror})") from error
    except ValueError as error:  # a NUL byte in the name
        raise InputError(f"{str(path)!r}: no valid file name") from error
    if empty:
        raise InputError(f"{path}: the {what} file is empty (0 bytes); make it again")
    return path


@contextmanager
def _opened(path: str | os.PathLike[str], what: str) -> Iterator[Image.Image]:
    """The Pillow image of ``path``; what its decoders raise becomes an ``InputError``."""
    path = check_file(path, what)
    try:
        with Image.open(path) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too large for an {what} ({error})") from error
    except IMAGE_DAMAGE as error:
        raise InputError(
            f"{path}: not a readable {what} ({_reason(error)}); make it again or convert it to PNG"
        ) from error


def _reason(error: BaseException) -> str:
    """What a decoder said, on one line of modest length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]}..."


def read_image(path: str | os.PathLike[str], upright: bool = True) -> NDArray[np.uint8]:
    """An RGB image: uint8 (H, W, 3).

    The EXIF orientation is applied, unless ``upright`` is False: annotations of some data sets are of the pixels as
    stored. Grey, palette and CMYK files are converted, 16-bit values keep their high byte, an
    alpha channel is dropped, an animation gives its first frame.

    Raises:
        InputError: Not a readable image, or floating-point / 32-bit values whose range is unknown.
    """
    with _opened(path, "image") as image:
        image = ImageOps.exif_transpose(image) if upright else image
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode in ("I", "F"):
            raise InputError(f"{path}: {image.mode} values (32 bit) are no image; convert it to 8-bit PNG or JPEG")
        if "transparency" in image.info:
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def image_size(path: str | os.PathLike[str], upright: bool = True) -> tuple[int, int]:
    """(H, W) of an image as ``read_image`` would give it, without decoding its pixels."""
    with _opened(path, "image") as image:
        width, height = image.size
        if not upright:
            return height, width
        # Pillow decodes a whole PNG in search of its EXIF block, which few have
        looked = image.format != "PNG" or any(word in Path(path).read_bytes() for word in (b"eXIf", b"type exif"))
        rotated = looked and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientation: 5..8 lie on their side
    return (width, height) if rotated else (height, width)


def write_image(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) grey in the format of the suffix (JPEG at quality 95)."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"an image is uint8 (H,W) or (H,W,3), got {image.dtype} {image.shape}")
    _save(path, Image.fromarray(image))


def _save(path: str | os.PathLike[str], image: Image.Image) -> None:
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise InputError(f"{path}: unknown image suffix; use one of {', '.join(IMAGE_SUFFIXES)}")
    with atomic_path(path) as temporary:
        if suffix in (".jpg", ".jpeg"):
            image.save(temporary, quality=95)
        else:
            image.save(temporary)


def _stored_values(image: Image.Image, path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """Stored values (H, W): palette index, grey value, 0/1 of 1 bit, or the value of equal RGB channels."""
    values = np.asarray(image)
    if values.ndim == 2 and image.mode != "F":
        return values.astype(np.int32)
    if image.mode in ("LA", "PA"):
        return values[..., 0].astype(np.int32)
    if image.mode in ("RGB", "RGBA"):
        if np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2]):
            return values[..., 0].astype(np.int32)
        raise InputError(f"{path}: a colour picture, not a label map; save indices as a grey or palette PNG")
    raise InputError(f"{path}: {image.mode} pixels are no label map; save indices as a grey or palette PNG")


def read_labels(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """A label map: int64 (H, W), the indices exactly as stored (palette index, grey value, 8 or 16 bit).

    Raises:
        InputError: Not readable, a colour picture, or a JPEG (its compression changes labels).
    """
    with _opened(path, "label map") as image:
        if image.format == "JPEG":
            raise InputError(
                f"{path}: a JPEG does not keep label values; use a PNG (masks: --mask_encoding threshold128)"
            )
        return _stored_values(ImageOps.exif_transpose(image), path).astype(np.int64)


def voc_palette() -> NDArray[np.uint8]:
    """The PASCAL VOC colours: uint8 (256, 3); bit k of a colour channel comes from bits 3k, 3k+1, 3k+2 of the index."""
    index = np.arange(256)[:, None]
    channel = np.arange(3)[None, :]
    palette = np.zeros((256, 3), dtype=np.int64)
    for bit in range(8):
        palette |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return palette.astype(np.uint8)


def write_labels(
    path: str | os.PathLike[str], labels: NDArray[np.integer], palette: NDArray[np.uint8] | None = None
) -> None:
    """Write integer labels (H, W): an indexed PNG up to 255, a 16-bit grey PNG up to 65535.

    Args:
        path: Must end in ``.png``.
        labels: Values in [0, 65535].
        palette: uint8 (256, 3) colours of the indexed PNG; default the VOC colours.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{path}: label maps are written as .png only")
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise ValueError(f"labels are integers (H,W), got {labels.dtype} {labels.shape}")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= 65535:
        raise ValueError(f"labels must lie in [0, 65535], got [{labels.min()}, {labels.max()}]")
    if labels.size and labels.max() > 255:
        _save(path, Image.fromarray(labels.astype(np.uint16)))
        return
    image = Image.fromarray(labels.astype(np.uint8)).convert("L")
    image.putpalette((voc_palette() if palette is None else palette).astype(np.uint8).tobytes())
    _save(path, image)


@dataclass(frozen=True)
class Mask:
    """Foreground of one frame.

    Attributes:
        labels: int32 (H, W); 0 background, object ids above (1 when the file is binary).
        void: bool (H, W); pixels that count for nothing.
    """

    labels: NDArray[np.int32]
    void: NDArray[np.bool_]

    @property
    def foreground(self) -> NDArray[np.bool_]:
        """Where any object is, void excluded: bool (H, W)."""
        return (self.labels > 0) & ~self.void


def read_mask(path: str | os.PathLike[str], encoding: MaskEncoding = "auto") -> Mask:
    """The foreground mask of a file.

    Args:
        path: PNG, JPEG, BMP ... of one channel (or three equal ones).
        encoding: ``auto`` accepts what has one meaning only: 1 bit; {0, 255}; {0, 1}; a colour palette with ids
            1..254 as objects and 255 as void. ``255``: only the stored value 255 is foreground, first channel, whatever
            the file (what the published motion-segmentation code computes). ``binary01``: 1 is foreground.
            ``palette_ids``: ids 1..254, 255 void, also in grey files. ``threshold128``: grey of 128 and more.
            ``cdnet``: 255 is foreground, 170 (unknown) and 85 (outside the region of interest) are void, 50 (shadow)
            and 0 are background.

    Raises:
        InputError: Not readable, or values that do not fit the encoding (the message names the flag to pass).
    """
    if encoding not in get_args(MaskEncoding):
        raise InputError(f"--mask_encoding {encoding}: unknown; choose one of {', '.join(get_args(MaskEncoding))}")
    with _opened(path, "mask") as image:
        image = ImageOps.exif_transpose(image)
        if encoding == "threshold128":
            return _binary(np.asarray(image.convert("L")) >= 128)
        if encoding == "255" and image.mode in ("RGB", "RGBA"):
            return _binary(np.asarray(image)[..., 0] == 255)
        colours = _has_colour_palette(image)
        if encoding in ("auto", "cdnet") and image.mode == "P" and not colours:
            image = image.convert("L")  # a grey palette may map index 0 to white: the shade is what is meant
        values = _stored_values(image, path)
        lossy = image.format == "JPEG" or Path(path).suffix.lower() in (".jpg", ".jpeg")
    if encoding == "255":
        return _binary(values == 255)
    present = set(value_counts(values))
    if encoding == "cdnet" and present <= CDNET_VALUES:
        return Mask((values == 255).astype(np.int32), (values == 85) | (values == 170))
    if encoding == "auto" and present <= {0, 255}:
        return _binary(values == 255)
    if encoding in ("auto", "binary01") and present <= {0, 1}:
        return _binary(values == 1)
    if encoding == "palette_ids" or (encoding == "auto" and colours):
        return Mask(np.where(values == 255, 0, values).astype(np.int32), values == 255)
    shown = ", ".join(str(value) for value in sorted(present)[:8]) + (", ..." if len(present) > 8 else "")
    if encoding == "auto" and present <= CDNET_VALUES and not lossy:
        raise InputError(f"{path}: mask values {{{shown}}} are those of CDnet; pass --mask_encoding cdnet")
    ids = not lossy and max(present - {255}, default=255) <= len(present)
    remedy = "palette_ids" if ids else "threshold128 (grey masks) or --mask_encoding 255 (only 255 is foreground)"
    raise InputError(f"{path}: mask values {{{shown}}} do not fit '{encoding}'; pass --mask_encoding {remedy}")


def value_counts(labels: NDArray[np.integer]) -> dict[int, int]:
    """Number of pixels by value, in ascending value."""
    if labels.size and labels.min() >= 0 and labels.max() < 65536:  # counting is far quicker than sorting
        counts = np.bincount(labels.ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True))


def _binary(foreground: NDArray[np.bool_]) -> Mask:
    return Mask(foreground.astype(np.int32), np.zeros(foreground.shape, dtype=bool))


def _has_colour_palette(image: Image.Image) -> bool:
    palette = np.asarray(image.getpalette("RGB") or [] if image.mode in ("P", "PA") else []).reshape(-1, 3)
    return bool((palette != palette[:, :1]).any())


def read_array(path: str | os.PathLike[str], key: str | None = None) -> NDArray[np.generic]:
    """The array of a ``.npy`` or ``.npz`` file; pickled objects are refused.

    Args:
        path: The file.
        key: Which array of an ``.npz``; may be left out when it holds one.
    """
    path = check_file(path, "array")
    try:
        if path.suffix.lower() == ".npy":
            # memory mapping compares the header's shape with the file's length before anything is allocated
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: not an .npz archive; arrays are read from .npy and .npz files")
            names = list(archive.files)
            if key is None and len(names) == 1:
                key = names[0]
            if key not in names:
                raise InputError(f"{path}: holds the arrays {names}, cannot take '{key}'")
            return archive[key]
    except ARRAY_DAMAGE as error:
        raise InputError(f"{path}: not a readable array file ({_reason(error)}); make it again") from error


def write_array(path: str | os.PathLike[str], array: NDArray[np.generic]) -> None:
    """Write an array as ``.npy``, or compressed as ``.npz`` under the key ``array``."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise InputError(f"{path}: arrays are written as .npy or .npz")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if suffix == ".npy":
            np.save(file, array, allow_pickle=False)
        else:
            np.savez_compressed(file, array=array, allow_pickle=False)
