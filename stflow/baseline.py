"""The linear baseline: what stands out once one global quadratic motion is taken off the flow.

Per frame, a quadratic motion of the whole image is fitted robustly (l1, as in the loss of the method); the length of
the residual flow is split in two by Otsu's threshold. No network, no training, no ground truth.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from common.files import write_labels
from common.flow_files import read_flow
from common.resize import resize_flow
from common.splits import Split, relative_cell, write_split
from stflow.motion import motion_model
from stflow.segments import upscale_labels
from stflow.theta import fit_theta


def residual_mask(flow: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
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


def write_baseline(split: Split, size: tuple[int, int], out: Path, name: str) -> Path:
    """Prediction split of the baseline; a frame without flow gets the mask of the frame before.

    Args:
        split: Data with ``Flow``.
        size: Rows and columns to work at, those of the model it is compared with.
        out: Folder of the masks.
        name: The prediction split is ``<out>/<name>.csv``.
    """
    rows = []
    available = split.available("Flow")
    for sequence, members in tqdm(split.sequences().items(), desc="baseline", unit="clip", disable=None):
        mask, full = np.zeros(size, np.uint8), size
        for row in members:
            if available[row]:
                flow = read_flow(split.path(int(row), "Flow"))
                mask, full = residual_mask(flow, size), flow.shape[1:]
            file = out / "Masks" / sequence / f"{split.column('Sequence_Index')[row]}.png"
            write_labels(file, upscale_labels(mask, (full[0], full[1])))
            cells = {column: split.column(column)[row] for column in split.columns}
            rows.append({**cells, "Pred": relative_cell(file, split.base_dir), "Oracle": 0})
    return write_split(out / f"{name}.csv", rows).file
