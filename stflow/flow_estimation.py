"""Optical flow from two frames: DIS on a CPU, RAFT where quality matters.

Both give forward flow, float32 (2, H, W) in pixels: what is at x in the first frame is at x + flow(x) in the second.

References: Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016 (OpenCV's implementation); Teed
and Deng, "RAFT: recurrent all-pairs field transforms for optical flow", ECCV 2020 (torchvision's).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

Image = NDArray[np.uint8]
FlowEstimator = Callable[[Image, Image], NDArray[np.float32]]
DisPreset = Literal["ultrafast", "fast", "medium", "smooth"]
# Of the variational refinement after the search, against OpenCV's 5 rounds and 20: the flow of still water and of road
# without texture is noise otherwise, and noise is what a segmentation of motion takes for objects.
SMOOTH_ROUNDS, SMOOTH_ALPHA = 50, 60.0
RAFT_FILE = "raft_large_C_T_SKHT_V2-ff5fadd5.pth"
RAFT_URL = f"https://download.pytorch.org/models/{RAFT_FILE}"


def dis_estimator(preset: DisPreset = "medium") -> FlowEstimator:
    """OpenCV's dense inverse search on grey values.

    Args:
        preset: OpenCV's ``ultrafast``, ``fast`` or ``medium``, slower and better in this order; or ``smooth``: medium
            with a longer and three times smoother refinement, at twice its time.
    """
    import cv2

    name = "medium" if preset == "smooth" else preset
    search: Any = cv2.DISOpticalFlow.create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{name.upper()}"))
    if preset == "smooth":
        search.setVariationalRefinementIterations(SMOOTH_ROUNDS)
        search.setVariationalRefinementAlpha(SMOOTH_ALPHA)

    def estimate(first: Image, second: Image) -> NDArray[np.float32]:
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
        flow = search.calc(grey[0], grey[1], None)  # None: an array here would be taken as the starting flow
        return np.ascontiguousarray(np.moveaxis(flow, -1, 0), dtype=np.float32)

    return estimate


def raft_estimator(weights: Path | None = None, iterations: int = 20, device: str = "auto") -> FlowEstimator:
    """Torchvision's ``raft_large``.

    Args:
        weights: State dict file; None takes the published ``C_T_SKHT_V2`` from torch's cache or downloads it.
        iterations: Refinement steps.
        device: ``auto`` (CUDA when there is one), ``cpu``, ``cuda`` ...

    Raises:
        InputError: No weights at hand and no network, or the file holds other weights.
    """
    import torch
    from torchvision.models.optical_flow import raft_large

    if iterations < 1:
        raise InputError(f"--iterations {iterations}: use at least 1")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network = raft_large(weights=None, progress=False)
    path = weights if weights is not None else _published_weights()
    load_weights(network, Path(path))
    network.eval().requires_grad_(False).to(device)

    def estimate(first: Image, second: Image) -> NDArray[np.float32]:
        height, width = first.shape[:2]
        top, bottom, left, right = (*_padding(height), *_padding(width))
        pair = torch.from_numpy(np.stack([first, second])).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        pair = torch.nn.functional.pad(pair, (left, right, top, bottom), mode="replicate")
        with torch.inference_mode():
            flow = network(pair[:1], pair[1:], num_flow_updates=iterations)[-1][0]
        return np.ascontiguousarray(flow[:, top : top + height, left : left + width].float().cpu().numpy())

    return estimate


def _padding(size: int, multiple: int = 8, least: int = 128) -> tuple[int, int]:
    """Pixels to add before and after a side: RAFT takes multiples of 8 from 128 on."""
    missing = max(least, -(-size // multiple) * multiple) - size
    return missing // 2, missing - missing // 2


def _published_weights() -> Path:
    """The published weights' file in torch's cache, downloaded if need be."""
    import urllib.error

    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / RAFT_FILE
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(RAFT_URL, str(path), hash_prefix="ff5fadd5", progress=False)
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"RAFT weights: {RAFT_URL} cannot be fetched ({error}); get {RAFT_FILE} elsewhere and put it at {path} "
            "or pass --weights FILE"
        ) from error
    return path


def load_weights(network: Any, path: Path) -> None:
    """Fill a network from a state dict file, without running code from the file.

    Raises:
        InputError: no such file, or weights of another network.
    """
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file; it should be {RAFT_FILE}")
    from common.checkpoints import load_checkpoint

    try:
        network.load_state_dict(load_checkpoint(path))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or ["no state dict"])[0][:120]
        raise InputError(f"--weights {path}: not the weights of torchvision's raft_large ({reason})") from error
