"""The options of the whole chain: data, rounds, and the options of each stage under its own name; torch-free."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from maskdistill.options import (
    ClusterOptions,
    DetectionDataOptions,
    DetectorOptions,
    LabelMapOptions,
    MaskOptions,
    SolverOptions,
)
from maskdistill.segmentation.options import (
    LabelOptions,
    OptimizerKwargs,
    SchedulerKwargs,
    SegmentationDataOptions,
    SegmentationOptions,
)


@dataclass(frozen=True, kw_only=True)
class ChainDataOptions:
    """Data. Without any, the embedded scenes are made and used."""

    images: Path | None = field(default=None, metadata={"positional": True})
    """A folder of pictures; a tenth of them is kept for validation."""
    data_file: Path | None = None
    """Instead: split prefix with its folder, NAME for NAME_train.csv and NAME_val.csv."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    dataset: Literal["VOC", "COCO20k"] | None = None
    """Instead: a data set in --dataset_root, its lists trainaug and val, or the images of --image_list."""
    dataset_root: Path | None = None
    """VOC: folder of VOCdevkit or VOCSegmentation; COCO20k: folder that holds MS-COCO2014."""
    image_list: Path | None = None
    """COCO20k: file with one image name per line."""


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """The chain."""

    num_clusters: int | None = None
    """Clusters besides the background; default: the classes of the ground truth, or 20 without one."""
    crf_rounds: int = 2
    """Rounds of stage F: predict the training images with a CRF, train on that from the start again."""
    probe: bool = True
    """Also train a linear probe on the last network (needs ground truth of the training images)."""
    detector_clip: float | None = None
    """Mask R-CNN: clip gradients at this norm, for training from scratch."""
    threshold: float = 0.9
    """Detections of at least this score make the label maps."""


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """The stages. Files and folders among their options are set by the chain."""

    masks: MaskOptions = field(default_factory=MaskOptions)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    detector: DetectorOptions = field(default_factory=DetectorOptions)
    solver: SolverOptions = field(default_factory=SolverOptions)
    detection: DetectionDataOptions = field(
        default_factory=lambda: DetectionDataOptions(input_file=Path(), image_dir=Path())
    )
    label_maps: LabelMapOptions = field(default_factory=lambda: LabelMapOptions(input_file=Path(), gt_file=Path()))
    segmentation: SegmentationOptions = field(default_factory=SegmentationOptions)
    semantic: SegmentationDataOptions = field(default_factory=SegmentationDataOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    linear: SegmentationOptions = field(
        default_factory=lambda: SegmentationOptions(
            loss="CE",
            epochs=60,
            scheduler_kwargs=SchedulerKwargs(lr_decay_epochs=[25]),
            optimizer_kwargs=OptimizerKwargs(lr=0.1),
            freeze_batchnorm="all",
            freeze_layers=0,
        )
    )
