"""Labeled Faces in the Wild, funneled, with the part labels: lfw_funneled/, parts_lfw_funneled_gt_images/, lists."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.layouts import Row
from common.makers.single_objects import object_row, require, write_masks
from common.makers.writing import write_steps
from common.splits import STEPS

LAYOUT = (
    "expected are lfw_funneled/<name>/<name>_0001.jpg ..., parts_lfw_funneled_gt_images/<name>_0001.ppm ... and the"
    " lists train.txt, val.txt, test.txt (lines 'name name_0001', they come with ReDO's code) in one folder"
)
VAL_SHARE = 1327 / 2927  # of the annotated images, as in the published lists


@dataclass(frozen=True)
class Options:
    """Labeled Faces in the Wild, funneled, with part labels."""

    input: str = field(metadata={"positional": True})
    """Folder that holds lfw_funneled, parts_lfw_funneled_gt_images and the lists train.txt, val.txt, test.txt."""
    out: str
    """Prefix of the files to write; the masks go to NAME_masks."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    seed: int = 0
    """Without any list: seed of the choice between val and test among the annotated images."""


def make(options: Options) -> int:
    """Write the splits, and black and white masks: hair and face are the object. Training images have no annotation."""
    root, base = Path(options.input), Path(options.base_dir)
    require(root, "lfw_funneled", "parts_lfw_funneled_gt_images", layout=LAYOUT)
    lists = _lists(root, options.seed)
    steps: dict[str, list[Row]] = {}
    pairs = {}
    for step, names in lists.items():
        steps[step] = []
        for person, name in names:
            image, annotation = root / "lfw_funneled" / person / f"{name}.jpg", _annotation(root, name)
            if not image.exists():
                raise InputError(f"{image}: listed in {step}.txt, but not there; {LAYOUT}")
            if step == "train":
                steps[step].append(object_row(name, image, None, base))
                continue
            mask = Path(f"{options.out}_masks") / f"{name}.png"
            pairs[mask] = (annotation, image)
            steps[step].append(object_row(name, image, mask, base))
    write_masks(pairs, face_of)
    return write_steps(options.out, steps)


def face_of(parts: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Red hair and green skin (H, W, 3) are object, blue background is not."""
    return parts[..., 2] < 128


def _annotation(root: Path, name: str) -> Path:
    return root / "parts_lfw_funneled_gt_images" / f"{name}.ppm"


def _lists(root: Path, seed: int) -> dict[str, list[tuple[str, str]]]:
    """(person, picture) by step, from the lists or, without any, from which pictures are annotated."""
    files = {step: root / f"{step}.txt" for step in STEPS}
    present = [file for file in files.values() if file.exists()]
    if present:
        if missing := [file for file in files.values() if not file.exists()]:
            raise InputError(f"{missing[0]}: not there; {LAYOUT}")
        return {step: _read_list(file) for step, file in files.items()}
    print(f"{root}: no lists; train = all without part labels, val and test drawn from the others (not the published)")
    annotated = {path.stem for path in (root / "parts_lfw_funneled_gt_images").glob("*.ppm")}
    pictures = sorted((path.parent.name, path.stem) for path in (root / "lfw_funneled").glob("*/*.jpg"))
    labelled = [picture for picture in pictures if picture[1] in annotated]
    order = np.random.default_rng(seed).permutation(len(labelled))
    first = round(VAL_SHARE * len(labelled))
    return {
        "train": [picture for picture in pictures if picture[1] not in annotated],
        "val": [labelled[i] for i in sorted(order[:first])],
        "test": [labelled[i] for i in sorted(order[first:])],
    }


def _read_list(path: Path) -> list[tuple[str, str]]:
    found = []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = text.split()
        if words and len(words) != 2:
            raise InputError(f"{path}: line {line} is {text!r}, expected 'name name_0001'")
        if words:
            found.append((words[0], words[1]))
    return found
