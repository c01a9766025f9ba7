"""What the three systems' command lines have in common; torch-free, so that ``--help`` is quick.

Each system keeps its own options in ``transformer_seg/<model>/options.py``, under agreed names: ``WnetOptions``,
``WnetDataOptions``, ``WnetChainOptions`` and likewise for Segmenter and DINO.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from common.errors import InputError
from common.options import RunOptions, TrainerFlags, resolve_gpus

Model = Literal["wnet", "segmenter", "dino"]
SYSTEMS = {"wnet": "Wnet", "segmenter": "Segmenter", "dino": "Dino"}

ALIASES = {
    "--batch-size": "--batch_size",
    "--epochs": "--max_epochs",
    "--learning-rate": "--learning_rate",
    "--save-model": "--save_model",
    "--save-logs": "--save_logs",
    "--num-workers": "--num_workers",
    "--image-size": "--image_size",
    "--num-classes": "--num_classes",
    "--weights": "--ckpt_path",
    "--output-dir": "--out",
    "--output_dir": "--out",
    "--log-dir": "--out",
}


@dataclass(frozen=True, kw_only=True)
class SystemRunOptions(RunOptions):
    """Run directory and logging."""

    model: Model
    """Which system is trained."""
    save_model: bool = False
    """Also write the weights in the container that the system's authors use, checkpoint.pth, beside checkpoints/."""
    save_logs: bool = False
    """Also write log.txt, one JSON object per epoch."""


@dataclass(frozen=True, kw_only=True)
class ImageDataOptions:
    """Data. Without --data_file, embedded scenes are made and used."""

    data_file: Path | None = None
    """Split prefix with its folder: NAME stands for NAME_train.csv, NAME_val.csv (and NAME_test.csv)."""
    base_dir: Path = Path(".")
    """Folder that the paths in the split are relative to."""
    batch_size: int = 16
    """Pictures per batch and process."""
    num_workers: int = 0
    """Loader processes."""
    seed: int = 123
    """Seed of the initialisation, the order and the augmentation."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to segment, and with what."""

    input: Path | None = field(default=None, metadata={"positional": True})
    """A picture, a folder of pictures, a video, or a data split (.csv)."""
    data_file: Path | None = None
    """A data split with an Image column (CSV file)."""
    base_dir: Path | None = None
    """Folder that the paths in a split are relative to; default: the folder of the split."""
    model_dir: Path
    """Run directory (its best checkpoint) or checkpoint file, ours or the authors'."""
    out: Path | None = None
    """Folder of the predictions; default: in the run directory, predictions/ or predictions_<input>/."""
    classes: Path | None = None
    """Class names (index,name per line) for the legend; default: those of the training, or beside the split."""
    clip: bool = False
    """The pictures directly in a folder are the frames of one clip."""
    overlay: bool = True
    """Write an overlay picture per image, an overlay video per clip, and the legend of the classes."""
    num_workers: int = 0
    """Loader processes."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


def check_numbers(data: ImageDataOptions) -> None:
    """Refuse numbers out of range.

    Raises:
        InputError: names flag, value and range.
    """
    for name, least in (("batch_size", 1), ("num_workers", 0), ("seed", 0)):
        if getattr(data, name) < least:
            raise InputError(f"--{name} {getattr(data, name)}: give at least {least}")


def check_devices(run: RunOptions, flags: TrainerFlags) -> None:
    """Refuse devices that are not there before anything is written; the Trainer itself is made after the data.

    Raises:
        InputError: names the flag.
    """
    import torch

    resolve_gpus(run.gpus, flags.arguments(), torch.cuda.device_count())


def chosen_model(argv: Sequence[str], prog: str) -> str | None:
    """The value of ``--model`` on a command line, or of the key ``model`` in its ``--config`` file.

    Args:
        argv: Arguments without the program's name.
        prog: Name shown in the help.

    Returns:
        ``wnet``, ``segmenter`` or ``dino``; None when help was asked for without a model, and has been printed.

    Raises:
        InputError: no model, or an unknown one.
    """
    found = _value(argv, "--model")
    config = _value(argv, "--config")
    if found is None and config is not None:
        found = _model_of(Path(config))
    if found is None and any(argument in ("-h", "--help") for argument in argv):
        print(f"usage: {prog} --model {{{','.join(SYSTEMS)}}} ...\n\n{prog} --model MODEL --help shows the options.")
        return None
    if found not in SYSTEMS:
        seen = "none is given" if found is None else f"got {found}"
        raise InputError(f"--model: choose from {', '.join(SYSTEMS)}, {seen}")
    return found


def option_class(model: str, ending: str) -> type[Any]:
    """A system's option class, e.g. ``WnetDataOptions`` for ``wnet`` and ``DataOptions``."""
    options = importlib.import_module(f"transformer_seg.{model}.options")
    return getattr(options, SYSTEMS[model] + ending)


def aliases_of(model: str) -> dict[str, str]:
    """Other spellings of a system's flags: those that all share, and its own ``ALIASES`` if it has any."""
    options = importlib.import_module(f"transformer_seg.{model}.options")
    return {**ALIASES, **getattr(options, "ALIASES", {})}


def _value(argv: Sequence[str], flag: str) -> str | None:
    """The last value of a flag, as ``--flag value`` or ``--flag=value``."""
    found = None
    for place, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name == flag:
            found = value if equals else (argv[place + 1] if place + 1 < len(argv) else None)
    return found


def _model_of(config: Path) -> str | None:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {config}: not a readable YAML file") from error
    return content.get("model") if isinstance(content, dict) else None
