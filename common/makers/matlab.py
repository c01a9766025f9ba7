"""Label maps inside Matlab files, as the Berkeley data sets keep them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import check_file

DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MemoryError)


def read_struct(path: Path, name: str) -> NDArray[Any]:
    """A variable of a ``.mat`` file.

    Raises:
        InputError: no such file or variable, or not a Matlab file up to version 7.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    check_file(path, "Matlab file")
    try:
        content = loadmat(path)
    except (*DAMAGE, MatReadError) as error:
        raise InputError(f"{path}: not a Matlab file that can be read ({str(error).splitlines()[0]})") from error
    if name not in content:
        raise InputError(f"{path}: no variable {name}; is this file of the data set?")
    return content[name]


def bsds_annotations(path: Path) -> list[NDArray[np.int64]]:
    """The segmentations (H, W) of all annotators of a BSDS500 image, labels from 1 on.

    Raises:
        InputError: not such a file.
    """
    cells = read_struct(path, "groundTruth").ravel()
    try:
        return [np.asarray(cell["Segmentation"][0, 0], dtype=np.int64) for cell in cells]
    except DAMAGE as error:
        raise InputError(f"{path}: groundTruth holds no Segmentation; is this a file of BSDS500?") from error


def sbd_labels(path: Path, name: str) -> NDArray[np.int64]:
    """The map (H, W) of an SBD file.

    Args:
        path: File of ``cls`` or ``inst``.
        name: ``GTcls`` or ``GTinst``.

    Raises:
        InputError: not such a file.
    """
    try:
        return np.asarray(read_struct(path, name)["Segmentation"][0, 0], dtype=np.int64)
    except DAMAGE as error:
        raise InputError(f"{path}: {name} holds no Segmentation; is this a file of SBD?") from error
