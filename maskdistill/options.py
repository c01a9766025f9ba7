"""The options of MaskDistill's stages A to D: one dataclass per command, torch-free, so that ``--help`` is quick.

Names and defaults are those of the original command lines; what the original does not have is marked (+).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MaskResize = Literal["legacy", "bilinear", "nearest"]
SegmentationFormat = Literal["rle", "polygon"]

MASK_ALIASES = {"--list": "--image_list"}
CLUSTER_ALIASES = {"--gt_file": "--gt_file1"}


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Stage A: one object mask per image."""

    dataset: Literal["VOCClass", "COCO20k", "folder", "csv"] | None = None
    """What the images are; default csv with --data_file, otherwise VOCClass. folder (+): any images below a folder."""
    dataset_root: Path | None = None
    """VOCClass: folder that holds VOCdevkit; COCO20k: folder that holds MS-COCO2014; folder: the images."""
    data_file: Path | None = None
    """(+) A CSV data split with an Image column."""
    base_dir: Path = Path(".")
    """(+) Folder that the paths in the split are relative to."""
    year: int = 2012
    """VOC year: 2007 to 2012."""
    set: str = "trainval"
    """VOC list: train, trainval, val, val_seg, train_all, trainaug_seg, instance; for 2007 also test."""
    include_test: bool = False
    """2007: add the list test; 2012 with trainaug_seg: add val_seg."""
    image_list: Path | None = None
    """(+) File with one image name per line, in place of the data set's own list; needed for COCO20k."""
    model: Literal["small", "base"] = "small"
    """Width of the vision transformer; base is (+)."""
    patch_size: int = 16
    """Side of a patch in pixels: 8 or 16 for the published weights."""
    weights: str = "random"
    """(+) random, contrast (hand-made features, no training), timm (downloads DINO's), or a DINO checkpoint file."""
    heads: int = 5
    """Leading heads whose query-key products with CLS are averaged."""
    topk: float = 0.4
    """Share of the patches that are candidates."""
    share: float = 0.5
    """(+) Share of the mass of the products that kept patches hold."""
    resize: int = 640
    """Shorter side of the network's input in pixels."""
    num_masks: int = 1
    """(+) Masks per image: the selection is repeated on the patches that are left."""
    mask_resize: MaskResize = "legacy"
    """(+) Mask to image size; legacy grows masks by about a pixel, as the published ones are."""
    segmentation_format: SegmentationFormat = "rle"
    """(+) rle is exact; polygon is what the original writes."""
    legacy_ties: bool = False
    """(+) Fill candidates up with dropped patches as torch.topk on the CPU happens to order them."""
    pred_json_path: Path | None = None
    """COCO file with the masks; nothing is written without it."""
    gt_json_path_coco: Path | None = None
    """COCO20k: annotations of the subset, made when missing."""
    gt_json_path_coco_agn: Path | None = None
    """COCO20k: the same with one category, made when missing."""
    exif: bool = False
    """(+) Turn images as their EXIF orientation says; VOC's and COCO's ground truth is of the pixels as stored."""
    skip_bad: bool = False
    """(+) Leave out images that cannot be read instead of stopping."""
    overwrite: bool = False
    """(+) Make an existing --pred_json_path anew."""
    batch_size: int = 8
    """(+) Images per batch and process; images of one padded size go together."""
    num_workers: int = 0
    """(+) Loader processes."""
    seed: int = 123
    """(+) Seed of random weights."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Stage B: masks to clusters, clusters to classes."""

    dataset: str = "VOCClass"
    """A name with VOC: 20 classes; with COCO: 80; anything else (+): the categories of --gt_file1, or --num_classes."""
    num_classes: int = 20
    """Number of classes; free when there is no ground truth."""
    overcluster: int = 1
    """Clusters per class; more than 1 matches by majority."""
    max_classes: int | None = None
    """(+) Without ground truth: choose the number of clusters between 2 and this by the silhouette."""
    model: Literal["small", "base"] = "small"
    """Width of the vision transformer; base is (+)."""
    patch_size: int = 8
    """Side of a patch in pixels."""
    weights: str = "random"
    """(+) random, contrast, timm, or a DINO checkpoint file; see gen_masks.py."""
    dataset_root1: Path | None = None
    """VOC: folder with JPEGImages/ and Annotations/; otherwise the folder of the images."""
    dataset_root2: Path | None = None
    """The same for --input_file2."""
    input_file1: Path | None = None
    """Masks of stage A, or a results list."""
    input_file2: Path | None = None
    """Support set: takes part in the clustering, is not written out."""
    gt_file1: Path | None = None
    """COCO ground truth of --input_file1; needed for a results list and for COCO."""
    gt_file2: Path | None = None
    """COCO ground truth of --input_file2."""
    output_file: Path | None = None
    """COCO file for stage C; beside it come the names, the scores and a contact sheet per cluster."""
    save_dir: Path = Path("clusters")
    """Cache of the features."""
    names: Path | None = None
    """(+) Edited copy of <output>_clusters.csv: category id and name of each cluster; an empty id drops the cluster."""
    n_init: int = 3
    """(+) Starts of k-means of which the best goes on."""
    num_trials: int = 1
    """(+) Runs of k-means from different seeds; the one of lowest inertia is kept, scores get mean and deviation."""
    seed: int = 1234
    """(+) Seed of the first run."""
    sheets: bool = True
    """(+) Write a contact sheet of crops per cluster."""
    overwrite: bool = False
    """(+) Make an existing --output_file anew."""
    batch_size: int = 8
    """(+) Crops per batch and process."""
    num_workers: int = 0
    """(+) Loader processes."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Mask R-CNN."""

    backend: Literal["torchvision", "detectron2"] = "torchvision"
    """Library that trains; both read and write the same files. detectron2 knows the architecture c4 only."""
    architecture: Literal["fpn", "c4"] = "fpn"
    """fpn: feature pyramid, practical; c4: the recipe of the prior work."""
    trunk: Literal["resnet50", "resnet18"] = "resnet50"
    """Residual network under fpn; c4 has a ResNet-50."""
    norm: Literal["batch", "frozen", "group"] = "batch"
    """Normalisation of the trunk: batch statistics, fixed ones (with --init), or groups (small batches, no --init)."""
    num_classes: int | None = None
    """Number of classes; default: the categories of --input_file."""
    init: Path | None = None
    """ResNet-50 to start from: DINO, MoCo v1 to v3, torchvision's, or detectron2's pickle; none: random."""
    extra_norm: bool = True
    """c4: a normalisation after res5 (Res5ROIHeadsExtraNorm)."""
    freeze_at: int = 2
    """Leading stages that stay as they are (2 = stem and first stage); 0 for training from scratch."""
    width: int = 256
    """fpn: channels of pyramid and mask head; the box head has four times as many."""
    anchor_px: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 512])
    """Anchor sizes: one per pyramid level, all on the single level of c4."""
    min_size_train: list[int] = field(default_factory=lambda: list(range(480, 801, 32)))
    """Shorter sides in pixels to draw from in training."""
    min_size_test: int = 800
    """Shorter side in prediction."""
    max_size: int = 1333
    """Bound of the longer side."""
    rois_per_image: int = 512
    """Sampled regions per image, a quarter of them positive."""
    rpn_pre_nms: list[int] = field(default_factory=lambda: [12000, 6000])
    """Proposals before suppression, in training and prediction."""
    rpn_post_nms: list[int] = field(default_factory=lambda: [2000, 1000])
    """Proposals after suppression, in training and prediction."""
    smooth_l1_beta: float = 0.0
    """Boxes: where the L1 loss turns quadratic; 0 is detectron2's recipe, torchvision has 1/9."""
    score_threshold: float = 0.05
    """Detections below it are dropped."""
    nms_threshold: float = 0.5
    """Of two boxes of a class that overlap more, the weaker is dropped."""
    max_detections: int = 100
    """Detections per image."""


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """Optimiser: SGD with warm-up and steps."""

    lr: float = 0.02
    """Learning rate at --reference_batch images per step; scaled linearly to the actual number."""
    momentum: float = 0.9
    """Momentum."""
    weight_decay: float = 1e-4
    """Weight decay; normalisations have none."""
    steps: list[int] = field(default_factory=lambda: [18000, 22000])
    """Optimiser steps, at --reference_batch images, after which the rate falls by ten."""
    max_iter: int = 24000
    """Optimiser steps at --reference_batch images; --max_epochs or --max_steps replace it."""
    warmup_iters: int = 100
    """Steps over which the rate rises from a thousandth."""
    reference_batch: int = 16
    """Images per step that rate and steps are given for; 0: take them as they are."""
    precise_bn: int = 200
    """Batches from which batch norms' statistics are measured anew when training ends; 0: keep the running ones."""


@dataclass(frozen=True, kw_only=True)
class DetectionDataOptions:
    """Data."""

    input_file: Path
    """Masks with classes: the COCO file of stage B."""
    image_dir: Path
    """Folder that the file names are relative to, or a VOC folder with JPEGImages/."""
    val_file: Path | None = None
    """COCO file to validate on (loss and mask AP50); default: the training loss chooses the checkpoint."""
    val_image_dir: Path | None = None
    """Its images; default --image_dir."""
    batch_size: int = 4
    """Images per batch and process."""
    flip: float = 0.5
    """Chance of a horizontal flip."""
    num_workers: int = 0
    """Loader processes."""
    seed: int = 123
    """Seed of the initialisation, the order, the augmentation and the sampling of regions."""


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """Stage C, prediction: what to detect on, and with what."""

    model_dir: Path = Path("runs/mask_rcnn")
    """Run directory of train_mask_rcnn.py, a checkpoint of it, or detectron2's model_final.pth (with --backend)."""
    images: Path
    """COCO file whose images (and their ids) are predicted: masks of stage A or B, or ground truth."""
    image_dir: Path
    """Folder that the file names are relative to, or a VOC folder with JPEGImages/."""
    out: Path | None = None
    """Folder of the results; default: the run directory."""
    set: str = "trainaug"
    """Name of the results: mask_rcnn_<set>.json and gt_<set>.json."""
    checkpoint: Literal["last", "best"] = "last"
    """Which weights of the run directory."""
    score_threshold: float | None = None
    """Detections below it are dropped; default: that of the training."""
    skip_bad: bool = False
    """Leave out images that cannot be read instead of stopping."""
    overwrite: bool = False
    """Make existing results anew."""
    batch_size: int = 4
    """Images per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class LabelMapOptions:
    """Stage D: confident detections to label maps."""

    input_file: Path
    """Results list of stage C."""
    gt_file: Path
    """COCO file that gives images and categories; its annotations, if any, are for the printed box AP50."""
    output_file: Path = Path("out_file.json")
    """COCO file with the kept detections."""
    save_dir: Path = Path("output_dir")
    """Folder of the label maps <stem>.png, of their split label_maps.csv and of source.json."""
    threshold: float = 1.0
    """Detections of at least this score are painted; 0.9 in the published run; 1.0: only the top one."""
    mask_type: Literal["polygon", "binary_mask", "bbx", "grabcut"] = "polygon"
    """polygon, binary_mask: the segmentation; bbx: the box; grabcut: OpenCV's foreground in the box."""
    image_dir: Path | None = None
    """Folder of the images: for grabcut, and for the Image column of the split."""
    overlap: Literal["keep_first", "skip", "overwrite", "legacy"] = "keep_first"
    """(+) Where detections overlap; legacy is the published rule, which looks at two image rows by mistake."""
    uncertain: float | None = None
    """(+) Pixels of dropped detections of at least this score become 255 instead of background."""
    missing: Literal["ignore", "background"] = "ignore"
    """(+) Label map of an image without a detection: all 255, or all background."""
    eval: Path | None = None
    """(+) Folder of ground-truth label maps <stem>.png to score against."""
    overwrite: bool = False
    """(+) Make existing label maps anew."""


@dataclass(frozen=True, kw_only=True)
class EvaluateInstancesOptions:
    """Average precision of instance masks."""

    input_file: Path
    """Results list."""
    gt_file: Path
    """COCO ground truth."""
    eval_most_confident: bool = False
    """Only the most confident detection of each image, against one object (single)."""
    iou_type: Literal["segm", "bbox"] = "segm"
    """(+) Masks or boxes."""
    class_agnostic: bool = False
    """(+) All detections and objects count as one class."""
    match: bool = False
    """(+) Match clusters to the classes of the ground truth first, one-to-one by box AP50."""
    out: Path | None = None
    """(+) JSON file for the scores."""


@dataclass(frozen=True, kw_only=True)
class ConvertVocOptions:
    """Object maps of VOC as COCO ground truth."""

    dataset_root: Path
    """Folder with SegmentationObject/, SegmentationClass/ and JPEGImages/, or VOCdevkit above it."""
    out_file: Path = Path("instance_gt.json")
    """COCO file to write."""
    agnostic: bool = False
    """All objects are of category 0."""
    int_ids: bool = False
    """(+) Image ids are numbers 0, 1, 2 ...; default: the stems, as the original has them."""
    image_list: Path | None = None
    """(+) File with one image name per line; default: every object map there is."""
    classes: Path | None = None
    """(+) CSV file index,name of the classes (0 = background); default: VOC's."""
    segmentation_format: SegmentationFormat = "polygon"
    """(+) polygon is what the original writes; rle is exact."""
