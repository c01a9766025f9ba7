"""Options of stages A to D for the embedded scenes: minutes on a CPU, no download, no trained weights."""

from pathlib import Path
from typing import NamedTuple

from common.options import TrainerFlags
from maskdistill.options import (
    ClusterOptions,
    DetectionDataOptions,
    DetectOptions,
    DetectorOptions,
    LabelMapOptions,
    MaskOptions,
    SolverOptions,
)


class DemoOptions(NamedTuple):
    """What each stage is called with."""

    masks: MaskOptions
    clusters: ClusterOptions
    detector: DetectorOptions
    solver: SolverOptions
    detection_data: DetectionDataOptions
    detector_flags: TrainerFlags
    detect: DetectOptions
    label_maps: LabelMapOptions


def demo_options(
    data_file: Path, base_dir: Path, out: Path, num_classes: int = 6, truth: Path | None = None
) -> DemoOptions:
    """The options of every stage.

    Args:
        data_file: Training split of scenes, a CSV file.
        base_dir: Folder that its paths are relative to.
        out: Folder for all outputs; the detector's run directory is ``<out>/mask_rcnn``.
        num_classes: Clusters.
        truth: COCO ground truth that names the clusters (``convert_voc.py``); None: they are called cluster_NN.
    """
    masks, clustered, run = out / "masks.json", out / "clustered.json", out / "mask_rcnn"
    return DemoOptions(
        masks=MaskOptions(
            data_file=data_file,
            base_dir=base_dir,
            weights="contrast",
            patch_size=8,
            resize=320,
            mask_resize="nearest",
            pred_json_path=masks,
        ),
        clusters=ClusterOptions(
            dataset="scenes",
            num_classes=num_classes,
            weights="contrast",
            dataset_root1=base_dir,
            input_file1=masks,
            gt_file1=truth,
            output_file=clustered,
            save_dir=out / "clusters",
            n_init=20,
            num_trials=5,
        ),
        detector=small_detector(),
        solver=SolverOptions(lr=0.02, steps=[160], warmup_iters=40, reference_batch=0),
        detection_data=DetectionDataOptions(input_file=clustered, image_dir=base_dir, batch_size=8),
        detector_flags=TrainerFlags(max_epochs=10, gradient_clip_val=10.0, enable_model_summary=False),
        detect=DetectOptions(
            model_dir=run, images=clustered, image_dir=base_dir, set="train", score_threshold=0.05, batch_size=8
        ),
        label_maps=LabelMapOptions(
            input_file=run / "mask_rcnn_train.json",
            gt_file=run / "gt_train.json",
            output_file=out / "kept.json",
            save_dir=out / "label_maps",
            threshold=0.7,
            image_dir=base_dir,
        ),
    )


def small_detector() -> DetectorOptions:
    """A Mask R-CNN that learns 96 x 128 scenes from scratch in minutes: ResNet-18, pyramid of 32 channels, groups."""
    return DetectorOptions(
        trunk="resnet18",
        norm="group",
        freeze_at=0,
        width=32,
        anchor_px=[8, 16, 32, 64, 128],
        min_size_train=[96],
        min_size_test=96,
        max_size=256,
        rois_per_image=32,
        rpn_pre_nms=[300, 200],
        rpn_post_nms=[200, 100],
    )
