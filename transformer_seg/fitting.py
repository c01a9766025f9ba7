"""Whether published tensors fit a network, to the last name and shape."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from common.checkpoints import check_keys
from common.errors import InputError

LISTED = 4  # tensors named in an error


def check_fits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path | str) -> None:
    """Compare names and shapes strictly.

    Raises:
        InputError: Missing or unexpected names, or other shapes, the first ones listed.
    """
    check_keys(found, expected, path)
    differing = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if found[key].shape != tensor.shape
    ]
    if differing:
        more = f" and {len(differing) - LISTED} more" if len(differing) > LISTED else ""
        raise InputError(f"{path}: weights of another shape: {', '.join(differing[:LISTED])}{more}")
