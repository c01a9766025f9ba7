"""Attention of a split's pictures: head masks on disk, a prediction split, pictures and the VOC Jaccard score.

Prediction and what is made of it are apart: the processes of a prediction write ``heads/<name>.npz`` (the masks of all
heads and of their mean, bool (A + 1, h, w), bit-packed); the first process alone reads them and writes the rest.

Symbols: A heads, h w token grid, P patch size, H W pixels of the picture, G objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import InputError
from common.files import atomic_path, read_array, read_image, read_labels, read_mask, write_array, write_labels
from common.inputs import input_split
from common.messages import is_main_process
from common.metrics.protocol import Protocol, Score, write_scores
from common.options import TrainerFlags
from common.prediction import ItemWriter, claim, predict_items
from common.splits import Split, read_split, relative_cell, write_split
from transformer_seg.dino.arch import AnyBackbone
from transformer_seg.dino.attention_pictures import PictureOptions, write_pictures
from transformer_seg.dino.masks import VOID, attention_score, mass_masks
from transformer_seg.dino.options import AttentionOptions
from transformer_seg.dino.pictures import attention_input
from transformer_seg.dino.weights import Named, load_named
from transformer_seg.vit import attention_weights

FEW_PICTURES = 20  # up to which pictures of the heads are written without being asked for


@dataclass(frozen=True)
class HeadMasks:
    """Masks of one picture.

    Attributes:
        masks: bool (A + 1, h, w), one patch an element; the last one is that of the heads' mean.
        size: (rows, columns) that the picture was resized to, before the margin beyond whole patches was cut off.
    """

    masks: NDArray[np.bool_]
    size: tuple[int, int]


def head_number(head: str, count: int) -> int:
    """Position in `HeadMasks.masks` of ``--head``.

    Raises:
        InputError: no such head.
    """
    if head == "mean":
        return count
    if not head.isdecimal() or int(head) >= count:
        raise InputError(f"--head {head}: give mean, best, or a head from 0 to {count - 1}")
    return int(head)


class Pictures(Dataset[dict[str, Any]]):
    """Pictures of a split, resized and normalised."""

    def __init__(self, split: Split, image_size: Sequence[int], patch_size: int) -> None:
        self.split, self.image_size, self.patch_size = split, image_size, patch_size
        self.names = [
            f"{sequence}/{index:05d}"
            for sequence, index in zip(split.column("Sequence"), split.index.tolist(), strict=True)
        ]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = index if index >= 0 else ~index
        picture = read_image(self.split.path(position, "Image"))
        size = resized_size((picture.shape[0], picture.shape[1]), self.image_size)
        return {
            "image": attention_input(picture, size, self.patch_size),
            "size": torch.tensor(size),
            "index": position,
            "path": self.names[position],
            "weight": float(index >= 0),
        }


def resized_size(size: tuple[int, int], wanted: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) that a picture is resized to: as wanted or, of one number, with that short side."""
    if len(wanted) == 2:
        return wanted[0], wanted[1]
    scale = wanted[0] / min(size)
    return round(size[0] * scale), round(size[1] * scale)


class AttentionNetwork(pl.LightningModule):
    """Gives the attention of batches, and what else pictures are to show."""

    def __init__(self, backbone: AnyBackbone, points: Sequence[int] = (), layers: bool = False) -> None:
        super().__init__()
        self.backbone, self.points, self.layers = backbone, points, layers

    @torch.no_grad()
    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """``heads`` (B, A, h, w), and where asked for ``points`` (B, n, h, w) and ``layers`` (B, depth, h, w)."""
        image, extra = batch["image"], self.backbone.extra
        if not self.points and not self.layers:
            return {"heads": self.backbone.class_attention(image).float()}
        patch = self.backbone.patch_size
        h, w = (side // patch for side in image.shape[-2:])
        states = list(self.backbone.after_blocks(image))[:-1]
        blocks = list(self.backbone.blocks)
        found = {"heads": attention_weights(blocks[-1], states[-1], 1)[:, :, 0]}
        if self.points:
            tokens = [extra + point_token(y, x, patch, (h, w)) for y, x in pairs(self.points)]
            found["points"] = attention_weights(blocks[-1], states[-1], tokens).mean(dim=1)
        if self.layers:
            rows = [attention_weights(block, x, 1)[:, :, 0] for block, x in zip(blocks, states, strict=True)]
            found["layers"] = torch.stack([row.mean(dim=1) for row in rows], dim=1)
        return {name: values[..., extra:].unflatten(-1, (h, w)).float() for name, values in found.items()}


def pairs(points: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers two by two."""
    return list(zip(points[::2], points[1::2], strict=True))


def point_token(y: int, x: int, patch: int, grid: tuple[int, int]) -> int:
    """The patch that a pixel lies in.

    Raises:
        InputError: outside the resized picture.
    """
    h, w = grid
    if not (0 <= y < h * patch and 0 <= x < w * patch):
        raise InputError(f"--points {y} {x}: outside the picture of {h * patch} rows and {w * patch} columns")
    return y // patch * w + x // patch


class MaskWriter(ItemWriter):
    """Writes the head masks of every picture, and pictures of some."""

    def __init__(self, options: AttentionOptions, split: Split, shown: set[int], folder_of: "PictureFolders") -> None:
        super().__init__()
        self.options, self.split, self.shown, self.folder_of = options, split, shown, folder_of

    def write(self, batch: Any, prediction: dict[str, Tensor]) -> None:
        """Write a batch."""
        for place, (index, weight) in enumerate(zip(batch["index"].tolist(), batch["weight"].tolist(), strict=True)):
            if weight == 0:
                continue
            found = {name: values[place].cpu() for name, values in prediction.items()}
            name, size = batch["path"][place], tuple(batch["size"][place].tolist())
            masks = masks_of(found["heads"], self.options.threshold)
            if self.options.raw:
                write_array(self.options.out / "attention" / f"{name}.npz", found["heads"].numpy())
            if index in self.shown:
                pictures = PictureOptions(self.options.threshold, self.options.heatmaps)
                image = batch["image"][place].cpu()
                write_pictures(self.folder_of(name), image, found, masks, pictures)
            write_masks(masks_file(self.options.out, name), HeadMasks(masks.numpy(), size))  # last: it says "done"


@dataclass(frozen=True)
class PictureFolders:
    """Where pictures of an item go: the folder itself of a single picture, else one per item."""

    out: Path
    single: bool

    def __call__(self, name: str) -> Path:
        """The folder of an item."""
        return self.out if self.single else self.out / "pictures" / name


def masks_of(attention: Tensor, threshold: float) -> Tensor:
    """Masks bool (A + 1, h, w) of the heads (A, h, w) and, last, of their mean."""
    both = torch.cat([attention, attention.mean(dim=0, keepdim=True)])
    return mass_masks(both.flatten(1), threshold).view_as(both)


def masks_file(out: Path, name: str) -> Path:
    """The file of a picture's head masks."""
    return out / "heads" / f"{name}.npz"


def write_masks(path: Path, found: HeadMasks) -> None:
    """Write head masks, all or nothing."""
    shape = np.array([*found.masks.shape, *found.size])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, shape=shape, bits=np.packbits(found.masks), allow_pickle=False)


def read_masks(path: Path) -> HeadMasks:
    """Read what `write_masks` wrote.

    Raises:
        InputError: not such a file.
    """
    A, h, w, height, width = (int(value) for value in read_array(path, "shape"))
    bits = np.unpackbits(np.asarray(read_array(path, "bits"), np.uint8), count=A * h * w)
    return HeadMasks(bits.astype(bool).reshape(A, h, w), (height, width))


def at_size(mask: NDArray[np.bool_], patch: int, resized: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask (h, w) of patches as 0/1 at the picture's size (H, W), by nearest neighbour; the cut margin is 0."""
    pixels = np.zeros(resized, np.uint8)
    large = mask.repeat(patch, 0).repeat(patch, 1)
    pixels[: large.shape[0], : large.shape[1]] = large
    return np.array(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def run_attention(options: AttentionOptions, flags: TrainerFlags, network: Named | None = None) -> Path:
    """Attention of everything that the options name.

    Args:
        options: Input, weights and what to keep.
        flags: Trainer flags: devices, strategy, precision ...
        network: Instead of the weights that the options name.

    Returns:
        The prediction split's CSV file; of several processes, the first writes it.

    Raises:
        InputError: input, weights or options that cannot be used.
    """
    check_attention_options(options)
    network = network or load_named(options)
    patch = network.backbone.patch_size
    check_image_size(options.image_size, patch)
    split = (
        read_split(options.data_file, base_dir=options.base_dir)
        if options.data_file is not None
        else input_split(options.input, options.out)  # type: ignore[arg-type]
    )
    split = split.take(split.available("Image"))
    if not len(split):
        raise InputError(f"{split.file}: the 'Image' column is empty; name the pictures in it")
    check_best(options, split)
    data = Pictures(split, options.image_size, patch)
    claim(
        options.out,
        {
            **network.weights,
            "split": split.hash(),
            "image_size": list(options.image_size),
            "threshold": options.threshold,
            "pictures": [options.pictures, options.heatmaps, options.raw, list(options.points), options.layers],
        },
    )
    count = options.pictures if options.pictures is not None else (len(data) if len(data) <= FEW_PICTURES else 0)
    shown = set(range(len(data) if count < 0 else count))
    single = options.data_file is None and len(data) == 1
    predict_items(
        AttentionNetwork(network.backbone, options.points, options.layers),
        data,
        [position for position, name in enumerate(data.names) if not masks_file(options.out, name).exists()],
        MaskWriter(options, split, shown, PictureFolders(options.out, single)),
        flags=flags,
        gpus=options.gpus,
        batch_size=options.batch_size if len(options.image_size) == 2 else 1,
        num_workers=options.num_workers,
    )
    file = options.out / f"{split.name}.csv"
    if is_main_process():
        write_results(options, split, data, patch)
    return file


def write_results(options: AttentionOptions, split: Split, data: Pictures, patch: int) -> None:
    """The masks at the pictures' size, the prediction split and, where there is ground truth, the score."""
    table, scores, oracle = split.frame, {}, options.head == "best"
    for row, name in enumerate(tqdm(data.names, desc="masks", unit="picture", disable=None)):
        found = read_masks(masks_file(options.out, name))
        heads = found.masks[:-1]
        labels = ground_truth(split, row, options)
        if labels is not None:
            h, w = heads.shape[1:]
            small = resized_labels(labels, found.size)[: h * patch, : w * patch]
            scored = attention_score(torch.from_numpy(heads), torch.from_numpy(small), patch)
            scores[name] = float(scored.score)
        if oracle:
            assert labels is not None
            truth = torch.from_numpy((small > 0) & (small != VOID)).long()
            best = attention_score(torch.from_numpy(heads), truth, patch).iou
            chosen = int(best[0].argmax()) if len(best) else len(heads)
        else:
            chosen = head_number(options.head, len(heads))
        picture = read_size(split, row)
        file = options.out / "masks" / f"{name}.png"
        write_labels(file, at_size(found.masks[chosen], patch, found.size, picture))
        table.loc[row, "Pred"] = relative_cell(file, split.base_dir)
    if oracle:
        table["Oracle"] = "1"
    write_split(options.out / f"{split.name}.csv", table)
    if scores:
        score = jaccard_score(scores, options)
        write_scores(options.out / "scores.json", [score])
        print(f"{score.name} {score.value:.4f} over {score.n} pictures with objects (best head per object: an oracle)")


def jaccard_score(scores: dict[str, float], options: AttentionOptions) -> Score:
    """The mean over pictures of `attention_score`, with its protocol."""
    known = [value for value in scores.values() if not np.isnan(value)]
    size = " x ".join(map(str, options.image_size))
    protocol = Protocol(
        matching="best",
        scope="image",
        background="left_out",
        void="no object, counted as pixels",
        resolution=f"network input ({size}), ground truth resized to it by nearest",
        averaging="objects, images",
        oracle=True,
        notes=f"mask of the best head for each object, {options.threshold} of the attention kept",
    )
    mean = float(np.mean(known)) if known else float("nan")
    return Score("attention_jaccard", mean, protocol, len(known), scores)


def read_size(split: Split, row: int) -> tuple[int, int]:
    """(H, W) of a row's picture, upright."""
    picture = read_image(split.path(row, "Image"))
    return picture.shape[0], picture.shape[1]


def ground_truth(split: Split, row: int, options: AttentionOptions) -> NDArray[np.int64] | None:
    """Object labels of a row: of GtSemantic or else GtInstance or else GtMask; 0 background, 255 void."""
    for column in ("GtSemantic", "GtInstance"):
        if column in split.columns and split.available(column)[row]:
            return read_labels(split.path(row, column))
    if "GtMask" in split.columns and split.available("GtMask")[row]:
        mask = read_mask(split.path(row, "GtMask"), options.mask_encoding)
        return np.where(mask.void, VOID, mask.labels).astype(np.int64)
    return None


def resized_labels(labels: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Labels by nearest neighbour at (rows, columns)."""
    image = Image.fromarray(labels.astype(np.int32)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.array(image).astype(np.int64)


def check_attention_options(options: AttentionOptions) -> None:
    """Refuse values that cannot work, each in one line.

    Raises:
        InputError: names the flag, the value and the remedy.
    """
    if (options.input is None) == (options.data_file is None):
        raise InputError("give either a picture, folder or video, or --data_file with a split")
    if options.input is not None and not options.input.exists():
        raise InputError(f"{options.input}: no such picture, folder or video")
    if not 0 < options.threshold <= 1:
        raise InputError(f"--threshold {options.threshold}: give a share of the attention above 0 and up to 1")
    if len(options.points) % 2:
        given = " ".join(map(str, options.points))
        raise InputError(f"--points {given}: give pairs of row and column")
    if options.batch_size < 1:
        raise InputError(f"--batch_size {options.batch_size}: give at least 1")
    if options.head not in ("mean", "best") and not options.head.isdecimal():
        raise InputError(f"--head {options.head}: give mean, best, or the number of a head from 0")


def check_image_size(image_size: Sequence[int], patch: int) -> None:
    """One or two numbers that hold a patch.

    Raises:
        InputError: otherwise.
    """
    if len(image_size) not in (1, 2) or min(image_size) < patch:
        given = " ".join(map(str, image_size))
        raise InputError(f"--image_size {given}: give rows and columns, or one short side, of at least {patch} pixels")


def check_best(options: AttentionOptions, split: Split) -> None:
    """Whether the ground truth that ``--head best`` looks at is there.

    Raises:
        InputError: it is not.
    """
    columns = [name for name in ("GtSemantic", "GtInstance", "GtMask") if name in split.columns]
    known = np.zeros(len(split), bool)
    for name in columns:
        known |= split.available(name)
    if options.head == "best" and not known.all():
        raise InputError(
            f"--head best: {int((~known).sum())} rows of {split.file} have no ground truth; use --head mean"
        )
