"""Labels of a clip's first frame carried through the clip, and their J and F (DAVIS-2017, semi-supervised).

Symbols: H W pixels of a frame, P patch size, h w token grid, D width, G objects.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from common.errors import InputError
from common.files import image_size, read_image, read_labels, read_mask, write_labels
from common.layouts import davis_lists, davis_rows
from common.metrics.davis import davis2016_frames, statistics
from common.metrics.pairs import Scores, pair_counts
from common.metrics.protocol import Protocol, Score, write_scores
from common.prediction import claim
from common.splits import Split, read_split, relative_cell, write_split
from transformer_seg.dino.arch import AnyBackbone, device_of
from transformer_seg.dino.options import DavisOptions
from transformer_seg.dino.propagation import (
    MULTIPLE,
    LabelPropagator,
    PropagationOptions,
    first_labels,
    frame_input,
    hard_labels,
)
from transformer_seg.dino.weights import load_backbone, weights_name


@dataclass(frozen=True)
class ObjectResult:
    """One object of a clip.

    Attributes:
        name: ``clip/object``.
        j: Of the scored frames (N,).
        f: Likewise.
    """

    name: str
    j: Scores
    f: Scores


def run_davis(options: DavisOptions) -> Path:
    """Carry labels through all clips that the options name, and score them.

    Returns:
        The prediction split's CSV file.

    Raises:
        InputError: clips, weights or options that cannot be used.
    """
    check_davis_options(options)
    split = davis_split(options)
    device = device_of(options.gpus)
    backbone = load_backbone(options).to(device)
    patch = backbone.patch_size
    if MULTIPLE % patch:
        raise InputError(f"patches of {patch} pixels do not divide {MULTIPLE}; use a network with 8 or 16")
    if options.short_side % patch:
        raise InputError(f"--short_side {options.short_side}: give a multiple of the patch size {patch}")
    rule = [options.n_last_frames, options.size_mask_neighborhood, options.topk, options.short_side]
    claim(options.out, {**weights_name(options), "split": split.hash(), "rule": rule, "column": options.label_column})
    table, found = split.frame, []
    clips = split.sequences()
    for name, rows in tqdm(clips.items(), desc="clips", unit="clip", disable=None):
        files = [options.out / name / f"{split.path(int(row), 'Image').stem}.png" for row in rows]
        if not all(file.exists() for file in files):
            carry(split, rows.tolist(), files, backbone, device, options)
        for row, file in zip(rows.tolist(), files, strict=True):
            table.loc[row, "Pred"] = relative_cell(file, split.base_dir)
        found += score_clip(name, split, rows.tolist(), files, options)
    written = options.out / f"{split.name}.csv"
    write_split(written, table)
    scores = davis_scores(found, options)
    write_scores(options.out / "scores.json", scores)
    for one in found:
        print(f"{one.name:<24} J {one.j.mean():.3f}  F {one.f.mean():.3f}")
    for score in scores:
        print(f"{score.name:<18} {score.value:.4f}  ({score.n} objects; torch {torch.__version__})")
    return written


def davis_split(options: DavisOptions) -> Split:
    """The clips that the options name.

    Raises:
        InputError: nothing there, no such clip, or one without labels in its first frame.
    """
    if options.data_file is not None:
        split = read_split(options.data_file, base_dir=options.base_dir)
        if options.sequences:
            known = split.sequences()
            missing = [name for name in options.sequences if name not in known]
            if missing:
                raise InputError(
                    f"--sequences {missing[0]}: no such clip in {split.file}; there are {', '.join(known)}"
                )
            split = split.take(np.concatenate([known[name] for name in options.sequences]))
    else:
        root = options.data_path
        assert root is not None
        if not (root / "JPEGImages").is_dir():
            raise InputError(f"{root}: no JPEGImages in this folder; give the folder of JPEGImages and Annotations")
        clips = options.sequences or davis_lists(root, image_set="2017").get("val", [])
        split = Split.from_rows(davis_rows(root, root, clips), root, "davis_val.csv")
    split = split.take(split.available("Image"))
    if options.label_column not in split.columns:
        have = ", ".join(split.columns)
        raise InputError(f"{split.file}: no column '{options.label_column}'; available: {have} (choose --label_column)")
    for name, rows in split.sequences().items():
        if not split.available(options.label_column)[rows[0]]:
            raise InputError(f"{split.file}: clip {name} has no {options.label_column} in its first frame to carry on")
    return split


def read_objects(split: Split, row: int, options: DavisOptions) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Object ids (H, W), 0 for none, and which pixels are void."""
    mask = read_mask(split.path(row, options.label_column), options.mask_encoding)
    return mask.labels, mask.void


@torch.no_grad()
def carry(
    split: Split,
    rows: list[int],
    files: list[Path],
    backbone: AnyBackbone,
    device: torch.device,
    options: DavisOptions,
) -> None:
    """Write the labels of every frame of a clip, as indexed PNGs of the frame's size."""
    objects, _ = read_objects(split, rows[0], options)
    if not objects.any():
        raise InputError(f"{split.path(rows[0], options.label_column)}: no object to carry on")
    size = image_size(split.path(rows[0], "Image"))
    if objects.shape != size:
        found, wanted = (f"{shape[0]} x {shape[1]}" for shape in (objects.shape, size))
        file = split.path(rows[0], options.label_column)
        raise InputError(f"{file}: labels of {found} pixels, the frame has {wanted}; resize them by nearest neighbour")
    rule = PropagationOptions(options.n_last_frames, options.size_mask_neighborhood, options.topk)
    propagator = None
    frames = tqdm(zip(rows, files, strict=True), total=len(rows), desc=files[0].parent.name, leave=False, disable=None)
    for row, file in frames:
        features = patch_features(backbone, read_image(split.path(row, "Image")), device, options.short_side)
        if propagator is None:
            first = first_labels(objects, (features.shape[1], features.shape[2])).to(device)
            propagator = LabelPropagator(features, first, rule)
            write_labels(file, objects)
            continue
        labels = hard_labels(propagator.step(features), backbone.patch_size).cpu().numpy()
        image = Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)
        write_labels(file, np.array(image))


def patch_features(
    backbone: AnyBackbone, frame: NDArray[np.uint8], device: torch.device, short_side: int = 480
) -> Tensor:
    """Normalised tokens of a frame's patches (D, h, w)."""
    image = frame_input(frame, short_side)
    h, w = (side // backbone.patch_size for side in image.shape[1:])
    tokens = backbone(image[None].to(device))[0, backbone.extra :]
    return tokens.T.unflatten(1, (h, w)).float()


def score_clip(
    name: str, split: Split, rows: list[int], files: list[Path], options: DavisOptions
) -> list[ObjectResult]:
    """J and F of the objects of the first frame over the annotated frames, the first and the last one left out."""
    objects, _ = read_objects(split, rows[0], options)
    ids = [int(value) for value in np.unique(objects) if value > 0]
    annotated = [place for place, row in enumerate(rows) if split.available(options.label_column)[row]]
    pairs = []
    for place in annotated[davis2016_frames(len(annotated))]:
        target, void = read_objects(split, rows[place], options)
        predicted = read_labels(files[place])
        counts = pair_counts(predicted, target, num_predicted=max(ids), num_objects=max(ids), void=void)
        pairs.append((np.diagonal(counts.j()), np.diagonal(counts.f())))
    if not pairs:
        return []
    j, f = (np.stack([pair[kind] for pair in pairs]) for kind in (0, 1))
    return [ObjectResult(f"{name}/{number}", j[:, number - 1], f[:, number - 1]) for number in ids]


def davis_scores(found: list[ObjectResult], options: DavisOptions) -> list[Score]:
    """Means over frames, then over objects, of J, F and both."""
    if not found:
        return []
    notes = (
        f"labels of the first frame given; {options.n_last_frames} previous frames, neighbourhood"
        f" {options.size_mask_neighborhood}, top {options.topk}, short side {options.short_side},"
        f" torch {torch.__version__}"
    )
    protocol = Protocol(scope="sequence", averaging="frames 1 to N-2, objects", notes=notes)
    j, f = ({one.name: statistics(getattr(one, kind)) for one in found} for kind in ("j", "f"))
    values = {
        f"{letter}_{what}": {name: getattr(one, what) for name, one in table.items()}
        for letter, table in (("j", j), ("f", f))
        for what in ("mean", "recall", "decay")
    }
    values = {"jf_mean": {name: (j[name].mean + f[name].mean) / 2 for name in j}, **values}
    return [
        Score(f"{name}_carried", float(np.mean(list(items.values()))), replace(protocol), len(items), items)
        for name, items in values.items()
    ]


def check_davis_options(options: DavisOptions) -> None:
    """Refuse values that cannot work, each in one line.

    Raises:
        InputError: names the flag, the value and the remedy.
    """
    if (options.data_path is None) == (options.data_file is None):
        raise InputError("give either --data_path DAVIS (with JPEGImages and Annotations), or --data_file with a split")
    if options.short_side < MULTIPLE:
        raise InputError(f"--short_side {options.short_side}: give at least {MULTIPLE} pixels")
    for name, least in (("n_last_frames", 0), ("size_mask_neighborhood", 0), ("topk", 1)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} {getattr(options, name)}: give {least} or more")
