"""ShapeStacks as image folders with integer masks and split files."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.files import IMAGE_SUFFIXES, read_image, read_labels, write_image, write_labels
from common.layouts import Row, natural_key, relative_cell
from common.makers.writing import write_steps
from common.splits import STEPS


@dataclass(frozen=True)
class Options:
    """ShapeStacks: folders of rendered scenarios, their label maps, and lists of scenarios per part."""

    input: str = field(metadata={"positional": True})
    """Folder that holds recordings/<scenario>/ with the images."""
    out: str
    """Prefix of the files to write; frames at their final size go to NAME_frames/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    masks: str = "iseg"
    """Folder of the label maps beside recordings/, with its structure; a map has the stem of its image, or that stem
    with map for rgb."""
    lists: str = "splits"
    """Folder of train.txt, eval.txt or val.txt, and test.txt, a scenario per line."""
    size: int = 64
    """Rows and columns of the frames."""


def make(options: Options) -> int:
    """Write frames and splits; what an earlier run wrote is kept."""
    root = Path(options.input)
    if not (root / "recordings").is_dir():
        raise InputError(f"{root}: holds no recordings/; pass the folder of ShapeStacks")
    steps: dict[str, list[Row]] = {}
    for step in STEPS:
        names = _listed(root / options.lists, step)
        steps[step] = [row for name in tqdm(names, desc=step, disable=None) for row in _scenario(root, name, options)]
    if not any(steps.values()):
        raise InputError(f"{root / options.lists}: holds none of train.txt, eval.txt, val.txt, test.txt")
    return write_steps(options.out, steps)


def _listed(folder: Path, step: str) -> list[str]:
    """Scenarios of a part; the set calls its validation part eval."""
    for name in {"val": ("val", "eval")}.get(step, (step,)):
        file = folder / f"{name}.txt"
        if file.is_file():
            return [line.strip() for line in file.read_text().splitlines() if line.strip()]
    return []


def _scenario(root: Path, name: str, options: Options) -> list[Row]:
    """The rows of a scenario, whose frames are written at their final size."""
    folder, size = root / "recordings" / name, (options.size, options.size)
    if not folder.is_dir():
        raise InputError(f"{folder}: listed in {options.lists}, but not there")
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and "rgb" in path.name]
    rows = []
    for number, path in enumerate(sorted(images, key=lambda image: natural_key(image.name))):
        target = _map_of(root / options.masks / name, path)
        copies = [Path(f"{options.out}_frames") / kind / name / f"{path.stem}.png" for kind in ("images", "labels")]
        if not copies[0].exists():
            if target is not None:
                labels = cv2.resize(read_labels(target).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
                write_labels(copies[1], np.asarray(labels))
            view = cv2.resize(read_image(path), size, interpolation=cv2.INTER_AREA)
            write_image(copies[0], np.asarray(view, np.uint8))
        base_dir = Path(options.base_dir)
        rows.append(
            {
                "Sequence": f"{name}_{number:02d}",
                "Sequence_Index": "0",
                "Image": relative_cell(copies[0], base_dir),
                "GtInstance": relative_cell(copies[1], base_dir) if target is not None else "",
            }
        )
    return rows


def _map_of(folder: Path, image: Path) -> Path | None:
    """The label map of an image, or None."""
    candidates = [folder / f"{stem}.png" for stem in (image.stem, image.stem.replace("rgb", "map"))]
    return next((path for path in candidates if path.is_file()), None)
