"""k-NN classification of a labelled set by the class token's features (arXiv 2104.14294, section 4.1).

Features are computed by any number of processes into chunk files; the first process joins them and lets them vote.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2
from tqdm import tqdm

from common.errors import InputError
from common.files import IMAGE_SUFFIXES, atomic_path, read_array, read_image, read_labels, write_array
from common.layouts import natural_key
from common.messages import is_main_process, tell
from common.metrics.protocol import Protocol, Score, write_scores
from common.options import TrainerFlags
from common.prediction import ItemWriter, claim, predict_items
from common.splits import read_split
from transformer_seg.backbones import MEAN_STD
from transformer_seg.dino.arch import AnyBackbone
from transformer_seg.dino.knn import knn_votes, top_accuracy
from transformer_seg.dino.options import KnnOptions
from transformer_seg.dino.weights import Named, load_named

VOID = 255
BEST = (1, 5)
NAMES = {"train": ("trainfeat", "trainlabels"), "val": ("testfeat", "testlabels")}


@dataclass(frozen=True)
class Labelled:
    """Pictures with their classes.

    Attributes:
        files: N files.
        labels: Class numbers (N,).
    """

    files: list[Path]
    labels: NDArray[np.int64]


def labelled_sets(options: KnnOptions) -> tuple[dict[str, Labelled], list[str]]:
    """The training and the test set, and the names of the classes.

    Raises:
        InputError: a folder, column or class that is not there.
    """
    if options.data_path is not None:
        pairs = {step: list(_folder_pairs(options.data_path / step)) for step in ("train", "val")}
    else:
        pairs = {step: list(_split_pairs(options, step)) for step in ("train", "val")}
    names = sorted({name for name, _ in pairs["train"]}, key=natural_key)
    for step, found in pairs.items():
        unknown = sorted({name for name, _ in found} - set(names))
        if unknown:
            raise InputError(f"class {unknown[0]!r} of the {step} set is not in the train set; remove it or add to it")
    number = {name: position for position, name in enumerate(names)}
    sets = {
        step: Labelled([file for _, file in found], np.array([number[name] for name, _ in found], np.int64))
        for step, found in pairs.items()
    }
    return sets, names


def _folder_pairs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Class and file of every picture of ``folder/CLASS``."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected train/CLASS/*.jpg and val/CLASS/*.jpg below --data_path")
    count = 0
    for place in sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name)):
        if place.is_dir():
            for file in sorted(place.rglob("*"), key=lambda entry: natural_key(entry.name)):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    count += 1
                    yield place.name, file
    if not count:
        raise InputError(f"{folder}: no pictures in folders per class; expected {folder.name}/CLASS/*.jpg")


def _split_pairs(options: KnnOptions, step: str) -> Iterator[tuple[str, Path]]:
    """Class and file of every row with a class: the cell itself, or of a class map the class of most pixels."""
    assert options.data_file is not None
    if step == "val" and options.test_file is not None:
        split = read_split(options.test_file, base_dir=options.base_dir)
    else:
        only_test = step == "val" and not Path(f"{options.data_file}_val.csv").exists()
        split = read_split(options.data_file, "test" if only_test else step, options.base_dir)
    known = split.available("Image") & split.available(options.class_column)
    if not known.any():
        raise InputError(
            f"{split.file}: no row with both Image and {options.class_column}; name another --class_column"
        )
    cells = split.column(options.class_column)
    for row in tqdm(np.flatnonzero(known).tolist(), desc=f"classes of {step}", unit="picture", disable=None):
        name = str(cells[row])
        if Path(name).suffix.lower() in IMAGE_SUFFIXES:
            labels = read_labels(split.path(row, options.class_column))
            found = labels[(labels > 0) & (labels != VOID)]
            if not len(found):
                continue  # nothing but background
            name = str(np.bincount(found).argmax())
        yield name, split.path(row, "Image")


class Centres(Dataset[dict[str, Any]]):
    """Pictures resized, cut to a square and normalised."""

    def __init__(self, files: list[Path], options: KnnOptions) -> None:
        self.files = files
        self.transform = v2.Compose(
            [
                v2.Resize(options.resize, interpolation=InterpolationMode.BICUBIC),
                v2.CenterCrop(options.crop),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(*map(list, MEAN_STD["deit"])),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = index if index >= 0 else ~index
        image = self.transform(Image.fromarray(read_image(self.files[position])))
        return {"image": image, "index": position, "weight": float(index >= 0)}


class FeatureNetwork(pl.LightningModule):
    """Gives the class token's features."""

    def __init__(self, backbone: AnyBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    @torch.no_grad()
    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Unit length, (B, D) in float32."""
        return F.normalize(self.backbone(batch["image"])[:, 0].float(), dim=1)


class ChunkWriter(ItemWriter):
    """Writes the features of every batch to a file of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def write(self, batch: Any, prediction: Tensor) -> None:
        """Write a batch."""
        kept = (batch["weight"] > 0).cpu().numpy()
        index = batch["index"].cpu().numpy()[kept]
        if len(index):
            file = self.folder / f"{int(index[0]):09d}-{int(index[-1]):09d}.npz"
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, index=index, features=prediction.cpu().numpy()[kept], allow_pickle=False)


def features_of(
    step: str, labelled: Labelled, network: FeatureNetwork, options: KnnOptions, flags: TrainerFlags
) -> NDArray[np.float32] | None:
    """Features (N, D) of a set; None in all processes but the first."""
    folder = options.out / "features" / step
    done = {index for file in sorted(folder.glob("[0-9]*.npz")) for index in read_array(file, "index").tolist()}
    predict_items(
        network,
        Centres(labelled.files, options),
        [position for position in range(len(labelled.files)) if position not in done],
        ChunkWriter(folder),
        flags=flags,
        gpus=options.gpus,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
    )
    if not is_main_process():
        return None
    parts = [(read_array(file, "index"), read_array(file, "features")) for file in sorted(folder.glob("[0-9]*.npz"))]
    features = np.zeros((len(labelled.files), parts[0][1].shape[1]), np.float32)
    for index, values in parts:
        features[np.asarray(index, np.int64)] = values
    return features


def run_knn(options: KnnOptions, flags: TrainerFlags, network: Named | None = None) -> list[Score]:
    """Classify the test set by the training set; writes scores.json and gives its content.

    Args:
        options: Data, weights and votes.
        flags: Trainer flags: devices, strategy, precision ...
        network: Instead of the weights that the options name.

    Raises:
        InputError: data, weights or options that cannot be used.
    """
    check_knn_options(options)
    if options.load_features is not None:
        features, labels = loaded(options.load_features)
        count, notes = int(labels["train"].max()) + 1, f"features of {options.load_features}"
    else:
        sets, names = labelled_sets(options)
        network = network or load_named(options)
        weights = network.weights
        listed = [[str(file) for file in one.files] + one.labels.tolist() for one in sets.values()]
        claim(options.out, {**weights, "files": _digest(str(listed)), "size": [options.resize, options.crop]})
        found = {
            step: features_of(step, one, FeatureNetwork(network.backbone), options, flags) for step, one in sets.items()
        }
        if any(values is None for values in found.values()):
            return []
        features = {step: values for step, values in found.items() if values is not None}
        labels = {step: one.labels for step, one in sets.items()}
        count, notes = len(names), f"{weights['weights']}, {options.resize}/{options.crop} px"
        if options.dump_features:
            for step, (one, other) in NAMES.items():
                write_array(options.out / f"{one}.npy", features[step])
                write_array(options.out / f"{other}.npy", labels[step])
    return vote(features, labels, count, options, notes)


def vote(
    features: dict[str, NDArray[np.float32]],
    labels: dict[str, NDArray[np.int64]],
    num_classes: int,
    options: KnnOptions,
    notes: str,
) -> list[Score]:
    """Top-1 and top-5 accuracy for every number of neighbours."""
    train, test = (torch.from_numpy(features[step]) for step in ("train", "val"))
    train_labels, test_labels = (torch.from_numpy(labels[step]) for step in ("train", "val"))
    scores = []
    for neighbours in options.nb_knn:
        votes = knn_votes(
            train,
            train_labels,
            test,
            num_classes=num_classes,
            neighbours=neighbours,
            temperature=options.temperature,
        )
        for best in (best for best in BEST if best < num_classes):
            value = top_accuracy(votes, test_labels, best)
            protocol = Protocol(
                scope="dataset",
                void="none",
                resolution=f"short side {options.resize}, centre {options.crop}",
                averaging="images",
                notes=f"{neighbours} neighbours, temperature {options.temperature}; {notes}",
            )
            scores.append(Score(f"knn{neighbours}_top{best}", value, protocol, len(test)))
    write_scores(options.out / "scores.json", scores)
    for score in scores:
        tell(f"{score.name:<12} {score.value:.4f}")
    tell(f"{len(test)} pictures of {num_classes} classes by {len(train)}; {options.out / 'scores.json'}")
    return scores


def loaded(folder: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]:
    """Features and labels that ``--dump_features`` wrote.

    Raises:
        InputError: a file is missing, or they do not go together.
    """
    features = {step: np.asarray(read_array(folder / f"{one}.npy"), np.float32) for step, (one, _) in NAMES.items()}
    labels = {step: np.asarray(read_array(folder / f"{other}.npy"), np.int64) for step, (_, other) in NAMES.items()}
    for step in NAMES:
        if features[step].ndim != 2 or len(features[step]) != len(labels[step]):
            raise InputError(f"{folder}: {features[step].shape} features for {len(labels[step])} labels of {step}")
    return features, labels


def check_knn_options(options: KnnOptions) -> None:
    """Refuse values that cannot work, each in one line.

    Raises:
        InputError: names the flag, the value and the remedy.
    """
    if [options.data_path, options.data_file, options.load_features].count(None) != 2:
        raise InputError("give one of --data_path FOLDER, --data_file NAME, or --load_features FOLDER")
    if not options.nb_knn or min(options.nb_knn) < 1:
        raise InputError(f"--nb_knn {' '.join(map(str, options.nb_knn))}: give numbers of neighbours from 1 on")
    if not options.temperature > 0:
        raise InputError(f"--temperature {options.temperature}: give a positive number")
    if not 1 <= options.crop <= options.resize:
        raise InputError(f"--crop {options.crop}: give 1 to --resize, {options.resize}")
    if options.batch_size < 1:
        raise InputError(f"--batch_size {options.batch_size}: give at least 1")


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
