"""What the three systems' command lines have in common; torch-free, so that ``--help`` is quick.

Each system keeps its own options in ``transformer_seg/<model>/options.py``, under agreed names: ``WnetOptions``,
``WnetDataOptions``, ``WnetChainOptions`` and likewise for Segmenter and DINO.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from common.errors import InputError
from common.options import RunOptions

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
