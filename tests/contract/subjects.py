"""The training commands that the contract suite runs, each with tiny embedded data and tiny options."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common.synthetic import ClipOptions, FixedCameraOptions, ObjectOptions, SceneOptions
from common.synthetic import run as make_data

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Subject:
    """One training command.

    Attributes:
        name: Method.
        script: Its file below the repository.
        make_data: Writes the data into a folder and gives the arguments that name it.
        options: What makes it tiny; two epochs of at least four steps.
        batch_flag: Name of the batch-size option, per process.
        metric: A training metric that two processes must share with one.
        monitor: How the best checkpoint's name says what chose it.
        pooled: Whether a loss of several processes is that of one. Mask R-CNN's parts are means over the regions of
            each process, as in torchvision and detectron2, so two processes must only train, not equal one.
    """

    name: str
    script: Path
    make_data: Callable[[Path], list[str]]
    options: list[str]
    batch_flag: str
    metric: str
    monitor: str = "val_loss"
    pooled: bool = True


def _clips(folder: Path) -> list[str]:
    make_data(ClipOptions(out=folder, num=2, num_val=1, num_test=0, num_frames=8, height=40, width=56))
    return ["--data_file", str(folder / "clips"), "--base_dir", str(folder), "--cache_dir", str(folder / "cache")]


STFLOW = Subject(
    name="stflow",
    script=ROOT / "stflow" / "model_train.py",
    make_data=_clips,
    options=[
        *("--img_size", "16", "24", "--unet.features_start", "4", "--unet.num_layers", "2", "-L", "3"),
        *("--optim.lr", "1e-3", "--max_epochs", "2", "--log_every_n_steps", "1", "--enable_model_summary", "false"),
    ],
    batch_flag="--batch_size",
    metric="train/loss",
)


def _scenes(folder: Path) -> list[str]:
    make_data(SceneOptions(out=folder, num=12, num_val=3, num_test=0, height=32, width=40))
    return ["--data_file", str(folder / "scenes"), "--base_dir", str(folder)]


DINO = Subject(
    name="dino",
    script=ROOT / "transformer_seg" / "train.py",
    make_data=_scenes,
    options=[
        *("--model", "dino", "--arch", "vit_tiny", "--width", "16", "--depth", "2", "--heads", "2"),
        *("--patch_size", "8", "--global_crop_size", "24", "--local_crop_size", "16", "--local_crops_number", "2"),
        *("--out_dim", "32", "--head_hidden", "24", "--head_bottleneck", "8", "--drop_path_rate", "0.3"),
        *("--learning_rate", "0.05", "--epochs", "2", "--max_epochs", "2", "--seed", "123"),
        *("--log_every_n_steps", "1", "--enable_model_summary", "false"),
    ],
    batch_flag="--batch_size",
    metric="train/loss",
)
WNET = Subject(
    name="wnet",
    script=ROOT / "transformer_seg" / "train.py",
    make_data=_scenes,
    options=[
        *("--model", "wnet", "--image_size", "32", "--width", "4", "--num_classes", "3", "--schedule_epochs", "2"),
        *("--optim", "SGD", "--momentum", "0.9", "--learning_rate", "0.01"),  # Adam makes steps of rounding noise
        *("--max_epochs", "2", "--log_every_n_steps", "1", "--enable_model_summary", "false"),
    ],
    batch_flag="--batch_size",
    metric="train/loss",
)
SEGMENTER = Subject(
    name="segmenter",
    script=ROOT / "transformer_seg" / "train.py",
    make_data=_scenes,
    options=[
        *("--model", "segmenter", "--image_size", "24", "--crop_size", "16", "--arch", "custom", "--patch_size", "8"),
        *("--embed_dim", "64", "--depth", "1", "--heads", "1", "--decoder_depth", "1", "--schedule_epochs", "2"),
        *("--drop_path", "0", "--decoder_dropout", "0"),  # two processes cannot drop what one does
        *("--max_epochs", "2", "--log_every_n_steps", "1", "--enable_model_summary", "false"),
    ],
    batch_flag="--batch_size",
    metric="train/loss",
)


def _objects(folder: Path) -> list[str]:
    make_data(ObjectOptions(out=folder, num=12, num_val=4, num_test=0, size=32))
    return ["--data_file", str(folder / "objects"), "--base_dir", str(folder), "--cache_dir", str(folder / "cache")]


REDO = Subject(
    name="redo",
    script=ROOT / "redo" / "train.py",
    make_data=_objects,
    options=[
        *("--sizex", "32", "--nz", "2", "--nf", "4", "--nResM", "1", "--nTest", "2", "--checkpointFreq", "5"),
        *("--max_epochs", "2", "--log_every_n_steps", "1", "--enable_model_summary", "false", "--clean"),
    ],
    batch_flag="--batchSize",
    metric="train/loss",
)


def _camera(folder: Path) -> list[str]:
    make_data(FixedCameraOptions(out=folder, num_frames=12, height=32, width=40))
    return [
        "--data_file",
        str(folder / "fixed_camera"),
        "--base_dir",
        str(folder),
        "--cache_dir",
        str(folder / "cache"),
    ]


AST_BACKGROUND = Subject(
    name="ast-background",
    script=ROOT / "ast" / "background" / "train.py",
    make_data=_camera,
    options=[
        *("--background_complexity", "false", "--val_every", "1", "--max_epochs", "2"),
        *("--log_every_n_steps", "1", "--enable_model_summary", "false"),
    ],
    batch_flag="--batch_size",
    metric="train/loss",
)


def _triples(folder: Path) -> list[str]:
    """Frames with their true backgrounds, and background networks as the published code stores them."""
    from ast_seg.model.background import BackgroundModel
    from ast_seg.restore import published_background

    arguments = _camera(folder)
    for step in ("train", "val", "test"):
        file = folder / f"fixed_camera_{step}.csv"
        file.write_text(file.read_text().replace("GtBackground", "Background"))
    torch.manual_seed(0)
    networks = BackgroundModel(height=32, width=40, complexity=False)
    torch.save(published_background(networks, {}), folder / "background.pth")
    return [*arguments, "--background_model", str(folder / "background.pth")]


AST = Subject(
    name="ast",
    script=ROOT / "ast" / "MF_train.py",
    make_data=_triples,
    options=[  # the background joins in the second epoch; dropout and batch statistics are a process's own
        *("--background_weights_freeze_duration", "8", "--transformer_dropout", "0", "--unet_normalisation", "group"),
        *("--max_set_size", "3", "--z_what_dim", "4", "--max_scaling_factor", "8", "--unet_widths", "8", "16"),
        *("--transformer_dim", "16", "--transformer_nhead", "2", "--transformer_nlayers", "1", "--warmup", "2"),
        *("--startup_aid", "component_hint", "--startup_steps", "6", "--learning_rate", "1e-4", "--val_every", "1"),
        *("--max_epochs", "2", "--log_every_n_steps", "1", "--enable_model_summary", "false"),
    ],
    batch_flag="--batch_size",
    metric="train/loss",
)


def _deeplab_of_scenes(folder: Path) -> list[str]:
    import torch

    from maskdistill.model.deeplab import DeepLabV3
    from maskdistill.segmentation.restore import save_original

    arguments = _scenes(folder)
    torch.manual_seed(0)
    save_original(DeepLabV3(7, "small"), folder / "model.pth.tar")
    return [*arguments, "--pretrained", str(folder / "model.pth.tar")]


SMALL_SEGMENTATION = [
    *("--train_db_name", "VOCSegmentation", "--model_kwargs.pretraining", "random", "--model_kwargs.trunk", "small"),
    *("--image_px", "32", "--loss", "CE", "--freeze_batchnorm", "all", "--freeze_layers", "0", "--num_workers", "0"),
    *("--max_epochs", "2", "--log_every_n_steps", "1", "--enable_model_summary", "false"),
]
DEEPLAB = Subject(
    name="maskdistill-deeplab",
    script=ROOT / "maskdistill" / "segmentation" / "train.py",
    make_data=_scenes,
    options=SMALL_SEGMENTATION,
    batch_flag="--batch_size",
    metric="train/loss",
    monitor="val_miou",
)
LINEAR = Subject(
    name="maskdistill-linear",
    script=ROOT / "maskdistill" / "segmentation" / "linear_finetune.py",
    make_data=_deeplab_of_scenes,
    options=SMALL_SEGMENTATION,
    batch_flag="--batch_size",
    metric="train/loss",
    monitor="val_miou",
)


def _instances(folder: Path) -> list[str]:
    from maskdistill.options import ConvertVocOptions
    from maskdistill.voc_instances import convert

    make_data(SceneOptions(out=folder, num=8, num_val=2, num_classes=3, height=32, width=48))
    for step in ("train", "val"):
        convert(
            ConvertVocOptions(
                dataset_root=folder,
                image_list=folder / "ImageSets" / "Segmentation" / f"{step}.txt",
                classes=folder / "scenes_classes.csv",
                segmentation_format="rle",
                out_file=folder / f"{step}.json",
            )
        )
    return [
        *("--input_file", str(folder / "train.json"), "--val_file", str(folder / "val.json")),
        *("--image_dir", str(folder)),
    ]


MASK_RCNN = Subject(
    name="maskdistill-mask-rcnn",
    script=ROOT / "maskdistill" / "train_mask_rcnn.py",
    make_data=_instances,
    options=[
        *("--trunk", "resnet18", "--norm", "group", "--freeze_at", "0", "--width", "8", "--rois_per_image", "8"),
        *("--anchor_px", "8", "16", "32", "64", "128", "--min_size_train", "32", "40", "--min_size_test", "32"),
        *("--max_size", "64", "--rpn_pre_nms", "50", "30", "--rpn_post_nms", "20", "10", "--reference_batch", "0"),
        *("--lr", "0.005", "--warmup_iters", "2", "--max_epochs", "2", "--log_every_n_steps", "1"),
        *("--enable_model_summary", "false"),
    ],
    batch_flag="--batch_size",
    metric="train/loss",
    pooled=False,
)
SUBJECTS = [STFLOW, WNET, SEGMENTER, DINO, REDO, AST_BACKGROUND, AST, DEEPLAB, LINEAR, MASK_RCNN]
