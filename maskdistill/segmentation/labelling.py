"""Label maps of every image of a split by a trained network, resumable, over any number of processes."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.files import check_writable, image_size
from common.messages import is_first_process, is_main_process
from common.options import TrainerFlags
from common.overlays import write_overlays
from common.prediction import claim, predict_items, prediction_flags
from common.splits import Split, relative_cell, write_split
from maskdistill.segmentation.crf_pool import num_crf_workers
from maskdistill.segmentation.data import LabelledImages
from maskdistill.segmentation.label_writer import LabelRule, LabelWriter
from maskdistill.segmentation.module import SegmentationModule
from maskdistill.segmentation.options import ModelKwargs, SegmentationDataOptions, SegmentationOptions
from maskdistill.segmentation.restore import Restored
from maskdistill.segmentation.sources import label_names


@dataclass(frozen=True)
class Machine:
    """On what, and how much at once."""

    flags: TrainerFlags
    gpus: int | None = None
    batch_size: int = 16
    num_workers: int = 0
    crf_workers: int | None = None


def label_images(
    restored: Restored,
    split: Split,
    out: Path,
    rule: LabelRule,
    machine: Machine,
    *,
    image_px: int = 512,
    overlay: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write ``<out>/<stem>.png`` for each image and the prediction split ``<out>/<name>.csv``.

    Args:
        restored: Trained network.
        split: Its Image column is read; all columns are kept.
        out: Folder.
        rule: How logits become labels.
        machine: Devices, batch size, processes.
        image_px: Side of the network's square input.
        overlay: Also lay the predictions over their pictures, in ``<out>/overlays``.
        overwrite: Remove what other weights or rules have left there.

    Returns:
        The prediction split; of several processes, the first writes it.

    Raises:
        InputError: Images that cannot be read; a folder with predictions of another origin.
    """
    check_writable(out)
    source = {
        "checkpoint": restored.hash(),
        "split": split.hash(),
        "image_px": image_px,
        "rule": [rule.crf, rule.predict_resize, rule.crf_min_probability if rule.crf else None, rule.upright],
    }
    if overwrite and is_first_process():
        _remove_others(out, source)
    claim(out, source, "add --overwrite, or give another --out")
    names = [out / name for name in label_names(split)]
    data = LabelledImages(
        split, None, restored.num_classes, SegmentationDataOptions(image_px=image_px), upright=rule.upright
    )
    module = SegmentationModule(
        SegmentationOptions(model_kwargs=ModelKwargs(pretraining="random"), freeze_layers=0),
        num_classes=restored.num_classes,
        num_true_classes=restored.num_classes,
        network=restored.network,
    ).eval()
    predict_items(
        module,
        data,
        [row for row, name in enumerate(names) if not _stands(name, data.images[row], rule.upright)],
        LabelWriter(names, rule, num_crf_workers(machine.crf_workers)),
        flags=prediction_flags(machine.flags),
        gpus=machine.gpus,
        batch_size=machine.batch_size,
        num_workers=machine.num_workers,
    )
    written = out / f"{split.name}.csv"
    if not is_main_process():
        return written
    table = split.frame.assign(Pred=[relative_cell(name, split.base_dir) for name in names])
    write_split(written, table)
    if overlay:
        shown = [row for row, name in enumerate(names) if image_size(name) == image_size(data.images[row])]
        if shown:  # not those that the viewer would turn, but whose label map is of the pixels as stored
            write_overlays(Split.from_rows(table.iloc[shown], split.base_dir, written), out / "overlays")
    return written


def _stands(label_map: Path, image: Path, upright: bool) -> bool:
    if not label_map.is_file():
        return False
    try:
        return image_size(label_map) == image_size(image, upright)
    except InputError:
        return False


def _remove_others(out: Path, source: dict[str, object]) -> None:
    """Empty a folder of predictions that are of another source, and of nothing else."""
    try:
        claim(out, source)
    except InputError:
        for path in _contents(out):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _contents(out: Path) -> Sequence[Path]:
    return [path for path in out.iterdir() if path.is_dir() or path.suffix in (".png", ".csv", ".json")]
