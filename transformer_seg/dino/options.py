"""The options of DINO: one dataclass per idea, torch-free, so that ``--help`` is quick.

Names and defaults are those of the original command lines; ``ALIASES`` holds the original's other spellings.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.errors import InputError
from common.files import MaskEncoding

ALIASES = {
    "--epochs": "--epochs",
    "--lr": "--learning_rate",
    "--batch_size_per_gpu": "--batch_size",
    "--data-path": "--data_path",
    "--saveckp_freq": "--save_checkpoint_every",
}
COMMAND_ALIASES = {
    "--weights": "--pretrained_weights",
    "--output_dir": "--out",
    "--image_path": "--input",
    "--batch_size_per_gpu": "--batch_size",
}

Part = Literal["teacher", "student"]


@dataclass(frozen=True, kw_only=True)
class DinoOptions:
    """Network, loss and schedules."""

    arch: str = "vit_small"
    """vit_tiny, vit_small, vit_base (also tiny, standard, deit_small), a published name, or any ViT of timm."""
    patch_size: int | None = None
    """Side of a patch in pixels; default 16, or what the name of --arch says."""
    width: int | None = None
    """Width of the tokens, instead of that of --arch."""
    depth: int | None = None
    """Number of blocks, instead of that of --arch."""
    heads: int | None = None
    """Attention heads, instead of those of --arch."""
    pretrained: bool = False
    """Start from the published weights of --arch, which are downloaded; without, from random ones."""
    out_dim: int = 65536
    """Dimensions K of the head's output; 4096 to 8192 for small data sets."""
    norm_last_layer: bool = True
    """Keep the rows of the last layer at length one: steadier; false is slightly better for small networks."""
    use_bn_in_head: bool = False
    """Batch normalisation in the head."""
    head_hidden: int = 2048
    """Width of the head's hidden layers."""
    head_bottleneck: int = 256
    """Width of the head's bottleneck."""
    momentum_teacher: float = 0.996
    """Share of its weights that the teacher keeps at a step; rises to 1 on a cosine. 0.9995 for small batches."""
    center_momentum: float = 0.9
    """Share of its value that the centre keeps at a step."""
    student_temp: float = 0.1
    """Temperature of the student."""
    warmup_teacher_temp: float = 0.04
    """First temperature of the teacher; lower it when the loss stays at ln K."""
    teacher_temp: float = 0.04
    """Temperature of the teacher after its warm-up; 0.07 in the published long runs."""
    warmup_teacher_temp_epochs: int = 0
    """Epochs of the teacher's temperature warm-up; 30 in the published long runs."""
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """adamw for ViTs; sgd and lars with momentum 0.9."""
    learning_rate: float = 0.0005
    """Rate at the end of the warm-up for a batch of 256 over all processes; scaled linearly with the batch."""
    min_lr: float = 1e-6
    """Rate that the cosine ends at."""
    warmup_epochs: int | None = None
    """Epochs of the linear warm-up of the rate; default 10, in short runs half of the epochs at most."""
    weight_decay: float = 0.04
    """Weight decay at the start."""
    weight_decay_end: float = 0.4
    """Weight decay that the cosine ends at."""
    clip_grad: float = 3.0
    """Largest norm of the gradient of each tensor; 0 for no clipping."""
    freeze_last_layer: int = 1
    """Epochs during which the head's last layer stays as it is; more when the loss does not fall."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the student."""
    epochs: int = 100
    """Epochs that the schedules are laid out for; training ends there, or earlier by --max_epochs."""
    save_checkpoint_every: int = 20
    """Also keep a checkpoint every so many epochs; 0 = none."""


@dataclass(frozen=True, kw_only=True)
class DinoDataOptions:
    """Data and crops."""

    data_file: Path | None = None
    """Split prefix with its folder: NAME stands for NAME_train.csv and NAME_val.csv. Or give --data_path."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    data_path: Path | None = None
    """A folder of pictures (with or without sub-folders, or with train/ and val/), or a video."""
    val_share: float = 0.05
    """Share of the pictures of --data_path that is held out to watch the loss; of a video, its end."""
    batch_size: int = 64
    """Images per batch and process."""
    global_crop_size: int = 224
    """Side in pixels of the two large crops."""
    global_crops_scale: list[float] = field(default_factory=lambda: [0.4, 1.0])
    """Smallest and largest share of the image's area of a large crop."""
    local_crops_number: int = 8
    """Small crops."""
    local_crop_size: int = 96
    """Side in pixels of a small crop."""
    local_crops_scale: list[float] = field(default_factory=lambda: [0.05, 0.4])
    """Smallest and largest share of the image's area of a small crop."""
    num_workers: int = 0
    """Loader processes; the crops are made there (10 in the original)."""
    seed: int = 0
    """Seed of the initialisation, the order, the crops and the stochastic depth."""


@dataclass(frozen=True, kw_only=True)
class DinoChainOptions:
    """The chain."""

    test_file: Path | None = None
    """Split to take masks of and score; default: the _test split of --data_file, or its _val split."""
    checkpoint_key: Part = "teacher"
    """Which network is scored; the student in short runs."""
    image_size: list[int] = field(default_factory=lambda: [480])
    """Rows and columns that pictures are resized to for their attention; one number is the short side."""
    threshold: float = 0.6
    """Share of the attention that a mask keeps, in (0, 1]."""
    knn: bool = True
    """Also classify the test pictures by the training ones, where rows have a class (GtSemantic)."""
    knn_size: int | None = None
    """Side in pixels of the square that is classified; default --global_crop_size."""
    nb_knn: list[int] = field(default_factory=lambda: [10, 20])
    """Neighbours that vote."""
    baseline: bool = True
    """Also score the network as it was before training, with random weights."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are foreground."""


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """Which network."""

    pretrained_weights: Path | None = None
    """Run directory (its last checkpoint), or a file: ours, the authors', timm's or Hugging Face's."""
    checkpoint_key: Part = "teacher"
    """Which network of a training checkpoint."""
    arch: str = "vit_small"
    """Network of --pretrained and --random_weights; a file says itself what it holds, but for timm's own networks."""
    patch_size: int | None = None
    """Side of a patch in pixels of that network; default 16, or what the name of --arch says."""
    pretrained: bool = False
    """Use the published weights of --arch and --patch_size; they are downloaded once."""
    random_weights: bool = False
    """Use an untrained network, to compare with."""
    seed: int = 0
    """Seed of --random_weights."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where and how fast."""

    batch_size: int = 8
    """Pictures per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(WeightOptions, DeviceOptions):
    """What to look at, and what to keep of it."""

    input: Path | None = field(default=None, metadata={"positional": True})
    """A picture, a folder of pictures, or a video. Or give --data_file."""
    data_file: Path | None = None
    """A data split (CSV file)."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    out: Path = Path("runs/attention")
    """Folder of the results."""
    image_size: list[int] = field(default_factory=lambda: [480, 480])
    """Rows and columns that pictures are resized to; one number is the short side, at the picture's proportions."""
    threshold: float = 0.6
    """Share of the attention that a mask keeps, in (0, 1]."""
    head: str = "mean"
    """Head that the mask in the Pred column is from: mean, a number from 0, or best (which looks at the ground
    truth: an oracle, and every score of it says so)."""
    pictures: int | None = None
    """Write per-head pictures of the first so many images; default all of up to 20 images, none of more; -1 = all."""
    heatmaps: bool = True
    """Among them the attention maps of the heads and their mean."""
    raw: bool = False
    """Keep the attention itself, attention/NAME.npz (heads, rows, columns), float32."""
    points: list[int] = field(default_factory=list)
    """Also show where these places look: row and column in pixels of the resized picture, one pair after another."""
    layers: bool = False
    """Also show the mean attention of every block."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are foreground."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions(WeightOptions):
    """What to look at, and what to write."""

    input_path: Path | None = field(default=None, metadata={"positional": True})
    """A video, or a folder of frames; with --video_only a folder of attention pictures."""
    output_path: Path = Path("runs/video")
    """Folder of the results."""
    threshold: float = 0.6
    """Share of the attention that a mask keeps, in (0, 1]."""
    resize: list[int] | None = None
    """Rows and columns of the network's input; one number is the short side. Default: the frame's own size."""
    fps: float | None = None
    """Frames per second of the results; default that of the input, 30 for a folder."""
    video_format: Literal["mp4", "mkv", "mov"] = "mp4"
    """Container of the results."""
    video_only: bool = False
    """Only join the pictures of a folder into a video."""
    gif: bool = True
    """Also write a GIF."""
    gif_size: int = 320
    """Longer side of the GIF in pixels."""
    overlay: bool = False
    """Also write a video of the frames under their masks."""
    masks: bool = False
    """Also write the masks, masks/mask-frame-0000.png."""
    keep_frames: bool = False
    """Also write the original's frames/frame-0000.jpg and attention/attn-frame-0000.jpg."""
    fixed_range: bool = False
    """Colour all frames on the scale of the first second, against flicker; by default each on its own."""
    batch_size: int = 4
    """Frames that the network sees at once."""
    gpus: int | None = None
    """0 = CPU; default: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class KnnOptions(WeightOptions):
    """What is classified."""

    data_path: Path | None = field(default=None, metadata={"positional": True})
    """Folder with train/CLASS/ and val/CLASS/. Or give --data_file."""
    data_file: Path | None = None
    """Split prefix: NAME stands for NAME_train.csv and NAME_val.csv (or _test)."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    test_file: Path | None = None
    """Split that is classified; default the _val split of --data_file, or its _test split when there is none."""
    class_column: str = "GtSemantic"
    """Column that holds the class of a row, or class maps: then the class of most of its pixels, not counting 0."""
    out: Path = Path("runs/knn")
    """Folder of scores.json and of the features."""
    nb_knn: list[int] = field(default_factory=lambda: [10, 20, 100, 200])
    """Neighbours that vote."""
    temperature: float = 0.07
    """Of the votes."""
    resize: int = 256
    """Short side in pixels that pictures are resized to."""
    crop: int = 224
    """Side of the square that is cut from the middle."""
    batch_size: int = 128
    """Pictures per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    dump_features: bool = False
    """Keep the features, trainfeat.npy and testfeat.npy with labels, in --out."""
    load_features: Path | None = None
    """Folder of such features, instead of computing them."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True, kw_only=True)
class DavisOptions(WeightOptions):
    """Whose labels are carried on, and how."""

    data_path: Path | None = field(default=None, metadata={"positional": True})
    """DAVIS: the folder of JPEGImages and Annotations. Or give --data_file."""
    data_file: Path | None = None
    """A data split (CSV file) whose clips have a mask of object ids in their first frame."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    sequences: list[str] = field(default_factory=list)
    """Clips; default all of the split, or those of ImageSets/2017/val.txt."""
    label_column: str = "GtMask"
    """Column of the object masks."""
    mask_encoding: MaskEncoding = "auto"
    """How they are read; ids of objects are kept where a file has them."""
    out: Path = Path("runs/davis")
    """Folder of the indexed PNGs, the split and the scores."""
    n_last_frames: int = 7
    """Frames before, besides the first one, that labels come from."""
    size_mask_neighborhood: int = 12
    """Labels come from at most so many patches away; 0 = from everywhere."""
    topk: int = 5
    """Patches that a patch takes its label from."""
    short_side: int = 480
    """Short side in pixels that frames are resized to; the longer one becomes a multiple of 64."""
    gpus: int | None = None
    """0 = CPU; default: a GPU where there is one."""


def check_dino_options(model: DinoOptions, data: DinoDataOptions) -> None:
    """Refuse values that cannot work, each in one line.

    Raises:
        InputError: names the flag, the value and the remedy.
    """
    for name in ("epochs", "out_dim", "head_hidden", "head_bottleneck"):
        if getattr(model, name) < 1:
            raise InputError(f"--{name} {getattr(model, name)}: give at least 1")
    for name in ("student_temp", "warmup_teacher_temp", "teacher_temp", "learning_rate"):
        if not getattr(model, name) > 0:
            raise InputError(f"--{name} {getattr(model, name)}: give a positive number")
    for name in ("momentum_teacher", "center_momentum", "drop_path_rate"):
        if not 0 <= getattr(model, name) <= 1:
            raise InputError(f"--{name} {getattr(model, name)}: give a number from 0 to 1")
    for name in ("warmup_teacher_temp_epochs", "freeze_last_layer", "clip_grad", "save_checkpoint_every", "min_lr"):
        if getattr(model, name) < 0:
            raise InputError(f"--{name} {getattr(model, name)}: give 0 or more")
    if not 0 <= warmup_epochs(model) <= model.epochs:
        raise InputError(f"--warmup_epochs {model.warmup_epochs}: give 0 to --epochs, {model.epochs}")
    if model.warmup_teacher_temp_epochs > model.epochs:
        given = model.warmup_teacher_temp_epochs
        raise InputError(f"--warmup_teacher_temp_epochs {given}: longer than --epochs {model.epochs}")
    if data.batch_size < 1:
        raise InputError(f"--batch_size {data.batch_size}: give at least 1")
    if data.local_crops_number < 0:
        raise InputError(f"--local_crops_number {data.local_crops_number}: give 0 or more")
    if not 0 < data.val_share < 1:
        raise InputError(f"--val_share {data.val_share}: give a number between 0 and 1, such as 0.05")
    for name in ("global_crops_scale", "local_crops_scale"):
        scale = getattr(data, name)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            shares = " ".join(map(str, scale))
            raise InputError(f"--{name} {shares}: give two rising shares of the image's area, such as 0.4 1.0")
    if (data.data_file is None) == (data.data_path is None):
        raise InputError("give either --data_file NAME (NAME_train.csv, NAME_val.csv) or --data_path FOLDER")


def warmup_epochs(model: DinoOptions) -> int:
    """Epochs of the rate's warm-up."""
    return model.warmup_epochs if model.warmup_epochs is not None else min(10, model.epochs // 2)
