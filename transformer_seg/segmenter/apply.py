"""Apply a trained Segmenter: views, sliding windows, label maps and overlays with a legend."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError
from common.files import check_writable
from common.messages import warn
from common.options import TrainerFlags
from common.splits import Split, read_classes
from transformer_seg.images import Picture
from transformer_seg.options import PredictOptions
from transformer_seg.prediction import file_hash, named_split, output_folder, predict_maps
from transformer_seg.segmenter.data import normalised, resized_picture
from transformer_seg.segmenter.module import SegmenterModule
from transformer_seg.segmenter.options import WindowOptions, stride_of
from transformer_seg.segmenter.windows import SCALES, Windows

Views = list[tuple[Tensor, bool]]


def apply_segmenter(
    module: SegmenterModule, file: Path, options: PredictOptions, windows: WindowOptions, flags: TrainerFlags
) -> Path:
    """Segment everything that the options name.

    Args:
        module: Trained.
        file: Its checkpoint.
        options: What to segment.
        windows: Windows and views.
        flags: Trainer flags.

    Returns:
        The prediction split's CSV file; of several processes, the first writes it.

    Raises:
        InputError: input or options that cannot be used.
    """
    module.windows = windows_of(module, windows)
    known = module.hparams
    short, ratio = windows.short_side or int(known["image_size"]), float(known["max_ratio"])
    if short < module.model.encoder.patch_size:
        raise InputError(f"--short_side {short}: a patch has {module.model.encoder.patch_size} pixels; give more")
    out = output_folder(options, file)
    split = named_split(options, out)
    check_writable(out)
    return predict_maps(
        module,
        split,
        out,
        prepare=lambda picture: views_of(picture, module.normalisation, short, ratio, windows.multi_scale),
        finish=_labels,
        source={
            "checkpoint": file_hash(file),
            "short_side": short,
            "window": [module.windows.size, module.windows.stride],
            "multi_scale": windows.multi_scale,
        },
        options=options,
        flags=flags,
        classes=legend_names(module, split, options.classes),
    )


def windows_of(module: SegmenterModule, options: WindowOptions) -> Windows:
    """The windows that the options ask for; those of the training where they ask for none.

    Raises:
        InputError: sizes that cannot be.
    """
    P, trained = module.model.encoder.patch_size, module.windows
    size = options.window_size or trained.size
    if size < P:
        raise InputError(f"--window_size {size}: a patch has {P} pixels; give more")
    if size % P:
        warn(f"--window_size {size} is no multiple of the patch size {P}: windows are padded by zeros")
    if options.window_stride is None and options.window_size is None:
        stride = trained.stride
    else:
        stride = stride_of(size, options.window_stride)
    if not 1 <= stride <= size:
        raise InputError(f"--window_stride {stride}: give 1 to {size}, or pixels are never seen")
    return replace(trained, size=size, stride=stride, batch_size=max(options.window_batch, 1))


def views_of(picture: Picture, normalisation: str, short_side: int, max_ratio: float, multi_scale: bool) -> Views:
    """The resized pictures that are averaged, each with whether it is mirrored.

    Args:
        picture: (H, W, 3) uint8.
        normalisation: Key of ``MEAN_STD``.
        short_side: Of the plain view.
        max_ratio: Longest side, in short sides.
        multi_scale: Six sizes, each plain and mirrored.
    """
    views: Views = []
    for scale in SCALES if multi_scale else (1.0,):
        image = normalised(resized_picture(picture, short_side * scale, max_ratio), normalisation)
        views += [(image, False), (image.flip(-1), True)] if multi_scale else [(image, False)]
    return views


def legend_names(module: SegmenterModule, split: Split, named: Path | None) -> dict[int, str]:
    """Class names: of the file that is named, of the training, or beside the split, the first that fits."""
    if named is not None:
        return read_classes(named)
    if module.classes and not all(name == f"class {index + 1}" for index, name in module.classes.items()):
        return module.classes
    try:
        found = read_classes(split.file)
    except InputError:
        return module.classes
    return found if len(found) == module.num_classes else module.classes


def _labels(row: int, picture: Picture, found: Any) -> NDArray[np.integer]:
    return np.asarray(found.cpu().numpy())
