"""The training commands that the contract suite runs, each with tiny embedded data and tiny options."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.synthetic import ClipOptions, SceneOptions
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
    """

    name: str
    script: Path
    make_data: Callable[[Path], list[str]]
    options: list[str]
    batch_flag: str
    metric: str


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
    scenes = {"num": 8, "num_val": 3, "num_test": 0, "height": 32, "width": 40, "void_px": 0}
    make_data(SceneOptions(out=folder, style="shaded", image_format="png", **scenes))
    return ["--data_file", str(folder / "scenes"), "--base_dir", str(folder)]


WNET = Subject(
    name="wnet",
    script=ROOT / "transformer_seg" / "train.py",
    make_data=_scenes,
    options=[
        *("--model", "wnet", "--image_size", "16", "--width", "4", "--num_classes", "3", "--schedule_epochs", "2"),
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
SUBJECTS = [STFLOW, WNET, SEGMENTER]
