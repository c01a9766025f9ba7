"""Mask R-CNN R50-C4 by detectron2, an optional library: the same masks in, the same results list out.

detectron2 is not on PyPI. It is installed from its public repository, with the torch that is there:

    git clone https://github.com/facebookresearch/detectron2
    pip install "setuptools<81" && pip install --no-build-isolation ./detectron2

The run directory holds ``detectron2.yaml``, ``categories.json``, ``model_final.pth`` and detectron2's own logs. A run
goes on from its last checkpoint with ``--resume``; its random numbers do not (detectron2 does not keep their state).
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from tqdm import tqdm

from common.errors import InputError
from common.files import atomic_path, check_writable
from common.messages import tell
from common.options import RunOptions, TrainerFlags
from common.training import to_plain
from maskdistill import rle
from maskdistill.checkpoints import import_resnet50, read_published, weights_of
from maskdistill.coco_files import CocoFile, Entry, Parts
from maskdistill.detection_data import MaskImages, category_ids, checked_masks, sorted_categories
from maskdistill.detectron2_weights import resnet_to_detectron2
from maskdistill.images import read_sized
from maskdistill.options import DetectionDataOptions, DetectOptions, DetectorOptions, SolverOptions
from maskdistill.transforms import IMAGENET_MEAN, IMAGENET_STD

INSTALL = (
    "needs detectron2, which is not installed: git clone https://github.com/facebookresearch/detectron2; pip install"
    " 'setuptools<81'; pip install --no-build-isolation ./detectron2; or use --backend torchvision"
)
CONFIG, CATEGORIES = "detectron2.yaml", "categories.json"
HEADS = "Res5ROIHeadsExtraNorm"


def available() -> bool:
    """Whether detectron2 can be imported."""
    return importlib.util.find_spec("detectron2") is not None


def is_detectron2(checkpoint: Path) -> bool:
    """Whether a checkpoint is detectron2's, by its name."""
    return checkpoint.suffix in (".pth", ".pkl")


def register_heads() -> None:
    """Tell detectron2 of the heads with a normalisation after res5, for boxes and masks alike."""
    from detectron2.layers import get_norm
    from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

    if HEADS in ROI_HEADS_REGISTRY:
        return

    class Res5ROIHeadsExtraNorm(Res5ROIHeads):
        """Res5ROIHeads whose stage ends with a normalisation, as in MoCo's detection experiments."""

        @classmethod
        def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
            stage, width = super()._build_res5_block(cfg)
            stage.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, width))
            return stage, width

    ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)


def configuration(
    model: DetectorOptions, solver: SolverOptions, num_classes: int, batch: int, *, devices: int, cuda: bool
) -> Any:
    """detectron2's configuration of our options (section C.1 of the recipe); rate and steps scaled with the batch."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    norm = "FrozenBN" if model.norm == "frozen" else "SyncBN" if devices > 1 and cuda else "BN"
    values: dict[str, Any] = {
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.MASK_ON": True,
        "MODEL.DEVICE": "cuda" if cuda else "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.FREEZE_AT": model.freeze_at,
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(model.anchor_px)],
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": model.rpn_pre_nms[0],
        "MODEL.RPN.PRE_NMS_TOPK_TEST": model.rpn_pre_nms[1],
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": model.rpn_post_nms[0],
        "MODEL.RPN.POST_NMS_TOPK_TEST": model.rpn_post_nms[1],
        "MODEL.RPN.SMOOTH_L1_BETA": model.smooth_l1_beta,
        "MODEL.ROI_HEADS.NAME": HEADS if model.extra_norm else "Res5ROIHeads",
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": model.rois_per_image,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": model.score_threshold,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": model.nms_threshold,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": model.smooth_l1_beta,
        "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
        "MODEL.PIXEL_MEAN": [255 * value for value in IMAGENET_MEAN],
        "MODEL.PIXEL_STD": [255 * value for value in IMAGENET_STD],
        "INPUT.FORMAT": "RGB",
        "INPUT.MASK_FORMAT": "bitmask",
        "INPUT.MIN_SIZE_TRAIN": tuple(model.min_size_train),
        "INPUT.MAX_SIZE_TRAIN": model.max_size,
        "INPUT.MIN_SIZE_TEST": model.min_size_test,
        "INPUT.MAX_SIZE_TEST": model.max_size,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.MOMENTUM": solver.momentum,
        "SOLVER.WEIGHT_DECAY": solver.weight_decay,
        "SOLVER.WARMUP_ITERS": solver.warmup_iters,
        "TEST.DETECTIONS_PER_IMAGE": model.max_detections,
        "TEST.PRECISE_BN.ENABLED": solver.precise_bn > 0,
        "TEST.PRECISE_BN.NUM_ITER": max(solver.precise_bn, 1),
    }
    scale = batch / solver.reference_batch if solver.reference_batch else 1.0
    values["SOLVER.BASE_LR"] = solver.lr * scale
    values["SOLVER.MAX_ITER"] = max(round(solver.max_iter / scale), 1)
    values["SOLVER.STEPS"] = tuple(
        step for step in (round(step / scale) for step in solver.steps) if step < values["SOLVER.MAX_ITER"]
    )
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def records_of(data: MaskImages, categories: Sequence[int]) -> list[dict[str, Any]]:
    """The images in detectron2's form; categories are numbered by their place."""
    from detectron2.structures import BoxMode

    return [
        {
            "file_name": str(file),
            "image_id": image["id"],
            "height": int(image["height"]),
            "width": int(image["width"]),
            "annotations": [
                {
                    "bbox": list(entry["bbox"]),
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": categories.index(entry["category_id"]),
                    "segmentation": rle.code_of(entry["segmentation"], data.size(row)),
                    "iscrowd": 0,
                }
                for entry in data.entries[row]
            ],
        }
        for row, (file, image) in enumerate(zip(data.files, data.images, strict=True))
    ]


def train_detectron2(
    model: DetectorOptions, solver: SolverOptions, data: DetectionDataOptions, run: RunOptions, flags: TrainerFlags
) -> Path:
    """Train with detectron2's own trainer; ``--max_steps`` or ``--max_epochs`` replace the recipe's length.

    Raises:
        InputError: detectron2 is absent, or options that it cannot follow.
    """
    _check(model)
    assert run.out is not None
    out, resuming = run.out, run.resume
    check_writable(out)
    if (out / "last_checkpoint").exists() and not resuming:
        raise InputError(f"{out}: holds a run already; add --resume to continue it, or give another --out")
    content = checked_masks(data.input_file)
    images = MaskImages(content, data.image_dir, min_sizes=model.min_size_train, max_size=model.max_size)
    devices = torch.cuda.device_count() if run.gpus in (None, -1) else run.gpus
    assert devices is not None
    if devices > torch.cuda.device_count():
        raise InputError(f"--gpus {devices}: torch sees no CUDA device here; use --gpus 0")
    batch = data.batch_size * max(devices, 1)
    solver = _length(solver, flags, len(images), batch)
    classes = sorted_categories(content.categories)
    cfg = configuration(model, solver, len(classes), batch, devices=devices, cuda=devices > 0)
    cfg.merge_from_list(
        [
            *("OUTPUT_DIR", str(out), "SEED", data.seed, "DATALOADER.NUM_WORKERS", data.num_workers),
            *("INPUT.RANDOM_FLIP", "horizontal" if data.flip else "none"),
            *("SOLVER.CHECKPOINT_PERIOD", run.save_every or 1000),
            *("DATASETS.TRAIN", ("maskdistill_train",), "DATASETS.TEST", ()),
        ]
    )
    if flags.gradient_clip_val:
        clip = {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": flags.gradient_clip_val}
        cfg.merge_from_list([item for key, value in clip.items() for item in (f"SOLVER.CLIP_GRADIENTS.{key}", value)])
    finished = out / "finished"
    if resuming and finished.exists() and int(finished.read_text()) >= cfg.SOLVER.MAX_ITER:
        tell(f"{out}: finished already after {finished.read_text()} steps; a larger --max_steps goes on")
        return out
    if model.init is not None:
        cfg.MODEL.WEIGHTS = str(_initial_weights(model.init, out))
    _write_description(out, cfg, classes, (model, solver, data, run))
    from detectron2.engine import launch

    launch(_train, max(devices, 1), dist_url="auto", args=(cfg, images, category_ids(content), resuming))
    with atomic_path(finished) as temporary:
        temporary.write_text(str(cfg.SOLVER.MAX_ITER))
    return out


def _train(cfg: Any, images: MaskImages, categories: list[int], resuming: bool) -> None:
    """One process of the training."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.engine import DefaultTrainer
    from detectron2.utils.logger import setup_logger

    register_heads()
    setup_logger(cfg.OUTPUT_DIR)
    name = cfg.DATASETS.TRAIN[0]
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: records_of(images, categories))
    MetadataCatalog.get(name).set(thing_classes=[str(number) for number in categories])
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=resuming)
    trainer.train()


def detect_detectron2(options: DetectOptions, checkpoint: Path, content: CocoFile, parts: Parts) -> list[Entry]:
    """The detections of all images as records; gives the category list.

    Raises:
        InputError: detectron2 is absent, or the files beside the checkpoint are.
    """
    model, cfg, classes = _restored(checkpoint, options)
    from detectron2.data import transforms

    resize = transforms.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    images = MaskImages(
        content,
        options.image_dir,
        min_sizes=[cfg.INPUT.MIN_SIZE_TEST],
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        with_masks=False,
    )
    records = parts.open()
    ids = [int(entry["id"]) for entry in classes]
    for row in tqdm([row for row in range(len(images)) if row not in records], desc="detecting"):
        H, W = images.size(row)
        image = read_sized(images.files[row], (H, W))
        scaled = resize.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(np.ascontiguousarray(scaled.transpose(2, 0, 1)).astype("float32"))
        with torch.no_grad():
            found = model([{"image": tensor, "height": H, "width": W}])[0]["instances"].to("cpu")
        parts.add({"key": row, "entries": _entries(found, images.images[row], ids)})
    parts.close()
    return classes


def _entries(found: Any, image: Entry, ids: Sequence[int]) -> list[Entry]:
    """Results of one image by falling score."""
    order = found.scores.sort(descending=True, stable=True).indices.tolist()
    boxes = found.pred_boxes.tensor.tolist()
    entries = []
    for index in order:
        x0, y0, x1, y1 = boxes[index]
        entries.append(
            {
                "image_id": image["id"],
                "category_id": ids[int(found.pred_classes[index])],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(found.scores[index]),
                "segmentation": rle.encode(found.pred_masks[index].numpy()),
            }
        )
    return entries


def _restored(checkpoint: Path, options: DetectOptions) -> tuple[nn.Module, Any, list[Entry]]:
    if not available():
        raise InputError(f"{checkpoint}: is detectron2's and {INSTALL.split('; or')[0]}")
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    register_heads()
    folder = checkpoint.parent
    for name in (CONFIG, CATEGORIES):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: is missing beside {checkpoint.name}; name a run of train_mask_rcnn.py")
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / CONFIG))
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() and options.gpus != 0 else "cpu"
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.RESNETS.NORM.replace("SyncBN", "BN")
    if options.score_threshold is not None:
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = options.score_threshold
    model = build_model(cfg).eval()
    weights = weights_of(read_published(checkpoint))
    own = {key for key in model.state_dict() if not key.startswith(("pixel_", "proposal_generator.anchor_generator"))}
    if own - set(weights):
        raise InputError(f"{checkpoint}: lacks {len(own - set(weights))} weights (first: {min(own - set(weights))})")
    model.load_state_dict(weights, strict=False)
    classes: list[Entry] = json.loads((folder / CATEGORIES).read_text())
    return model, cfg, classes


def _check(model: DetectorOptions) -> None:
    if model.architecture != "c4":
        raise InputError(f"--backend detectron2 with --architecture {model.architecture}: give --architecture c4")
    if model.norm == "group":
        raise InputError("--backend detectron2 with --norm group: give batch or frozen")
    if model.freeze_at and model.init is None:
        raise InputError(
            f"--freeze_at {model.freeze_at}: would freeze random weights; give --init (a ResNet-50), or --freeze_at 0"
        )
    if not available():
        raise InputError(f"--backend detectron2 {INSTALL}")


def _length(solver: SolverOptions, flags: TrainerFlags, num_images: int, batch: int) -> SolverOptions:
    """The solver with the length that the Trainer's flags ask for."""
    scale = batch / solver.reference_batch if solver.reference_batch else 1.0
    if flags.max_steps > 0:
        return replace(solver, max_iter=round(flags.max_steps * scale))
    if flags.max_epochs is not None:
        return replace(solver, max_iter=round(flags.max_epochs * -(-num_images // batch) * scale))
    return solver


def _initial_weights(init: Path, out: Path) -> Path:
    """The pickle that detectron2 starts from."""
    if init.suffix == ".pkl":
        return init
    import pickle

    path = out / "init.pkl"
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(resnet_to_detectron2(import_resnet50(read_published(init), str(init)))))
    return path


def _write_description(out: Path, cfg: Any, classes: Sequence[Entry], options: Sequence[Any]) -> None:
    plain: dict[str, Any] = {}
    for part in options:
        plain.update(to_plain(part))
    texts = {
        CONFIG: cfg.dump(),
        CATEGORIES: json.dumps(list(classes), indent=2) + "\n",
        "config.yaml": yaml.safe_dump(plain, sort_keys=False),
    }
    for name, text in texts.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text)
