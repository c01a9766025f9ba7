"""The commands that predict many items, each with a tiny trained network and data of any number of rows.

The rows of a split name few distinct tiny pictures again and again, so that a split of any length is made in no time.
"""

import csv
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import read_image, write_image
from maskdistill import rle
from maskdistill.images import find_image
from tests.contract.subjects import (
    AST,
    AST_BACKGROUND,
    DEEPLAB,
    DINO,
    MASK_RCNN,
    REDO,
    ROOT,
    SEGMENTER,
    STFLOW,
    WNET,
    Subject,
)

CLIP = 50
"""Rows of a sequence."""


@dataclass(frozen=True)
class Prediction:
    """One command.

    Attributes:
        name: Of the command.
        script: Its file below the repository.
        arguments: From the folder of the trained network, the data's arguments and the output folder to the command's.
        subject: What trains the network; None for commands that need none.
        data: Makes the data: from the training data's folder and a number of rows to arguments.
        items: Pattern of the files that say how far the command is; lines of ``.jsonl`` count, else files do.
        results: Pattern of the files that must be the same however the work was shared out.
        per_file: Items per counted file.
        trains_on: Epochs and batches of the tiny training.
    """

    name: str
    script: str
    arguments: Callable[[Path, list[str], Path], list[str]]
    subject: Subject | None
    data: Callable[[Path, int], list[str]]
    items: str
    results: Sequence[str] = ("**/*",)
    per_file: int = 1
    trains_on: Sequence[str] = ("--max_epochs", "1", "--limit_train_batches", "2", "--limit_val_batches", "1")

    def train(self, folder: Path) -> None:
        """Make the training data and the network below a folder: ``data`` and ``run``."""
        if self.subject is None:
            DINO.make_data(folder / "data")
            return
        subject = self.subject
        data = subject.make_data(folder / "data")
        options = [*subject.options, subject.batch_flag, "2", *self.trains_on, "--enable_progress_bar", "false"]
        line = [sys.executable, str(subject.script), *data, *options, "--out", str(folder / "run"), "--gpus", "0"]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr

    def command(self, trained: Path, data: list[str], out: Path, *more: str) -> list[str]:
        """The command line; ``trained`` is a folder that ``train`` has filled."""
        line = [sys.executable, str(ROOT / self.script), *self.arguments(trained / "run", data, out)]
        return [*line, "--enable_progress_bar", "false", *more]

    def count(self, out: Path) -> int:
        """Items that stand in an output folder."""
        files = [file for file in out.glob(self.items) if not file.name.startswith(".")]
        if self.items.endswith(".jsonl"):
            return sum(file.read_bytes().count(b"\n") for file in files)
        return self.per_file * len(files)

    def found(self, out: Path) -> dict[str, bytes]:
        """Content of the results, hidden files too: none must stay."""
        files = {file for pattern in self.results for file in out.glob(pattern) if file.is_file()}
        return {str(file.relative_to(out)): file.read_bytes() for file in sorted(files)}


def repeated(source: Path, target: Path, count: int, *, clip: int = CLIP, columns: Sequence[str] | None = None) -> Path:
    """A split of so many rows that names the files of another one's rows again and again.

    Args:
        source: CSV file whose first rows are those of a clip.
        target: CSV file to write, in the same folder.
        count: Rows.
        clip: Rows of a sequence; 1 for pictures that stand alone.
        columns: Columns that are kept, of rows that have them all, each file under a name of its own (a link); default
            all columns as they are.
    """
    with source.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if all(row[name] for name in columns or ())]
        names = ["Sequence", "Sequence_Index", *(columns or (reader.fieldnames or [])[2:])]
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for number, row in enumerate(itertools.islice(itertools.cycle(rows), count)):
            links = {name: _linked(source.parent, row[name], f"{target.stem}/{name}", number) for name in columns or ()}
            place = {"Sequence": f"clip{number // clip:06d}", "Sequence_Index": number % clip}
            writer.writerow({**row, **links, **place})
    return target


def _linked(folder: Path, cell: str, name: str, number: int) -> str:
    """A link to a file of the split under a name of its own; ``CLIP`` links a folder."""
    link = folder / name / f"{number // CLIP:05d}" / f"{number:07d}{Path(cell).suffix}"
    if number % CLIP == 0:
        link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(folder / cell)
    return str(link.relative_to(folder))


def rows_of(source: str, *columns: str, clip: int = 1) -> Callable[[Path, int], list[str]]:
    """Data of any number of rows, which the embedded data's few files are behind; arguments as of `repeated`."""

    def make(folder: Path, count: int) -> list[str]:
        file = repeated(folder / source, folder / f"rows{count}_val.csv", count, clip=clip, columns=columns)
        return ["--data_file", str(file), "--base_dir", str(folder)]

    return make


def coco_images(folder: Path, count: int) -> list[str]:
    """A COCO file of images of two sizes without annotations, for the prediction of detections."""
    content = json.loads((folder / "train.json").read_text())
    pictures = list(content["images"])
    for image in content["images"][::3]:
        name = f"cut_{Path(image['file_name']).name}"
        write_image(folder / name, read_image(find_image(folder, image["file_name"]))[:, : image["width"] - 8])
        pictures.append({**image, "file_name": name, "width": image["width"] - 8})
    chosen = itertools.islice(itertools.cycle(pictures), count)
    numbered = [{**image, "id": number} for number, image in enumerate(chosen)]
    file = folder / f"images{count}.json"
    file.write_text(json.dumps({**content, "images": numbered, "annotations": []}))
    return ["--images", str(file), "--image_dir", str(folder)]


def coco_masks(folder: Path, count: int) -> list[str]:
    """A COCO file of one mask per image, for their clusters."""
    files = sorted(path.relative_to(folder).as_posix() for path in (folder / "JPEGImages").glob("*.jpg"))
    entries, pictures = [], []
    for number, file in enumerate(itertools.islice(itertools.cycle(files), count)):
        pictures.append({"id": number, "file_name": file, "height": 32, "width": 40})
        mask = np.zeros((32, 40), bool)
        mask[number % 8 : number % 8 + 16, number % 16 : number % 16 + 16] = True
        box = [float(number % 16), float(number % 8), 16.0, 16.0]
        entry = {"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": 256, "iscrowd": 0}
        entries.append({**entry, "score": 0.9, "segmentation": rle.encode(mask)})
    content = {"images": pictures, "annotations": entries, "categories": [{"id": 1, "name": "object"}]}
    path = folder / f"masks{count}.json"
    path.write_text(json.dumps(content))
    return ["--dataset_root1", str(folder), "--input_file1", str(path)]


def background_frames(folder: Path, count: int) -> list[str]:
    """Training and test part of the same repeated frames."""
    for part in ("train", "test"):
        repeated(folder / "fixed_camera_train.csv", folder / f"rows{count}_{part}.csv", count)
    return ["--data_file", str(folder / f"rows{count}"), "--base_dir", str(folder)]


def labelled_images(folder: Path, count: int) -> list[str]:
    """Training and test set for the vote of neighbours."""
    for part, rows in (("train", count), ("val", 4)):
        repeated(folder / "scenes_train.csv", folder / f"rows{count}_{part}.csv", rows, clip=1)
    return ["--data_file", str(folder / f"rows{count}"), "--base_dir", str(folder)]


def system(run: Path, data: list[str], out: Path) -> list[str]:
    """The arguments that most commands agree on."""
    return [*data, "--model_dir", str(run), "--out", str(out), "--overlay", "false"]


DINO_WEIGHTS = "--pretrained_weights"
PREDICTIONS = [
    Prediction(
        name="stflow",
        script="stflow/predict.py",
        arguments=lambda run, data, out: [
            *(*data, "--model_dir", str(run), "--out", str(out), "--cache_dir", str(run / "cache")),
            *("--batch_size", "2", "--overlay", "false", "--foreground", "exceptbiggest"),
        ],
        subject=STFLOW,
        data=rows_of("clips_train.csv", "Image", "Flow", clip=CLIP),
        items="proba/**/*_proba.npy",
    ),
    Prediction(
        name="wnet",
        script="transformer_seg/predict.py",
        arguments=system,
        subject=WNET,
        data=rows_of("scenes_train.csv", "Image"),
        items="Pred/**/*.png",
    ),
    Prediction(
        name="segmenter",
        script="transformer_seg/predict.py",
        arguments=system,
        subject=SEGMENTER,
        data=rows_of("scenes_train.csv", "Image"),
        items="Pred/**/*.png",
    ),
    Prediction(
        name="dino-attention",
        script="transformer_seg/attention.py",
        arguments=lambda run, data, out: [
            *(*data, DINO_WEIGHTS, str(run), "--out", str(out), "--image_size", "48", "48"),
            *("--batch_size", "2", "--pictures", "0"),
        ],
        subject=DINO,
        data=rows_of("scenes_train.csv", "Image"),
        items="heads/**/*.npz",
    ),
    Prediction(
        name="dino-neighbours",
        script="transformer_seg/eval_knn.py",
        arguments=lambda run, data, out: [
            *(*data, DINO_WEIGHTS, str(run), "--out", str(out), "--resize", "48", "--crop", "48", "--nb_knn", "3"),
            *("--batch_size", "2", "--dump_features"),
        ],
        subject=DINO,
        data=labelled_images,
        items="features/train/*.npz",
        results=("*.npy", "scores.json"),
        per_file=2,
    ),
    Prediction(
        name="redo",
        script="redo/predict.py",
        arguments=system,
        subject=REDO,
        data=rows_of("objects_train.csv", "Image"),
        items="regions/**/*.png",
    ),
    Prediction(
        name="ast-background",
        script="ast/background/generate_background_dataset.py",
        arguments=lambda run, data, out: [
            *(*data, "--saved_model_path", str(run), "--results_dir_path", str(out), "--batch_size", "2")
        ],
        subject=AST_BACKGROUND,
        data=background_frames,
        items="GT_masks_train/*.png",
    ),
    Prediction(
        name="ast",
        script="ast/MF_generate_image_samples.py",
        arguments=lambda run, data, out: [
            *(*data, "--object_model_checkpoint_path", str(run), "--results_dir_path", str(out)),
            *("--batch_size", "2", "--overlay", "false"),
        ],
        subject=AST,
        data=rows_of("fixed_camera_train.csv", "Image", "Background", clip=CLIP),
        items="labels/**/*.png",
    ),
    Prediction(
        name="maskdistill-masks",
        script="maskdistill/gen_masks.py",
        arguments=lambda run, data, out: [
            *(*data, "--pred_json_path", str(out / "masks.json"), "--weights", "contrast", "--patch_size", "8"),
            *("--resize", "64", "--batch_size", "2"),
        ],
        subject=None,
        data=rows_of("scenes_train.csv", "Image"),
        items="masks.json.parts/*.jsonl",
    ),
    Prediction(
        name="maskdistill-clusters",
        script="maskdistill/utils/cluster.py",
        arguments=lambda run, data, out: [
            *(*data, "--dataset", "own", "--num_classes", "3", "--weights", "random", "--patch_size", "16"),
            *("--batch_size", "2", "--sheets", "false", "--output_file", str(out / "b.json")),
            *("--save_dir", str(out / "cache")),
        ],
        subject=None,
        data=coco_masks,
        items="cache/*.parts/*.jsonl",
    ),
    Prediction(
        name="maskdistill-detections",
        script="maskdistill/predict_mask_rcnn.py",
        arguments=lambda run, data, out: [
            *(*data, "--model_dir", str(run), "--set", "own", "--out", str(out), "--batch_size", "2")
        ],
        subject=MASK_RCNN,
        data=coco_images,
        items="*.parts/*.jsonl",
    ),
    Prediction(
        name="maskdistill",
        script="maskdistill/predict.py",
        arguments=lambda run, data, out: [
            *("--input", data[1], "--base_dir", data[3], "--model_dir", str(run), "--out", str(out)),
            *("--batch_size", "2", "--image_px", "32"),
        ],
        subject=DEEPLAB,
        data=rows_of("scenes_train.csv", "Image"),
        items="**/*.png",
    ),
]


def named(*names: str) -> Iterator[Prediction]:
    """The commands of these names."""
    return (prediction for prediction in PREDICTIONS if prediction.name in names)
