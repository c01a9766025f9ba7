"""Stage C, prediction: many scored detections per image, written image by image, resumable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.checkpoints import best_checkpoint, load_checkpoint
from common.errors import InputError
from common.messages import is_main_process, tell, warn
from common.options import TrainerFlags
from common.prediction import ItemWriter, predict_items
from maskdistill.checkpoints import load_weights
from maskdistill.coco_files import CocoFile, Parts, file_hash, read_coco, stands, write_coco, write_results
from maskdistill.detection_data import MaskImages, detections_to_entries
from maskdistill.detector_module import MaskRCNNModule
from maskdistill.detectron2_backend import detect_detectron2, is_detectron2
from maskdistill.options import DetectOptions, DetectorOptions, SolverOptions


class DetectionWriter(ItemWriter):
    """Keeps the detections of each image as soon as they are there."""

    def __init__(self, parts: Parts, data: MaskImages, categories: list[int]) -> None:
        super().__init__()
        self.parts, self.data, self.categories = parts, data, categories

    def write(self, batch: Any, prediction: Any) -> None:
        """One record per image."""
        for place, found in enumerate(prediction):
            if batch["weight"][place] > 0:
                row = int(batch["index"][place])
                scaled = tuple(batch["image"][place].shape[1:])
                entries = detections_to_entries(found, self.data.images[row], scaled, self.categories)
                self.parts.add({"key": row, "entries": entries})


class _Readable(MaskImages):
    """The same images, one that cannot be read in black."""

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        try:
            return super().__getitem__(key)
        except InputError as error:
            warn(f"left out: {error}")
            assert isinstance(key, int)
            row, size = (key if key >= 0 else ~key), (self.min_sizes[0], self.min_sizes[0])
            image = torch.zeros(3, *size, dtype=torch.uint8)
            return {"index": row, "weight": 0.0, "path": "", "image": image, "size": size}


def detect(options: DetectOptions, flags: TrainerFlags) -> Path:
    """Write ``mask_rcnn_<set>.json`` and ``gt_<set>.json``; nothing is done where they stand already.

    Returns:
        The results list.

    Raises:
        InputError: A checkpoint, images or options that cannot be used; results of another origin.
    """
    checkpoint = checkpoint_file(options)
    out = options.out or (options.model_dir if options.model_dir.is_dir() else options.model_dir.parent)
    output = out / f"mask_rcnn_{options.set}.json"
    content = read_coco(options.images)
    source = {
        "checkpoint": file_hash(checkpoint),
        "images": file_hash(options.images),
        "score_threshold": options.score_threshold,
    }
    if stands(output, source, options.overwrite, "--set"):
        tell(f"{output}: stands already")
        return output
    if is_detectron2(checkpoint):
        categories = detect_detectron2(options, checkpoint, content, Parts(output, source))
    else:
        categories = _detect_torchvision(options, checkpoint, content, Parts(output, source), flags)
    if is_main_process():
        _assemble(output, Parts(output, source), content, categories)
    return output


def _detect_torchvision(
    options: DetectOptions, checkpoint: Path, content: CocoFile, parts: Parts, flags: TrainerFlags
) -> list[dict[str, Any]]:
    """The detections of all images as records; gives the category list."""
    module = restore(checkpoint, options.score_threshold)
    size = module.options
    data = (_Readable if options.skip_bad else MaskImages)(
        content, options.image_dir, min_sizes=[size.min_size_test], max_size=size.max_size, with_masks=False
    )
    records = parts.open()
    if records:
        tell(f"{parts.folder}: {len(records)} of {len(data)} images stand already")
    sizes = [(int(image["height"]), int(image["width"])) for image in content.images]
    predict_items(
        module,
        data,
        sorted((row for row in range(len(data)) if row not in records), key=lambda row: (sizes[row], row)),
        DetectionWriter(parts, data, module.categories),
        flags=flags,
        gpus=options.gpus,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        collate_fn=collate_images,
    )
    parts.close()
    categories: list[dict[str, Any]] = module.hparams["categories"]
    return categories


def collate_images(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of images of any sizes."""
    return {key: [item[key] for item in items] for key in items[0]}


def _assemble(output: Path, parts: Parts, content: CocoFile, categories: list[dict[str, Any]]) -> None:
    """The records as a results list in the order of the images, and the images' own file beside it."""
    records = parts.open()
    name = output.name.removeprefix("mask_rcnn_")
    write_coco(output.with_name(f"gt_{name}"), content.images, [], categories)
    entries = (entry for row in range(len(content.images)) for entry in records.get(row, {"entries": []})["entries"])
    write_results(output, entries)
    parts.finish()
    counts = [len(record["entries"]) for record in records.values()]
    without = len(content.images) - sum(count > 0 for count in counts)
    print(f"{output}: {sum(counts)} detections on {len(content.images)} images ({without} without any)")


def checkpoint_file(options: DetectOptions) -> Path:
    """The file that holds the weights.

    Raises:
        InputError: no such run or file.
    """
    path = options.model_dir
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"--model_dir {path}: no such run directory or checkpoint")
    if (path / "model_final.pth").is_file():
        return path / "model_final.pth"
    last = path / "checkpoints" / "last.ckpt"
    return last if options.checkpoint == "last" and last.is_file() else best_checkpoint(path)


def restore(checkpoint: Path, score_threshold: float | None = None) -> MaskRCNNModule:
    """The trained module of a checkpoint of ours, in eval mode.

    Raises:
        InputError: not such a checkpoint.
    """
    content = load_checkpoint(checkpoint)
    saved = content.get("hyper_parameters", {})
    if not {"model", "solver", "categories"} <= set(saved):
        raise InputError(f"{checkpoint}: no checkpoint of train_mask_rcnn.py; name its run directory with --model_dir")
    plain = {**saved["model"], "init": None}
    model = DetectorOptions(**plain)
    if score_threshold is not None:
        model = replace(model, score_threshold=score_threshold)
    module = MaskRCNNModule(model, SolverOptions(**saved["solver"]), saved["categories"], saved["seed"])
    weights = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    load_weights(module.model, weights, str(checkpoint))
    return module.eval()
