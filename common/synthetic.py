"""The embedded data: synthetic clips, fixed-camera scenes, single objects and semantic scenes, with exact labels.

Four kinds, each from a seed, without download and in seconds: ``clips`` (moving objects and camera, exact flow),
``fixed_camera`` (still scene, optional light change), ``objects`` (one object per image) and ``scenes`` (classes and
instances in VOC layout). ``make_*`` give the items, ``write_*`` lay them on disk with a CSV data split.

Item i of a kind depends on the seed and i alone, so a longer set starts with the shorter one.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from common import cli
from common.errors import InputError
from common.layered_clips import Clip, Seed, fixed_camera_clip, moving_clip
from common.synthetic_files import ImageFormat, write_clips, write_scenes, write_text
from common.toy_scenes import VOID, Scene, SceneStyle, class_names, object_scene, semantic_scene

__all__ = [
    "VOID",
    "Clip",
    "ClipOptions",
    "FixedCameraOptions",
    "ObjectOptions",
    "Scene",
    "SceneOptions",
    "Seed",
    "class_names",
    "fixed_camera_clip",
    "make_clips",
    "make_scenes",
    "moving_clip",
    "object_scene",
    "run",
    "semantic_scene",
    "write_clips",
    "write_scenes",
]

STEPS = ("train", "val", "test")


@dataclass(kw_only=True)
class _Options:
    """What all kinds of data share."""

    kind: ClassVar[str]
    out: Path
    """Folder for the data; a folder that holds the same data already is left as it is."""
    seed: int = 0
    """Seed; the same seed gives the same files."""


@dataclass(kw_only=True)
class ClipOptions(_Options):
    """Clips of textured objects over a moving ground, with exact forward flow."""

    kind: ClassVar[str] = "clips"
    num: int = 8
    """Training clips."""
    num_val: int = 2
    """Validation clips."""
    num_test: int = 2
    """Test clips."""
    num_frames: int = 12
    """Frames per clip."""
    height: int = 128
    """Rows in pixels."""
    width: int = 224
    """Columns in pixels."""
    num_objects: int | None = None
    """Objects per clip; default: 1 to 3, drawn."""
    camera: float = 1.0
    """Strength of the camera's motion; 0 holds it still."""
    speed: float = 0.025
    """Typical speed of an object in image heights per frame."""
    noise: float = 1.0
    """Standard deviation of the pixel noise in grey levels."""
    image_format: ImageFormat = "jpg"
    """File format of the frames."""


@dataclass(kw_only=True)
class FixedCameraOptions(_Options):
    """Objects that cross a still scene. Without clips of its own, a step lists the training clips."""

    kind: ClassVar[str] = "fixed_camera"
    num: int = 1
    """Training clips."""
    num_val: int = 0
    """Validation clips; 0: the training clips, as background learning scores itself on the clip it has seen."""
    num_test: int = 0
    """Test clips; 0: the training clips."""
    num_frames: int = 120
    """Frames per clip."""
    height: int = 96
    """Rows in pixels."""
    width: int = 128
    """Columns in pixels."""
    num_objects: int | None = None
    """Objects per clip; default: 1 to 3, drawn."""
    illum: float = 0.0
    """Relative swing of the light over a clip; 0.25 goes from 75 to 125 percent."""
    noise: float = 1.0
    """Standard deviation of the pixel noise in grey levels."""
    image_format: ImageFormat = "png"
    """File format of the frames."""


@dataclass(kw_only=True)
class ObjectOptions(_Options):
    """Images of one textured object on a textured ground."""

    kind: ClassVar[str] = "objects"
    num: int = 1024
    """Training images."""
    num_val: int = 256
    """Validation images."""
    num_test: int = 0
    """Test images."""
    size: int = 32
    """Rows and columns in pixels."""
    image_format: ImageFormat = "png"
    """File format of the images."""


@dataclass(kw_only=True)
class SceneOptions(_Options):
    """Images with classes and instances, in VOC layout."""

    kind: ClassVar[str] = "scenes"
    num: int = 64
    """Training images."""
    num_val: int = 16
    """Validation images."""
    num_test: int = 0
    """Test images."""
    style: SceneStyle = "patterned"
    """patterned: a class is a shape with a pattern; shaded: a disc and a rectangle; noise: shapes on noise."""
    height: int = 96
    """Rows in pixels."""
    width: int = 128
    """Columns in pixels."""
    num_classes: int = 6
    """Classes of the patterned style besides the background, 1 to 20."""
    max_objects: int = 3
    """Most objects per image of the patterned style."""
    void_px: int = 1
    """Half width of the 255 border around objects; 0 for none."""
    image_format: ImageFormat = "jpg"
    """File format of the images."""


Options = ClipOptions | FixedCameraOptions | ObjectOptions | SceneOptions
COMMANDS: dict[str, type[Options]] = {
    options.kind: options for options in (ClipOptions, FixedCameraOptions, ObjectOptions, SceneOptions)
}


def _indices(options: Options) -> dict[str, range]:
    """Item numbers of each step; steps follow each other."""
    ends = np.cumsum([0, options.num, options.num_val, options.num_test])
    if min(options.num_val, options.num_test) < 0 or options.num < 1:
        raise InputError(
            f"num, num_val, num_test are {options.num}, {options.num_val}, {options.num_test}; "
            "use at least 1 training item and no negative number"
        )
    return {step: range(ends[i], ends[i + 1]) for i, step in enumerate(STEPS)}


def make_clips(options: ClipOptions | FixedCameraOptions, indices: Iterable[int]) -> Iterator[Clip]:
    """The clips with the given numbers."""
    shared = {key: getattr(options, key) for key in ("num_frames", "height", "width", "num_objects", "noise")}
    for index in indices:
        seed, name = [options.seed, index], f"{options.kind}_{index:03d}"
        if isinstance(options, ClipOptions):
            yield moving_clip(seed, name=name, camera=options.camera, speed=options.speed, **shared)
        else:
            yield fixed_camera_clip(seed, name=name, illum=options.illum, **shared)


def make_scenes(options: ObjectOptions | SceneOptions, indices: Iterable[int]) -> Iterator[Scene]:
    """The images with the given numbers."""
    for index in indices:
        seed, name = [options.seed, index], f"{options.kind}_{index:05d}"
        if isinstance(options, ObjectOptions):
            yield object_scene(seed, size=options.size, name=name)
        else:
            yield semantic_scene(
                seed,
                style=options.style,
                height=options.height,
                width=options.width,
                num_classes=options.num_classes,
                max_objects=options.max_objects,
                void_px=options.void_px,
                name=name,
            )


def _content(options: Options) -> dict[str, object]:
    """The options that decide what the files hold."""
    return {key: value for key, value in dataclasses.asdict(options).items() if key != "out"}


def _fingerprint(options: Options) -> str:
    """Hash of the options and of the code that draws."""
    digest = hashlib.sha256(json.dumps({"kind": options.kind, **_content(options)}, sort_keys=True).encode())
    for source in (
        "textures.py",
        "layers.py",
        "layered_clips.py",
        "toy_scenes.py",
        "synthetic.py",
        "synthetic_files.py",
    ):
        digest.update(Path(__file__).with_name(source).read_bytes())
    return digest.hexdigest()


def _make_room(out: Path, marker: Path) -> None:
    """Empty ``out`` of an earlier set of this command; refuse a folder with other contents.

    Raises:
        InputError: The folder holds files of another origin.
    """
    if not out.exists() or not any(out.iterdir()):
        return
    if not marker.exists():
        raise InputError(f"--out {out} holds files that this command did not write; name a new or empty folder")
    for entry in json.loads(marker.read_text())["entries"]:
        path = out / Path(entry).name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _write(options: Options) -> None:
    indices = _indices(options)
    if isinstance(options, ClipOptions | FixedCameraOptions):
        still = isinstance(options, FixedCameraOptions)
        clips = {step: make_clips(options, wanted) for step, wanted in indices.items()}
        write_clips(options.out, clips, name=options.kind, image_format=options.image_format, backgrounds=still)
        for step in STEPS:
            if still and not indices[step]:
                rows = (options.out / f"{options.kind}_train.csv").read_text()
                write_text(options.out / f"{options.kind}_{step}.csv", rows)
        return
    scenes = {step: make_scenes(options, wanted) for step, wanted in indices.items()}
    names = ["background", "object"]
    if isinstance(options, SceneOptions):
        names = class_names(options.style, options.num_classes)
    write_scenes(options.out, scenes, name=options.kind, classes=names, image_format=options.image_format)


def run(options: Options) -> int:
    """Write the data that the options describe, unless the folder holds it already; the exit code.

    ``synthetic.json`` in the folder says what it holds. A folder of an earlier call with other options is replaced.

    Raises:
        InputError: An option is out of range, or the folder holds files of another origin.
    """
    out = Path(options.out)
    marker = out / "synthetic.json"
    fingerprint = _fingerprint(options)
    if marker.exists() and json.loads(marker.read_text()).get("complete") == fingerprint:
        print(f"{out}: holds this data already")
        return 0
    _make_room(out, marker)
    entries = ["JPEGImages", "Annotations", "Instances", "OpticalFlow", "Backgrounds", "SegmentationClass"]
    entries += ["SegmentationObject", "ImageSets", "scenes_classes.csv", "objects_classes.csv"]
    entries += [f"{kind}_{step}.csv" for kind in COMMANDS for step in STEPS]
    record = {"kind": options.kind, "options": _content(options), "entries": entries}
    write_text(marker, json.dumps(record, indent=2))
    _write(dataclasses.replace(options, out=out))
    write_text(marker, json.dumps({**record, "complete": fingerprint}, indent=2))
    print(f"{out}: {options.num} training, {options.num_val} validation and {options.num_test} test items")
    return 0


def _command(options_class: type[Options]) -> Callable[[Options], int]:
    """``run`` under the description of one kind of data, which the help shows."""

    def write(options: Options) -> int:
        return run(options)

    write.__doc__ = options_class.__doc__
    return write


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    commands = {kind: (_command(options), options) for kind, options in COMMANDS.items()}
    return cli.subcommands(commands, argv, "synthetic.py", "Synthetic data with exact labels, from a seed.")


if __name__ == "__main__":
    raise SystemExit(main())
