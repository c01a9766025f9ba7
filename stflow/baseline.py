"""What needs no network: the linear baseline, and k-means on the flow.

``baseline``: per frame, a quadratic motion of the whole image is fitted robustly (l1, as in the loss of the method);
the length of the residual flow is split in two by Otsu's threshold. No ground truth.

``kmeans``: per frame, the flow vectors fall into L clusters, and the ground truth chooses those that make the mask, in
every frame anew: clusters have no identity over time. The method's own segments are chosen once per chunk of frames.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from common.files import read_mask, write_labels
from common.flow_files import read_flow
from common.resize import resize_flow, resize_mask
from common.splits import Split, relative_cell, write_split
from stflow.foreground import foreground
from stflow.motion import motion_model
from stflow.options import MaskEncoding
from stflow.segments import upscale_labels
from stflow.theta import fit_theta

KMEANS_STARTS, KMEANS_STEPS, KMEANS_SHIFT_PX = 3, 50, 1e-3
Mask = NDArray[np.uint8]
MaskRule = Callable[[int, NDArray[np.float32]], Mask]


def residual_mask(flow: NDArray[np.float32], size: tuple[int, int]) -> Mask:
    """Foreground (I, J), 0 or 1, at the working size.

    Args:
        flow: (2, H, W) in pixels.
        size: Rows and columns to work at.
    """
    model = motion_model("QuadraticFull")
    observed = resize_flow(torch.from_numpy(flow), size)[None, :, None]  # (1,2,1,I,J)
    whole = torch.ones(1, 1, 1, *size)
    theta = fit_theta(whole, observed, model)
    residual = (observed - model.flow(theta[:, 0], 1, *size)).norm(dim=1)[0, 0].numpy()
    grey = np.round(255 * residual / max(float(residual.max()), 1e-6)).astype(np.uint8)
    _, mask = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(mask, np.uint8)


def kmeans_segments(flow: NDArray[np.float32], size: tuple[int, int], num_segments: int) -> NDArray[np.int64]:
    """Clusters (I, J) of the flow vectors, 0 to L-1, at the working size; the same every time.

    Args:
        flow: (2, H, W) in pixels.
        size: Rows and columns to work at.
        num_segments: L.
    """
    vectors = resize_flow(torch.from_numpy(flow), size).flatten(1).T.contiguous().numpy()
    end = (cv2.TERM_CRITERIA_MAX_ITER + cv2.TERM_CRITERIA_EPS, KMEANS_STEPS, KMEANS_SHIFT_PX)
    cv2.setRNGSeed(0)
    start = np.empty((0, 0), np.int32)
    _, labels, _ = cv2.kmeans(vectors, num_segments, start, end, KMEANS_STARTS, cv2.KMEANS_PP_CENTERS)
    return labels.reshape(size).astype(np.int64)


def write_baseline(split: Split, size: tuple[int, int], out: Path, name: str) -> Path:
    """Prediction split of the linear baseline.

    Args:
        split: Data with ``Flow``.
        size: Rows and columns to work at, those of the model it is compared with.
        out: Folder of the masks.
        name: The prediction split is ``<out>/<name>.csv``.
    """
    return _write_masks(split, size, out, name, lambda row, flow: residual_mask(flow, size), oracle=False)


def write_kmeans(
    split: Split, size: tuple[int, int], out: Path, name: str, num_segments: int, encoding: MaskEncoding = "auto"
) -> Path:
    """Prediction split of k-means, its clusters chosen by each frame's ground truth; a frame without has no mask.

    Args:
        split: Data with ``Flow`` and ``GtMask``.
        size: Rows and columns to work at.
        out: Folder of the masks.
        name: The prediction split is ``<out>/<name>.csv``.
        num_segments: L.
        encoding: How GtMask files are read.
    """
    known = split.available("GtMask")

    def chosen(row: int, flow: NDArray[np.float32]) -> Mask:
        if not known[row]:
            return np.zeros(size, np.uint8)
        gt = read_mask(split.path(row, "GtMask"), encoding).foreground
        target = resize_mask(torch.from_numpy(gt.astype(np.int64)), size)[None] > 0
        segments = torch.from_numpy(kmeans_segments(flow, size, num_segments))[None]
        return foreground(segments, target, num_segments, "optimax")[0].numpy().astype(np.uint8)

    return _write_masks(split, size, out, name, chosen, oracle=True)


def _write_masks(
    split: Split, size: tuple[int, int], out: Path, name: str, mask_of_frame: MaskRule, *, oracle: bool
) -> Path:
    """Masks of all frames; one without flow gets the mask of the frame before."""
    rows = []
    available = split.available("Flow")
    for sequence, members in tqdm(split.sequences().items(), desc=out.name, unit="clip", disable=None):
        mask, full = np.zeros(size, np.uint8), size
        for row in members.tolist():
            if available[row]:
                flow = read_flow(split.path(row, "Flow"))
                mask, full = mask_of_frame(row, flow), (flow.shape[1], flow.shape[2])
            file = out / "Masks" / sequence / f"{split.cell(row, 'Sequence_Index')}.png"
            write_labels(file, upscale_labels(mask, full))
            cells = {column: split.cell(row, column) for column in split.columns}
            rows.append({**cells, "Pred": relative_cell(file, split.base_dir), "Oracle": int(oracle)})
    return write_split(out / f"{name}.csv", rows).file
