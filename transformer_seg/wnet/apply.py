"""Apply a trained WNet: probabilities, dense CRF, merging, contour map, label maps and overlays."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError
from common.files import check_writable, write_array, write_image
from common.messages import warn
from common.options import TrainerFlags
from transformer_seg.images import Picture
from transformer_seg.options import PredictOptions
from transformer_seg.prediction import OutputFiles, file_hash, named_split, output_folder, predict_maps
from transformer_seg.wnet.crf import LEGACY_CRF, CrfOptions, refine
from transformer_seg.wnet.data import resized, to_tensors
from transformer_seg.wnet.merging import Hierarchy, merge_hierarchy
from transformer_seg.wnet.model import MULTIPLE
from transformer_seg.wnet.module import WnetModule
from transformer_seg.wnet.options import RefineOptions

MAX_SEGMENTS = 255  # label maps have a palette of 256 colours


def apply_wnet(
    module: WnetModule, file: Path, options: PredictOptions, refinement: RefineOptions, flags: TrainerFlags
) -> Path:
    """Segment everything that the options name.

    Args:
        module: Trained.
        file: Its checkpoint.
        options: What to segment.
        refinement: How probabilities become segments.
        flags: Trainer flags.

    Returns:
        The prediction split's CSV file; of several processes, the first writes it.

    Raises:
        InputError: input or options that cannot be used.
    """
    _check(refinement)
    if refinement.crf and importlib.util.find_spec("pydensecrf") is None:
        warn("no CRF: pydensecrf is not installed (pip install pydensecrf2, with a C++ compiler); segments stay coarse")
        refinement = replace(refinement, crf=False)
    out = output_folder(options, file)
    split = named_split(options, out)
    check_writable(out)
    side = int(module.hparams["image_size"]) if refinement.image_size is None else refinement.image_size
    finish = Finish(OutputFiles(split, out), refinement)
    further = {"Ucm": ("Ucm", "npz")} if refinement.contours else {}
    if refinement.save_proba:
        further["Proba"] = ("Proba", "npz")
    return predict_maps(
        module,
        split,
        out,
        prepare=lambda picture: network_input(picture, side),
        finish=finish,
        source={
            "checkpoint": file_hash(file),
            "size": side,
            "crf": [refinement.crf, refinement.crf_iters, refinement.legacy_crf],
            "merge": refinement.merge,
            "files": sorted(further),
        },
        options=options,
        flags=flags,
        further=further,
    )


def network_input(picture: Picture, side: int) -> Tensor:
    """The picture as a square of this side, or at its own size where that is 0: float32 (3, h, w) in [0, 1]."""
    H, W = picture.shape[:2]
    size = (side, side) if side else (H, W)
    if min(size) < MULTIPLE:
        larger = MULTIPLE / min(size)
        size = (max(MULTIPLE, round(H * larger)), max(MULTIPLE, round(W * larger)))
    return to_tensors(*resized(picture, np.zeros((H, W), dtype=np.int64), size))[0]


class Finish:
    """From a picture's probabilities to its label map, and the further files that were asked for."""

    def __init__(self, files: OutputFiles, options: RefineOptions) -> None:
        self.files, self.options = files, options
        self.crf = LEGACY_CRF if options.legacy_crf else CrfOptions(iterations=options.crf_iters)

    def __call__(self, row: int, picture: Picture, proba: Tensor) -> NDArray[np.integer]:
        """Label map (H, W)."""
        maps = proba.cpu().numpy()
        if self.options.crf:
            image = to_tensors(picture, np.zeros(picture.shape[:2], dtype=np.int64))[0].numpy()
            maps = refine(maps, image, self.crf)
        labels: NDArray[np.integer] = maps.argmax(axis=0)
        if self.options.merge is not None or self.options.contours:
            hierarchy = merge_hierarchy(labels, maps)
            if self.options.contours:
                contours = hierarchy.contour_map()
                write_array(self.files.of(row, "Ucm", "npz"), contours)
                write_image(self.files.of(row, "Ucm", "png"), np.rint(255 * contours).astype(np.uint8))
            if self.options.merge is not None:
                labels = hierarchy.labels_at(max(self.options.merge, _height_of(hierarchy, MAX_SEGMENTS)))
        if self.options.save_proba:
            write_array(self.files.of(row, "Proba", "npz"), maps.astype(np.float16))
        return labels


def _height_of(hierarchy: Hierarchy, count: int) -> float:
    """The lowest threshold at which at most so many segments are left."""
    heights = np.sort(hierarchy.heights[hierarchy.regions.max() + 1 :])[::-1]
    return float(heights[count - 1]) if len(heights) >= count else 0.0


def _check(options: RefineOptions) -> None:
    if options.image_size is not None and options.image_size < 0:
        raise InputError(f"--image_size {options.image_size}: give the side in pixels, or 0 for the pictures' own size")
    if options.crf_iters < 1:
        raise InputError(f"--crf_iters {options.crf_iters}: give at least 1, or --crf false")
    if options.merge is not None and not 0 <= options.merge <= 1:
        raise InputError(f"--merge {options.merge}: give a contrast from 0 to 1")
