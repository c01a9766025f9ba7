"""Training of Mask R-CNN from options: network, initial weights, data, run directory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.options import RunOptions, TrainerFlags
from common.training import fit, seed_everything
from maskdistill.checkpoints import import_resnet50, load_weights, read_published, weights_of
from maskdistill.detection_data import DetectionData, sorted_categories
from maskdistill.detector_module import MaskRCNNModule, check_detector
from maskdistill.detectron2_weights import mask_rcnn_from_detectron2, resnet_name_from_detectron2
from maskdistill.options import DetectionDataOptions, DetectorOptions, SolverOptions


def train_detector(
    model: DetectorOptions, solver: SolverOptions, data: DetectionDataOptions, run: RunOptions, flags: TrainerFlags
) -> Path:
    """Train on the masks of stage B; see ``common.training.fit`` for what the run directory holds.

    Returns:
        The run directory.

    Raises:
        InputError: options, files or weights that cannot be used.
    """
    out = run.out or Path("runs/mask_rcnn")
    run = replace(run, out=out)
    if model.backend == "detectron2":
        from maskdistill.detectron2_backend import train_detectron2

        return train_detectron2(model, solver, data, run, flags)
    check_detector(model, run.resume or run.ckpt_path is not None)
    seed_everything(data.seed)
    datamodule = DetectionData(data, model)
    categories = sorted_categories(datamodule.content.categories)
    if model.num_classes not in (None, len(categories)):
        raise InputError(f"--num_classes {model.num_classes}: {data.input_file} has {len(categories)} categories")
    module = MaskRCNNModule(model, solver, categories, data.seed)
    if model.init is not None and not run.resume:
        load_trunk(module, model.init)
    if run.ckpt_path is not None and not run.resume:
        load_detector(module, run.ckpt_path)
    if flags.max_epochs is None and flags.max_steps < 0:
        images = solver.max_iter * (solver.reference_batch or data.batch_size)
        flags = replace(flags, max_epochs=max(-(-images // len(datamodule.train)), 1))
    validated = datamodule.val is not None
    fit(
        module,
        datamodule,
        run=run,
        flags=flags,
        options=(model, solver, data),
        monitor="val/loss" if validated else "train/loss",
        forced=None if validated else {"limit_val_batches": 0},
        facts={"method": "maskdistill mask_rcnn", "seed": data.seed, "data_hash": datamodule.hashes()},
    )
    return out


def load_trunk(module: MaskRCNNModule, path: Path) -> None:
    """Fill the residual network from a ResNet-50 file: DINO, MoCo, torchvision, or detectron2's pickle.

    Raises:
        InputError: not such a file.
    """
    content = read_published(path)
    weights = weights_of(content)
    if "stem.conv1.weight" in weights:
        content = {resnet_name_from_detectron2(name): value for name, value in weights.items()}
    trunk = import_resnet50(content, str(path))
    backbone: Any = module.model.backbone
    if module.options.architecture == "fpn":
        target = backbone.body
        kept = trunk
        if module.options.norm == "frozen":  # FrozenBatchNorm2d has no counter
            kept = {name: value for name, value in trunk.items() if not name.endswith("num_batches_tracked")}
        load_weights(target, kept, str(path))
        return
    load_weights(backbone, {k: v for k, v in trunk.items() if not k.startswith("layer4.")}, str(path))
    head: Any = module.model.roi_heads.box_head
    load_weights(head.layer4, {k[7:]: v for k, v in trunk.items() if k.startswith("layer4.")}, str(path))


def load_detector(module: MaskRCNNModule, path: Path) -> None:
    """Fill the whole network from a checkpoint of ours, or for c4 from detectron2's.

    Raises:
        InputError: weights that do not fit.
    """
    content = read_published(path)
    weights = weights_of(content)
    if "backbone.stem.conv1.weight" in weights:
        weights = mask_rcnn_from_detectron2(weights)
    else:
        weights = {k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")} or weights
    load_weights(module.model, weights, str(path))
